"""The fully connected layer on blocked arrays, by the micro-kernels of convolution: no packing, no BLAS.

    y[n, k]   = bias[k] + sum over f of weight[k, f] * x[n, f]
    dx[n, f]  = sum over k of weight[k, f] * dy[n, k]
    dw[k, f] += sum over n of dy[n, k] * x[n, f]

A feature of sixteen images is one pixel. Weights are read where they lie: a register block of six rows reads
six rows of the matrix forward, and six neighbours of each row backward, while all blocks of images pass.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES, as_blocked, empty
from cnn.fast.conv.blocking import panel_rows, pixels_at_once, register_block
from cnn.fast.conv.microkernels import ONCE, DotEnds, DotLoop, DotLoops, DotSteps, Ends, Loop, Loops
from cnn.fast.conv.routines import (
    Dot,
    PanelProducts,
    RowProducts,
    Transposition,
    dot,
    panel_products,
    row_products,
    transpose_pixels,
)
from cnn.fast.kernels.shared import steps_of
from cnn.fast.machine.jit import address, helper, launch, plans, scratch, scratch_threads, task
from cnn.fast.machine.owner import aligned_zeros, owner
from cnn.fast.machine.simd import blocks
from cnn.fast.machine.tables import Table, bits, call_with, integers, pointer, reader

FEATURES = 16  # input features of one task: their images stay in the L1 cache while the gradients pass


class Product(NamedTuple):
    """Forward or d-input of one geometry; steps in bytes."""

    x: int  # address
    weight: int  # address
    bias: int  # address
    out: int  # address
    floor: int  # bits of the lower bound of the result
    itemsize: int
    blocks: int  # of sixteen images
    in_features: int
    out_features: int
    weight_out: int  # from the weights of one out feature to those of the next
    weight_in: int  # from the weight of one in feature to that of the next
    mr: int  # out features at once
    products: int  # address of ``row_products``


product_of = reader(Product)


@cache
def _product_task():
    """out[n, r] = max(floor, bias[r] + sum over c of weight[r, c] * x[n, c]) for mr out features r."""

    @task
    def product(index, thread, params):
        p = product_of(params)
        pixel = LANES * p.itemsize
        # The last sliver is moved up to end with the last feature; it repeats a few with the same result.
        r = min(index * p.mr, p.out_features - p.mr)
        call_with(
            p.products,
            RowProducts(
                ends=Ends(p.x, p.weight + r * p.weight_out, p.bias + r * p.itemsize, p.out + r * pixel),
                loops=Loops(ONCE, ONCE, Loop(p.in_features, pixel, p.weight_in)),
                scalars_k=p.weight_out, floor=p.floor, pixels=p.blocks,
                vectors_pixel=p.in_features * pixel, out_pixel=p.out_features * pixel, out_k=pixel,
                rows=1, vectors_row=0, out_row=0,
            ),
        )  # fmt: skip

    return product


class ProductPlan:
    """Forward (weight_out: a row of the weight) or d-input (weight_out: one number) of one geometry."""

    def __init__(self, images, in_features, out_features, weight_out, weight_in, itemsize):
        """``images``: blocks of sixteen; ``weight_out``, ``weight_in``: numbers to the next feature."""
        mr, most = register_block(out_features, blocks(itemsize)[0])
        nr = pixels_at_once(mr, most, [images], itemsize)
        self._tasks = -(-out_features // mr)
        self._no_bias = aligned_zeros((out_features * itemsize,), np.uint8)
        self._table = Table(
            Product(
                x=0, weight=0, bias=0, out=0, floor=0, itemsize=itemsize, blocks=images,
                in_features=in_features, out_features=out_features, weight_out=weight_out * itemsize,
                weight_in=weight_in * itemsize, mr=mr,
                products=row_products(mr, nr, itemsize, neighbours=False),
            )
        )  # fmt: skip

    def run(self, x, weight, bias, out, floor):
        """out = max(floor, weight * x + bias)"""
        self._table.set(
            x=x.address, weight=address(weight), bias=address(self._no_bias if bias is None else bias),
            out=out.address, floor=bits(floor),
        )  # fmt: skip
        launch(_product_task(), self._tasks, self._table.array)


@plans
def _product_plan(*arguments):
    return ProductPlan(*arguments)


def linear_forward(x, weight, bias, relu=False):
    """Twin of ``cnn.reference.linear_forward``; ``relu``: y = max(0, y), a NaN stays."""
    dtype = np.result_type(x.dtype, weight.dtype)
    x, weight = as_blocked(x, dtype), np.ascontiguousarray(weight, dtype)
    bias = None if bias is None else np.ascontiguousarray(bias, dtype)
    out_features, features = weight.shape
    y = empty((x.shape[0], out_features), dtype)
    plan = _product_plan(len(x.buffer), features, out_features, features, 1, dtype.itemsize)
    plan.run(x, weight, bias, y, 0 if relu else -np.inf)
    return y


def linear_backward_input(dy, weight):
    """Twin of ``cnn.reference.linear_backward_input``."""
    dtype = np.result_type(dy.dtype, weight.dtype)
    dy, weight = as_blocked(dy, dtype), np.ascontiguousarray(weight, dtype)
    out_features, features = weight.shape
    dx = empty((dy.shape[0], features), dtype)
    plan = _product_plan(len(dy.buffer), out_features, features, 1, features, dtype.itemsize)
    plan.run(dy, weight, None, dx, -np.inf)
    return dx


class Weight(NamedTuple):
    """d-weight of one geometry."""

    dy: int  # address
    x: int  # address
    dweight: int  # address
    itemsize: int
    blocks: int  # of sixteen images
    in_features: int
    out_features: int
    slivers: int  # of panel_mr out features, where a task has all its features; the rest is dots
    panel_mr: int
    scratch: int  # address
    scratch_bytes: int  # of one thread: a panel, then the segments
    panel_bytes: int
    transpose: int  # address of ``transpose_pixels``
    products: int  # address of ``panel_products``
    mr: int  # out features at once, of dots
    nr: int  # in features at once, of dots
    dot: int  # address of ``dot`` for mr by nr,
    dot_column: int  # mr by 1,
    dot_row: int  # 1 by nr,
    dot_one: int  # and 1 by 1; 0 where it is not needed
    steps: int  # address of (join, number, segment, 0) each, see ``cnn.fast.kernels.shared.steps_of``
    count: int  # of steps
    micro_blocks: int  # of sixteen images in a micro-batch
    segments: int  # address of the addresses of the sums of segments 1, 2 ..., or 0: they are in scratch


class Sums(NamedTuple):
    """Where what a task adds to begins: at its first in feature of out feature 0."""

    out: int  # address
    row: int  # bytes from one out feature to the next


weight_of = reader(Weight)


@helper
def _sums_of(p, segment, f, thread):
    """The sums of a segment for the in features from ``f`` on."""
    if segment == 0:
        return Sums(p.dweight + f * p.itemsize, p.in_features * p.itemsize)
    if p.segments != 0:
        return Sums(integers(p.segments)[segment - 1] + f * p.itemsize, p.in_features * p.itemsize)
    row = FEATURES * p.itemsize
    own = p.scratch + thread * p.scratch_bytes + p.panel_bytes
    return Sums(own + (segment - 1) * p.out_features * row, row)


@helper
def _add_panel(p, sums, block, blocks, f, thread):
    """sums[k, f ... f + 15] += sum over n of dy[n, k] * x[n, f ...] for all whole slivers of rows k."""
    pixel, panel = LANES * p.itemsize, p.scratch + thread * p.scratch_bytes
    x, dy = p.x + block * p.in_features * pixel, p.dy + block * p.out_features * pixel
    call_with(p.transpose, Transposition(x + f * pixel, panel, blocks, pixel, p.in_features * pixel))
    call_with(
        p.products,
        PanelProducts(
            panel=panel, left=dy, left_k=pixel, out=sums.out, out_k=sums.row, slivers=p.slivers,
            a=Loop(blocks, LANES * pixel, p.out_features * pixel), b=ONCE,
        ),
    )  # fmt: skip


@helper
def _add_dot(p, out, block, blocks, k, f, row, routine):
    """out[k, f] += sum over n of dy[n, k] * x[n, f] for a register block of k and f."""
    pixel = LANES * p.itemsize
    x, dy = p.x + block * p.in_features * pixel, p.dy + block * p.out_features * pixel
    images = DotLoop(blocks, p.out_features * pixel, p.in_features * pixel)
    ends = DotEnds(dy + k * pixel, x + f * pixel, out)
    call_with(routine, Dot(ends, DotSteps(pixel, pixel, row), DotLoops(DotLoop(1, 0, 0), images)))


@helper
def _add_images(p, sums, block, blocks, first, stop, thread):
    """sums += the sum over the images of some blocks: a panel, and dots for other rows."""
    k = 0
    if stop - first == FEATURES:
        _add_panel(p, sums, block, blocks, first, thread)
        k = p.slivers * p.panel_mr
    while k < p.out_features:
        # Register blocks add to sums, so they must not overlap: the rest is done one row or column at a time.
        whole, f, out = k + p.mr <= p.out_features, first, sums.out + k * sums.row
        while f + p.nr <= stop:
            _add_dot(p, out, block, blocks, k, f, sums.row, p.dot if whole else p.dot_row)
            f += p.nr
            out += p.nr * p.itemsize
        while f < stop:
            _add_dot(p, out, block, blocks, k, f, sums.row, p.dot_column if whole else p.dot_one)
            f += 1
            out += p.itemsize
        k += p.mr if whole else 1


@cache
def _weight_task(itemsize):
    """dweight += the sum over images, for FEATURES in features, micro-batch by micro-batch."""

    @task
    def gradient(index, thread, params):
        p = weight_of(params)
        first, steps = index * FEATURES, integers(p.steps)
        stop = min(p.in_features, first + FEATURES)
        for step in range(0, 4 * p.count, 4):
            number, sums = steps[step + 1], _sums_of(p, steps[step + 2], first, thread)
            if steps[step] == 0:
                block = number * p.micro_blocks
                blocks = min(p.micro_blocks, p.blocks - block)
                _add_images(p, sums, block, blocks, first, stop, thread)
                continue
            joined = _sums_of(p, number, first, thread)
            for k in range(p.out_features):
                left = pointer(joined.out + k * joined.row, itemsize)
                right = pointer(sums.out + k * sums.row, itemsize)
                for c in range(stop - first):
                    left[c] += right[c]
                    right[c] = 0

    return gradient


class WeightPlan:
    """d-weight of one geometry; ``run`` fills in the addresses."""

    def __init__(self, images, out_features, in_features, itemsize, share):
        """``images``: blocks of sixteen; ``share``: of a batch, or None."""
        mr, nr = blocks(itemsize)[1]
        panel_mr = panel_rows(itemsize, out_features, padded=False)
        steps = [(False, 0, 0)] if share is None else list(steps_of(share))
        micro_blocks = images if share is None else share.size // LANES
        segments = max(segment for *_, segment in steps)
        self._share = share if segments and not share.alone else None
        panel_bytes = micro_blocks * 16 * LANES * itemsize if in_features >= FEATURES else 0
        scratch_bytes = panel_bytes + (0 if self._share else segments * out_features * FEATURES * itemsize)
        self._steps = np.array([(*step, 0) for step in steps], np.int64)
        self._segments = segments
        self._scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        # (rows, columns) that panels leave to dots: those of a task with all its features, those of the last.
        left = [(out_features % panel_mr, FEATURES)] if in_features >= FEATURES else []
        left.append((out_features, in_features % FEATURES))

        def dot_if(needed, mr, nr):
            return dot(mr, nr, itemsize) if any(needed(*rest) for rest in left) else 0

        self._table = Table(
            Weight(
                dy=0, x=0, dweight=0, itemsize=itemsize, blocks=images, in_features=in_features,
                out_features=out_features, slivers=out_features // panel_mr, panel_mr=panel_mr,
                scratch=self._scratch.ctypes.data, scratch_bytes=scratch_bytes, panel_bytes=panel_bytes,
                transpose=transpose_pixels(itemsize), products=panel_products(panel_mr, itemsize),
                mr=mr, nr=nr, dot=dot_if(lambda rows, columns: rows >= mr and columns >= nr, mr, nr),
                dot_column=dot_if(lambda rows, columns: rows >= mr and columns % nr, mr, 1),
                dot_row=dot_if(lambda rows, columns: rows % mr and columns >= nr, 1, nr),
                dot_one=dot_if(lambda rows, columns: rows % mr and columns % nr, 1, 1),
                steps=address(self._steps), count=len(steps), micro_blocks=micro_blocks, segments=0,
            )
        )  # fmt: skip
        self._tasks, self._itemsize = -(-in_features // FEATURES), itemsize

    def run(self, dy, x, dweight):
        """dweight += sum over images of dy * x"""
        if self._share is not None:
            places = scratch((self._segments,), np.int64)
            places[:] = [address(self._share.sums(dweight, k + 1)) for k in range(self._segments)]
            self._table.set(segments=address(places))
        self._table.set(dy=dy.address, x=x.address, dweight=address(dweight))
        launch(_weight_task(self._itemsize), self._tasks, self._table.array)


@plans
def _weight_plan(*arguments):
    return WeightPlan(*arguments)


def linear_backward_weight(dy, x, dweight):
    """Twin of ``cnn.reference.linear_backward_weight``: adds into ``dweight``."""
    dtype = np.result_type(dy.dtype, x.dtype)
    dy, x = as_blocked(dy, dtype), as_blocked(x, dtype)
    total = (
        dweight if dweight.dtype == dtype and dweight.flags.c_contiguous else np.zeros(dweight.shape, dtype)
    )
    _weight_plan(len(x.buffer), *total.shape, dtype.itemsize, owner().share).run(dy, x, total)
    if total is not dweight:
        dweight += total
