"""From plain arrays into the blocked layout and back: a transposition, sixteen images at a time."""

import functools

from cnn.fast import blocked
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import integers, pointer


@functools.cache
def _pack_task(itemsize):
    @task
    def pack(index, thread, params):
        a = integers(params)
        x, y, images, channels, pixels = (
            pointer(a[0], itemsize),
            pointer(a[1], itemsize),
            a[2],
            a[3],
            a[4],
        )
        block, c = index // channels, index % channels
        first, step = (block * 16 * channels + c) * pixels, channels * pixels
        if images - block * 16 >= 16:
            for p in range(pixels):
                for lane in range(16):
                    y[(index * pixels + p) * 16 + lane] = x[first + lane * step + p]
        else:
            lanes = images - block * 16
            for p in range(pixels):
                for lane in range(lanes):
                    y[(index * pixels + p) * 16 + lane] = x[first + lane * step + p]
                for lane in range(lanes, 16):
                    y[(index * pixels + p) * 16 + lane] = 0.0

    return pack


@functools.cache
def _pack_pixels_task(itemsize):
    @task
    def pack_pixels(index, thread, params):
        a = integers(params)
        x, y, images, channels, pixels = pointer(a[0], 1), pointer(a[1], itemsize), a[2], a[3], a[4]
        block, c = index // channels, index % channels
        table = pointer(a[5] + c * 256 * itemsize, itemsize)
        first, step = (block * 16 * channels + c) * pixels, channels * pixels
        if images - block * 16 >= 16:
            for p in range(pixels):
                for lane in range(16):
                    y[(index * pixels + p) * 16 + lane] = table[x[first + lane * step + p]]
        else:
            lanes = images - block * 16
            for p in range(pixels):
                for lane in range(lanes):
                    y[(index * pixels + p) * 16 + lane] = table[x[first + lane * step + p]]
                for lane in range(lanes, 16):
                    y[(index * pixels + p) * 16 + lane] = 0.0

    return pack_pixels


@functools.cache
def _unpack_task(itemsize):
    @task
    def unpack(index, thread, params):
        a = integers(params)
        x, y, images, channels, pixels = (
            pointer(a[0], itemsize),
            pointer(a[1], itemsize),
            a[2],
            a[3],
            a[4],
        )
        block, c = index // channels, index % channels
        first, step = (block * 16 * channels + c) * pixels, channels * pixels
        for lane in range(min(16, images - block * 16)):
            for p in range(pixels):
                y[first + lane * step + p] = x[(index * pixels + p) * 16 + lane]

    return unpack


def pack(plain, buffer, address):
    """Copy a C-contiguous (N, C, H, W) or (N, F) array into a buffer of its dtype; tail lanes become 0."""
    blocks, channels, height, width, _ = buffer.shape
    values = table([plain.ctypes.data, address, plain.shape[0], channels, height * width])
    launch(_pack_task(buffer.dtype.itemsize), blocks * channels, values)


def pack_pixels(x, buffer, address):
    """Copy what Pixels stand for into a buffer of their table's dtype; tail lanes become 0."""
    blocks, channels, height, width, _ = buffer.shape
    source, numbers = x.images.ctypes.data, x.table.ctypes.data
    values = table([source, address, len(x), channels, height * width, numbers])
    launch(_pack_pixels_task(buffer.dtype.itemsize), blocks * channels, values)


def unpack(buffer, address, plain):
    """Copy the images of a buffer into a C-contiguous plain array of the same dtype."""
    blocks, channels, height, width, _ = buffer.shape
    values = table([address, plain.ctypes.data, plain.shape[0], channels, height * width])
    launch(_unpack_task(buffer.dtype.itemsize), blocks * channels, values)


blocked.transpose_with(pack, pack_pixels, unpack)
