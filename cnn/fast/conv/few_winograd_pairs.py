"""``few_winograd.py`` with products of pairs of bfloat16: twice as many in the same time.

    y  = A^T [ sum over c of round(G w G^T) o round(B^T x B) ] A

In rows of channels two neighbours are a pair as they lie. Images stay float32, weights are stored in
bfloat16: to read them from far away is half of the time of one image, and 36 numbers transformed in advance,
though they save a third of the work, take longer to read than 9 to transform. Points and error are those of
``winograd.py``'s pairs.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import few_images_block
from cnn.fast.conv.few_winograd import Image, image_of, tiles_of, transform_inputs, transform_outputs
from cnn.fast.conv.microkernels import ADD, ONCE, STORE, Ends, Loop, Loops, Steps, outer_product, prefetch
from cnn.fast.conv.winograd import odd_lines
from cnn.fast.conv.winograd_pairs import transform_channel_pairs
from cnn.fast.conv.winograd_tiles import PIXEL, SIZE
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine import bf16
from cnn.fast.machine.bf16 import SIZE as NARROW
from cnn.fast.machine.jit import launch, scratch, scratch_threads, task, workspace
from cnn.fast.machine.tables import Table, reader

CHUNK = 32  # pairs of input channels whose transformed weights wait in the L2 cache
NINE = 9 * PIXEL  # bytes of the weights from a pair of input channels to sixteen output channels


def pack(weight):
    """(K, C, 3, 3) as [K/16][C/2][9][2][16] in bfloat16, filled up with zeros."""
    k, c = weight.shape[:2]
    packed = scratch((in_blocks(k), c // 2, 9, 2, LANES), bf16.BFLOAT16)
    filled = np.zeros((in_blocks(k) * LANES, c, 9), np.float32)
    filled[:k] = weight.reshape(k, c, 9)
    packed[...] = bf16.narrowed(filled).reshape(-1, LANES, c // 2, 2, 9).transpose(0, 2, 4, 3, 1)
    return packed


class Products(NamedTuple):
    """All tiles of nr blocks of sixteen output channels; bytes unless said otherwise."""

    image: Image
    v: int  # address of the transformed inputs
    weight: int  # address, as ``pack`` orders them
    zeros: int  # address of zeros
    scratch: int  # address
    scratch_bytes: int  # of one thread: m and u
    v_point: int
    v_tile: int
    m_block: int
    u_block: int
    u_point: int
    pairs: int  # of input channels
    chunk: int  # pairs whose weights are transformed at once


products_of = reader(Products)


@cache
def _products_task(mr, nr):
    nothing = np.float32(-np.inf)

    @task
    def multiply(index, thread, params):
        p = products_of(params)
        m, tiles = p.scratch + thread * p.scratch_bytes, p.image.images * p.image.down * p.image.across
        u, steps = m + 36 * p.image.m_point, Steps(p.v_tile, p.u_block, PIXEL, p.m_block)
        for first in range(0, p.pairs, p.chunk):
            count = min(p.chunk, p.pairs - first)
            for j in range(nr):
                nine = p.weight + ((index * nr + j) * p.pairs + first) * NINE
                transform_channel_pairs(nine, u + j * p.u_block, p.u_point, count)
            loops = Loops(ONCE, ONCE, Loop(count, PIXEL, 2 * NARROW))
            for xi in range(36):
                # What comes next is asked for while this is multiplied: 9 lines a pair, in 36 parts.
                for j in range(nr):
                    nine = p.weight + ((index * nr + j) * p.pairs + first + count) * NINE
                    prefetch(nine + xi * p.chunk * 16, p.chunk // 4)
                # M[point][tile] = sum over pairs of channels of U[point][pair] * V[point][tile][pair]
                for t in range(0, tiles, mr):
                    x = p.v + xi * p.v_point + first * 2 * NARROW + t * p.v_tile
                    ends = Ends(u + xi * p.u_point, x, p.zeros, m + xi * p.image.m_point + t * PIXEL)
                    if first == 0:
                        outer_product(ends, loops, steps, nothing, STORE, mr, nr, NARROW)
                    else:
                        outer_product(ends, loops, steps, nothing, ADD, mr, nr, NARROW)
        for j in range(nr):
            transform_outputs(p.image, index * nr + j, m + j * p.m_block)

    return multiply


def convolve(x, packed, bias, out_channels, out_size, padding, relu):
    """3x3 convolution, stride 1, with the weight in ``pack``'s order; max(0, y) with ``relu``."""
    blocks, pairs = packed.shape[:2]
    y = Lanes((len(x), out_channels, *out_size), x.dtype)
    tiles, nr = tiles_of(len(x), out_size), 2 - blocks % 2
    mr, _ = few_images_block(tiles, 1, SIZE)
    tiles = -(-tiles // mr) * mr  # the last register block may reach beyond the last tile
    v_tile, v_point = x.blocks * PIXEL // 2, odd_lines(-(-tiles * x.blocks // 2))
    m_block, m_point = tiles * PIXEL, odd_lines(nr * tiles)
    transformed = workspace("few tiles", 36 * v_point).ctypes.data
    chunk = -(-pairs // -(-pairs // CHUNK))
    u_block, u_point = chunk * PIXEL, odd_lines(nr * chunk)
    scratch_bytes = 36 * (m_point + u_point)
    area = workspace("scratch", scratch_threads() * scratch_bytes).ctypes.data
    image = image_of(y, bias, m_point, relu)
    transform_inputs(x, image, padding, transformed, v_point, NARROW)
    zeros = scratch((LANES,), x.dtype)
    record = Products(
        image=image, v=transformed, weight=packed.ctypes.data, zeros=zeros.ctypes.data, scratch=area,
        scratch_bytes=scratch_bytes, v_point=v_point, v_tile=v_tile, m_block=m_block, u_block=u_block,
        u_point=u_point, pairs=pairs, chunk=chunk,
    )  # fmt: skip
    launch(_products_task(mr, nr), blocks // nr, Table(record).array)
    return y
