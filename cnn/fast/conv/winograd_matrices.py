"""The one-dimensional transforms of Winograd's form with six points, on lists of vectors.

F(4, 3) has four outputs and three taps, F(2, 5) two and five. Each transform is a constant matrix, spelled
out with few operations. In the names of Lavin and Gray: B^T transforms six inputs, G the taps, A^T six
products back to the outputs; for the weight gradient A transforms gradients and G^T six sums back to the
taps. There are two sets of points:

    INTEGERS  0, +-1, +-2, infinity                 the fewest operations, for float32
    ROOTS     0, +-1/sqrt 2, +-sqrt 2, infinity     loses less where what they give is rounded to bfloat16

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308. Barabasz et al., "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", arXiv:1803.10986.
"""

from math import sqrt
from typing import NamedTuple


class Matrices(NamedTuple):
    """The five transforms for one set of points; v is what writes code on vectors."""

    input: object  # B^T x: (v, six)
    output: object  # A^T m: (v, six, number of outputs)
    gradient: object  # A g: (v, four or two)
    weight: object  # G w: (v, three or five)
    weight_gradient: object  # G^T s: (v, six, number of taps)


def _powers(v, w, taps, point, constant):
    """constant * the sum of w[i] * point^i over some taps"""
    total = v.mul(v.const(point ** taps[0] * constant), w[taps[0]])
    for i in taps[1:]:
        total = v.fma(v.const(point**i * constant), w[i], total)
    return total


def _at_points(v, w, points, constants):
    """G w: at the points +-a and +-b the sum of w[i] p^i over a constant"""
    even, odd = range(0, len(w), 2), range(1, len(w), 2)
    values = []
    for point, constant in zip(points, constants, strict=True):
        one, other = _powers(v, w, even, point, constant), _powers(v, w, odd, point, constant)
        values += [v.add(one, other), v.sub(one, other)]
    return values


def _to_taps(v, s, count, points, constants):
    """G^T s without what the points 0 and infinity add"""
    sums, differences = [], []
    for (i, j), constant in zip(((1, 2), (3, 4)), constants, strict=True):
        sums.append(v.mul(v.const(constant), v.add(s[i], s[j])))
        differences.append(v.mul(v.const(constant), v.sub(s[i], s[j])))
    taps = []
    for i in range(count):
        one, two = differences if i % 2 else sums
        first = one if points[0] ** i == 1 else v.mul(v.const(points[0] ** i), one)
        taps.append(v.fma(v.const(points[1] ** i), two, first))
    return taps


# -- INTEGERS ---------------------------------------------------------------------------------------------


def _input(v, x):
    a, b = v.fma(v.const(-4), x[2], x[4]), v.fma(v.const(-4), x[1], x[3])
    c, d = v.sub(x[4], x[2]), v.sub(x[3], x[1])
    return [
        v.fma(v.const(4), x[0], v.fma(v.const(-5), x[2], x[4])),
        v.add(a, b),
        v.sub(a, b),
        v.fma(v.const(2), d, c),
        v.fma(v.const(-2), d, c),
        v.fma(v.const(4), x[1], v.fma(v.const(-5), x[3], x[5])),
    ]


def _output(v, m, count):
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    first, second = v.add(v.add(m[0], s1), s2), v.fma(v.const(2), d2, d1)
    if count == 2:
        return [first, v.add(second, m[5])]
    return [first, second, v.fma(v.const(4), s2, s1), v.add(v.fma(v.const(8), d2, d1), m[5])]


def _gradient(v, g):
    if len(g) == 2:
        double = v.add(g[1], g[1])
        return [g[0], v.add(g[0], g[1]), v.sub(g[0], g[1]), v.add(g[0], double), v.sub(g[0], double), g[1]]
    even, odd = v.add(g[0], g[2]), v.add(g[1], g[3])
    even2, odd2 = v.fma(v.const(4), g[2], g[0]), v.fma(v.const(8), g[3], v.add(g[1], g[1]))
    return [g[0], v.add(even, odd), v.sub(even, odd), v.add(even2, odd2), v.sub(even2, odd2), g[3]]


_WHOLE, _OVER = (1, 2), (-1 / 6, 1 / 24)  # points, 1 over the product of their differences to all others


def _weight(v, w):
    return [v.mul(v.const(1 / 4), w[0]), *_at_points(v, w, _WHOLE, _OVER), w[-1]]


def _weight_gradient(v, s, count):
    taps = _to_taps(v, s, count, _WHOLE, _OVER)
    taps[0] = v.fma(v.const(1 / 4), s[0], taps[0])
    taps[-1] = v.add(taps[-1], s[5])
    return taps


INTEGERS = Matrices(_input, _output, _gradient, _weight, _weight_gradient)

# -- ROOTS ------------------------------------------------------------------------------------------------

_A, _B = _ROOTS = sqrt(0.5), sqrt(2.0)  # a b = 1 and a^2 + b^2 = 5/2
_OVER_ROOTS = 1 / (2 * _A**2 * (_A**2 - _B**2)), 1 / (2 * _B**2 * (_B**2 - _A**2))


def _root_input(v, x):
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


def _root_output(v, m, count):
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    d1 = v.mul(v.const(_A), d1)
    first = v.add(v.add(m[0], s1), s2)
    if count == 2:
        return [first, v.fma(v.const(_B), d2, v.add(d1, m[5]))]
    return [
        first,
        v.fma(v.const(_B), d2, d1),
        v.fma(v.const(2), s2, v.mul(v.const(0.5), s1)),
        v.fma(v.const(2 * _B), d2, v.fma(v.const(0.5), d1, m[5])),
    ]


def _root_gradient(v, g):
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


def _root_weight(v, w):
    return [w[0], *_at_points(v, w, _ROOTS, _OVER_ROOTS), w[-1]]


def _root_weight_gradient(v, s, count):
    taps = _to_taps(v, s, count, _ROOTS, _OVER_ROOTS)
    taps[0], taps[-1] = v.add(taps[0], s[0]), v.add(taps[-1], s[5])
    return taps


ROOTS = Matrices(_root_input, _root_output, _root_gradient, _root_weight, _root_weight_gradient)


def both_ways(v, transform, load, count):
    """Transform a tile by columns, then by rows; load(i, j) gives its vectors; returns rows of the result."""
    columns = [transform(v, [load(i, j) for i in range(count)]) for j in range(count)]
    return [transform(v, [column[i] for column in columns]) for i in range(len(columns[0]))]
