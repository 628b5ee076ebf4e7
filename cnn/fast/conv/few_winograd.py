"""Winograd convolution F(4x4, 3x3) of a few images: ``conv_winograd`` with sixteen channels as lanes.

    y  = A^T [ sum over c of (G w G^T) o (B^T x B) ] A

All tiles of all images pass by sixteen output channels at a time. Their weights are transformed in passing,
some input channels after the other: that takes less time than to read 36 numbers a weight from far away
where 9 tell the same.
"""

from functools import cache

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.few import tile
from cnn.fast.conv.tiles import ADD, STORE, outer_tile, prefetch
from cnn.fast.conv.winograd import lines
from cnn.fast.conv.winograd_tiles import PIXEL, SIZE, input_tile, output_tile_of_channels, weights_forth
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine.jit import launch, scratch, scratch_threads, table, task, workspace
from cnn.fast.machine.simd import width
from cnn.fast.machine.tables import integers, pointer

FEWEST = 4  # tiles: with fewer, transforming the weights takes longer than 9 products a pixel
CHUNK = 64  # input channels whose transformed weights wait in the L2 cache


def tiles_of(images, out_size):
    """How many tiles of 4x4 outputs there are."""
    return images * -(-out_size[0] // 4) * -(-out_size[1] // 4)


def pack(weight):
    """(K, C, 3, 3) as [K/16][C][9][16], filled up with zeros."""
    k, c = weight.shape[:2]
    packed = scratch((in_blocks(k), c, 9, LANES), weight.dtype)
    for block in range(in_blocks(k)):
        part = weight[block * LANES : (block + 1) * LANES]
        packed[block, ..., : len(part)] = part.reshape(len(part), c, 9).transpose(1, 2, 0)
    return packed


@cache
def _input_task():
    @task
    def transform(index, thread, params):
        p = integers(params)
        x, v, zeros, image_bytes, blocks = p[0], p[1], p[2], p[3], p[4]
        height, width, above, left, down, across = p[5], p[6], p[7], p[8], p[9], p[10]
        v_step = p[11]
        for i in range(across):
            input_tile(
                0, x + index // down * image_bytes, height * width * 64, blocks, index % down * 4 - above,
                i * 4 - left, height, width, width * 64, zeros, v + (index * across + i) * blocks * 64, 64,
                v_step, 6,
            )  # fmt: skip

    return transform


@cache
def _output_task(rows):
    lanes = width(SIZE)

    @task
    def multiply(index, thread, params):
        p = integers(params)
        v, weight, bias, y, zeros = p[0], p[1], p[2], p[3], p[4]
        scratch, scratch_bytes, v_step, m_step = p[5], p[6], p[7], p[8]
        channels, images, down, across = p[9], p[10], p[11], p[12]
        height, width, out_blocks = p[13], p[14], p[15]
        chunk, u_step = p[16], p[17]
        lowest, floor = pointer(params + 18 * 8, 4)[0], pointer(params + 19 * 8, 4)[0]
        tiles, tile_bytes = images * down * across, (channels + 15) // 16 * 64
        m = scratch + thread * scratch_bytes
        u = m + 36 * m_step
        for first in range(0, channels, chunk):
            count = min(chunk, channels - first)
            for c in range(count):
                nine = weight + (index * channels + first + c) * 9 * 64
                weights_forth(nine, 64, u + c * 64, u_step, 16 // lanes)
            for xi in range(36):
                # What comes next is asked for while this is multiplied: 9 vectors a channel, in 36 parts.
                coming = weight + (index * channels + first + count) * 9 * 64
                prefetch(coming + xi * chunk * 16, chunk // 4)
                weights, source, t = u + xi * u_step, v + xi * v_step + first * 4, 0
                while t < tiles:
                    sums, now = m + xi * m_step + t * 64, source + t * tile_bytes
                    loops = (1, 0, 0, 1, 0, 0, count, 64, 4)
                    if first == 0:
                        outer_tile(
                            weights, now, zeros, sums, loops, tile_bytes, 0, 64, 0, lowest, STORE, rows, 1, 4,
                        )  # fmt: skip
                    else:
                        outer_tile(
                            weights, now, zeros, sums, loops, tile_bytes, 0, 64, 0, lowest, ADD, rows, 1, 4,
                        )  # fmt: skip
                    t += rows
        for t in range(tiles):
            image, top, left = t // across // down, t // across % down * 4, t % across * 4
            corner = ((image * out_blocks + index) * height + top) * width + left
            output_tile_of_channels(
                m + t * 64, m_step, bias + index * 64, floor, y + corner * 64, 0, 1,
                min(4, height - top), min(4, width - left), 6, width * 64,
            )  # fmt: skip

    return multiply


def convolve(x, packed, bias, out_channels, out_size, padding, relu):
    """3x3 convolution, stride 1, float32, with the weight in ``pack``'s order; max(0, y) with ``relu``."""
    n, c, *in_size = x.shape
    y = Lanes((n, out_channels, *out_size), x.dtype)
    down, across = -(-out_size[0] // 4), -(-out_size[1] // 4)
    tiles = n * down * across
    rows, _ = tile(tiles, 1, SIZE)
    tiles = -(-tiles // rows) * rows  # the last few may be nobody
    chunk = -(-c // -(-c // CHUNK))
    v_step, m_step, u_step = lines(tiles * x.blocks), lines(tiles), lines(chunk)
    transformed = workspace("few tiles", 36 * v_step).ctypes.data
    area = workspace("scratch", scratch_threads() * 36 * (m_step + u_step)).ctypes.data
    zeros = scratch((6 * LANES,), x.dtype)
    image_bytes = x.blocks * x.pixels * PIXEL
    values = [
        x.address, transformed, zeros.ctypes.data, image_bytes, x.blocks, *in_size, padding[0][0],
        padding[1][0], down, across, v_step,
    ]  # fmt: skip
    launch(_input_task(), n * down, table(values))
    values = table(
        [
            transformed, packed.ctypes.data, bias.ctypes.data, y.address, zeros.ctypes.data, area,
            36 * (m_step + u_step), v_step, m_step, c, n, down, across, *out_size, y.blocks, chunk, u_step,
            0, 0,
        ]
    )  # fmt: skip
    values[18:19].view(np.float32)[0] = -np.inf
    values[19:20].view(np.float32)[0] = 0 if relu else -np.inf
    launch(_output_task(rows), y.blocks, values)
    return y
