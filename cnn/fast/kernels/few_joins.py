"""Joins of a few images, sixteen channels side by side, and depthwise filters, which join nothing."""

from functools import cache
from typing import NamedTuple

from cnn.fast.blocked import LANES
from cnn.fast.conv import depthwise as conv_depthwise
from cnn.fast.conv.geometry import Window as ConvolutionWindow
from cnn.fast.kernels.few import add  # noqa: F401  a join, too
from cnn.fast.kernels.multiply import Product, factor, product_task
from cnn.fast.kernels.multiply import multiply as many
from cnn.fast.kernels.pool import Window, end_cell, first_cell, window
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, scratch, table, task
from cnn.fast.machine.tables import Table, bits, from_bits, pointer, reader
from cnn.geometry import output_shape


class Part(NamedTuple):
    """One of the arrays that are joined; a piece is a block of sixteen channels of an image."""

    x: int  # address
    y: int  # address
    channels: int  # of x
    at: int  # the channel of y where x begins
    blocks: int  # of sixteen channels, of x
    out_blocks: int  # of y
    pixels: int  # of a plane
    fill: int  # lanes behind the last channel of y that this part clears


part_of = reader(Part)


@cache
def _part_task(itemsize):
    @task
    def copy(index, thread, params):
        p = part_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.y, itemsize)
        image, block = index // p.blocks, index % p.blocks
        source = index * p.pixels * 16
        count, first = min(16, p.channels - block * 16), p.at + block * 16
        last = block == p.blocks - 1
        if first % 16 == 0 and (count == 16 or last):  # lanes stay where they are
            target = (image * p.out_blocks + first // 16) * p.pixels * 16
            for i in range(0, p.pixels * 16, 16):
                v.store(y, target + i, v.select(v.first_lanes(count), v.load(x, source + i), 0.0))
            return
        for lane in range(count):
            target = (image * p.out_blocks + (first + lane) // 16) * p.pixels * 16 + (first + lane) % 16
            for i in range(0, p.pixels * 16, 16):
                y[target + i] = x[source + lane + i]
        if last:
            end = first + count
            for lane in range(end, end + p.fill):
                target = (image * p.out_blocks + lane // 16) * p.pixels * 16 + lane % 16
                for i in range(0, p.pixels * 16, 16):
                    y[target + i] = 0.0

    return copy


def concat(parts):
    """Join Lanes along the channels."""
    channels, at = sum(part.shape[1] for part in parts), 0
    y = Lanes((len(parts[0]), channels, *parts[0].shape[2:]), parts[0].dtype)
    for number, part in enumerate(parts):
        fill = y.blocks * LANES - channels if number == len(parts) - 1 else 0
        sizes = part.shape[1], at, part.blocks, y.blocks, part.pixels, fill
        values = table(Part(part.address, y.address, *sizes))
        launch(_part_task(y.dtype.itemsize), len(part) * part.blocks, values)
        at += part.shape[1]
    return y


def multiply(a, b):
    """a * b, planes of one pixel being repeated."""
    if a.shape[1] != b.shape[1]:  # one channel for all of them lies in one lane
        return many(a, b)
    plane = tuple(max(sizes) for sizes in zip(a.shape[2:], b.shape[2:], strict=True))
    y = Lanes((*a.shape[:2], *plane), a.dtype)
    factors = [factor(x.address, (len(x), x.blocks, *x.plane)) for x in (a, b)]
    record = Product(*factors, y.address, y.blocks, *y.plane, 1, 1, 1)
    launch(product_task(a.dtype.itemsize), len(y) * y.blocks, Table(record).array)
    return y


class Depthwise(NamedTuple):
    """A convolution in which each channel has a filter; a piece is a row of sixteen channels of an image."""

    x: int  # address
    y: int  # address
    weight: int  # address: [C/16][kh][kw][16]
    bias: int  # address
    blocks: int  # of sixteen channels
    floor: int  # bits of the lower bound of the result
    ceiling: int  # bits of the upper bound
    window: Window


depthwise_of = reader(Depthwise)


@cache
def _depthwise_task(itemsize):
    @task
    def depthwise(index, thread, params):
        p = depthwise_of(params)
        x, y, w = pointer(p.x, itemsize), pointer(p.y, itemsize), p.window
        weight, bias = pointer(p.weight, itemsize), pointer(p.bias, itemsize)
        block = index // w.oh % p.blocks
        source, top = index // w.oh * w.height * w.width * 16, index % w.oh * w.sh - w.top
        floor, ceiling = from_bits(p.floor), from_bits(p.ceiling)
        shift, begin = v.load(bias, block * 16), block * w.kh * w.kw * 16
        for q in range(w.ow):
            left = q * w.sw - w.left
            first, end = first_cell(left, w.dw), end_cell(left, w.dw, w.kw, w.width)
            total = shift
            for u in range(first_cell(top, w.dh), end_cell(top, w.dh, w.kh, w.height)):
                row = source + ((top + u * w.dh) * w.width + left) * 16
                taps = begin + u * w.kw * 16
                for t in range(first, end):
                    total = v.fma(v.load(x, row + t * w.dw * 16), v.load(weight, taps + t * 16), total)
            total = v.select(v.greater(floor, total), floor, total)  # a NaN is not below: it stays
            total = v.select(v.greater(total, ceiling), ceiling, total)
            v.store(y, (index * w.ow + q) * 16, total)

    return depthwise


def pack_depthwise(weight):
    """(C, 1, kh, kw) as [C/16][kh][kw][16], filled up with zeros."""
    c, _, kh, kw = weight.shape
    packed = scratch((in_blocks(c), kh, kw, LANES), weight.dtype)
    for block in range(in_blocks(c)):
        part = weight[block * LANES : (block + 1) * LANES, 0]
        packed[block, ..., : len(part)] = part.transpose(1, 2, 0)
    return packed


def depthwise(x, packed, bias, stride, padding, dilation, bounds):
    """y[n,c,i,j] = bias[c] + sum over u, v of weight[c,u,v] * x[n,c,...], kept between the ``bounds``."""
    n, c = x.shape[:2]
    kernel = packed.shape[1:3]
    out = output_shape(*x.plane, kernel, stride, padding, dilation)
    y = Lanes((n, c, *out), x.dtype)
    geometry = ConvolutionWindow(stride, padding, dilation, c)
    if conv_depthwise.suits((c, 1, *kernel), geometry):
        conv_depthwise.forward_few(x, packed, bias, y, geometry, bounds)
        return y
    shape = window(x.plane, out, kernel, stride, padding, dilation)
    ends = x.address, y.address, packed.ctypes.data, bias.ctypes.data
    values = Table(Depthwise(*ends, x.blocks, *map(bits, bounds), shape))
    launch(_depthwise_task(x.dtype.itemsize), n * x.blocks * out[0], values.array)
    return y
