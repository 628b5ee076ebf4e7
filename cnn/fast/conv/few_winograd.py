"""Winograd convolution F(4x4, 3x3) of a few images: ``winograd.py`` with sixteen channels as lanes.

    y  = A^T [ sum over c of (G w G^T) o (B^T x B) ] A

Sixteen output channels at a time pass all tiles of all images. Their weights are transformed in passing, some
input channels after the other: that takes less time than to read 36 numbers a weight from far away where 9
tell the same.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import few_images_block
from cnn.fast.conv.microkernels import ADD, ONCE, STORE, Ends, Loop, Loops, Steps, outer_product, prefetch
from cnn.fast.conv.normalised import AS_IT_IS
from cnn.fast.conv.winograd import odd_lines
from cnn.fast.conv.winograd_tiles import (
    PIXEL,
    SIZE,
    Patch,
    Points,
    TileSource,
    input_tile,
    tile_to_image,
    transform_weights,
)
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine.jit import helper, launch, scratch, scratch_threads, task, workspace
from cnn.fast.machine.simd import width
from cnn.fast.machine.tables import Table, bits, from_bits, reader

_transform = transform_weights[3]
FEWEST = 4  # tiles: with fewer, transforming the weights takes longer than 9 products a pixel
CHUNK = 64  # input channels whose transformed weights wait in the L2 cache
NINE = 9 * PIXEL  # bytes of the weights from one input channel to sixteen output channels


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


class Inputs(NamedTuple):
    """V[point][tile][channel] = B^T x B."""

    x: int  # address
    v: int  # address
    zeros: int  # address of zeros
    blocks: int  # of sixteen channels
    height: int  # pixels of x
    width: int
    above: int  # padding
    left: int
    down: int  # tiles of an image
    across: int
    v_point: int  # bytes from one point to the next


inputs_of = reader(Inputs)


@cache
def _input_task(point_size):
    to_tile, point = input_tile(point_size), LANES * point_size

    @task
    def transform(index, thread, params):
        """A row of tiles of an image."""
        p = inputs_of(params)
        plane, image, row = p.height * p.width * PIXEL, index // p.down, index % p.down
        for i in range(p.across):
            source = TileSource(
                p.x + image * p.blocks * plane, plane, p.width * PIXEL, row * 4 - p.above, i * 4 - p.left,
                p.height, p.width, p.zeros,
            )  # fmt: skip
            target = Points(p.v + (index * p.across + i) * p.blocks * point, point, p.v_point)
            to_tile(0, source, AS_IT_IS, target, p.blocks, 6)

    return transform


def transform_inputs(x, image, padding, v, v_point, point_size=SIZE):
    """V = B^T x B of all tiles of an Image, written to the address ``v``."""
    zeros = scratch((6 * LANES,), x.dtype)
    inputs = Inputs(
        x=x.address, v=v, zeros=zeros.ctypes.data, blocks=x.blocks, height=x.plane[0], width=x.plane[1],
        above=padding[0][0], left=padding[1][0], down=image.down, across=image.across, v_point=v_point,
    )  # fmt: skip
    launch(_input_task(point_size), image.images * image.down, Table(inputs).array)


class Image(NamedTuple):
    """Where the products of tiles are transformed back to."""

    y: int  # address
    bias: int  # address
    floor: int  # bits of the lower bound of the result
    images: int
    down: int  # tiles of an image
    across: int
    height: int  # pixels of y
    width: int
    out_blocks: int  # of sixteen output channels
    m_point: int  # bytes from one point of the products to the next


def image_of(y, bias, m_point, relu):
    """The Image of Lanes and a vector of biases."""
    (height, width_), floor = y.plane, bits(0 if relu else -np.inf)
    tiles = -(-height // 4), -(-width_ // 4)
    return Image(y.address, bias.ctypes.data, floor, len(y), *tiles, height, width_, y.blocks, m_point)


class Outputs(NamedTuple):
    """All tiles of sixteen output channels; bytes unless said otherwise."""

    image: Image
    v: int  # address of the transformed inputs
    weight: int  # address, as ``pack`` orders them
    zeros: int  # address of zeros
    scratch: int  # address
    scratch_bytes: int  # of one thread: m and u
    v_point: int
    u_point: int
    channels: int  # of the input
    chunk: int  # input channels whose weights are transformed at once


outputs_of = reader(Outputs)


@helper
def _transform_weights(p, nine, u, count, vectors):
    """U = G w G^T of ``count`` input channels."""
    for c in range(count):
        _transform(nine + c * NINE, PIXEL, u + c * PIXEL, p.u_point, vectors)


_to_image = tile_to_image(4, PIXEL)


@helper
def transform_outputs(p, index, m):
    """y = max(floor, bias + A^T M A) of sixteen output channels."""
    floor = np.float32(from_bits(p.floor))
    for t in range(p.images * p.down * p.across):
        image, top, left = t // p.across // p.down, t // p.across % p.down * 4, t % p.across * 4
        corner = ((image * p.out_blocks + index) * p.height + top) * p.width + left
        rows, columns = min(4, p.height - top), min(4, p.width - left)
        patch = Patch(p.y + corner * PIXEL, 0, p.width * PIXEL, rows, columns)
        source = Points(m + t * PIXEL, PIXEL, p.m_point)
        _to_image(source, p.bias + index * PIXEL, floor, patch, 1, 6)


@cache
def _output_task(mr):
    vectors = LANES // width(SIZE)
    nothing = np.float32(-np.inf)

    @task
    def multiply(index, thread, params):
        p = outputs_of(params)
        tiles = p.image.images * p.image.down * p.image.across
        tile_bytes, m_point = (p.channels + 15) // 16 * PIXEL, p.image.m_point
        m = p.scratch + thread * p.scratch_bytes
        u, steps = m + 36 * m_point, Steps(tile_bytes, 0, PIXEL, 0)
        for first in range(0, p.channels, p.chunk):
            count = min(p.chunk, p.channels - first)
            nine = p.weight + (index * p.channels + first) * NINE
            _transform_weights(p, nine, u, count, vectors)
            loops = Loops(ONCE, ONCE, Loop(count, PIXEL, SIZE))
            for xi in range(36):
                # What comes next is asked for while this is multiplied: 9 vectors a channel, in 36 parts.
                prefetch(nine + count * NINE + xi * p.chunk * 16, p.chunk // 4)
                # M[point][tile] = sum over c of U[point][c] * V[point][tile][c]
                for t in range(0, tiles, mr):
                    x = p.v + xi * p.v_point + first * SIZE + t * tile_bytes
                    ends = Ends(u + xi * p.u_point, x, p.zeros, m + xi * m_point + t * PIXEL)
                    if first == 0:
                        outer_product(ends, loops, steps, nothing, STORE, mr, 1, SIZE)
                    else:
                        outer_product(ends, loops, steps, nothing, ADD, mr, 1, SIZE)
        transform_outputs(p.image, index, m)

    return multiply


def convolve(x, packed, bias, out_channels, out_size, padding, relu):
    """3x3 convolution, stride 1, float32, with the weight in ``pack``'s order; max(0, y) with ``relu``."""
    c, tiles = x.shape[1], tiles_of(len(x), out_size)
    y = Lanes((len(x), out_channels, *out_size), x.dtype)
    mr, _ = few_images_block(tiles, 1, SIZE)
    tiles = -(-tiles // mr) * mr  # the last register block may reach beyond the last tile
    chunk = -(-c // -(-c // CHUNK))
    v_point, m_point, u_point = odd_lines(tiles * x.blocks), odd_lines(tiles), odd_lines(chunk)
    transformed = workspace("few tiles", 36 * v_point).ctypes.data
    area = workspace("scratch", scratch_threads() * 36 * (m_point + u_point)).ctypes.data
    zeros, image = scratch((LANES,), x.dtype), image_of(y, bias, m_point, relu)
    transform_inputs(x, image, padding, transformed, v_point)
    outputs = Outputs(
        image=image, v=transformed, weight=packed.ctypes.data, zeros=zeros.ctypes.data, scratch=area,
        scratch_bytes=36 * (m_point + u_point), v_point=v_point, u_point=u_point, channels=c, chunk=chunk,
    )  # fmt: skip
    launch(_output_task(mr), y.blocks, Table(outputs).array)
    return y
