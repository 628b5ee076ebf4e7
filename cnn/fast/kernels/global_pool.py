"""Pooling over whole planes: their mean or their largest value, sixteen images at a time."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.kernels.pool import beats
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import pointer, reader


class GlobalPool(NamedTuple):
    """A piece is one plane of sixteen images."""

    image: int  # address of x, or of dx
    pooled: int  # address of y, or of dy
    argmax: int  # address of the positions of the largest, of the dtype of x; 0 for means
    pixels: int  # of a plane


global_pool_of = reader(GlobalPool)


@functools.cache
def _mean_task(itemsize, pooled_size):
    @task
    def forward(index, thread, params):
        p = global_pool_of(params)
        x, y = pointer(p.image, itemsize), pointer(p.pooled, pooled_size)
        mean = v.zeros(x)
        for i in range(index * p.pixels, (index + 1) * p.pixels):
            mean = mean + v.load(x, i * 16)
        v.store(y, index * 16, mean / p.pixels)

    return forward


@functools.cache
def _mean_gradient_task(itemsize, pooled_size):
    @task
    def backward(index, thread, params):
        p = global_pool_of(params)
        dx, dy = pointer(p.image, itemsize), pointer(p.pooled, pooled_size)
        share = v.load(dy, index * 16) / p.pixels
        for i in range(index * p.pixels, (index + 1) * p.pixels):
            v.store(dx, i * 16, share)

    return backward


@functools.cache
def _max_task(itemsize, _):
    @task
    def forward(index, thread, params):
        p = global_pool_of(params)
        x, y, argmax = pointer(p.image, itemsize), pointer(p.pooled, itemsize), pointer(p.argmax, itemsize)
        best, cell = v.load(x, index * p.pixels * 16), v.zeros(x)
        for i in range(1, p.pixels):
            value = v.load(x, (index * p.pixels + i) * 16)
            wins = beats(value, best)
            best, cell = v.select(wins, value, best), v.select(wins, i, cell)
        v.store(y, index * 16, best)
        v.store(argmax, index * 16, cell)

    return forward


@functools.cache
def _max_gradient_task(itemsize, _):
    @task
    def backward(index, thread, params):
        p = global_pool_of(params)
        dx, dy, argmax = pointer(p.image, itemsize), pointer(p.pooled, itemsize), pointer(p.argmax, itemsize)
        for i in range(index * p.pixels, (index + 1) * p.pixels):
            v.store(dx, i * 16, v.zeros(dx))
        for lane in range(16):
            i = index * 16 + lane
            dx[(index * p.pixels + int(argmax[i])) * 16 + lane] = dy[i]

    return backward


def _launch(make, image, pooled, argmax=None):
    blocks, channels, height, width, _ = image.buffer.shape
    cells = 0 if argmax is None else argmax.address
    values = table(GlobalPool(image.address, pooled.address, cells, height * width))
    launch(make(image.itemsize, pooled.itemsize), blocks * channels, values)


def global_avg_pool_forward(x):
    """Return y[n,c] = mean of x[n,c] over all positions, of bfloat16 in float32."""
    x = blocked.as_stored(x)
    y = blocked.empty(x.shape[:2], x.dtype)
    _launch(_mean_task, x, y)
    return y


def global_avg_pool_backward(dy, input_shape):
    """Return dx[n,c,i,j] = dy[n,c] / (H * W)."""
    dy = blocked.as_stored(dy)
    dx = blocked.activations(input_shape, dy.dtype)
    _launch(_mean_gradient_task, dx, dy)
    return dx


def global_max_pool_forward(x):
    """Return (y, argmax): the largest value of each plane and its flat position; the first of equals wins.

    The position is kept in the dtype of x, exact up to planes of 2**24 pixels.
    """
    x = blocked.as_blocked(x)
    y, argmax = blocked.empty(x.shape[:2], x.dtype), blocked.empty(x.shape[:2], x.dtype)
    _launch(_max_task, x, y, argmax)
    return y, argmax


def global_max_pool_backward(dy, argmax, input_shape):
    """Return dx: dy[n,c] at the position that won, zero elsewhere."""
    dy = blocked.as_blocked(dy, argmax.dtype)
    dx = blocked.empty(input_shape, dy.dtype)
    _launch(_max_gradient_task, dx, dy, argmax)
    return dx
