"""Depthwise convolutions, a filter for each channel, on blocked arrays: forward, d-input and d-weight.

    forward    y[n,c,i,j]  = bias[c] + sum over u, v of w[c,u,v] * x[n, c, i*sh - top + u, j*sw - left + v]
    d-input    dx[n,c,p,q] = sum over u, v of w[c,u,v] * dy[n, c, (p + top - u) / sh, (q + left - v) / sw]
    d-weight   dw[c,u,v]   = sum over n, i, j of dy[n,c,i,j] * x[n, c, i*sh - top + u, j*sw - left + v]

Each is one pass over its arrays by a stencil (``stencil.py``); bfloat16 is widened and rounded on the way. A
few images with sixteen channels side by side are the same with a vector of weights for each tap.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.geometry import UNBOUNDED, Geometry
from cnn.fast.conv.microkernels import memory_fence
from cnn.fast.conv.stencil import Ends, Form, Links, Plane, columns_at_once, gradient, stencil
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, launch, plans, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.tables import Table, bits, pointer, reader

PIECE = 1 << 16  # bytes of the source that a task reads, at least if there are as many
STREAM = 1 << 20  # bytes of an output from which on it goes past the caches


class Pieces(NamedTuple):
    """How the planes of an array are handed out: a piece is some rows of some channels of a block."""

    channels: int  # of a block
    chunk: int  # channels of a piece
    chunks: int
    cells: int  # down
    strip: int  # cells down of a piece
    strips: int
    x_plane: int  # bytes from one channel to the next
    y_plane: int
    weight: int
    bias: int


class Convolution(NamedTuple):
    """A forward or d-input pass."""

    ends: Ends  # of the first plane
    plane: Plane
    pieces: Pieces


convolution_of = reader(Convolution)


@cache
def _convolution_task(form):
    run = stencil(form)

    @task
    def depthwise(index, thread, params):
        p = convolution_of(params)
        strip, rest = index % p.pieces.strips, index // p.pieces.strips
        chunk, block = rest % p.pieces.chunks, rest // p.pieces.chunks
        first = strip * p.pieces.strip
        last = min(first + p.pieces.strip, p.pieces.cells)
        begin = chunk * p.pieces.chunk
        for c in range(begin, min(begin + p.pieces.chunk, p.pieces.channels)):
            number = block * p.pieces.channels + c
            x, y = p.ends.x + number * p.pieces.x_plane, p.ends.y + number * p.pieces.y_plane
            weight, bias = p.ends.weight + c * p.pieces.weight, p.ends.bias + c * p.pieces.bias
            run(Ends(x, y, weight, bias), p.plane, first, last)
        memory_fence()

    return depthwise


class Problem(NamedTuple):
    """A stencil on planes; pairs are (down, across)."""

    planes: tuple  # (blocks, channels)
    source: tuple  # (h, w)
    output: tuple
    links: tuple  # of Links
    kernel: tuple
    itemsize: int  # bytes of a number that is computed
    read: int
    written: int
    weights: int = 1  # of a tap, side by side

    def form(self, streams=False):
        """The Form, and how many cells of a row are whole."""
        down, across = self.links
        left, whole, right = across.cut(self.output[1], self.source[1])
        columns = columns_at_once(whole, across.period, self.kernel[0] * self.kernel[1], streams)
        sizes = self.itemsize, self.read, self.written
        return Form(down, across, left, right, columns, self.kernel, *sizes, self.weights, streams), whole

    def plane(self, whole, zeros):
        """The Plane, without bounds; ``zeros``: an array."""
        x_row, y_row = LANES * self.source[1] * self.read, LANES * self.output[1] * self.written
        heights = self.source[0], self.output[0]
        return Plane(zeros.ctypes.data, *heights, whole, x_row, y_row, bits(-np.inf), bits(np.inf))

    def pieces(self):
        """The Pieces, and their number."""
        (blocks, channels), (h, w), (oh, ow) = self.planes, self.source, self.output
        x_plane, y_plane = LANES * h * w * self.read, LANES * oh * ow * self.written
        cells = -(-oh // self.links[0].period)
        chunk = max(1, min(channels, PIECE // max(x_plane, y_plane)))
        strip = max(1, cells * PIECE // max(x_plane, y_plane))
        strips = -(-cells // strip)
        weight = self.kernel[0] * self.kernel[1] * self.weights * self.itemsize
        steps = x_plane, y_plane, weight, self.weights * self.itemsize
        chunks = -(-channels // chunk)
        return Pieces(channels, chunk, chunks, cells, strip, strips, *steps), blocks * chunks * strips


class ConvolutionPlan:
    """The tables and the memory of a forward or d-input pass; ``run`` fills in the addresses."""

    def __init__(self, problem):
        g, (pieces, self._count) = problem, problem.pieces()
        size = g.planes[0] * g.planes[1] * pieces.y_plane
        form, whole = g.form(streams=g.written == g.itemsize and size >= STREAM)
        self._task = _convolution_task(form)
        self._zeros = aligned_zeros((g.source[1], LANES * g.read), np.uint8)
        self._no_bias = aligned_zeros((g.planes[1], g.weights), f"f{g.itemsize}")
        record = Convolution(Ends(0, 0, 0, 0), g.plane(whole, self._zeros), pieces)
        self._plane, self._table = record.plane, Table(record)

    def run(self, x, weight, bias, out, bounds=UNBOUNDED):
        """Compute ``out``; x and out have addresses, weight and bias are arrays."""
        bias = self._no_bias if bias is None else bias
        ends = Ends(x.address, out.address, address(weight), address(bias))
        plane = self._plane._replace(floor=bits(bounds[0]), ceiling=bits(bounds[1]))
        self._table.set(ends=ends, plane=plane)
        launch(self._task, self._count, self._table.array)


class Gradient(NamedTuple):
    """A d-weight pass: a piece is some channels of a part of the blocks."""

    ends: Ends  # of the first plane; weight: of the sums [part][channel][tap][lane]
    plane: Plane
    pieces: Pieces
    blocks: int
    parts: int
    dweight: int  # address
    taps: int


gradient_of = reader(Gradient)


@cache
def _gradient_task(form):
    run, itemsize = gradient(form), form.itemsize

    @task
    def products(index, thread, params):
        p = gradient_of(params)
        chunk, part = index % p.pieces.chunks, index // p.pieces.chunks
        begin, end = p.blocks * part // p.parts, p.blocks * (part + 1) // p.parts
        for c in range(chunk * p.pieces.chunk, min((chunk + 1) * p.pieces.chunk, p.pieces.channels)):
            sums = p.ends.weight + (part * p.pieces.channels + c) * p.pieces.weight
            numbers = pointer(sums, itemsize)
            for i in range(0, p.taps * 16, 16):
                v.store(numbers, i, v.zeros(numbers))
            for block in range(begin, end):
                number = block * p.pieces.channels + c
                x, y = p.ends.x + number * p.pieces.x_plane, p.ends.y + number * p.pieces.y_plane
                run(Ends(x, y, sums, 0), p.plane, 0, p.pieces.cells)

    return products


@cache
def _add_task(itemsize):
    @task
    def add(index, thread, params):
        """dweight[c] += sums over parts and lanes: one addition, of a number that is finished before."""
        p = gradient_of(params)
        dweight = pointer(p.dweight, itemsize)
        for tap in range(p.taps):
            sums = pointer(p.ends.weight + index * p.pieces.weight, itemsize)
            total = v.load(sums, tap * 16)
            for part in range(1, p.parts):
                total = total + v.load(sums, (part * p.pieces.channels * p.taps + tap) * 16)
            dweight[index * p.taps + tap] += v.total(total)

    return add


class GradientPlan:
    """The tables and the memory of a d-weight pass; ``run`` fills in the addresses."""

    def __init__(self, problem):
        g, (pieces, _), (form, whole) = problem, problem.pieces(), problem.form()
        (blocks, channels), taps = g.planes, g.kernel[0] * g.kernel[1]
        chunk = -(-channels // 64)  # the sums of many parts would be more than the arrays of small planes
        chunks = -(-channels // chunk)
        parts = min(blocks, -(-16 // chunks))
        self._sums = aligned_zeros((parts, channels, taps, LANES), f"f{g.itemsize}")
        self._zeros = aligned_zeros((g.source[1], LANES * g.read), np.uint8)
        self._counts = parts * chunks, channels
        self._tasks = _gradient_task(form), _add_task(g.itemsize)
        pieces = pieces._replace(chunk=chunk, chunks=chunks, weight=taps * LANES * g.itemsize)
        ends = Ends(0, 0, self._sums.ctypes.data, 0)
        plane = g.plane(whole, self._zeros)
        self._table = Table(Gradient(ends, plane, pieces, blocks, parts, 0, taps))

    def run(self, dy, x, dweight):
        """Sum the parts, then add them to ``dweight`` in a fixed order."""
        ends = Ends(x.address, dy.address, self._sums.ctypes.data, 0)
        self._table.set(ends=ends, dweight=address(dweight))
        for each, count in zip(self._tasks, self._counts, strict=True):
            launch(each, count, self._table.array)


def suits(weight_shape, window):
    """Whether stencils compute a convolution: a filter a channel, of few taps that meet all pixels."""
    k, c, *kernel = weight_shape
    return c == 1 < k == window.groups and all(
        stride <= min(2, taps) and 1 < max(kernel) <= 5 and max(padding) <= taps // 2 and dilation == 1
        for taps, stride, padding, dilation in zip(kernel, *window[:3], strict=True)
    )


def _links(geometry, make):
    """Of both axes, by ``Links.forward`` or ``Links.backward``."""
    stride, padding = geometry.window[:2]
    return tuple(make(geometry.kernel[i], stride[i], padding[i][0]) for i in range(2))


def _forward_problem(geometry):
    g, links = geometry, _links(geometry, Links.forward)
    planes = g.blocks, g.weight_shape[0]
    return Problem(planes, g.x_shape[2:], g.out_size, links, g.kernel, g.itemsize, *g.sizes)


@plans
def forward_plan(geometry):
    """The plan of a forward pass."""
    return ConvolutionPlan(_forward_problem(geometry))


@plans
def input_plan(geometry):
    """The plan of a d-input pass: the source is dy."""
    g, links = geometry, _links(geometry, Links.backward)
    planes = g.blocks, g.weight_shape[0]
    return ConvolutionPlan(Problem(planes, g.out_size, g.x_shape[2:], links, g.kernel, g.itemsize, *g.sizes))


@plans
def few_plan(geometry):
    """The plan of a forward pass of a few images: ``x_shape`` counts blocks of sixteen channels."""
    g, links = geometry, _links(geometry, Links.forward)
    planes, numbers = g.x_shape[:2], (g.itemsize, *g.sizes, LANES)
    return ConvolutionPlan(Problem(planes, g.x_shape[2:], g.out_size, links, g.kernel, *numbers))


@plans
def weight_plan(geometry):
    """The plan of a d-weight pass: ``sizes`` are those of x and of dy."""
    return GradientPlan(_forward_problem(geometry))


def _geometry(x, y, weight, window, stored):
    """x and y: BlockedArrays of the input's and the output's shape; stored: of what is read and written."""
    sizes = tuple(array.itemsize for array in stored)
    return Geometry(x.shape, weight.shape, y.shape[2:], window, x.dtype.itemsize, sizes)


def forward(x, weight, bias, out, window, bounds=UNBOUNDED):
    """out = weight * x + bias, kept between the ``bounds``; x and out may be bfloat16, each for itself."""
    plan = forward_plan(_geometry(x, out, weight, window, (x, out)))
    plan.run(x, weight, bias, out, bounds)


def forward_few(x, packed, bias, out, window, bounds):
    """``forward`` on Lanes, with the weight as [C/16][kh][kw][16] and whole vectors of biases."""
    shape = (len(x), x.blocks, *x.plane), (x.blocks, 1, *packed.shape[1:3])
    geometry = Geometry(*shape, out.plane, window, x.dtype.itemsize)
    few_plan(geometry).run(x, packed, bias, out, bounds)


def backward_input(dy, weight, dx, window):
    """dx = the transpose of ``forward`` applied to dy."""
    input_plan(_geometry(dx, dy, weight, window, (dy, dx))).run(dy, weight, None, dx)


def backward_weight(dy, x, dweight, window):
    """dweight[c, u, v] += sum of dy * x; ``dweight`` contiguous, of the dtype of sums."""
    weight_plan(_geometry(x, dy, dweight, window, (x, dy))).run(dy, x, dweight)
