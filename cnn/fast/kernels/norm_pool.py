"""Normalisation, ReLU and the maxima of 2x2 windows in one pass over memory, there and back.

    y[c, r, q] = max(0, the largest of (x - mean) * scale + shift over a window)        argmax: which cell

with ``argmax`` 4 where that is 0, so that no gradient goes there. On the way back g is dy in the cell that
won and 0 elsewhere; it is never stored:

    sums of g and of g * (x - mean);    dx = g * scale + (x - mean) * slope + constant

Passes over memory, in arrays of x's size (VGG's first stage, 128 images: 33.6 MB in float32), what has the
size of y left out:

    there   read x                                     1 where normalising and pooling apart took 3
    back    read x (sums); read x, write dx            3 where taking apart, sums and gradient took 6
"""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.conv.pool_2x2 import beats
from cnn.fast.kernels import norm
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, launch, task
from cnn.fast.machine.tables import Table, pointer, reader


class Forward(NamedTuple):
    """A piece is one plane of sixteen images."""

    x: int  # address
    y: int  # address
    argmax: int  # address
    mean: int  # address
    rstd: int  # address
    weight: int  # address
    bias: int  # address
    channels: int
    height: int  # of x
    width: int


forward_of = reader(Forward)


@functools.cache
def _forward_task(itemsize):
    real = norm.parameter_size(itemsize)

    @task
    def forward(index, thread, params):
        p = forward_of(params)
        x, y, argmax = pointer(p.x, itemsize), pointer(p.y, itemsize), pointer(p.argmax, 1)
        c = index % p.channels
        mean, shift = pointer(p.mean, real)[c], pointer(p.bias, real)[c]
        scale = pointer(p.rstd, real)[c] * pointer(p.weight, real)[c]
        oh, ow, row = p.height // 2, p.width // 2, p.width * 16
        for r in range(oh):
            first, o = (index * p.height + 2 * r) * row, (index * oh + r) * ow * 16
            for q in range(0, ow * 16, 16):
                i = first + 2 * q
                best = v.fma(v.load(x, i) - mean, scale, shift)
                dead = v.at_least(0.0, best)
                best, cell = v.select(dead, 0.0, best), v.select(dead, 4.0, v.zeros(x))
                second = v.fma(v.load(x, i + 16) - mean, scale, shift)
                wins = beats(second, best)
                best, cell = v.select(wins, second, best), v.select(wins, 1.0, cell)
                third = v.fma(v.load(x, i + row) - mean, scale, shift)
                wins = beats(third, best)
                best, cell = v.select(wins, third, best), v.select(wins, 2.0, cell)
                fourth = v.fma(v.load(x, i + row + 16) - mean, scale, shift)
                wins = beats(fourth, best)
                best, cell = v.select(wins, fourth, best), v.select(wins, 3.0, cell)
                v.store(y, o + q, best)
                v.store_integers(argmax, o + q, cell)

    return forward


def norm_relu_pool_forward(x, mean, rstd, weight, bias):
    """Return (y, argmax); the arrays of each channel are those of ``norm.channel_parameters``."""
    x = blocked.as_stored(x)
    n, c, height, width = x.shape
    y = blocked.empty_like(x, (n, c, height // 2, width // 2))
    argmax = blocked.empty(y.shape, np.uint8)
    ends = x.address, y.address, argmax.address, *map(address, (mean, rstd, weight, bias))
    launch(_forward_task(x.itemsize), len(x.buffer) * c, Table(Forward(*ends, c, height, width)).array)
    return y, argmax


@functools.cache
def _sums_task(itemsize):
    """Of each plane the sums of g and of g * (x - mean)."""
    real = norm.parameter_size(itemsize)

    @task
    def sums(index, thread, params):
        p = norm.backward_of(params)
        x, dy, argmax = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.argmax, 1)
        mean, planes = pointer(p.mean, real)[index % p.channels], pointer(p.planes, 8)
        oh, ow, row = p.height // 2, p.width // 2, p.width * 16
        of_g, of_product = v.zeros(x), v.zeros(x)
        for r in range(oh):
            first, o = (index * p.height + 2 * r) * row, (index * oh + r) * ow * 16
            row_g, row_product = v.zeros(x), v.zeros(x)
            for q in range(0, ow * 16, 16):
                i, cell = first + 2 * q, o + q
                g = v.select(v.load_equal(argmax, cell, 4), 0.0, v.load(dy, cell))
                winner = v.select(v.load_equal(argmax, cell, 0), v.load(x, i), v.load(x, i + row + 16))
                winner = v.select(v.load_equal(argmax, cell, 1), v.load(x, i + 16), winner)
                winner = v.select(v.load_equal(argmax, cell, 2), v.load(x, i + row), winner)
                row_g = row_g + g
                row_product = v.fma(g, winner - mean, row_product)
            of_g = of_g + row_g
            of_product = of_product + row_product
        planes[2 * index] = v.total(of_g)
        planes[2 * index + 1] = v.total(of_product)

    return sums


@functools.cache
def _gradient_task(itemsize):
    """dx = g * scale + (x - mean) * slope + constant, zero in lanes past the batch."""
    real = norm.parameter_size(itemsize)

    @task
    def gradient(index, thread, params):
        p = norm.backward_of(params)
        x, dy, argmax = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.argmax, 1)
        dx, c = pointer(p.dx, itemsize), index % p.channels
        mean, scale = pointer(p.mean, real)[c], pointer(p.rstd, real)[c] * pointer(p.weight, real)[c]
        slope, constant = pointer(p.slope, real)[c], pointer(p.constant, real)[c]
        lanes = p.images - index // p.channels * 16
        oh, ow = p.height // 2, p.width // 2
        for a in range(p.height):
            valid = v.first_lanes(lanes - (p.fewer if a >= p.whole else 0))
            for b in range(p.width):
                i = ((index * p.height + a) * p.width + b) * 16
                value = v.fma(v.load(x, i) - mean, slope, v.zeros(x) + constant)
                if a < 2 * oh and b < 2 * ow:
                    o = ((index * oh + a // 2) * ow + b // 2) * 16
                    won = v.load_equal(argmax, o, np.uint8(a % 2 * 2 + b % 2))
                    value = v.fma(v.select(won, v.load(dy, o), 0.0), scale, value)
                v.store(dx, i, v.select(valid, value, 0.0))

    return gradient


def norm_relu_pool_backward(dy, argmax, x, *arguments):
    """Return dx, as ``norm.batch_norm_backward`` of what ``norm_relu_pool_forward`` normalised.

    ``arguments``: mean, rstd, weight, dweight, dbias, training.
    """
    x = blocked.as_stored(x)
    windows = argmax, _sums_task(x.itemsize), _gradient_task(x.itemsize)
    return norm.batch_norm_backward(dy, x, *arguments, windows=windows)
