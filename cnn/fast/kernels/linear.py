"""The fully connected layer on blocked arrays, by the register tiles of convolution: no packing, no BLAS.

    y[n, k]   = bias[k] + sum over f of weight[k, f] * x[n, f]
    dx[n, f]  = sum over k of weight[k, f] * dy[n, k]
    dw[k, f] += sum over n of dy[n, k] * x[n, f]

A feature of sixteen images is one pixel. Weights are read where they lie: a tile of six rows streams six rows
of the matrix forward, and six neighbours of each row backward, while all blocks of images pass by.
"""

from functools import cache

import numpy as np

from cnn.fast.blocked import as_blocked, empty
from cnn.fast.conv.direct import row_block
from cnn.fast.conv.tiles import dot, outer_run, outer_sum, sum_rows, transpose_run
from cnn.fast.machine.jit import launch, plans, scratch_threads, table, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks
from cnn.fast.machine.tables import call, integers

FEATURE_CHUNK = 16  # input features whose images stay in the L1 cache while the gradients pass: one panel


@cache
def _product_task():
    """out[n, r] = bias[r] + sum over c of weight[r, c] * x[n, c] for one block of rows r."""

    @task
    def product(index, thread, params):
        p = integers(params)
        x, weight, bias, out, tile = p[0], p[1], p[2], p[3], p[4]
        rows, out_features, features, images, size = p[5], p[6], p[7], p[8], p[9]
        row_step, column_step = p[10], p[11]
        pixel = 16 * size
        # The last block is moved up to end with the last row; it repeats a few with the same result.
        row = min(index * rows, out_features - rows)
        ends = (x, weight + row * row_step, bias + row * size, out + row * pixel)
        steps = (images, features * pixel, pixel, out_features * pixel, params + 12 * 8)
        call(tile, (*ends, *steps, 1, 0, 0, 1, 0, 0, features, pixel, column_step, row_step, 1, 0, 0))

    return product


@cache
def _weight_task():
    """dweight += the sum over images, for one chunk of features.

    Sixteen features are transposed into a panel in which they lie side by side; what is left of features and
    rows is summed over lanes.
    """

    @task
    def gradient(index, thread, params):
        p = integers(params)
        dy, x, dweight = p[0], p[1], p[2]
        out_features, features, images, size, rows, columns = p[3], p[4], p[5], p[6], p[7], p[8]
        pixel = 16 * size
        f = index * FEATURE_CHUNK
        stop = min(features, f + FEATURE_CHUNK)
        k = 0
        if stop - f == 16:
            flip, multiply, panel_rows = p[13], p[14], p[15]
            panel = p[16] + thread * p[17]
            call(flip, (x + f * pixel, pixel, images, features * pixel, panel))
            whole = out_features // panel_rows
            k = whole * panel_rows
            image = (images, 16 * pixel, out_features * pixel)
            call(multiply, (panel, dy, pixel, dweight + f * size, features * size, whole, *image, 1, 0, 0))
        while k < out_features:
            # Tiles add to dweight, so they must not overlap: the rest is done one row, one feature at a time.
            whole_rows = k + rows <= out_features
            f = index * FEATURE_CHUNK
            while f < stop:
                whole_columns = f + columns <= stop
                tile = p[9 + 2 * (0 if whole_rows else 1) + (0 if whole_columns else 1)]
                ends = (dy + k * pixel, pixel, x + f * pixel, pixel, dweight + (k * features + f) * size)
                call(tile, (*ends, features * size, 1, 0, 0, images, out_features * pixel, features * pixel))
                f += columns if whole_columns else 1
            k += rows if whole_rows else 1

    return gradient


class ProductPlan:
    """Forward (row_step: a row of the weight) or d-input (row_step: one number) of one geometry."""

    def __init__(self, images, features, out_features, row_step, column_step, size):
        block = row_block(out_features, blocks(size)[0])
        self.tasks = -(-out_features // block[0])
        self.size = size
        self.no_bias = aligned_zeros((out_features * size,), np.uint8)
        self.params = table(
            [
                0, 0, 0, 0, outer_run(*block, size, True), block[0], out_features, features, images, size,
                row_step * size, column_step * size, 0,
            ]
        )  # fmt: skip

    def run(self, x, weight, bias, out, floor):
        """out = max(floor, weight * x + bias)"""
        params = self.params
        params[0], params[1], params[3] = x.address, weight.ctypes.data, out.address
        params[2] = self.no_bias.ctypes.data if bias is None else bias.ctypes.data
        params[12:13].view(np.float32 if self.size == 4 else np.float64)[0] = floor
        launch(_product_task(), self.tasks, params)


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


class WeightPlan:
    """d-weight of one geometry; ``run`` fills in the addresses."""

    def __init__(self, images, out_features, features, size):
        rows, columns = blocks(size)[1]
        tiles = [dot(r, c, size) for r in (rows, 1) for c in (columns, 1)]
        panel = [0, 0, 0, 0, 0]
        if features >= 16:
            panel_bytes = images * 16 * 16 * size
            self.scratch = aligned_zeros((scratch_threads() * panel_bytes,), np.uint8)
            scratch = self.scratch.ctypes.data
            panel_rows = sum_rows(size, out_features, padded=False)
            panel = [transpose_run(size), outer_sum(panel_rows, size), panel_rows, scratch, panel_bytes]
        self.params = table([0, 0, 0, out_features, features, images, size, rows, columns, *tiles, *panel])
        self.tasks = -(-features // FEATURE_CHUNK)

    def run(self, dy, x, dweight):
        """dweight += sum over images of dy * x"""
        self.params[:3] = dy.address, x.address, dweight.ctypes.data
        launch(_weight_task(), self.tasks, self.params)


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
    _weight_plan(len(x.buffer), *total.shape, dtype.itemsize).run(dy, x, total)
    if total is not dweight:
        dweight += total
