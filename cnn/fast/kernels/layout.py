"""From plain arrays into the blocked layout and back: a transposition, sixteen images at a time."""

import functools
from typing import NamedTuple

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, chunks, launch, table, task
from cnn.fast.machine.tables import pointer, reader


class Layout(NamedTuple):
    """A piece is one channel of a block of sixteen images; a program patches the first two."""

    source: int  # address
    target: int  # address
    images: int
    channels: int
    pixels: int  # of a plane
    table: int  # address of (channels, 256) numbers that uint8 images stand for, or 0


layout_of = reader(Layout)


@functools.cache
def _pack_task(itemsize):
    """Of a whole block, whose loop over lanes then has a fixed length, and of the last one."""

    @task
    def pack(index, thread, params):
        p = layout_of(params)
        x, y = pointer(p.source, itemsize), pointer(p.target, itemsize)
        block, c = index // p.channels, index % p.channels
        first, step = (block * 16 * p.channels + c) * p.pixels, p.channels * p.pixels
        lanes = p.images - block * 16
        if lanes >= 16:
            for i in range(p.pixels):
                for lane in range(16):
                    y[(index * p.pixels + i) * 16 + lane] = x[first + lane * step + i]
        else:
            for i in range(p.pixels):
                for lane in range(lanes):
                    y[(index * p.pixels + i) * 16 + lane] = x[first + lane * step + i]
                for lane in range(lanes, 16):
                    y[(index * p.pixels + i) * 16 + lane] = 0.0

    return pack


@functools.cache
def _pack_pixels_task(itemsize):
    @task
    def pack_pixels(index, thread, params):
        p = layout_of(params)
        x, y = pointer(p.source, 1), pointer(p.target, itemsize)
        block, c = index // p.channels, index % p.channels
        table = pointer(p.table + c * 256 * itemsize, itemsize)
        first, step = (block * 16 * p.channels + c) * p.pixels, p.channels * p.pixels
        lanes = p.images - block * 16
        if lanes >= 16:
            for i in range(p.pixels):
                for lane in range(16):
                    y[(index * p.pixels + i) * 16 + lane] = table[x[first + lane * step + i]]
        else:
            for i in range(p.pixels):
                for lane in range(lanes):
                    y[(index * p.pixels + i) * 16 + lane] = table[x[first + lane * step + i]]
                for lane in range(lanes, 16):
                    y[(index * p.pixels + i) * 16 + lane] = 0.0

    return pack_pixels


@functools.cache
def _unpack_task(itemsize):
    @task
    def unpack(index, thread, params):
        p = layout_of(params)
        x, y = pointer(p.source, itemsize), pointer(p.target, itemsize)
        block, c = index // p.channels, index % p.channels
        first, step = (block * 16 * p.channels + c) * p.pixels, p.channels * p.pixels
        for lane in range(min(16, p.images - block * 16)):
            for i in range(p.pixels):
                y[first + lane * step + i] = x[(index * p.pixels + i) * 16 + lane]

    return unpack


def pack(plain, buffer, address):
    """Copy a C-contiguous (N, C, H, W) or (N, F) array into a buffer of its dtype; tail lanes become 0."""
    blocks, channels, height, width, _ = buffer.shape
    values = table(Layout(plain.ctypes.data, address, plain.shape[0], channels, height * width, 0))
    launch(_pack_task(buffer.dtype.itemsize), blocks * channels, values)


def pack_pixels(x, buffer, address):
    """Copy what Pixels stand for into a buffer of their table's dtype; tail lanes become 0."""
    blocks, channels, height, width, _ = buffer.shape
    source, numbers = x.images.ctypes.data, x.table.ctypes.data
    values = table(Layout(source, address, len(x), channels, height * width, numbers))
    launch(_pack_pixels_task(buffer.dtype.itemsize), blocks * channels, values)


def unpack(buffer, address, plain):
    """Copy the images of a buffer into a C-contiguous plain array of the same dtype."""
    blocks, channels, height, width, _ = buffer.shape
    values = table(Layout(address, plain.ctypes.data, plain.shape[0], channels, height * width, 0))
    launch(_unpack_task(buffer.dtype.itemsize), blocks * channels, values)


class Conversion(NamedTuple):
    """CHUNK numbers a piece."""

    source: int  # address
    target: int  # address
    size: int  # numbers


conversion_of = reader(Conversion)


@functools.cache
def _convert_task(source_size, target_size):
    """target = source, one of them float32, the other bfloat16."""

    @task
    def convert(index, thread, params):
        p = conversion_of(params)
        x, y = pointer(p.source, source_size), pointer(p.target, target_size)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            v.store(y, i, v.load(x, i))

    return convert


def convert(x, y):
    """Copy a BlockedArray into one of the same shape: float32 is rounded to bfloat16, bfloat16 widened."""
    size = y.buffer.size
    launch(_convert_task(x.itemsize, y.itemsize), chunks(size), table(Conversion(x.address, y.address, size)))


blocked.transpose_with(pack, pack_pixels, unpack, convert)
