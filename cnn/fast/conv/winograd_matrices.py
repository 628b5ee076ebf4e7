"""The one-dimensional transforms of Winograd's F(4, 3), on lists of vectors, for two sets of points.

Each is a constant matrix, spelled out with few operations. In the names of Lavin and Gray: B^T transforms six
inputs, G three weights, A^T six products back to four outputs; for the weight gradient A transforms four
gradients and G^T six sums back to three weights.

    INTEGERS  0, +-1, +-2, infinity                 the fewest operations, for float32
    ROOTS     0, +-1/sqrt 2, +-sqrt 2, infinity     loses less where what they give is rounded to bfloat16

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308. Barabasz et al., "Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", arXiv:1803.10986.
"""

from math import sqrt
from typing import NamedTuple


class Matrices(NamedTuple):
    """The five transforms for one set of points: functions of (Vectors, list of vectors)."""

    input: object  # B^T: 6 to 6
    output: object  # A^T: 6 to 4
    gradient: object  # A: 4 to 6
    weight: object  # G: 3 to 6
    weight_gradient: object  # G^T: 6 to 3


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


def _output(v, m):
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    return [
        v.add(v.add(m[0], s1), s2),
        v.fma(v.const(2), d2, d1),
        v.fma(v.const(4), s2, s1),
        v.add(v.fma(v.const(8), d2, d1), m[5]),
    ]


def _gradient(v, g):
    even, odd = v.add(g[0], g[2]), v.add(g[1], g[3])
    even2, odd2 = v.fma(v.const(4), g[2], g[0]), v.fma(v.const(8), g[3], v.add(g[1], g[1]))
    return [g[0], v.add(even, odd), v.sub(even, odd), v.add(even2, odd2), v.sub(even2, odd2), g[3]]


def _weight(v, w):
    even, odd = v.mul(v.const(-1 / 6), v.add(w[0], w[2])), v.mul(v.const(-1 / 6), w[1])
    even2 = v.fma(v.const(1 / 6), w[2], v.mul(v.const(1 / 24), w[0]))
    odd2 = v.mul(v.const(1 / 12), w[1])
    return [
        v.mul(v.const(1 / 4), w[0]),
        v.add(even, odd),
        v.sub(even, odd),
        v.add(even2, odd2),
        v.sub(even2, odd2),
        w[2],
    ]


def _weight_gradient(v, s):
    low, high = v.mul(v.const(1 / 6), v.add(s[1], s[2])), v.add(s[3], s[4])
    return [
        v.sub(v.fma(v.const(1 / 24), high, v.mul(v.const(1 / 4), s[0])), low),
        v.fma(v.const(1 / 6), v.sub(s[2], s[1]), v.mul(v.const(1 / 12), v.sub(s[3], s[4]))),
        v.add(v.sub(v.mul(v.const(1 / 6), high), low), s[5]),
    ]


INTEGERS = Matrices(_input, _output, _gradient, _weight, _weight_gradient)

_A, _B = sqrt(0.5), sqrt(2.0)  # the points; a b = 1 and a^2 + b^2 = 5/2
# 1 over the product of the differences of +-a, of +-b, to all other points
_P, _Q = 1 / (2 * _A**2 * (_A**2 - _B**2)), 1 / (2 * _B**2 * (_B**2 - _A**2))


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


def _root_output(v, m):
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    d1 = v.mul(v.const(_A), d1)
    return [
        v.add(v.add(m[0], s1), s2),
        v.fma(v.const(_B), d2, d1),
        v.fma(v.const(2), s2, v.mul(v.const(0.5), s1)),
        v.fma(v.const(2 * _B), d2, v.fma(v.const(0.5), d1, m[5])),
    ]


def _root_gradient(v, g):
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
    even, odd = v.fma(v.const(_P * 0.5), w[2], v.mul(v.const(_P), w[0])), w[1]
    even2 = v.fma(v.const(_Q * 2), w[2], v.mul(v.const(_Q), w[0]))
    return [
        w[0],
        v.fma(v.const(_P * _A), odd, even),
        v.fma(v.const(-_P * _A), odd, even),
        v.fma(v.const(_Q * _B), odd, even2),
        v.fma(v.const(-_Q * _B), odd, even2),
        w[2],
    ]


def _root_weight_gradient(v, s):
    s1, d1, s2, d2 = v.add(s[1], s[2]), v.sub(s[1], s[2]), v.add(s[3], s[4]), v.sub(s[3], s[4])
    return [
        v.fma(v.const(_P), s1, v.fma(v.const(_Q), s2, s[0])),
        v.fma(v.const(_P * _A), d1, v.mul(v.const(_Q * _B), d2)),
        v.fma(v.const(_P * 0.5), s1, v.fma(v.const(_Q * 2), s2, s[5])),
    ]


ROOTS = Matrices(_root_input, _root_output, _root_gradient, _root_weight, _root_weight_gradient)


def both_ways(v, transform, load, count):
    """Transform a tile by columns, then by rows; load(i, j) gives its vectors; returns rows of the result."""
    columns = [transform(v, [load(i, j) for i in range(count)]) for j in range(count)]
    return [transform(v, [column[i] for column in columns]) for i in range(len(columns[0]))]
