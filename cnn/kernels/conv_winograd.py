"""Winograd convolution F(4x4, 3x3): 36 multiplications where the direct form needs 144.

A tile of 4x4 outputs y depends on 6x6 inputs x. With the constant matrices B, G, A of Lavin and Gray

    y  = A^T [ sum over c of (G w G^T) o (B^T x B) ] A                     forward
    dw = G^T [ sum over tiles and images of (A dy A^T) o (B^T x B) ] G     d-weight

where o multiplies numbers of equal position: 36 independent matrix products over channels, done by the same
register tiles as the direct form. d-input is forward with w turned by 180 degrees. Tiles are taken in groups
whose transforms fit the cache. Pixels outside of the image are read from a line of zeros and written to one
that nobody reads, so edges need no second copy of the code. The transforms lose about three bits: float32
only, relative error below 2e-5.

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from functools import cache

import numpy as np

from cnn.blocked import LANES, aligned_zeros
from cnn.kernels.conv_direct import row_block
from cnn.kernels.jit import launch, plans, scratch_threads, table, task
from cnn.kernels.simd import blocks, call, numbers, peek, width
from cnn.kernels.tiles import dot, outer_run
from cnn.kernels.winograd_tiles import (
    PIXEL,
    SIZE,
    gradient_tile,
    input_tile,
    output_tile,
    weights_back,
    weights_forth,
)

# --- Weights: (out, in, 3, 3) to U[36][block of rows][channel][rows] ------------------------------


@cache
def _pack_task():
    lanes = width(SIZE)

    @task
    def pack(index, thread, p):
        weight, u, scratch, scratch_bytes = peek(p, 0), peek(p, 1), peek(p, 2), peek(p, 3)
        rows, out_channels, channels = peek(p, 4), peek(p, 5), peek(p, 6)
        out_step, channel_step, turned, block_bytes, u_step = (
            peek(p, 7),
            peek(p, 8),
            peek(p, 9),
            peek(p, 10),
            peek(p, 11),
        )
        source = numbers(weight + min(index * rows, out_channels - rows) * out_step * 4, 4)
        nine = numbers(scratch + thread * scratch_bytes, 4)
        count = (channels * rows + lanes - 1) // lanes
        for c in range(channels):
            for k in range(rows):
                at = c * channel_step + k * out_step
                for t in range(9):
                    nine[t * count * lanes + c * rows + k] = source[at + (8 - t if turned else t)]
        weights_forth(
            scratch + thread * scratch_bytes, count * lanes * 4, u + index * block_bytes, u_step, count
        )

    return pack


# --- Forward and d-input --------------------------------------------------------------------------


@cache
def _forward_task():
    @task
    def forward(index, thread, p):
        x, u, bias, y, scratch, scratch_bytes = (
            peek(p, 0),
            peek(p, 1),
            peek(p, 2),
            peek(p, 3),
            peek(p, 4),
            peek(p, 5),
        )
        group, tiles, tiles_down, tiles_across = peek(p, 6), peek(p, 7), peek(p, 8), peek(p, 9)
        channels, out_channels = peek(p, 10), peek(p, 11)
        height, width, above, left = peek(p, 12), peek(p, 13), peek(p, 14), peek(p, 15)
        out_height, out_width = peek(p, 16), peek(p, 17)
        block_bytes, u_step, v_step, m_step, zeros = (
            peek(p, 18),
            peek(p, 19),
            peek(p, 20),
            peek(p, 21),
            peek(p, 22),
        )
        lowest = numbers(p + 23 * 8, 4)[0]
        multiply, rows = peek(p, 25), peek(p, 26)
        first, last = index * group, min(index * group + group, tiles)
        nowhere = scratch + thread * scratch_bytes
        v = nowhere + 64
        m = v + 36 * v_step
        row = group * 64
        per_image = tiles_down * tiles_across
        for t in range(first, last):
            block, tile = t // per_image, t % per_image
            top, side = tile // tiles_across * 4 - above, tile % tiles_across * 4 - left
            image, to = x + block * channels * height * width * 64, v + (t - first) * 64
            for _ in range(channels):
                input_tile(image, top, side, height, width, width * 64, zeros, to, v_step)
                image += height * width * 64
                to += row
        row_blocks = (out_channels + rows - 1) // rows
        for xi in range(36):
            for j in range(row_blocks):
                weights = u + xi * u_step + j * block_bytes
                target = m + xi * m_step + min(j * rows, out_channels - rows) * row
                ends = (v + xi * v_step, weights, zeros, target, last - first, 64, row, 64, p + 24 * 8)
                call(multiply, (*ends, 1, 0, 0, 1, 0, 0, channels, row, rows * 4, 4))
        for t in range(first, last):
            block, tile = t // per_image, t % per_image
            top, side = tile // tiles_across * 4, tile % tiles_across * 4
            image, at = y + block * out_channels * out_height * out_width * 64, m + (t - first) * 64
            for k in range(out_channels):
                output_tile(
                    at,
                    m_step,
                    bias + k * 4,
                    lowest,
                    image,
                    top,
                    side,
                    out_height,
                    out_width,
                    out_width * 64,
                    nowhere,
                )
                image += out_height * out_width * 64
                at += row

    return forward


def _lines(count):
    """Bytes of ``count`` pixels, an odd number of cache lines: 36 streams of a round size would collide."""
    return (count | 1) * PIXEL


class ForwardPlan:
    """One geometry of forward or d-input."""

    def __init__(self, blocks_, channels, out_channels, in_shape, out_shape, above, left):
        block = rows, _ = row_block(out_channels, blocks(SIZE)[0])
        row_blocks = -(-out_channels // rows)
        down, across = -(-out_shape[0] // 4), -(-out_shape[1] // 4)
        tiles = blocks_ * down * across
        group = min(tiles, tile_group(channels, out_channels))
        self.tasks = -(-tiles // group)
        v_step, m_step = _lines(channels * group), _lines(out_channels * group)
        scratch_bytes = 64 + 36 * (v_step + m_step) + 64
        threads = scratch_threads()
        self.scratch = aligned_zeros((threads * scratch_bytes,), np.uint8)
        block_bytes = -(-channels * rows // LANES) * PIXEL
        u_step = block_bytes * row_blocks + 64
        self.u = aligned_zeros((36 * u_step,), np.uint8)
        self.zeros = aligned_zeros((max(64, 4 * out_channels),), np.uint8)
        self.params = table(
            [
                0, self.u.ctypes.data, 0, 0, self.scratch.ctypes.data, scratch_bytes,
                group, tiles, down, across, channels, out_channels, *in_shape, above, left, *out_shape,
                block_bytes, u_step, v_step, m_step, self.zeros.ctypes.data, 0, 0,
                outer_run(*block, SIZE), rows,
            ]
        )  # fmt: skip
        self.params[24:25].view(np.float32)[0] = -np.inf
        nine_bytes = 9 * block_bytes + 64
        self.nine = aligned_zeros((threads * nine_bytes,), np.uint8)
        self.pack_tasks = row_blocks
        self.pack_params = table(
            [
                0,
                self.u.ctypes.data,
                self.nine.ctypes.data,
                nine_bytes,
                rows,
                out_channels,
                channels,
                0,
                0,
                0,
                block_bytes,
                u_step,
            ]
        )

    def run(self, x, weight, out_step, channel_step, turned, bias, out, floor=-np.inf):
        """Transform the weights (``turned``: by 180 degrees first), then all tiles."""
        pack, params = self.pack_params, self.params
        pack[0] = weight.ctypes.data
        pack[7:10] = out_step, channel_step, turned
        launch(_pack_task(), self.pack_tasks, pack)
        params[0], params[3] = x.address, out.address
        params[2] = self.zeros.ctypes.data if bias is None else bias.ctypes.data
        params[23:24].view(np.float32)[0] = floor
        launch(_forward_task(), self.tasks, params)


def tile_group(channels, out_channels):
    """Tiles whose transforms are multiplied together: their 36 planes should stay near the L2 cache."""
    return 4 if channels + out_channels <= 192 else 2


@plans
def forward_plan(x_shape, out_shape, above, left):
    """The plan of a forward or d-input pass with ``above`` rows and ``left`` columns of padding."""
    n, c, h, w = x_shape
    return ForwardPlan(-(-n // LANES), c, out_shape[1], (h, w), out_shape[2:], above, left)


def forward(x, weight, bias, out, padding, floor=-np.inf):
    """out = max(floor, weight * x + bias) for a 3x3 weight, stride 1, float32."""
    plan = forward_plan(x.shape, out.shape, padding[0][0], padding[1][0])
    plan.run(x, weight, weight.shape[1] * 9, 9, 0, bias, out, floor)


def backward_input(dy, weight, dx, padding):
    """dx: the window turned by 180 degrees runs over dy."""
    plan = forward_plan(dy.shape, dx.shape, 2 - padding[0][0], 2 - padding[1][0])
    plan.run(dy, weight, 9, weight.shape[1] * 9, 1, None, dx)


# --- d-weight -------------------------------------------------------------------------------------

ROW_CHUNK = 64  # output channels of one piece
COLUMN_CHUNK = 16  # input channels whose tiles stay in the L1 cache while the rows pass
DOT_GROUP = 16  # tiles summed at once: longer sums waste less on adding lanes, shorter ones stay in the cache
SUM_BYTES = 8 << 20  # of partial sums, unless fewer than two pieces were left


@cache
def _dot_task():
    @task
    def dots(index, thread, p):
        dy, x, sums, scratch, scratch_bytes = peek(p, 0), peek(p, 1), peek(p, 2), peek(p, 3), peek(p, 4)
        group, tiles, tiles_down, tiles_across = peek(p, 5), peek(p, 6), peek(p, 7), peek(p, 8)
        channels, out_channels, chunks, parts = peek(p, 9), peek(p, 10), peek(p, 11), peek(p, 12)
        height, width, above, left = peek(p, 13), peek(p, 14), peek(p, 15), peek(p, 16)
        out_height, out_width, g_step, v_step, zeros = (
            peek(p, 17),
            peek(p, 18),
            peek(p, 19),
            peek(p, 20),
            peek(p, 21),
        )
        s_row, s_step, s_bytes = peek(p, 22), peek(p, 23), peek(p, 24)
        multiply, rows, columns = peek(p, 25), peek(p, 26), peek(p, 27)
        chunk, part = index % chunks, index // chunks
        k0, k1 = out_channels * chunk // chunks, out_channels * (chunk + 1) // chunks
        g = scratch + thread * scratch_bytes
        v = g + 36 * g_step
        row = group * 64
        per_image = tiles_down * tiles_across
        sums += index * s_bytes
        cells = numbers(sums, 4)
        for i in range(s_bytes // 4):
            cells[i] = 0
        groups = (tiles + group - 1) // group
        for q in range(groups * part // parts, groups * (part + 1) // parts):
            first, last = q * group, min(q * group + group, tiles)
            for t in range(first, last):
                block, tile = t // per_image, t % per_image
                top, side = tile // tiles_across * 4, tile % tiles_across * 4
                image, to = x + block * channels * height * width * 64, v + (t - first) * 64
                for _ in range(channels):
                    input_tile(image, top - above, side - left, height, width, width * 64, zeros, to, v_step)
                    image += height * width * 64
                    to += row
                image, to = (
                    dy + (block * out_channels + k0) * out_height * out_width * 64,
                    g + (t - first) * 64,
                )
                for _ in range(k0, k1):
                    gradient_tile(image, top, side, out_height, out_width, out_width * 64, zeros, to, g_step)
                    image += out_height * out_width * 64
                    to += row
            for xi in range(36):
                for c0 in range(0, channels, COLUMN_CHUNK):
                    for k in range(0, k1 - k0, rows):
                        # Tiles may overhang: what falls behind the last channel is not read again.
                        for c in range(c0, min(c0 + COLUMN_CHUNK, channels), columns):
                            ends = (g + xi * g_step + k * row, row, v + xi * v_step + c * row, row)
                            to = sums + xi * s_step + k * s_row + c * 4
                            call(multiply, (*ends, to, s_row, 1, 0, 0, last - first, 64, 64))

    return dots


@cache
def _unpack_task():
    lanes = width(SIZE)

    @task
    def unpack(index, thread, p):
        sums, scratch, scratch_bytes = peek(p, 0), peek(p, 1), peek(p, 2)
        channels, out_channels, chunks, parts = peek(p, 3), peek(p, 4), peek(p, 5), peek(p, 6)
        s_row, s_step, s_bytes = peek(p, 7), peek(p, 8), peek(p, 9)
        nine = scratch + thread * scratch_bytes
        chunk = (index * chunks + chunks - 1) // out_channels
        while out_channels * chunk // chunks > index:
            chunk -= 1
        while out_channels * (chunk + 1) // chunks <= index:
            chunk += 1
        source = sums + chunk * s_bytes + (index - out_channels * chunk // chunks) * s_row
        weights_back(source, s_step, parts, chunks * s_bytes, nine, s_row, s_row // (4 * lanes))
        weight, total = numbers(peek(p, 10) + index * channels * 36, 4), numbers(nine, 4)
        for c in range(channels):
            for t in range(9):
                weight[c * 9 + t] += total[t * s_row // 4 + c]

    return unpack


class DotPlan:
    """One geometry of d-weight."""

    def __init__(self, blocks_, channels, out_channels, in_shape, out_shape, above, left):
        rows, columns = blocks(SIZE)[1]
        down, across = -(-out_shape[0] // 4), -(-out_shape[1] // 4)
        tiles = blocks_ * down * across
        group = min(tiles, DOT_GROUP)
        groups = -(-tiles // group)
        chunks = -(-out_channels // ROW_CHUNK)
        chunk_rows = -(-(out_channels // chunks + 1) // rows) * rows
        s_row = -(-channels // LANES) * PIXEL
        s_step = chunk_rows * s_row + 64
        s_bytes = 36 * s_step
        parts = min(groups, max(2, min(8, SUM_BYTES // (s_bytes * chunks))))
        self.tasks = parts * chunks
        self.sums = aligned_zeros((self.tasks * s_bytes,), np.uint8)
        g_step, v_step = _lines(chunk_rows * group), _lines(channels * group)
        threads = scratch_threads()
        scratch_bytes = 36 * (g_step + v_step) + 4 * group * PIXEL + 64
        self.scratch = aligned_zeros((threads * scratch_bytes,), np.uint8)
        self.zeros = aligned_zeros((64,), np.uint8)
        self.params = table(
            [
                0, 0, self.sums.ctypes.data, self.scratch.ctypes.data, scratch_bytes,
                group, tiles, down, across,
                channels, out_channels, chunks, parts, *in_shape, above, left, *out_shape,
                g_step, v_step, self.zeros.ctypes.data, s_row, s_step, s_bytes,
                dot(rows, columns, SIZE), rows, columns,
            ]
        )  # fmt: skip
        self.nine = aligned_zeros((threads * 9 * s_row,), np.uint8)
        self.out_channels = out_channels
        self.unpack_params = table(
            [
                self.sums.ctypes.data, self.nine.ctypes.data, 9 * s_row, channels, out_channels, chunks,
                parts, s_row, s_step, s_bytes, 0,
            ]
        )  # fmt: skip

    def run(self, dy, x, dweight):
        """Sum the pieces, then transform back and add to ``dweight`` in a fixed order."""
        self.params[0], self.params[1] = dy.address, x.address
        launch(_dot_task(), self.tasks, self.params)
        self.unpack_params[10] = dweight.ctypes.data
        launch(_unpack_task(), self.out_channels, self.unpack_params)


@plans
def weight_plan(x_shape, out_shape, above, left):
    """The plan of a d-weight pass."""
    n, c, h, w = x_shape
    return DotPlan(-(-n // LANES), c, out_shape[1], (h, w), out_shape[2:], above, left)


def backward_weight(dy, x, dweight, padding):
    """dweight += the sum over images and tiles."""
    weight_plan(x.shape, dy.shape, padding[0][0], padding[1][0]).run(dy, x, dweight)
