"""Direct convolution of a few images, and matrix products: sixteen output channels times one number.

    y[n, k, i, j] = bias[k] + sum over u, v, c of w[k, c, u, v] * x[n, c, i*sh - top + u*dh, ...]

The micro-kernel is that of ``direct.py`` with exchanged operands: the weight is the vector, and a number of
the image is broadcast. The image is first copied to [N][H][W][C] with its border of zeros: then all numbers
that a row of the window meets are neighbours, and the loop over them is long. A matrix product is a 1x1
convolution whose pixels are the images.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import few_images_block
from cnn.fast.conv.microkernels import ONCE, Ends, Loop, Loops
from cnn.fast.conv.routines import RowProducts, row_products
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, helper, launch, scratch, task
from cnn.fast.machine.tables import Table, bits, call_with, from_bits, pointer, reader
from cnn.geometry import output_shape


def pack(weight):
    """(K, C, kh, kw) as [K/16][kh][kw][C][16], filled up with zeros."""
    k, c, kh, kw = weight.shape
    packed = scratch((in_blocks(k), kh, kw, c, LANES), weight.dtype)
    for block in range(in_blocks(k)):
        part = weight[block * LANES : (block + 1) * LANES]
        packed[block, ..., : len(part)] = part.transpose(2, 3, 1, 0)
    return packed


class Border(NamedTuple):
    """The copy of images [N][C/16][H][W][16] to [N][H][W][C] with a border of zeros."""

    x: int  # address
    y: int  # address
    channels: int
    height: int  # of x
    width: int
    above: int  # padding
    left: int
    out_height: int  # of y
    out_width: int
    rows: int  # of a piece


border_of = reader(Border)


@cache
def _border_task(itemsize):
    @task
    def border(index, thread, params):
        """Some rows of an image."""
        p = border_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.y, itemsize)
        pieces, blocks = (p.height + p.rows - 1) // p.rows, (p.channels + 15) // 16
        image, first = index // pieces, index % pieces * p.rows
        for row in range(first, min(first + p.rows, p.height)):
            target = ((image * p.out_height + row + p.above) * p.out_width + p.left) * p.channels
            for block in range(blocks):
                source = ((image * blocks + block) * p.height + row) * p.width * 16
                to, count = target + block * 16, p.channels - block * 16
                if count >= 16:
                    for q in range(p.width):
                        v.store(y, to + q * p.channels, v.load(x, source + q * 16))
                elif count == 1:
                    for q in range(p.width):
                        y[to + q * p.channels] = x[source + q * 16]
                else:
                    for q in range(p.width):
                        for c in range(count):
                            y[to + q * p.channels + c] = x[source + q * 16 + c]

    return border


def _with_border(x, padding):
    """[N][H][W][C] with a border of zeros; ((above, below), (left, right))."""
    (above, below), (left, right) = padding
    n, c, height, width = x.shape
    y = scratch((n, height + above + below, width + left + right, c), x.dtype)
    rows = -(-CHUNK // (width * c))  # to hand out more pieces than it takes costs more than they do
    record = Border(
        x=x.address, y=y.ctypes.data, channels=c, height=height, width=width, above=above, left=left,
        out_height=y.shape[1], out_width=y.shape[2], rows=rows,
    )  # fmt: skip
    launch(_border_task(x.dtype.itemsize), n * -(-height // rows), Table(record).array)
    return y


class Source(NamedTuple):
    """Where the numbers of an image lie; bytes."""

    array: int  # address
    image: int  # from the window of one image to that of the next
    row: int  # from the window of one output row to that of the next
    pixel: int  # from the window of one output to that of the next


class Target(NamedTuple):
    """Where the output lies; bytes."""

    array: int  # address
    image: int
    block: int  # from one block of sixteen channels to the next
    row: int


class Convolution(NamedTuple):
    """A convolution, or a matrix product."""

    source: Source
    target: Target
    out_pixel: int  # bytes from one pixel of the output to the next
    weight: int  # address: [block of sixteen channels][taps and channels][16]
    weight_block: int  # bytes
    bias: int  # address
    zeros: int  # address of zeros
    no_floor: int  # bits of minus infinity
    loops: Loops  # over taps and channels
    channels: int  # of the output
    height: int  # rows of the output
    width: int  # pixels of a row
    mr: int  # pixels at once
    nr: int  # blocks of channels at once
    products: int  # address of ``row_products``
    floor: int  # bits of the lower bound of the result
    ceiling: int  # bits of the upper bound


convolution_of = reader(Convolution)


@helper
def _add_bias(p, y, block, itemsize):
    """y + bias, kept between the bounds, for a row of a block of channels; 0 in lanes without a channel."""
    shift, used = v.load(pointer(p.bias, itemsize), block * 16), v.first_lanes(p.channels - block * 16)
    step, floor, ceiling = p.out_pixel // itemsize, from_bits(p.floor), from_bits(p.ceiling)
    for i in range(0, p.width * step, step):
        value = v.load(y, i) + shift
        value = v.select(v.greater(floor, value), floor, value)  # a NaN is not below: it stays
        value = v.select(v.greater(value, ceiling), ceiling, value)
        v.store(y, i, v.select(used, value, 0.0))  # 0 * infinity would be read as a channel


@helper
def row_of_sums(p, source, weight, out, out_block, count):
    """The sums of a row of ``count`` blocks of channels, ``out_block`` bytes apart; pixels are neighbours."""
    done = 0
    while done < p.width:  # the last register block is moved back to end with the row
        done = min(done, p.width - p.mr)
        call_with(
            p.products,
            RowProducts(
                ends=Ends(weight, source + done * p.source.pixel, p.zeros, out + done * p.out_pixel),
                loops=p.loops, scalars_k=p.source.pixel, floor=p.no_floor, pixels=count,
                vectors_pixel=p.weight_block, out_pixel=out_block, out_k=p.out_pixel,
                rows=1, vectors_row=0, out_row=0,
            ),
        )  # fmt: skip
        done += p.mr


@cache
def _convolve_task(itemsize):
    @task
    def convolve(index, thread, params):
        p = convolution_of(params)
        blocks = (p.channels + 15) // 16
        shares = (blocks + p.nr - 1) // p.nr
        row, first, image = index % p.height, index // p.height % shares * p.nr, index // p.height // shares
        count = min(p.nr, blocks - first)
        source = p.source.array + image * p.source.image + row * p.source.row
        target = p.target.array + image * p.target.image + first * p.target.block + row * p.target.row
        row_of_sums(p, source, p.weight + first * p.weight_block, target, p.target.block, count)
        for block in range(first, first + count):  # while the row lies in the cache
            _add_bias(p, pointer(target + (block - first) * p.target.block, itemsize), block, itemsize)

    return convolve


def _launch(source, target, out_pixel, packed, bias, loops, shape, bounds):
    """``shape``: (images, channels, height, width) of the output."""
    images, channels, height, width = shape
    (mr, nr), itemsize = few_images_block(width, len(packed), packed.itemsize), packed.itemsize
    zeros = scratch((LANES,), packed.dtype)
    record = Convolution(
        source=source, target=target, out_pixel=out_pixel, weight=packed.ctypes.data,
        weight_block=packed[0].nbytes, bias=bias.ctypes.data, zeros=zeros.ctypes.data, no_floor=bits(-np.inf),
        loops=loops, channels=channels, height=height, width=width, mr=mr, nr=nr,
        products=row_products(mr, nr, itemsize, neighbours=False),
        floor=bits(bounds[0]), ceiling=bits(bounds[1]),
    )  # fmt: skip
    launch(_convolve_task(itemsize), images * -(-len(packed) // nr) * height, Table(record).array)


def linear(x, packed, bias, features, bounds):
    """y[n,k] = sum over c of weight[k,c] * x[n,c] + bias[k], kept between the ``bounds``."""
    n, c = x.shape
    y = Lanes((n, features), x.dtype)
    itemsize, pixel = x.dtype.itemsize, LANES * x.dtype.itemsize
    loops = Loops(ONCE, ONCE, Loop(c, pixel, itemsize))
    source = Source(x.address, image=0, row=0, pixel=x.blocks * pixel)
    target = Target(y.address, image=0, block=pixel, row=0)
    _launch(source, target, y.blocks * pixel, packed, bias, loops, (1, features, 1, n), bounds)
    return y


def convolve(x, packed, bias, out_channels, stride, padding, dilation, bounds):
    """Convolution of one group with the weight in ``pack``'s order, kept between the ``bounds``."""
    kernel, pixel = packed.shape[1:3], LANES * x.dtype.itemsize
    height, width = output_shape(*x.plane, kernel, stride, padding, dilation)
    y = Lanes((len(x), out_channels, height, width), x.dtype)
    source, loops, _held = reading(x, kernel, stride, padding, dilation)
    plane = height * width * pixel
    target = Target(y.address, y.blocks * plane, plane, width * pixel)
    _launch(source, target, pixel, packed, bias, loops, (len(x), out_channels, height, width), bounds)
    return y


def reading(x, kernel, stride, padding, dilation):
    """Where a convolution finds its numbers, (Source, Loops, what holds them): a copy, if need be."""
    (kh, kw), (c, h, w) = kernel, x.shape[1:]
    size, pixel, wide = x.dtype.itemsize, LANES * x.dtype.itemsize, None
    if kh * kw == 1 and c % LANES == 0 and padding == ((0, 0), (0, 0)):
        address, image, row, near = x.address, x.blocks * h * w * pixel, w * pixel, pixel
        loops = Loops(ONCE, Loop(x.blocks, LANES * pixel, h * w * pixel), Loop(LANES, pixel, size))
    else:
        wide = _with_border(x, padding)
        address, image, row, near = wide.ctypes.data, wide[0].nbytes, wide[0, 0].nbytes, c * size
        down = Loop(kh, kw * c * pixel, dilation[0] * row)
        if dilation[1] == 1 or kw == 1:
            loops = Loops(ONCE, down, Loop(kw * c, pixel, size))
        else:
            loops = Loops(down, Loop(kw, c * pixel, dilation[1] * near), Loop(c, pixel, size))
    return Source(address, image, stride[0] * row, stride[1] * near), loops, wide
