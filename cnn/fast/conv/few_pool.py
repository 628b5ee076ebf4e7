"""Convolution of a few images, ReLU and the maxima of 2x2 windows in one pass: no sum leaves the caches.

    y[n, k, i, j] = max(0, bias[k] + max over a, b < 2 of s[n, k, 2i + a, 2j + b]),    s = w * x

ReLU and the addition of a bias are monotonic, so they may follow the maximum: a quarter of the work, to the
same bits. As in ``few.py`` sixteen output channels are a vector. Up to eight channels leave half of it free,
for the right neighbour of each pixel: it needs the same window moved on by one, so both are computed by one
window of kw + 1 columns, whose weights are

    lanes 0 ... 7   w[k, c, u, 0] ... w[k, c, u, kw-1] 0
    lanes 8 ... 15  0 w[k, c, u, 0] ... w[k, c, u, kw-1]

which is 30 products for two pixels of a 5x5 kernel instead of 50. A window then is the halves of two vectors.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import few_images_block
from cnn.fast.conv.few import Source, Target, reading, row_of_sums
from cnn.fast.conv.microkernels import Loops
from cnn.fast.conv.routines import row_products
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import helper, launch, scratch, scratch_threads, task, workspace
from cnn.fast.machine.tables import Table, bits, pointer, reader
from cnn.geometry import output_shape

HALF = LANES // 2


def pack_two(weight):
    """(K, C, kh, kw) with K up to 8 as [1][kh][kw + 1][C][16]: two windows side by side."""
    k, c, kh, kw = weight.shape
    packed = scratch((1, kh, kw + 1, c, LANES), weight.dtype)
    packed[0, :, :-1, :, :k] = packed[0, :, 1:, :, HALF : HALF + k] = weight.transpose(2, 3, 1, 0)
    return packed


class Pooled(NamedTuple):
    """A convolution and its maxima; bytes unless said otherwise."""

    source: Source
    target: Target  # of the maxima
    out_pixel: int  # from one vector of sums to the next
    weight: int  # address: [block of sixteen channels][taps and channels][16]
    weight_block: int
    bias: int  # address
    zeros: int  # address of zeros
    no_floor: int  # bits of minus infinity
    loops: Loops  # over taps and channels
    channels: int  # of the output
    height: int  # rows of windows
    windows: int  # of a row
    width: int  # vectors of a row of sums
    mr: int  # vectors at once
    nr: int  # blocks of channels at once
    products: int  # address of ``row_products``
    right: int  # numbers from a sum to that of the right neighbour, half of those to the next window
    scratch: int  # address
    scratch_row: int  # a row of sums
    scratch_bytes: int  # of one thread


pooled_of = reader(Pooled)


@helper
def _larger(a, b):
    """The larger of two; a NaN wins against all."""
    return v.select(v.either(v.greater(b, a), v.unordered(b, b)), b, a)


@helper
def _write_maxima(p, upper, lower, y, block, itemsize):
    """max(0, bias + maxima) of a row of windows of sixteen channels; 0 in lanes without a channel."""
    shift, used = v.load(pointer(p.bias, itemsize), block * 16), v.first_lanes(p.channels - block * 16)
    for j in range(p.windows):
        at = 2 * p.right * j
        above = _larger(v.load(upper, at), v.load(upper, at + p.right))
        below = _larger(v.load(lower, at), v.load(lower, at + p.right))
        value = _larger(above, below) + shift
        value = v.select(v.greater(0.0, value), 0.0, value)
        v.store(y, j * 16, v.select(used, value, 0.0))


@cache
def _pooled_task(itemsize):
    @task
    def pooled(index, thread, params):
        p = pooled_of(params)
        blocks = (p.channels + 15) // 16
        shares = (blocks + p.nr - 1) // p.nr
        row, first, image = index % p.height, index // p.height % shares * p.nr, index // p.height // shares
        count = min(p.nr, blocks - first)
        source = p.source.array + image * p.source.image + 2 * row * p.source.row
        weight, sums = p.weight + first * p.weight_block, p.scratch + thread * p.scratch_bytes
        for a in range(2):
            out = sums + a * p.scratch_row
            row_of_sums(p, source + a * p.source.row, weight, out, 2 * p.scratch_row, count)
        target = p.target.array + image * p.target.image + first * p.target.block + row * p.target.row
        for block in range(count):
            upper = sums + 2 * block * p.scratch_row
            rows = pointer(upper, itemsize), pointer(upper + p.scratch_row, itemsize)
            y = pointer(target + block * p.target.block, itemsize)
            _write_maxima(p, rows[0], rows[1], y, first + block, itemsize)

    return pooled


def convolve(x, packed, bias, out_channels, kernel, stride, padding, dilation):
    """max(0, maxima of 2x2 windows) of a convolution, with the weight in the order of ``few.pack``.

    Or of ``pack_two``, for a stride and dilation of 1.
    """
    itemsize, two = x.dtype.itemsize, packed.shape[2] > kernel[1]
    pixel = LANES * itemsize
    height, windows = (size // 2 for size in output_shape(*x.plane, kernel, stride, padding, dilation))
    y = Lanes((len(x), out_channels, height, windows), x.dtype)
    source, loops, _held = reading(x, packed.shape[1:3], stride, padding, dilation)
    width = windows if two else 2 * windows
    if two:
        source = source._replace(pixel=2 * source.pixel)
    mr, nr = few_images_block(width, len(packed), itemsize)
    plane, row = height * windows * pixel, (width + 1) * pixel
    zeros, area = scratch((LANES,), x.dtype), workspace("scratch", scratch_threads() * 2 * nr * row)
    record = Pooled(
        source=source, target=Target(y.address, y.blocks * plane, plane, windows * pixel), out_pixel=pixel,
        weight=packed.ctypes.data, weight_block=packed[0].nbytes, bias=bias.ctypes.data,
        zeros=zeros.ctypes.data, no_floor=bits(-np.inf), loops=loops, channels=out_channels, height=height,
        windows=windows, width=width, mr=mr, nr=nr,
        products=row_products(mr, nr, itemsize, neighbours=False), right=HALF if two else LANES,
        scratch=area.ctypes.data, scratch_row=row, scratch_bytes=2 * nr * row,
    )  # fmt: skip
    shares = -(-in_blocks(out_channels) // nr)
    launch(_pooled_task(itemsize), len(x) * shares * height, Table(record).array)
    return y
