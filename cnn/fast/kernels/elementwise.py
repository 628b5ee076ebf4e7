"""Sums, copies and masks: what branches, Flatten and Dropout are made of."""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.arguments import parameter, sums_for
from cnn.fast.kernels.shared import first_image, micro_batches
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, address, chunks, launch, scratch, table, task
from cnn.fast.machine.tables import bits, from_bits, integers, pointer, reader


class Sum(NamedTuple):
    """out = x + y or max(0, x + y), CHUNK numbers a piece."""

    x: int  # address
    y: int  # address
    out: int  # address
    size: int  # numbers
    relu: int  # whether


class Scale(NamedTuple):
    """y = factor * x, CHUNK numbers a piece."""

    x: int  # address
    y: int  # address
    size: int  # numbers
    factor: int  # bits of a float64


sum_of, scale_of = reader(Sum), reader(Scale)


@functools.cache
def add_task(itemsize):
    """The task that takes a Sum."""

    @task
    def forward(index, thread, params):
        p = sum_of(params)
        x, y, out = pointer(p.x, itemsize), pointer(p.y, itemsize), pointer(p.out, itemsize)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            value = v.load(x, i) + v.load(y, i)
            if p.relu:
                value = v.select(v.greater(0.0, value), 0.0, value)
            v.store(out, i, value)

    return forward


def add(a, b, relu=False):
    """Return a + b; with ``relu`` max(0, a + b), where a NaN stays."""
    a = blocked.as_stored(a)
    b = blocked.as_stored(b, a)
    y = blocked.empty_like(a)
    size = y.buffer.size
    values = table(Sum(a.address, b.address, y.address, size, relu))
    launch(add_task(a.itemsize), chunks(size), values)
    return y


@functools.cache
def scale_task(itemsize):
    """The task that takes a Scale."""

    @task
    def forward(index, thread, params):
        p = scale_of(params)
        x, y, factor = pointer(p.x, itemsize), pointer(p.y, itemsize), from_bits(p.factor)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            v.store(y, i, v.load(x, i) * factor)

    return forward


def scale(x, factor):
    """Return factor * x in the dtype of x."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    size = y.buffer.size
    values = table(Scale(x.address, y.address, size, bits(factor)))
    launch(scale_task(x.dtype.itemsize), chunks(size), values)
    return y


class Channels(NamedTuple):
    """Copies some channels of one array to those of another, a plane of sixteen images a piece."""

    source: int  # address of the first plane that is copied
    target: int  # address of where it goes
    channels: int  # how many are copied
    source_channels: int  # of the whole array
    target_channels: int
    pixels: int  # of a plane


channels_of = reader(Channels)


@functools.cache
def _channels_task(itemsize):
    @task
    def copy(index, thread, params):
        p = channels_of(params)
        source, target = pointer(p.source, itemsize), pointer(p.target, itemsize)
        block, c, size = index // p.channels, index % p.channels, p.pixels * 16
        first, o = (block * p.source_channels + c) * size, (block * p.target_channels + c) * size
        for i in range(0, size, 16):
            v.store(target, o + i, v.load(source, first + i))

    return copy


def _copy_channels(source, first, target, at, channels):
    """target[:, at : at + channels] = source[:, first : first + channels]"""
    blocks, source_channels, height, width, lanes = source.buffer.shape
    plane = height * width * lanes * source.dtype.itemsize
    ends = source.address + first * plane, target.address + at * plane
    values = table(Channels(*ends, channels, source_channels, target.shape[1], height * width))
    launch(_channels_task(source.dtype.itemsize), blocks * channels, values)


def concat(arrays):
    """Join along the channel axis."""
    first, *others = (blocked.as_blocked(a) for a in arrays)
    parts = [first, *(blocked.as_blocked(part, first.dtype) for part in others)]
    channels = sum(part.shape[1] for part in parts)
    y = blocked.empty((first.shape[0], channels, *first.shape[2:]), first.dtype)
    start = 0
    for part in parts:
        _copy_channels(part, 0, y, start, part.shape[1])
        start += part.shape[1]
    return y


def split(dy, sizes):
    """Cut along the channel axis into parts of the given sizes: the inverse of concat."""
    dy = blocked.as_blocked(dy)
    parts, start = [], 0
    for size in sizes:
        part = blocked.empty((dy.shape[0], size, *dy.shape[2:]), dy.dtype)
        _copy_channels(dy, start, part, 0, size)
        parts.append(part)
        start += size
    return parts


def flatten(x):
    """Return (N, C*H*W), row-major; shares the memory of a blocked x."""
    return blocked.flat(blocked.as_blocked(x))


def unflatten(dy, shape):
    """Return ``dy`` as ``shape``: the inverse of flatten."""
    dy = blocked.as_blocked(dy)
    return dy if len(shape) == 2 else blocked.unflat(dy, shape)


class Draw(NamedTuple):
    """What a mask is drawn from."""

    state: int  # address of int64 (seed, how many masks were drawn)
    key: int  # address of int64 (seed, which mask this is modulo 2^32)


class Dropout(NamedTuple):
    """CHUNK numbers a piece."""

    x: int  # address
    y: int  # address
    key: int  # address, as in Draw
    features: int  # numbers of an image
    factor: int  # bits of a float64: what a number that is kept is multiplied by
    threshold: int  # a number is kept if its hash, 32 bits, is at least this
    size: int  # numbers of all blocks
    first: int  # the number of the first image in its batch


draw_of, dropout_of = reader(Draw), reader(Dropout)


@functools.cache
def _draw_task():
    @task
    def draw(index, thread, params):
        p = draw_of(params)
        state, key = integers(p.state), integers(p.key)
        key[0], key[1] = state[0], state[1] % 4294967296
        state[1] += 1

    return draw


@functools.cache
def _dropout_task(itemsize):
    @task
    def forward(index, thread, params):
        p = dropout_of(params)
        x, y, factor = pointer(p.x, itemsize), pointer(p.y, itemsize), from_bits(p.factor)
        first, second = np.uint32(integers(p.key)[0]), np.uint32(integers(p.key)[1])
        threshold = np.uint32(p.threshold)
        for i in range(index * CHUNK // 16, min((index + 1) * CHUNK, p.size) // 16):
            # i runs over blocks x features; where an image's feature lies in the flat (N, F) array:
            position = (p.first + i // p.features * 16) * p.features + i % p.features
            for lane in range(16):
                h = np.uint32(position + lane * p.features) ^ first
                h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
                h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
                h = np.uint32((h ^ (h >> np.uint32(16))) + second)
                h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
                h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
                h = h ^ (h >> np.uint32(16))
                y[i * 16 + lane] = x[i * 16 + lane] * (factor if h >= threshold else 0.0)

    return forward


def dropout_forward(x, p, state):
    """Return (y, key): y = x / (1 - p) where a hash of (key, position) is kept, else 0.

    ``state``, int64 (seed, how many masks were drawn), gives the key (seed, count modulo 2^32) and then
    counts one more, in place. Both are read when the tasks run.
    """
    key = scratch((2,), np.int64)
    launch(_draw_task(), 1, table(Draw(address(state), address(key))))
    return dropout_backward(x, p, key), key


def dropout_backward(dy, p, key):
    """Return dx = dy / (1 - p) where a hash of (key, position) is kept, else 0.

    The mask is the reference's bit for bit: MurmurHash3's finaliser over the position in the flattened
    (N, F) array, of the whole batch, mixed with the two 32-bit integers of ``key``.
    """
    dy = blocked.as_blocked(dy)
    dx = blocked.empty(dy.shape, dy.dtype)
    threshold = min(int(p * 2**32), 2**32 - 1)
    factor = float(dy.dtype.type(1 / (1 - p) if p < 1 else 0))
    size, features = dx.buffer.size, dx.buffer.size // len(dx.buffer) // 16
    ends = dy.address, dx.address, address(key)
    values = table(Dropout(*ends, features, bits(factor), threshold, size, first_image()))
    launch(_dropout_task(dy.dtype.itemsize), chunks(size), values)
    return dx


class ChannelSum(NamedTuple):
    """out[c] += sum over n, i, j of dy[n, c, i, j], a channel a piece."""

    dy: int  # address
    out: int  # address
    channels: int
    height: int
    width: int
    blocks: int


class AddChannel(NamedTuple):
    """y[n, c, i, j] = x[n, c, i, j] + bias[c], a plane of sixteen images a piece."""

    x: int  # address
    bias: int  # address
    y: int  # address
    channels: int
    pixels: int  # of a plane


channel_sum_of, add_channel_of = reader(ChannelSum), reader(AddChannel)


@functools.cache
def _channel_sum_task(itemsize):
    real, size = (np.float64, 8) if itemsize == 8 else (np.float32, 4)

    @task
    def total(index, thread, params):
        p = channel_sum_of(params)
        dy, out = pointer(p.dy, itemsize), pointer(p.out, size)
        step = p.channels * p.height * p.width * 16
        everything = 0.0
        for block in range(p.blocks):
            first = block * step + index * p.height * p.width * 16
            plane = v.zeros(dy)
            for r in range(p.height):
                row = v.zeros(dy)
                for q in range(p.width):
                    row = row + v.load(dy, first + (r * p.width + q) * 16)
                plane = plane + row
            everything += float(v.total(plane))
        out[index] += real(everything)  # rounded first: two passes are to add exactly twice as much

    return total


def channel_sum(dy, dbias):
    """Add dbias[k] += sum of dy over n and all positions: rows, then planes, then blocks in float64."""
    dy = blocked.as_stored(dy)
    for part, target in micro_batches(dbias):
        g = part(dy)
        blocks, channels, height, width, _ = g.buffer.shape
        with sums_for(target, dy.dtype) as sums:
            values = table(ChannelSum(g.address, address(sums), channels, height, width, blocks))
            launch(_channel_sum_task(dy.itemsize), channels, values)


@functools.cache
def _add_channel_task(itemsize):
    @task
    def forward(index, thread, params):
        p = add_channel_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.y, itemsize)
        shift = pointer(p.bias, itemsize)[index % p.channels]
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            v.store(y, i, v.load(x, i) + shift)

    return forward


def add_channel(x, bias):
    """Return y[n,c,...] = x[n,c,...] + bias[c]."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    bias = parameter(bias, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    values = table(AddChannel(x.address, address(bias), y.address, channels, height * width))
    launch(_add_channel_task(x.dtype.itemsize), blocks * channels, values)
    return y
