"""Planes made larger or smaller: nearest-neighbour upsampling, zero padding and cropping."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import pointer, reader


class Upsample(NamedTuple):
    """A piece is one plane of sixteen images; the small plane has ``height`` x ``width`` pixels."""

    small: int  # address
    large: int  # address
    height: int
    width: int
    sh: int  # scale: a pixel of the small plane is sh x sw pixels of the large one
    sw: int


upsample_of = reader(Upsample)


@functools.cache
def _upsample_task(itemsize):
    @task
    def forward(index, thread, params):
        p = upsample_of(params)
        x, y = pointer(p.small, itemsize), pointer(p.large, itemsize)
        source, step = index * p.height * p.width * 16, p.width * p.sw * 16
        target = source * p.sh * p.sw
        for i in range(p.height * p.sh):
            for j in range(p.width):
                value = v.load(x, source + (i // p.sh * p.width + j) * 16)
                for w in range(p.sw):
                    v.store(y, target + i * step + (j * p.sw + w) * 16, value)

    return forward


@functools.cache
def _upsample_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        p = upsample_of(params)
        dx, dy = pointer(p.small, itemsize), pointer(p.large, itemsize)
        target, step = index * p.height * p.width * 16, p.width * p.sw * 16
        source = target * p.sh * p.sw
        for a in range(p.height):
            for b in range(p.width):
                total = v.zeros(dy)
                for u in range(p.sh):
                    for w in range(p.sw):
                        total = total + v.load(dy, source + (a * p.sh + u) * step + (b * p.sw + w) * 16)
                v.store(dx, target + (a * p.width + b) * 16, total)

    return backward


def _upsample(make, small, large, scale):
    blocks, channels, height, width, _ = small.buffer.shape
    values = table(Upsample(small.address, large.address, height, width, *scale))
    launch(make(small.dtype.itemsize), blocks * channels, values)


def upsample_nearest_forward(x, scale):
    """Return y[n,c,i,j] = x[n, c, i // sh, j // sw] for scale = (sh, sw)."""
    x = blocked.as_blocked(x)
    n, c, h, w = x.shape
    y = blocked.empty((n, c, h * scale[0], w * scale[1]), x.dtype)
    _upsample(_upsample_task, x, y, scale)
    return y


def upsample_nearest_backward(dy, scale):
    """Return dx[n,c,a,b] = sum of the sh x sw numbers dy[n,c,i,j] with i // sh = a, j // sw = b."""
    dy = blocked.as_blocked(dy)
    n, c, h, w = dy.shape
    dx = blocked.empty((n, c, h // scale[0], w // scale[1]), dy.dtype)
    _upsample(_upsample_gradient_task, dx, dy, scale)
    return dx


class Place(NamedTuple):
    """A piece is one plane of sixteen images."""

    x: int  # address
    y: int  # address
    height: int  # of x
    width: int
    oh: int  # height of y
    ow: int
    top: int  # where in y the first row of x stands; negative: rows of x are cut off
    left: int


place_of = reader(Place)


@functools.cache
def _place_task(itemsize):
    """y[i, j] = x[i - top, j - left], 0 outside of x."""

    @task
    def place(index, thread, params):
        p = place_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.y, itemsize)
        source, target = index * p.height * p.width * 16, index * p.oh * p.ow * 16
        nothing = v.zeros(x)
        for i in range(p.oh):
            inside = p.top <= i < p.top + p.height
            for j in range(p.ow):
                o = target + (i * p.ow + j) * 16
                if inside and p.left <= j < p.left + p.width:
                    v.store(y, o, v.load(x, source + ((i - p.top) * p.width + j - p.left) * 16))
                else:
                    v.store(y, o, nothing)

    return place


def _place(x, top, left, height, width):
    x = blocked.as_blocked(x)
    y = blocked.empty((*x.shape[:2], height, width), x.dtype)
    values = table(Place(x.address, y.address, *x.shape[2:], height, width, top, left))
    launch(_place_task(x.dtype.itemsize), x.buffer.shape[0] * x.shape[1], values)
    return y


def pad2d_forward(x, padding):
    """Return y[n,c,i,j] = x[n, c, i - top, j - left], 0 outside; padding = ((top, bottom), (left, right)).

    A negative number cuts off as many rows or columns.
    """
    (top, bottom), (left, right) = padding
    return _place(x, top, left, x.shape[2] + top + bottom, x.shape[3] + left + right)


def pad2d_backward(dy, padding):
    """Return dx[n,c,a,b] = dy[n, c, a + top, b + left], 0 where forward cut off."""
    (top, bottom), (left, right) = padding
    return _place(dy, -top, -left, dy.shape[2] - top - bottom, dy.shape[3] - left - right)
