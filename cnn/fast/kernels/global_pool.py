"""Pooling over whole planes: their mean or their largest value, sixteen images at a time."""

import functools

from cnn.fast import blocked
from cnn.fast.kernels.pool import beats
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import integers, pointer


@functools.cache
def _global_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y, pixels = pointer(a[0], itemsize), pointer(a[1], itemsize), a[2]
        mean = v.zeros(x)
        for i in range(index * pixels, (index + 1) * pixels):
            mean = mean + v.load(x, i * 16)
        v.store(y, index * 16, mean / pixels)

    return forward


@functools.cache
def _global_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        a = integers(params)
        dy, dx, pixels = pointer(a[0], itemsize), pointer(a[1], itemsize), a[2]
        share = v.load(dy, index * 16) / pixels
        for i in range(index * pixels, (index + 1) * pixels):
            v.store(dx, i * 16, share)

    return backward


@functools.cache
def _global_max_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y, argmax, pixels = (
            pointer(a[0], itemsize),
            pointer(a[1], itemsize),
            pointer(a[2], itemsize),
            a[3],
        )
        best, cell = v.load(x, index * pixels * 16), v.zeros(x)
        for i in range(1, pixels):
            value = v.load(x, (index * pixels + i) * 16)
            wins = beats(value, best)
            best, cell = v.select(wins, value, best), v.select(wins, i, cell)
        v.store(y, index * 16, best)
        v.store(argmax, index * 16, cell)

    return forward


@functools.cache
def _global_max_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        a = integers(params)
        dy, argmax, dx, pixels = (
            pointer(a[0], itemsize),
            pointer(a[1], itemsize),
            pointer(a[2], itemsize),
            a[3],
        )
        for i in range(index * pixels, (index + 1) * pixels):
            v.store(dx, i * 16, v.zeros(dx))
        for lane in range(16):
            i = index * 16 + lane
            dx[(index * pixels + int(argmax[i])) * 16 + lane] = dy[i]

    return backward


def _planes(array):
    """(planes of sixteen images, pixels in each) of a blocked (N, C, H, W)."""
    blocks, channels, height, width, _ = array.buffer.shape
    return blocks * channels, height * width


def global_avg_pool_forward(x):
    """Return y[n,c] = mean of x[n,c] over all positions."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape[:2], x.dtype)
    planes, pixels = _planes(x)
    launch(_global_task(x.dtype.itemsize), planes, table([x.address, y.address, pixels]))
    return y


def global_avg_pool_backward(dy, input_shape):
    """Return dx[n,c,i,j] = dy[n,c] / (H * W)."""
    dy = blocked.as_blocked(dy)
    dx = blocked.empty(input_shape, dy.dtype)
    planes, pixels = _planes(dx)
    launch(_global_gradient_task(dx.dtype.itemsize), planes, table([dy.address, dx.address, pixels]))
    return dx


def global_max_pool_forward(x):
    """Return (y, argmax): the largest value of each plane and its flat position; the first of equals wins.

    The position is kept in the dtype of x, exact up to planes of 2**24 pixels.
    """
    x = blocked.as_blocked(x)
    y, argmax = blocked.empty(x.shape[:2], x.dtype), blocked.empty(x.shape[:2], x.dtype)
    planes, pixels = _planes(x)
    values = table([x.address, y.address, argmax.address, pixels])
    launch(_global_max_task(x.dtype.itemsize), planes, values)
    return y, argmax


def global_max_pool_backward(dy, argmax, input_shape):
    """Return dx: dy[n,c] at the position that won, zero elsewhere."""
    dy = blocked.as_blocked(dy, argmax.dtype)
    dx = blocked.empty(input_shape, dy.dtype)
    planes, pixels = _planes(dx)
    values = table([dy.address, argmax.address, dx.address, pixels])
    launch(_global_max_gradient_task(dx.dtype.itemsize), planes, values)
    return dx
