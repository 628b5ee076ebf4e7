"""Maxima of 2x2 windows, and back: what a convolution does to a strip of rows while it is in the cache."""

import functools

from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import jit, task
from cnn.fast.machine.tables import pointer


@jit
def beats(value, best):
    """Mask of: value is larger, or the first NaN; so the first of equals wins and a NaN stays visible."""
    return v.both(v.not_at_most(value, best), v.negated(v.unordered(best, best)))


@functools.cache
def max_2x2(itemsize):
    """Address of the maxima of 2x2 windows that do not overlap: the common case, no test at the border.

    ``channels`` planes of ``oh`` rows of ``ow`` windows. Steps: ``plane``, ``row`` of the source in bytes,
    ``to_plane`` of y and argmax in numbers. ``relu``: max(0, y), and cell 4 where that is 0.
    """

    @task
    def planes(source, y_address, argmax_address, channels, plane, row, to_plane, oh, ow, relu):
        y, argmax = pointer(y_address, itemsize), pointer(argmax_address, 1)
        for c in range(channels):
            for r in range(oh):
                upper = pointer(source + c * plane + 2 * r * row, itemsize)
                lower = pointer(source + c * plane + (2 * r + 1) * row, itemsize)
                for q in range(ow):
                    i, o = 32 * q, c * to_plane + (r * ow + q) * 16
                    best, cell = v.load(upper, i), v.zeros(y)
                    if relu:
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

    return planes.address


@functools.cache
def unpool_2x2(itemsize):
    """Address of the way back: each dy goes to the cell of its window that won, the other cells become 0.

    ``channels`` planes of ``height`` rows of ``width`` pixels are written, ``plane`` bytes apart. A row of dy
    and argmax has ``ow`` windows; their planes are ``from_plane`` numbers apart.
    """

    @task
    def planes(dy_address, argmax_address, target, channels, from_plane, plane, height, width, ow):
        dy, argmax = pointer(dy_address, itemsize), pointer(argmax_address, 1)
        nothing, oh = v.zeros(dy), height // 2
        for c in range(channels):
            dx = pointer(target + c * plane, itemsize)
            for r in range(oh):
                for q in range(ow):
                    i, o = c * from_plane + (r * ow + q) * 16, (2 * r * width + 2 * q) * 16
                    g = v.load(dy, i)
                    v.store(dx, o, v.select(v.load_equal(argmax, i, 0), g, nothing))
                    v.store(dx, o + 16, v.select(v.load_equal(argmax, i, 1), g, nothing))
                    v.store(dx, o + width * 16, v.select(v.load_equal(argmax, i, 2), g, nothing))
                    v.store(dx, o + width * 16 + 16, v.select(v.load_equal(argmax, i, 3), g, nothing))
                for q in range(2 * ow, width):  # columns and rows that no window reaches
                    v.store(dx, (2 * r * width + q) * 16, nothing)
                    v.store(dx, ((2 * r + 1) * width + q) * 16, nothing)
            for q in range(2 * oh * width, height * width):
                v.store(dx, q * 16, nothing)

    return planes.address
