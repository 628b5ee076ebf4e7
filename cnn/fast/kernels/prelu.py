"""PReLU: the slope for negative numbers is a parameter."""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.arguments import parameter, sums_for
from cnn.fast.kernels.shared import micro_batches
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, launch, scratch, table, task
from cnn.fast.machine.tables import pointer, reader


class PReLU(NamedTuple):
    """A piece is one plane of sixteen images; of the sums, one number of the weight."""

    x: int  # address
    out: int  # address of y, or of dx
    dy: int  # address; backward only
    weight: int  # address
    step: int  # from the weight of a channel to that of the next: 1, or 0 where there is one weight only
    sums: int  # address of float64 (blocks, channels): of each plane, what it adds to dweight
    dweight: int  # address
    blocks: int
    channels: int
    pixels: int  # of a plane


prelu_of = reader(PReLU)


@functools.cache
def _prelu_task(itemsize):
    @task
    def forward(index, thread, params):
        p = prelu_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.out, itemsize)
        slope = pointer(p.weight, itemsize)[index % p.channels * p.step]
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            value = v.load(x, i)
            v.store(y, i, v.select(v.greater(value, 0.0), value, value * slope))

    return forward


@functools.cache
def _prelu_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        p = prelu_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.out, itemsize)
        slope = pointer(p.weight, itemsize)[index % p.channels * p.step]
        total = v.zeros(x)
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            value, g = v.load(x, i), v.load(dy, i)
            positive = v.greater(value, 0.0)
            v.store(dx, i, v.select(positive, g, g * slope))
            total = total + v.select(positive, 0.0, g * value)
        pointer(p.sums, 8)[index] = v.total(total)

    return backward


@functools.cache
def _prelu_sums_task(itemsize):
    """dweight[c] += the sums of the planes of channel c, or with one weight those of all planes."""
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def add(index, thread, params):
        p = prelu_of(params)
        sums, dweight, total = pointer(p.sums, 8), pointer(p.dweight, itemsize), 0.0
        for plane in range(index, p.blocks * p.channels, p.channels if p.step else 1):
            total += sums[plane]
        dweight[index] += real(total)

    return add


def prelu_forward(x, weight):
    """Return x where x > 0, else weight[c] * x; weight is (C,), or (1,) for all channels."""
    x = blocked.as_blocked(x)
    y, weight = blocked.empty(x.shape, x.dtype), parameter(weight, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    sizes = blocks, channels, height * width
    record = PReLU(x.address, y.address, 0, address(weight), int(weight.size > 1), 0, 0, *sizes)
    launch(_prelu_task(x.dtype.itemsize), blocks * channels, table(record))
    return y


def prelu_backward(dy, x, weight, dweight):
    """Return dy where x > 0, else weight[c] * dy; add dweight[c] += sum of dy * x over x <= 0."""
    x = blocked.as_blocked(x)
    dy, weight = blocked.as_blocked(dy, x.dtype), parameter(weight, x.dtype)
    dx = blocked.empty(x.shape, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    sums, sizes = scratch((blocks, channels), np.float64), (blocks, channels, height * width)
    ends = x.address, dx.address, dy.address, address(weight), int(weight.size > 1), address(sums)
    launch(_prelu_gradient_task(x.dtype.itemsize), blocks * channels, table(PReLU(*ends, 0, *sizes)))
    first = 0
    for part, target in micro_batches(dweight):
        blocks = len(part(x).buffer)
        with sums_for(target, x.dtype) as total:
            ends, sizes = (*ends[:-1], address(sums[first:])), (blocks, *sizes[1:])
            record = table(PReLU(*ends, address(total), *sizes))
            launch(_prelu_sums_task(x.dtype.itemsize), weight.size, record)
        first += blocks
    return dx
