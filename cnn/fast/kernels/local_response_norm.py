"""Local response normalisation: windows along the channel axis, sixteen images at a time."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import jit, launch, table, task
from cnn.fast.machine.special import exp, log
from cnn.fast.machine.tables import bits, from_bits, pointer, reader


class LocalResponseNorm(NamedTuple):
    """A piece is one row of pixels of a block of images, all channels."""

    x: int  # address
    out: int  # address of y, or of dx
    dy: int  # address; backward only
    terms: int  # address; backward only: dy * x * s^(-beta - 1)
    channels: int
    height: int
    width: int
    before: int  # channels of a window before its own
    after: int  # and behind it
    factor: int  # bits of a float64: alpha / size
    beta: int  # bits of a float64
    k: int  # bits of a float64


norm_of = reader(LocalResponseNorm)


@jit
def _scale(x, pixel, step, c, p):
    """s[c] = k + alpha/size * sum of x^2 over the window of channel c, at one pixel."""
    total = v.zeros(x)
    for i in range(max(c - p.before, 0), min(c + p.after + 1, p.channels)):
        value = v.load(x, pixel + i * step)
        total = v.fma(value, value, total)
    return total * from_bits(p.factor) + from_bits(p.k)


@jit
def _to_minus(s, beta):
    """s^(-beta) of positive numbers; roots are quick, and exact to the last bits, for the usual beta."""
    if beta == 0.75:
        half = v.root(s)
        return 1.0 / (half * v.root(half))
    return exp(log(s) * (0.0 - beta))


@functools.cache
def _forward_task(itemsize):
    @task
    def forward(index, thread, params):
        p = norm_of(params)
        x, y, beta = pointer(p.x, itemsize), pointer(p.out, itemsize), from_bits(p.beta)
        step = p.height * p.width * 16
        first = index // p.height * p.channels * step + index % p.height * p.width * 16
        for c in range(p.channels):
            for pixel in range(first, first + p.width * 16, 16):
                value = v.load(x, pixel + c * step)
                v.store(y, pixel + c * step, value * _to_minus(_scale(x, pixel, step, c, p), beta))

    return forward


@functools.cache
def _backward_task(itemsize):
    @task
    def backward(index, thread, params):
        p = norm_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.out, itemsize)
        terms, beta = pointer(p.terms, itemsize), from_bits(p.beta)
        double = 2.0 * from_bits(p.factor) * beta
        step = p.height * p.width * 16
        first = index // p.height * p.channels * step + index % p.height * p.width * 16
        for c in range(p.channels):
            for pixel in range(first, first + p.width * 16, 16):
                i = pixel + c * step
                s = _scale(x, pixel, step, c, p)
                own = v.load(dy, i) * _to_minus(s, beta)
                v.store(dx, i, own)
                v.store(terms, i, own * v.load(x, i) / s)
        for c in range(p.channels):
            for pixel in range(first, first + p.width * 16, 16):
                total = v.zeros(x)
                for i in range(max(c - p.after, 0), min(c + p.before + 1, p.channels)):
                    total = total + v.load(terms, pixel + i * step)
                i = pixel + c * step
                v.store(dx, i, v.load(dx, i) - v.load(x, i) * total * double)

    return backward


def _record(x, out, dy, terms, size, alpha, beta, k):
    _, channels, height, width, _ = x.buffer.shape
    window = size // 2, (size - 1) // 2
    ends = x.address, out.address, dy and dy.address, terms and terms.address
    numbers = bits(alpha / size), bits(beta), bits(k)
    return table(LocalResponseNorm(*ends, channels, height, width, *window, *numbers))


def local_response_norm_forward(x, size, alpha, beta, k):
    """Return y = x * s^(-beta) with s = k + alpha/size * sum of x^2 over a window of channels."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    values = _record(x, y, 0, 0, size, alpha, beta, k)
    launch(_forward_task(x.dtype.itemsize), x.buffer.shape[0] * x.buffer.shape[2], values)
    return y


def local_response_norm_backward(dy, x, size, alpha, beta, k):
    """Return dx = dy * s^(-beta) - 2 alpha beta/size * x * sum of dy * x * s^(-beta - 1) over the windows."""
    x = blocked.as_blocked(x)
    dy = blocked.as_blocked(dy, x.dtype)
    dx, terms = blocked.empty(x.shape, x.dtype), blocked.empty(x.shape, x.dtype)
    values = _record(x, dx, dy, terms, size, alpha, beta, k)
    launch(_backward_task(x.dtype.itemsize), x.buffer.shape[0] * x.buffer.shape[2], values)
    return dx
