"""Hardtanh: values kept between two limits."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, chunks, launch, table, task
from cnn.fast.machine.tables import bits, from_bits, pointer, reader


class Hardtanh(NamedTuple):
    """CHUNK numbers a piece."""

    x: int  # address
    out: int  # address of y, or of dx
    dy: int  # address; backward only
    size: int  # numbers
    low: int  # bits of a float64
    high: int  # bits of a float64


hardtanh_of = reader(Hardtanh)


@functools.cache
def hardtanh_task(itemsize):
    """The task that takes a Hardtanh."""

    @task
    def forward(index, thread, params):
        p = hardtanh_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.out, itemsize)
        low, high = from_bits(p.low), from_bits(p.high)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            value = v.load(x, i)
            value = v.select(v.greater(low, value), low, value)  # a NaN is not below: it stays
            v.store(y, i, v.select(v.greater(value, high), high, value))

    return forward


@functools.cache
def _hardtanh_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        p = hardtanh_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.out, itemsize)
        low, high = from_bits(p.low), from_bits(p.high)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            value = v.load(x, i)
            outside = v.either(v.at_least(low, value), v.at_least(value, high))
            v.store(dx, i, v.select(outside, 0.0, v.load(dy, i)))

    return backward


def hardtanh_forward(x, low, high):
    """Return min(max(x, low), high); a NaN stays a NaN."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    size = y.buffer.size
    values = table(Hardtanh(x.address, y.address, 0, size, bits(low), bits(high)))
    launch(hardtanh_task(x.dtype.itemsize), chunks(size), values)
    return y


def hardtanh_backward(dy, x, low, high):
    """Return 0 where x <= low or x >= high, else dy."""
    x = blocked.as_blocked(x)
    dy = blocked.as_blocked(dy, x.dtype)
    dx = blocked.empty(x.shape, x.dtype)
    size = dx.buffer.size
    values = table(Hardtanh(x.address, dx.address, dy.address, size, bits(low), bits(high)))
    launch(_hardtanh_gradient_task(x.dtype.itemsize), chunks(size), values)
    return dx
