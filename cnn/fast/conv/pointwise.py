"""Convolution with a window of one pixel: a matrix product for every pixel. Forward and, turned, d-input.

    y[n, k, i, j] = bias[k] + sum over c of weight[k, c] * x[n, c, i*sh, j*sw]

Pixels are taken in pieces. A piece is first copied to where the channels of a pixel lie side by side: what is
read are long runs of each plane, not single pixels of all planes, which compete for a few cache sets.
"""

from functools import cache
from itertools import pairwise

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.tiles import STREAM, copy_box, finish_streams, product
from cnn.fast.machine.jit import launch, scratch_threads, table, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import vector_registers
from cnn.fast.machine.tables import call, integers

# Of input that a piece keeps in the L2 cache: half of the 512 KiB that go with AVX2, or 1 MiB with AVX-512
# (shorter vectors: a small part of it).
PIECE_BYTES = vector_registers()[0] << 13


@cache
def _piece_task(size):
    @task
    def piece(index, thread, params):
        p = integers(params)
        x, w, bias, out, scratch, scratch_bytes = p[0], p[1], p[2], p[3], p[4], p[5]
        pieces, groups, channels, out_channels = p[6], p[7], p[8], p[9]
        in_plane, in_row, in_pixel, width, out_plane = p[10], p[11], p[12], p[13], p[14]
        x_step, row_blocks, w_block, last = p[15], p[16], p[17], p[18]
        copy, multiply = p[19], p[20]
        s = integers(p[21] + index % pieces * 32)
        top, rows, left, columns = s[0], s[1], s[2], s[3]
        pixel = 16 * size
        group, block = index // pieces % groups, index // pieces // groups
        source = x + (block * groups + group) * channels * in_plane + top * in_row + left * in_pixel
        here = scratch + thread * scratch_bytes
        box = (channels, in_plane, pixel, rows, in_row, columns * x_step, columns, in_pixel, x_step)
        call(copy, (source, here, *box))
        weights, shift = w + group * row_blocks * w_block, bias + group * out_channels * size
        target = out + (block * groups + group) * out_channels * out_plane + (top * width + left) * pixel
        ends = (here, weights, shift, target, params + 22 * 8, rows * columns, row_blocks, last)
        call(multiply, (*ends, channels, x_step, w_block, out_plane, pixel))
        finish_streams()

    return piece


class PointwisePlan:
    """Everything about one geometry that the compiled task needs; ``run`` fills in the addresses."""

    def __init__(self, images, groups, channels, out_channels, source, out_shape, block, pack, size):
        """images: blocks of sixteen; channels: of one group; ``source``: (h, w, plane, row, pixel step).

        ``pack`` is the compiled task that orders the weights for the register block (rows, pixels).
        """
        self.size, pixel = size, LANES * size
        rows, pixels = block
        height, width, in_plane, in_row, in_pixel = source
        row_blocks = -(-out_channels // rows)
        # An odd number of cache lines, as ever: pixels of a round size would compete for the same sets.
        x_step = (channels | 1) * pixel
        count = max(4, PIECE_BYTES // x_step)
        if in_row == width * in_pixel:
            height, width = 1, height * width
        if height == 1:
            units = -(-width // pixels)  # pieces are whole register tiles, but for the last
            cuts = min(units, -(-width // count))
            ends = [min(width, units * i // cuts * pixels) for i in range(cuts + 1)]
            pieces = [(0, 1, a, b - a) for a, b in pairwise(ends)]
        else:
            strip = max(1, count // width)
            pieces = [(top, min(strip, height - top), 0, width) for top in range(0, height, strip)]
        self.pieces = table(pieces)
        largest = int((self.pieces[:, 1] * self.pieces[:, 3]).max())
        scratch_bytes = largest * x_step
        self.scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        w_block = channels * rows
        self.packed = aligned_zeros((groups * row_blocks * w_block * size + 64,), np.uint8)
        self.no_bias = aligned_zeros((groups * out_channels * size,), np.uint8)
        self.tasks = images * groups * len(pieces)
        self.params = table(
            [
                0, self.packed.ctypes.data, 0, 0, self.scratch.ctypes.data, scratch_bytes,
                len(pieces), groups, channels, out_channels, in_plane, in_row, in_pixel, width,
                out_shape[0] * out_shape[1] * pixel, x_step, row_blocks, w_block * size,
                out_channels - rows, copy_box(size), product(rows, pixels, size, STREAM),
                self.pieces.ctypes.data, 0,
            ]
        )  # fmt: skip
        self.pack = pack
        self.pack_tasks = groups * row_blocks
        self.pack_params = table(
            [
                0, self.packed.ctypes.data, rows, out_channels, channels, 1, 0, 0, 0, rows, w_block,
                row_blocks, out_channels - rows,
            ]
        )  # fmt: skip

    def run(self, x, weight, steps, bias, out, floor=-np.inf):
        """Pack the weights, then multiply; ``steps``: strides of the weight by (group, out, channel)."""
        self.pack_params[0] = weight.ctypes.data
        self.pack_params[6:9] = steps
        launch(self.pack, self.pack_tasks, self.pack_params)
        params = self.params
        params[0], params[3] = x.address, out.address
        params[2] = self.no_bias.ctypes.data if bias is None else bias.ctypes.data
        params[22:23].view(np.float32 if self.size == 4 else np.float64)[0] = floor
        launch(_piece_task(self.size), self.tasks, params)
