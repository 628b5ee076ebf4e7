"""Softmax along the channel axis and its logarithm, sixteen images at a time."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import helper, launch, table, task
from cnn.fast.machine.special import exp, log
from cnn.fast.machine.tables import pointer, reader


class Softmax(NamedTuple):
    """A piece is one pixel of a block of images."""

    x: int  # address; backward: of dy
    y: int  # address
    dx: int  # address; backward only
    channels: int
    pixels: int  # of a plane


softmax_of = reader(Softmax)


@helper
def _largest(x, first, step, channels):
    """The largest number of all channels; a NaN in the first one stays, one in another is passed over."""
    largest = v.load(x, first)
    for c in range(1, channels):
        value = v.load(x, first + c * step)
        largest = v.select(v.greater(value, largest), value, largest)
    return largest


@functools.cache
def _softmax_task(itemsize):
    @task
    def softmax(index, thread, params):
        p = softmax_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.y, itemsize)
        first, step = (index // p.pixels * p.channels * p.pixels + index % p.pixels) * 16, p.pixels * 16
        largest = _largest(x, first, step, p.channels)
        scale = v.zeros(x)
        for c in range(p.channels):
            e = exp(v.load(x, first + c * step) - largest)
            v.store(y, first + c * step, e)
            scale = scale + e
        scale = 1.0 / scale
        for c in range(p.channels):
            v.store(y, first + c * step, v.load(y, first + c * step) * scale)

    return softmax


@functools.cache
def _softmax_gradient_task(itemsize):
    @task
    def gradient(index, thread, params):
        p = softmax_of(params)
        dy, y, dx = pointer(p.x, itemsize), pointer(p.y, itemsize), pointer(p.dx, itemsize)
        first, step = (index // p.pixels * p.channels * p.pixels + index % p.pixels) * 16, p.pixels * 16
        mean = v.zeros(y)
        for c in range(p.channels):
            mean = v.fma(v.load(dy, first + c * step), v.load(y, first + c * step), mean)
        for c in range(p.channels):
            i = first + c * step
            v.store(dx, i, v.load(y, i) * (v.load(dy, i) - mean))

    return gradient


def _over_pixels(make, x):
    """Return y, what a task makes of each pixel of a block of images."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    values = table(Softmax(x.address, y.address, 0, channels, height * width))
    launch(make(x.dtype.itemsize), blocks * height * width, values)
    return y


def _back_over_pixels(make, dy, y):
    """Return dx, likewise."""
    y = blocked.as_blocked(y)
    dy = blocked.as_blocked(dy, y.dtype)
    dx = blocked.empty(dy.shape, dy.dtype)
    blocks, channels, height, width, _ = dx.buffer.shape
    values = table(Softmax(dy.address, y.address, dx.address, channels, height * width))
    launch(make(dx.dtype.itemsize), blocks * height * width, values)
    return dx


def softmax_forward(x):
    """Return S_i = exp(x_i - max x) / sum over k of exp(x_k - max x), along axis 1."""
    return _over_pixels(_softmax_task, x)


def softmax_backward(dy, y):
    """Return dx_j = S_j * (dy_j - sum over i of dy_i * S_i)."""
    return _back_over_pixels(_softmax_gradient_task, dy, y)


@functools.cache
def _log_softmax_task(itemsize):
    @task
    def log_softmax(index, thread, params):
        p = softmax_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.y, itemsize)
        first, step = (index // p.pixels * p.channels * p.pixels + index % p.pixels) * 16, p.pixels * 16
        largest = _largest(x, first, step, p.channels)
        total = v.zeros(x)
        for c in range(p.channels):
            total = total + exp(v.load(x, first + c * step) - largest)
        total = v.select(v.unordered(total, total), total, log(total))
        for c in range(p.channels):
            v.store(y, first + c * step, v.load(x, first + c * step) - largest - total)

    return log_softmax


@functools.cache
def _log_softmax_gradient_task(itemsize):
    @task
    def gradient(index, thread, params):
        p = softmax_of(params)
        dy, y, dx = pointer(p.x, itemsize), pointer(p.y, itemsize), pointer(p.dx, itemsize)
        first, step = (index // p.pixels * p.channels * p.pixels + index % p.pixels) * 16, p.pixels * 16
        total = v.zeros(y)
        for c in range(p.channels):
            total = total + v.load(dy, first + c * step)
        for c in range(p.channels):
            i = first + c * step
            v.store(dx, i, v.load(dy, i) - exp(v.load(y, i)) * total)

    return gradient


def log_softmax_forward(x):
    """Return x_i - max x - log(sum over k of exp(x_k - max x)), along axis 1."""
    return _over_pixels(_log_softmax_task, x)


def log_softmax_backward(dy, y):
    """Return dx_j = dy_j - exp(y_j) * sum over i of dy_i."""
    return _back_over_pixels(_log_softmax_gradient_task, dy, y)
