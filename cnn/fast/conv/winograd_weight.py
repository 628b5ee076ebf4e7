"""The weight gradient by Winograd's transforms: 36 matrix products over tiles and images.

    dw += G^T [ sum over tiles and images of (A dy A^T) o (B^T x B) ] G

A task transforms a pair of rows of the 6x6 points for a group of tiles of all channels, so that what it has
to keep is small enough for the cache; then it multiplies, and goes on to the next pair of the same tiles.
Where the sums of all pairs are too large to be added to in turn, each pair is a task of its own. Of dy and x
one is the left operand, read number by number, the other the right one, transposed so that sixteen channels
lie side by side.
"""

from functools import cache

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.tiles import outer_sum, sum_rows, transpose_run
from cnn.fast.conv.winograd import lines, tile_tables
from cnn.fast.conv.winograd_tiles import PIXEL, SIZE, gradient_pair, input_pair, weights_back
from cnn.fast.machine.jit import launch, plans, scratch_threads, table, task, workspace
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import width
from cnn.fast.machine.tables import call, integers, pointer

CHUNK = 128  # channels of the left operand in one piece of work: those of the right are transformed for each
SUM_BYTES = 8 << 20  # of partial sums, unless fewer than two pieces were left
TILE_BYTES = 192 << 10  # of transformed tiles, which leave room in an L2 cache of 512 KiB
TOGETHER = 2 << 20  # of sums that a task may add to in turn


@cache
def _side(of_gradient):
    """Address of the transform of one operand: a pair of rows of every tile of a group."""
    @task
    def side(operand, pair, group_row, tiles, first, channels, out, channel_step, step, keep):
        s, group = integers(operand), integers(group_row)
        image, all_channels, height, width = s[0], s[1], s[2], s[3]
        above, left, clipped, zeros = s[4], s[5], s[6], s[7]
        plane, row_bytes = height * width * 64, width * 64
        start, count, per_image = group[0], group[1], group[5]
        tiles += group[4] * 32
        for t in range(count):
            block, tile = (start + t) // per_image, integers(tiles + (start + t) % per_image * 32)
            top, side = tile[0] - above, tile[1] - left
            bottom = min(height, top + tile[2]) if clipped else height
            right = min(width, side + tile[3]) if clipped else width
            at, to = image + (block * all_channels + first) * plane, out + t * 64
            if of_gradient:
                gradient_pair(
                    pair, at, plane, channels, top, side, bottom, right, row_bytes, zeros, to, channel_step,
                    step, keep,
                )  # fmt: skip
            else:
                input_pair(
                    pair, at, plane, channels, top, side, bottom, right, row_bytes, zeros, to, channel_step,
                    step, keep,
                )  # fmt: skip

    return side.address


@cache
def _dot_task():
    @task
    def dots(index, thread, params):
        p = integers(params)
        left, right = params, params + 9 * 8  # of each operand nine numbers, the last its transform
        sums, scratch, scratch_bytes = p[18], p[19], p[20]
        groups, tiles, group_count, chunks, parts = p[21], p[22], p[23], p[24], p[25]
        chunk_rows, g_step, v_step, row = p[26], p[27], p[28], p[29]
        s_row, s_step, rows = p[30], p[31], p[32]
        multiply, flip, splits = p[33], p[34], p[35]
        split, chunk, part = index % splits, index // splits % chunks, index // splits // chunks
        k = chunk * chunk_rows
        out_channels, channels = min(chunk_rows, p[1] - k), p[10]
        g = scratch + thread * scratch_bytes
        v = g + 12 * g_step
        panel = v + 12 * v_step
        sums += (part * chunks + chunk) * 36 * s_step
        first_pair, last_pair = 3 * split // splits, 3 * (split + 1) // splits
        for pair in range(first_pair, last_pair):
            for i in range(2):
                upper, lower = 2 * pair - 1 if pair else 0, 2 * pair if pair else 5
                cells = pointer(sums + 6 * (lower if i else upper) * s_step, 4)
                for j in range(6 * s_step // 4):
                    cells[j] = 0
        for q in range(group_count * part // parts, group_count * (part + 1) // parts):
            group = groups + q * 48
            count, down, across = integers(group)[1], integers(group)[2], integers(group)[3]
            for pair in range(first_pair, last_pair):
                upper, lower = 2 * pair - 1 if pair else 0, 2 * pair if pair else 5
                keep = 2 if lower < down else 1
                call(p[8], (left, pair, group, tiles, k, out_channels, g, row, g_step, keep))
                call(p[17], (right, pair, group, tiles, 0, channels, v, row, v_step, keep))
                for i in range(keep):
                    for j in range(across):
                        source, from_ = v + (6 * i + j) * v_step, g + (6 * i + j) * g_step
                        to = sums + (6 * (lower if i else upper) + j) * s_step
                        for c in range(0, channels, 16):
                            call(flip, (source + c * row, row, count, 64, panel))
                            call(multiply, (
                                panel, from_, row, to + c * 4, s_row, (out_channels + rows - 1) // rows,
                                1, 0, 0, count, 1024, 64,
                            ))  # fmt: skip

    return dots


@cache
def _unpack_task():
    lanes = width(SIZE)

    @task
    def unpack(index, thread, params):
        p = integers(params)
        sums, nine, channels, chunk_rows, chunks, parts = p[0], p[1], p[2], p[3], p[4], p[5]
        s_row, s_step, left_step, right_step = p[6], p[7], p[8], p[9]
        nine += thread * 9 * s_row
        source = sums + index // chunk_rows * 36 * s_step + index % chunk_rows * s_row
        weights_back(source, s_step, parts, chunks * 36 * s_step, nine, s_row, s_row // (4 * lanes))
        weight, total = pointer(p[10] + index * left_step * 4, 4), pointer(nine, 4)
        for c in range(channels):
            for t in range(9):
                weight[c * right_step + t] += total[t * s_row // 4 + c]

    return unpack


def dy_is_left(out_channels, channels):
    """Whether dy as the left operand fits the register tile better than x."""

    def cost(left, right):
        rows = sum_rows(SIZE, left)
        return -(-left // rows) * rows * -(-right // LANES)

    return cost(out_channels, channels) <= cost(channels, out_channels)


class DotPlan:
    """One geometry of d-weight."""

    def __init__(self, images, channels, out_channels, in_shape, out_shape, above, left):
        self.zeros = aligned_zeros((6 * PIXEL,), np.uint8)
        zeros = self.zeros.ctypes.data
        x = (channels, *in_shape, above, left, 0, zeros, _side(False))
        dy = (out_channels, *out_shape, 0, 0, 1, zeros, _side(True))
        self.dy_left = dy_is_left(out_channels, channels)
        one, other = (dy, x) if self.dy_left else (x, dy)
        rows = sum_rows(SIZE, one[0])
        chunks = -(-one[0] // CHUNK)
        chunk_rows = -(-one[0] // chunks // rows) * rows
        chunks = -(-one[0] // chunk_rows)
        right_channels = -(-other[0] // LANES) * LANES
        fitting = TILE_BYTES // (12 * (chunk_rows + right_channels) * PIXEL)
        self.groups, self.tiles = tile_tables(images, out_shape, min(16, max(4, fitting)))
        group = int(self.groups[:, 1].max())
        s_row = right_channels * SIZE
        s_step = lines(chunk_rows * s_row // PIXEL)
        # Tiles of all pairs are read while they are near; where their sums would not be, or there were hardly
        # any tasks, a pair at a time.
        splits = 1 if 36 * s_step <= TOGETHER and len(self.groups) >= 4 else 3
        most = min(8 if splits == 1 else 4, SUM_BYTES // (36 * s_step * chunks))
        parts = min(len(self.groups), max(1, most))
        self.tasks = splits * chunks * parts
        self.sums = workspace("sums", parts * chunks * 36 * s_step)
        g_step, v_step = lines(chunk_rows * group), lines(right_channels * group)
        scratch_bytes = 12 * (g_step + v_step) + group * LANES * PIXEL
        threads = scratch_threads()
        self.scratch = workspace("scratch", threads * scratch_bytes)
        self.params = table(
            [
                0, *one, 0, *other, self.sums.ctypes.data, self.scratch.ctypes.data, scratch_bytes,
                self.groups.ctypes.data, self.tiles.ctypes.data, len(self.groups), chunks, parts,
                chunk_rows, g_step, v_step, group * PIXEL, s_row, s_step, rows,
                outer_sum(rows, SIZE), transpose_run(SIZE), splits,
            ]
        )  # fmt: skip
        self.nine = aligned_zeros((threads * 9 * s_row,), np.uint8)
        steps = (channels * 9, 9) if self.dy_left else (9, channels * 9)
        self.rows = one[0]
        self.unpack_params = table(
            [
                self.sums.ctypes.data, self.nine.ctypes.data, other[0], chunk_rows, chunks, parts,
                s_row, s_step, *steps, 0,
            ]
        )  # fmt: skip

    def run(self, dy, x, dweight):
        """Sum the pieces, then transform back and add to ``dweight`` in a fixed order."""
        self.params[0], self.params[9] = (dy.address, x.address) if self.dy_left else (x.address, dy.address)
        launch(_dot_task(), self.tasks, self.params)
        self.unpack_params[10] = dweight.ctypes.data
        launch(_unpack_task(), self.rows, self.unpack_params)


@plans
def weight_plan(x_shape, out_shape, above, left):
    """The plan of a d-weight pass."""
    n, c, h, w = x_shape
    return DotPlan(-(-n // LANES), c, out_shape[1], (h, w), out_shape[2:], above, left)


def backward_weight(dy, x, dweight, padding):
    """dweight += the sum over images and tiles."""
    weight_plan(x.shape, dy.shape, padding[0][0], padding[1][0]).run(dy, x, dweight)
