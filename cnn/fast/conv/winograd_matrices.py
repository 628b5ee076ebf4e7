"""The one-dimensional transforms of Winograd's form with six points, on lists of vectors.

F(4, 3) has four outputs and three taps, F(2, 5) two and five. Each transform is a constant matrix, spelled
out with few operations. In the names of Lavin and Gray: B^T transforms six inputs, G the taps, A^T six
products back to the outputs; for the weight gradient A transforms gradients and G^T six sums back to the
taps. The points are

    0, +-a, +-b, infinity        a = 1/sqrt 2, b = sqrt 2, so that a b = 1 and a^2 + b^2 = 5/2

With Lavin and Gray's own, 0, +-1, +-2 and infinity, all constants are whole numbers or their inverses and
the cost is the same; but rounding errors of float32 are 2.4 times as large, the largest of many 6 times.

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308. Barabasz et al., "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", arXiv:1803.10986.
"""

from math import sqrt

_A, _B = _POINTS = sqrt(0.5), sqrt(2.0)
_OVER = -2 / 3, 1 / 6  # at +-a and +-b: 1 over the product of the point's differences to all others


def input_to_points(v, x):
    """B^T x, from six inputs; v is what writes code on vectors."""
    even, odd = v.fma(v.const(-2), x[2], x[4]), v.fma(v.const(-2), x[1], x[3])
    even2, odd2 = v.fma(v.const(-0.5), x[2], x[4]), v.fma(v.const(-0.5), x[1], x[3])
    return [
        v.fma(v.const(-2.5), x[2], v.add(x[0], x[4])),
        v.fma(v.const(_A), odd, even),
        v.fma(v.const(-_A), odd, even),
        v.fma(v.const(_B), odd2, even2),
        v.fma(v.const(-_B), odd2, even2),
        v.fma(v.const(-2.5), x[3], v.add(x[1], x[5])),
    ]


def points_to_output(v, m, count):
    """A^T m: two or four outputs from six products with ``weight_to_points``."""
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    first = v.fma(v.const(1 / _A), s1, v.fma(v.const(1 / _B), s2, m[0]))
    if count == 2:
        return [first, v.add(v.add(d1, d2), m[5])]
    return [
        first,
        v.add(d1, d2),
        v.fma(v.const(_B), s2, v.mul(v.const(_A), s1)),
        v.fma(v.const(2), d2, v.fma(v.const(0.5), d1, m[5])),
    ]


def gradient_to_points(v, g):
    """A g, from two or four gradients."""
    if len(g) == 2:
        return [g[0], *(v.fma(v.const(p), g[1], g[0]) for p in (_A, -_A, _B, -_B)), g[1]]
    even, odd = v.fma(v.const(0.5), g[2], g[0]), v.fma(v.const(0.5), g[3], g[1])
    even2, odd2 = v.fma(v.const(2), g[2], g[0]), v.fma(v.const(2), g[3], g[1])
    return [
        g[0],
        v.fma(v.const(_A), odd, even),
        v.fma(v.const(-_A), odd, even),
        v.fma(v.const(_B), odd2, even2),
        v.fma(v.const(-_B), odd2, even2),
        g[3],
    ]


def weight_to_points(v, w):
    """G w, from three or five taps; at +-a times a and at +-b times b, which shortens the way back."""
    even, odd = range(0, len(w), 2), range(1, len(w), 2)
    values = []
    for point, over in zip(_POINTS, _OVER, strict=True):
        one, other = (_powers(v, w, taps, point, point * over) for taps in (even, odd))
        values += [v.add(one, other), v.sub(one, other)]
    return [w[0], *values, w[-1]]


def _powers(v, w, taps, point, over):
    """over * the sum of w[i] * point^i over some taps"""
    total = v.mul(v.const(point ** taps[0] * over), w[taps[0]])
    for i in taps[1:]:
        total = v.fma(v.const(point**i * over), w[i], total)
    return total


def points_to_weight(v, s, count):
    """G^T s: three or five taps from six sums."""
    sums, differences = [], []
    for (i, j), over in zip(((1, 2), (3, 4)), _OVER, strict=True):
        sums.append(v.mul(v.const(over), v.add(s[i], s[j])))
        differences.append(v.mul(v.const(over), v.sub(s[i], s[j])))
    taps = []
    for i in range(count):
        one, two = differences if i % 2 else sums
        first = one if i == 0 else v.mul(v.const(_A**i), one)
        taps.append(v.fma(v.const(_B**i), two, first))
    taps[0], taps[-1] = v.add(taps[0], s[0]), v.add(taps[-1], s[5])
    return taps


def both_ways(v, transform, load, count):
    """Transform a tile by columns, then by rows; load(i, j) gives its vectors; returns rows of the result."""
    columns = [transform(v, [load(i, j) for i in range(count)]) for j in range(count)]
    return [transform(v, [column[i] for column in columns]) for i in range(len(columns[0]))]
