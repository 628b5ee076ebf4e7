"""Products of two arrays, an axis of size 1 being repeated: a gate for each channel, or for each pixel."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, task
from cnn.fast.machine.tables import Table, pointer, reader


class Factor(NamedTuple):
    """Where a factor lies; numbers, 0 along axes that are repeated."""

    array: int  # address
    block: int  # from one block of images to the next
    channel: int
    row: int
    pixel: int


class Product(NamedTuple):
    """out = a * b, a plane of a block of images a piece; or dx = sum of dy * b over the repeated axes."""

    a: Factor
    b: Factor
    out: int  # address
    channels: int  # of out
    height: int
    width: int
    over_channels: int  # how many terms are added: of the channels, rows, pixels
    over_rows: int
    over_pixels: int


product_of = reader(Product)


@functools.cache
def product_task(itemsize):
    """The task that takes a Product."""

    @task
    def multiply(index, thread, params):
        p = product_of(params)
        a, b, out = pointer(p.a.array, itemsize), pointer(p.b.array, itemsize), pointer(p.out, itemsize)
        block, c = index // p.channels, index % p.channels
        for r in range(p.height):
            i = block * p.a.block + c * p.a.channel + r * p.a.row
            j = block * p.b.block + c * p.b.channel + r * p.b.row
            o = (index * p.height + r) * p.width * 16
            for q in range(p.width):
                v.store(out, o + q * 16, v.load(a, i + q * p.a.pixel) * v.load(b, j + q * p.b.pixel))

    return multiply


@functools.cache
def _gradient_task(itemsize):
    @task
    def gradient(index, thread, params):
        p = product_of(params)
        a, b, out = pointer(p.a.array, itemsize), pointer(p.b.array, itemsize), pointer(p.out, itemsize)
        block, c = index // p.channels, index % p.channels
        for r in range(p.height):
            for q in range(p.width):
                total = v.zeros(out)
                for k in range(c, c + p.over_channels):
                    for s in range(r, r + p.over_rows):
                        i = block * p.a.block + k * p.a.channel + s * p.a.row
                        j = block * p.b.block + k * p.b.channel + s * p.b.row
                        row = v.zeros(out)
                        for t in range(q, q + p.over_pixels):
                            row = v.fma(v.load(a, i + t * p.a.pixel), v.load(b, j + t * p.b.pixel), row)
                        total = total + row
                v.store(out, ((index * p.height + r) * p.width + q) * 16, total)

    return gradient


def factor(address, extents):
    """Return a Factor for an array of ``extents`` (blocks, channels, height, width)."""
    _, channels, height, width = extents
    steps = channels * height * width * 16, height * width * 16, width * 16, 16
    kept = [step if size > 1 else 0 for step, size in zip(steps[1:], extents[1:], strict=True)]
    return Factor(address, steps[0], *kept)


def _factor(x):
    return factor(x.address, x.buffer.shape[:4])


def multiply(a, b):
    """Return a * b; an axis of size 1 is repeated."""
    a = blocked.as_blocked(a)
    b = blocked.as_blocked(b, a.dtype)
    shape = tuple(max(sizes) for sizes in zip(a.shape, b.shape, strict=True))
    y = blocked.empty(shape, a.dtype)
    blocks, *plane, _ = y.buffer.shape
    launch(
        product_task(a.dtype.itemsize),
        blocks * plane[0],
        Table(Product(_factor(a), _factor(b), y.address, *plane, 1, 1, 1)).array,
    )
    return y


def multiply_backward(dy, other, shape):
    """Return the gradient of the factor of ``shape``: dy * other, summed over the axes that were repeated."""
    dy = blocked.as_blocked(dy)
    other = blocked.as_blocked(other, dy.dtype)
    dx = blocked.empty(shape, dy.dtype)
    blocks, *plane, _ = dx.buffer.shape
    over = [full if size == 1 else 1 for full, size in zip(dy.buffer.shape[1:4], plane, strict=True)]
    launch(
        _gradient_task(dy.dtype.itemsize),
        blocks * plane[0],
        Table(Product(_factor(dy), _factor(other), dx.address, *plane, *over)).array,
    )
    return dx
