"""Sums, copies and masks: what branches, Flatten and Dropout are made of."""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, chunks, contiguous, launch, scratch, table, task
from cnn.fast.machine.tables import bits, from_bits, integers, pointer, reader


@functools.cache
def add_task(itemsize):
    """out = x + y or max(0, x + y), CHUNK numbers a piece: three addresses, how many numbers, which."""

    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y, out = pointer(a[0], itemsize), pointer(a[1], itemsize), pointer(a[2], itemsize)
        size, relu = a[3], a[4]
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, size), 16):
            value = v.load(x, i) + v.load(y, i)
            if relu:
                value = v.select(v.greater(0.0, value), 0.0, value)
            v.store(out, i, value)

    return forward


def add(a, b, relu=False):
    """Return a + b; with ``relu`` max(0, a + b), where a NaN stays."""
    a = blocked.as_blocked(a)
    b = blocked.as_blocked(b, a.dtype)
    y = blocked.empty(a.shape, a.dtype)
    size = y.buffer.size
    launch(add_task(a.dtype.itemsize), chunks(size), table([a.address, b.address, y.address, size, relu]))
    return y


@functools.cache
def _scale_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y, size, factor = pointer(a[0], itemsize), pointer(a[1], itemsize), a[2], from_bits(a[3])
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, size), 16):
            v.store(y, i, v.load(x, i) * factor)

    return forward


def scale(x, factor):
    """Return factor * x in the dtype of x."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    size = y.buffer.size
    values = table([x.address, y.address, size, bits(factor)])
    launch(_scale_task(x.dtype.itemsize), chunks(size), values)
    return y


class _Copy(NamedTuple):
    """Of a run of numbers in every block of images."""

    source: int  # address
    target: int  # address
    count: int  # numbers in a run
    source_step: int  # numbers from one block to the next
    target_step: int


_copy_of = reader(_Copy)


@functools.cache
def _copy_task(itemsize):
    """target[block] = source[block], a run of each."""

    @task
    def copy(index, thread, params):
        p = _copy_of(params)
        source, target = pointer(p.source, itemsize), pointer(p.target, itemsize)
        for i in range(0, p.count, 16):
            v.store(target, index * p.target_step + i, v.load(source, index * p.source_step + i))

    return copy


def _copy_planes(source, target, channels, source_first=0, target_first=0):
    """Copy ``channels`` planes of each block of images, from one channel on to another."""
    plane, size = source.buffer[0, 0].size, source.dtype.itemsize
    copied = _Copy(
        source.address + source_first * plane * size,
        target.address + target_first * plane * size,
        channels * plane,
        source.buffer.shape[1] * plane,
        target.buffer.shape[1] * plane,
    )
    launch(_copy_task(size), len(source.buffer), table(copied))


def concat(arrays):
    """Join along the channel axis."""
    parts = [blocked.as_blocked(a) for a in arrays]
    channels = sum(part.shape[1] for part in parts)
    y = blocked.empty((parts[0].shape[0], channels, *parts[0].shape[2:]), parts[0].dtype)
    start = 0
    for part in parts:
        _copy_planes(part, y, part.shape[1], target_first=start)
        start += part.shape[1]
    return y


def split(dy, sizes):
    """Cut along the channel axis into parts of the given sizes: the inverse of concat."""
    dy = blocked.as_blocked(dy)
    parts, start = [], 0
    for size in sizes:
        part = blocked.empty((dy.shape[0], size, *dy.shape[2:]), dy.dtype)
        _copy_planes(dy, part, size, source_first=start)
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


class _Key(NamedTuple):
    """Addresses of int64 numbers."""

    state: int  # (seed, masks so far)
    key: int  # of the next mask: two 32-bit numbers


_key_of = reader(_Key)


@functools.cache
def _key_task():
    """key = the state's two numbers modulo 2^32; one more mask."""

    @task
    def count(index, thread, params):
        p = _key_of(params)
        state, key = integers(p.state), integers(p.key)
        key[0], key[1] = state[0] & 0xFFFFFFFF, state[1] & 0xFFFFFFFF
        state[1] += 1

    return count


def dropout_key(state):
    """Return the key of the next mask, and count it: ``state`` is (seed, masks so far), int64."""
    key = scratch((2,), np.int64)
    launch(_key_task(), 1, table(_Key(state.ctypes.data, key.ctypes.data)))
    return key


class _Dropout(NamedTuple):
    """Of a mask over images of ``features`` numbers."""

    x: int  # address
    y: int  # address
    key: int  # address of two int64
    size: int  # numbers in all, filled lanes included
    features: int  # numbers of an image
    factor: int  # bits: what a number that stays is multiplied with
    threshold: int  # a hash below it is dropped


_dropout_of = reader(_Dropout)


@functools.cache
def _dropout_task(itemsize):
    """y = x * factor where hash(key, position) >= threshold, else 0."""

    @task
    def forward(index, thread, params):
        p = _dropout_of(params)
        x, y, key = pointer(p.x, itemsize), pointer(p.y, itemsize), integers(p.key)
        factor = from_bits(p.factor)
        first, second, threshold = np.uint32(key[0]), np.uint32(key[1]), np.uint32(p.threshold)
        for i in range(index * CHUNK // 16, min((index + 1) * CHUNK, p.size) // 16):
            # i runs over blocks x features; where an image's feature lies in the flat (N, F) array:
            position = i // p.features * 16 * p.features + i % p.features
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


def dropout(x, p, key):
    """Return x / (1 - p) where a hash of (key, position) is kept, else 0.

    The mask is the reference's bit for bit: MurmurHash3's finaliser over the position in the flattened
    (N, F) array, mixed with the two 32-bit integers of ``key``, which are read when the kernel runs.
    """
    x, key = blocked.as_blocked(x), np.asarray(key, np.int64)
    y = blocked.empty(x.shape, x.dtype)
    threshold = min(int(p * 2**32), 2**32 - 1)
    factor = float(x.dtype.type(1 / (1 - p) if p < 1 else 0))
    features, size = y.buffer.size // len(y.buffer) // 16, y.buffer.size
    record = _Dropout(x.address, y.address, key.ctypes.data, size, features, bits(factor), threshold)
    launch(_dropout_task(x.dtype.itemsize), chunks(size), table(record))
    return y


@functools.cache
def _channel_sum_task(itemsize):
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def total(index, thread, params):
        a = integers(params)
        dy, out = pointer(a[0], itemsize), pointer(a[1], itemsize)
        channels, height, width, blocks = a[2], a[3], a[4], a[5]
        step = channels * height * width * 16
        everything = 0.0
        for block in range(blocks):
            first = block * step + index * height * width * 16
            plane = v.zeros(dy)
            for r in range(height):
                row = v.zeros(dy)
                for q in range(width):
                    row = row + v.load(dy, first + (r * width + q) * 16)
                plane = plane + row
            everything += float(v.total(plane))
        out[index] += real(everything)  # rounded first: two passes are to add exactly twice as much

    return total


def channel_sum(dy, dbias):
    """Add dbias[k] += sum of dy over n and all positions: rows, then planes, then blocks in float64."""
    dy = blocked.as_blocked(dy)
    blocks, channels, height, width, _ = dy.buffer.shape
    fits = dbias.dtype == dy.dtype and dbias.flags.c_contiguous
    sums = dbias if fits else np.zeros(channels, dy.dtype)
    values = table([dy.address, sums.ctypes.data, channels, height, width, blocks])
    launch(_channel_sum_task(dy.dtype.itemsize), channels, values)
    if sums is not dbias:
        dbias += sums


@functools.cache
def _add_channel_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        x, bias, y = pointer(a[0], itemsize), pointer(a[1], itemsize), pointer(a[2], itemsize)
        channels, pixels = a[3], a[4]
        shift = bias[index % channels]
        for i in range(index * pixels * 16, (index + 1) * pixels * 16, 16):
            v.store(y, i, v.load(x, i) + shift)

    return forward


def add_channel(x, bias):
    """Return y[n,c,...] = x[n,c,...] + bias[c]."""
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    bias = contiguous(bias.astype(x.dtype, copy=False))
    blocks, channels, height, width, _ = x.buffer.shape
    values = table([x.address, bias.ctypes.data, y.address, channels, height * width])
    launch(_add_channel_task(x.dtype.itemsize), blocks * channels, values)
    return y
