"""Pooling: the largest or the mean value of each window, sixteen images at a time.

A maximum remembers which cell of its window won, as a small unsigned integer (row-major within the window).
The number after the last cell says that none did: the window holds no pixel, or ReLU, fused behind the pool,
let nothing through.
"""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.conv.pool_2x2 import Maxima, MaximaGradient, beats, max_2x2, unpool_2x2
from cnn.fast.kernels.arguments import sums_for
from cnn.fast.kernels.shared import micro_batches
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, jit, launch, table, task
from cnn.fast.machine.tables import Table, call_with, pointer, reader
from cnn.geometry import output_shape


class Window(NamedTuple):
    """Geometry of windows that slide over a plane."""

    height: int  # of the plane, in pixels
    width: int
    oh: int  # windows along the height
    ow: int
    kh: int  # cells of a window
    kw: int
    sh: int  # pixels from a window to the next
    sw: int
    top: int  # padding before the plane, in pixels
    left: int
    bottom: int  # padding behind it
    right: int
    dh: int  # pixels from a cell to the next
    dw: int


def window(plane, out, kernel_size, stride, padding, dilation=(1, 1)):
    """The Window of (height, width) planes and (height, width) of what comes out."""
    (top, bottom), (left, right) = padding
    return Window(*plane, *out, *kernel_size, *stride, top, left, bottom, right, *dilation)


class MaxPool(NamedTuple):
    """A piece is one plane of sixteen images."""

    image: int  # address of x, or of dx
    pooled: int  # address of y, or of dy
    argmax: int  # address of the winning cells
    relu: int  # whether max(y, 0) is meant
    routine: int  # address of the routine for 2x2 windows
    window: Window


class AveragePool(NamedTuple):
    """A piece is one plane of sixteen images."""

    image: int  # address of x, or of dx
    pooled: int  # address of y, or of dy
    include: int  # whether padding counts in the divisor
    window: Window


max_pool_of, average_of = reader(MaxPool), reader(AveragePool)


@jit
def first_cell(start, dilation):
    """The first cell that does not lie before the plane, of a window whose cell 0 is at ``start``."""
    return (max(0, -start) + dilation - 1) // dilation


@jit
def end_cell(start, dilation, cells, size):
    """The first cell, at most ``cells``, that lies beyond a plane of ``size``."""
    return min(cells, max(0, (size - start + dilation - 1) // dilation))


@functools.cache
def _max_2x2_task(itemsize):
    @task
    def forward(index, thread, params):
        p = max_pool_of(params)
        w = p.window
        row, target = w.width * 16 * itemsize, index * w.oh * w.ow * 16
        plane = w.height * row
        ends = (p.image + index * plane, p.pooled + target * itemsize, p.argmax + target)
        call_with(p.routine, Maxima(*ends, 1, plane, row, 0, w.oh, w.ow, p.relu))

    return forward


@functools.cache
def _unpool_2x2_task(itemsize):
    @task
    def backward(index, thread, params):
        p = max_pool_of(params)
        w = p.window
        source, plane = index * w.oh * w.ow * 16, w.height * w.width * 16 * itemsize
        ends = (p.pooled + source * itemsize, p.argmax + source, p.image + index * plane)
        call_with(p.routine, MaximaGradient(*ends, 1, 0, plane, w.height, w.width, w.ow))

    return backward


@functools.cache
def _max_task(itemsize, small):
    @task
    def forward(index, thread, params):
        p = max_pool_of(params)
        x, y, argmax = pointer(p.image, itemsize), pointer(p.pooled, itemsize), pointer(p.argmax, small)
        w = p.window
        source, target = index * w.height * w.width * 16, index * w.oh * w.ow * 16
        for r in range(w.oh):
            top = r * w.sh - w.top
            first_u, end_u = first_cell(top, w.dh), end_cell(top, w.dh, w.kh, w.height)
            for q in range(w.ow):
                left = q * w.sw - w.left
                first_v, end_v = first_cell(left, w.dw), end_cell(left, w.dw, w.kw, w.width)
                best, cell = v.zeros(x) - np.inf, v.zeros(x) + w.kh * w.kw
                if first_u < end_u and first_v < end_v:
                    corner = (top + first_u * w.dh) * w.width + left + first_v * w.dw
                    best, cell = v.load(x, source + corner * 16), v.zeros(x) + (first_u * w.kw + first_v)
                for a in range(first_u, end_u):
                    row = source + ((top + a * w.dh) * w.width + left) * 16
                    for b in range(first_v, end_v):
                        value = v.load(x, row + b * w.dw * 16)
                        wins = beats(value, best)
                        best, cell = v.select(wins, value, best), v.select(wins, a * w.kw + b, cell)
                if p.relu:
                    dead = v.at_least(0.0, best)
                    best, cell = v.select(dead, 0.0, best), v.select(dead, w.kh * w.kw, cell)
                o = target + (r * w.ow + q) * 16
                v.store(y, o, best)
                v.store_integers(argmax, o, cell)

    return forward


@functools.cache
def _unpool_task(itemsize, small):
    @task
    def backward(index, thread, params):
        p = max_pool_of(params)
        dx, dy, argmax = pointer(p.image, itemsize), pointer(p.pooled, itemsize), pointer(p.argmax, small)
        w = p.window
        source, target = index * w.oh * w.ow * 16, index * w.height * w.width * 16
        for i in range(target, target + w.height * w.width * 16, 16):
            v.store(dx, i, v.zeros(dx))
        for r in range(w.oh):
            for q in range(w.ow):
                i = source + (r * w.ow + q) * 16
                for lane in range(16):
                    cell = int(argmax[i + lane])
                    if cell < w.kh * w.kw:
                        a = r * w.sh - w.top + cell // w.kw * w.dh
                        b = q * w.sw - w.left + cell % w.kw * w.dw
                        dx[target + (a * w.width + b) * 16 + lane] += dy[i + lane]

    return backward


def max_pool2d_forward(x, kernel_size, stride, padding, dilation=(1, 1), ceil_mode=False, relu=False):
    """Return (y, argmax): the largest value of each window and which cell of the window it was.

    Padding counts as -inf; of equal values the first in row-major order wins; a NaN wins over everything. A
    window without any pixel gives -inf, and kh * kw as its cell. ``relu`` puts max(y, 0) in the same pass,
    with no gradient where y is not positive.
    """
    x = blocked.as_stored(x)
    n, c, *plane = x.shape
    out = output_shape(*plane, kernel_size, stride, padding, dilation, ceil_mode)
    y = blocked.empty_like(x, (n, c, *out))
    argmax = blocked.empty(y.shape, np.uint8 if kernel_size[0] * kernel_size[1] < 255 else np.uint16)
    shape, size = window(plane, out, kernel_size, stride, padding, dilation), x.itemsize
    if _tiles(plane, out, kernel_size, stride, padding, dilation):
        make, routine = _max_2x2_task(size), max_2x2(size)
    else:
        make, routine = _max_task(size, argmax.dtype.itemsize), 0
    values = Table(MaxPool(x.address, y.address, argmax.address, relu, routine, shape))
    launch(make, y.buffer.shape[0] * c, values.array)
    return y, argmax


def is_2x2(kernel_size, stride, padding, dilation=(1, 1)):
    """Whether windows are 2x2, side by side and without padding."""
    return kernel_size == stride == (2, 2) and padding == ((0, 0), (0, 0)) and dilation == (1, 1)


def _tiles(plane, out, *geometry):
    """Whether windows are 2x2, side by side, and none reaches beyond the plane, as with ceil_mode."""
    return is_2x2(*geometry) and all(2 * n <= size for n, size in zip(out, plane, strict=True))


def max_pool2d_backward(dy, argmax, input_shape, kernel_size, stride, padding, dilation=(1, 1)):
    """Return dx: each dy goes to the input that won its window; windows that overlap add up."""
    plane, out = input_shape[2:], dy.shape[2:]
    tiles = _tiles(plane, out, kernel_size, stride, padding, dilation)
    dy = blocked.as_stored(dy) if tiles else blocked.as_blocked(dy)  # where windows overlap, sums are float32
    dx = blocked.empty_like(dy, input_shape)
    shape, size = window(plane, out, kernel_size, stride, padding, dilation), dx.itemsize
    if tiles:
        make, routine = _unpool_2x2_task(size), unpool_2x2(size)
    else:
        make, routine = _unpool_task(size, argmax.dtype.itemsize), 0
    values = Table(MaxPool(dx.address, dy.address, argmax.address, 0, routine, shape))
    launch(make, dx.buffer.shape[0] * dx.shape[1], values.array)
    return dx


class WinnersSum(NamedTuple):
    """A piece is one channel."""

    dy: int  # address
    argmax: int  # address
    out: int  # address
    channels: int
    height: int  # of dy
    width: int
    blocks: int
    none: int  # the number that says that no cell won


winners_of = reader(WinnersSum)


@functools.cache
def _winners_sum_task(itemsize, small):
    real, size = (np.float64, 8) if itemsize == 8 else (np.float32, 4)

    @task
    def total(index, thread, params):
        p = winners_of(params)
        dy, argmax, out = pointer(p.dy, itemsize), pointer(p.argmax, small), pointer(p.out, size)
        everything = 0.0
        for block in range(p.blocks):
            first = (block * p.channels + index) * p.height * p.width * 16
            plane = v.zeros(dy)
            for r in range(p.height):
                row = v.zeros(dy)
                for q in range(p.width):
                    i = first + (r * p.width + q) * 16
                    row = row + v.select(v.load_equal(argmax, i, p.none), 0.0, v.load(dy, i))
                plane = plane + row
            everything += float(v.total(plane))
        out[index] += real(everything)  # rounded first, as in channel_sum

    return total


def winners_channel_sum(dy, argmax, kernel_size, dbias):
    """Add dbias[k] += sum of dy over n and the windows that ReLU let through; ``argmax`` with relu=True.

    That is the sum over all positions of what ``max_pool2d_backward`` returns, of a fraction of the numbers.
    """
    dy = blocked.as_stored(dy)
    none = kernel_size[0] * kernel_size[1]
    for part, target in micro_batches(dbias):
        g, winners = part(dy), part(argmax)
        blocks, channels, height, width, _ = g.buffer.shape
        with sums_for(target, dy.dtype) as sums:
            ends = g.address, winners.address, address(sums)
            values = table(WinnersSum(*ends, channels, height, width, blocks, none))
            launch(_winners_sum_task(dy.itemsize, argmax.dtype.itemsize), channels, values)


@jit
def counted(start, cells, size, before, behind, include):
    """Cells of a window along one axis that its mean divides by; the window's cell 0 is at ``start``.

    Those on the plane, or with ``include`` also those on the padding; beyond both, none.
    """
    if include:
        return min(start + cells, size + behind) - max(start, -before)
    return min(start + cells, size) - max(start, 0)


@functools.cache
def _average_task(itemsize):
    @task
    def forward(index, thread, params):
        p = average_of(params)
        x, y, w = pointer(p.image, itemsize), pointer(p.pooled, itemsize), p.window
        source, target = index * w.height * w.width * 16, index * w.oh * w.ow * 16
        for r in range(w.oh):
            top = r * w.sh - w.top
            rows = counted(top, w.kh, w.height, w.top, w.bottom, p.include)
            for q in range(w.ow):
                left = q * w.sw - w.left
                mean = v.zeros(x)
                for u in range(max(top, 0), min(top + w.kh, w.height)):
                    for k in range(max(left, 0), min(left + w.kw, w.width)):
                        mean = mean + v.load(x, source + (u * w.width + k) * 16)
                cells = rows * counted(left, w.kw, w.width, w.left, w.right, p.include)
                v.store(y, target + (r * w.ow + q) * 16, mean / max(cells, 1))

    return forward


@functools.cache
def _average_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        p = average_of(params)
        dx, dy, w = pointer(p.image, itemsize), pointer(p.pooled, itemsize), p.window
        target, source = index * w.height * w.width * 16, index * w.oh * w.ow * 16
        for i in range(target, target + w.height * w.width * 16, 16):
            v.store(dx, i, v.zeros(dx))
        for r in range(w.oh):
            top = r * w.sh - w.top
            rows = counted(top, w.kh, w.height, w.top, w.bottom, p.include)
            for q in range(w.ow):
                left = q * w.sw - w.left
                cells = rows * counted(left, w.kw, w.width, w.left, w.right, p.include)
                share = v.load(dy, source + (r * w.ow + q) * 16) / max(cells, 1)
                for u in range(max(top, 0), min(top + w.kh, w.height)):
                    for k in range(max(left, 0), min(left + w.kw, w.width)):
                        i = target + (u * w.width + k) * 16
                        v.store(dx, i, v.load(dx, i) + share)

    return backward


def _average(make, image, pooled, kernel_size, stride, padding, count_include_pad):
    shape = window(image.shape[2:], pooled.shape[2:], kernel_size, stride, padding)
    values = Table(AveragePool(image.address, pooled.address, count_include_pad, shape))
    launch(make(image.dtype.itemsize), image.buffer.shape[0] * image.shape[1], values.array)


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad, ceil_mode=False):
    """Return the mean of each window; padding counts as zeros, in the divisor only with count_include_pad.

    What a window has beyond the padding, as the last ones may with ``ceil_mode``, never counts.
    """
    x = blocked.as_blocked(x)
    out = output_shape(*x.shape[2:], kernel_size, stride, padding, ceil_mode=ceil_mode)
    y = blocked.empty((*x.shape[:2], *out), x.dtype)
    _average(_average_task, x, y, kernel_size, stride, padding, count_include_pad)
    return y


def avg_pool2d_backward(dy, input_shape, kernel_size, stride, padding, count_include_pad):
    """Return dx: each dy, divided as in forward, goes to every cell of its window."""
    dy = blocked.as_blocked(dy)
    dx = blocked.empty(input_shape, dy.dtype)
    _average(_average_gradient_task, dx, dy, kernel_size, stride, padding, count_include_pad)
    return dx
