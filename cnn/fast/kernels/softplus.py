"""Softplus: a smooth ReLU."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, chunks, launch, table, task
from cnn.fast.machine.special import exp, log1p
from cnn.fast.machine.tables import bits, from_bits, pointer, reader


class Softplus(NamedTuple):
    """CHUNK numbers a piece."""

    x: int  # address
    out: int  # address of y, or of dx
    dy: int  # address; backward only
    size: int  # numbers
    beta: int  # bits of a float64
    threshold: int  # bits of a float64; of beta * x


softplus_of = reader(Softplus)


@functools.cache
def softplus_task(itemsize):
    """y = x where beta x > threshold, else (max(beta x, 0) + log(1 + exp(-|beta x|))) / beta."""

    @task
    def forward(index, thread, params):
        p = softplus_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.out, itemsize)
        beta, threshold = from_bits(p.beta), from_bits(p.threshold)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            value = v.load(x, i)
            z = value * beta
            smooth = v.select(v.greater(0.0, z), 0.0, z) + log1p(exp(0.0 - v.magnitude(z)))
            v.store(y, i, v.select(v.greater(z, threshold), value, smooth / beta))

    return forward


@functools.cache
def _softplus_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        p = softplus_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.out, itemsize)
        beta, threshold = from_bits(p.beta), from_bits(p.threshold)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            z, g = v.load(x, i) * beta, v.load(dy, i)
            v.store(dx, i, v.select(v.greater(z, threshold), g, g / (1.0 + exp(0.0 - z))))

    return backward


def softplus_forward(x, beta, threshold):
    """Return log(1 + exp(beta * x)) / beta, or x where beta * x > threshold."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    size = y.buffer.size
    values = table(Softplus(x.address, y.address, 0, size, bits(beta), bits(threshold)))
    launch(softplus_task(x.dtype.itemsize), chunks(size), values)
    return y


def softplus_backward(dy, x, beta, threshold):
    """Return dy * sigmoid(beta * x), or dy where beta * x > threshold."""
    x = blocked.as_blocked(x)
    dy = blocked.as_blocked(dy, x.dtype)
    dx = blocked.empty(x.shape, x.dtype)
    size = dx.buffer.size
    values = table(Softplus(x.address, dx.address, dy.address, size, bits(beta), bits(threshold)))
    launch(_softplus_gradient_task(x.dtype.itemsize), chunks(size), values)
    return dx
