"""Maxima of 2x2 windows, and their gradient, for a strip of rows that lies in the cache.

y[c, r, q] = max over u < 2, v < 2 of x[c, 2r + u, 2q + v]          argmax = 2u + v of the first maximum
"""

import functools
from typing import NamedTuple

from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import helper, task
from cnn.fast.machine.tables import pointer, reader


@helper
def beats(value, best):
    """Mask of: value is larger, or the first NaN; so the first of equals wins and a NaN stays visible."""
    return v.both(v.not_at_most(value, best), v.negated(v.unordered(best, best)))


class Maxima(NamedTuple):
    """Planes of 2x2 windows that do not overlap and are all inside: no test at the border."""

    x: int  # address
    y: int  # address
    argmax: int  # address
    channels: int
    x_plane: int  # bytes
    x_row: int  # bytes
    y_plane: int  # numbers, also of argmax
    height: int  # windows
    width: int  # windows
    relu: int  # y = max(0, y), argmax = 4 where that is 0


maxima_of = reader(Maxima)


@functools.cache
def max_2x2(itemsize):
    """The routine for Maxima."""

    @task
    def maxima(record):
        p = maxima_of(record)
        y, argmax = pointer(p.y, itemsize), pointer(p.argmax, 1)
        for c in range(p.channels):
            for r in range(p.height):
                upper = pointer(p.x + c * p.x_plane + 2 * r * p.x_row, itemsize)
                lower = pointer(p.x + c * p.x_plane + (2 * r + 1) * p.x_row, itemsize)
                for q in range(p.width):
                    i, o = 32 * q, c * p.y_plane + (r * p.width + q) * 16
                    best, cell = v.load(upper, i), v.zeros(y)
                    if p.relu:
                        dead = v.at_least(0.0, best)
                        best, cell = v.select(dead, 0.0, best), v.select(dead, 4.0, cell)
                    second = v.load(upper, i + 16)
                    wins = beats(second, best)
                    best, cell = v.select(wins, second, best), v.select(wins, 1.0, cell)
                    third = v.load(lower, i)
                    wins = beats(third, best)
                    best, cell = v.select(wins, third, best), v.select(wins, 2.0, cell)
                    fourth = v.load(lower, i + 16)
                    wins = beats(fourth, best)
                    best, cell = v.select(wins, fourth, best), v.select(wins, 3.0, cell)
                    v.store(y, o, best)
                    v.store_integers(argmax, o, cell)

    return maxima


class MaximaGradient(NamedTuple):
    """The gradient of Maxima: each dy goes to the cell of its window that won, the other cells become 0."""

    dy: int  # address
    argmax: int  # address
    dx: int  # address
    channels: int
    dy_plane: int  # numbers, also of argmax
    dx_plane: int  # bytes
    height: int  # pixels of dx
    width: int  # pixels of dx
    windows: int  # of a row


gradient_of = reader(MaximaGradient)


@functools.cache
def unpool_2x2(itemsize):
    """The routine for MaximaGradient."""

    @task
    def gradient(record):
        p = gradient_of(record)
        dy, argmax = pointer(p.dy, itemsize), pointer(p.argmax, 1)
        nothing, oh, width = v.zeros(dy), p.height // 2, p.width
        for c in range(p.channels):
            dx = pointer(p.dx + c * p.dx_plane, itemsize)
            for r in range(oh):
                for q in range(p.windows):
                    i, o = c * p.dy_plane + (r * p.windows + q) * 16, (2 * r * width + 2 * q) * 16
                    g = v.load(dy, i)
                    v.store(dx, o, v.select(v.load_equal(argmax, i, 0), g, nothing))
                    v.store(dx, o + 16, v.select(v.load_equal(argmax, i, 1), g, nothing))
                    v.store(dx, o + width * 16, v.select(v.load_equal(argmax, i, 2), g, nothing))
                    v.store(dx, o + width * 16 + 16, v.select(v.load_equal(argmax, i, 3), g, nothing))
                for q in range(2 * p.windows, width):  # columns and rows that no window reaches
                    v.store(dx, (2 * r * width + q) * 16, nothing)
                    v.store(dx, ((2 * r + 1) * width + q) * 16, nothing)
            for q in range(2 * oh * width, p.height * width):
                v.store(dx, q * 16, nothing)

    return gradient
