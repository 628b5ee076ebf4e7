"""Winograd convolution F(4x4, 3x3): 36 multiplications where the direct form needs 144.

A tile of 4x4 outputs y depends on 6x6 inputs x. With the constant matrices B, G, A of Lavin and Gray

    y  = A^T [ sum over c of (G w G^T) o (B^T x B) ] A                     forward
    dw = G^T [ sum over tiles and images of (A dy A^T) o (B^T x B) ] G     d-weight

where o multiplies numbers of equal position: 36 independent matrix products over channels, done by the same
register tiles as the direct form. d-input is forward with w turned by 180 degrees, d-weight is in
``conv_winograd_weight``. Tiles are taken in groups whose transforms stay near the cache. Pixels outside of
the image are read from a line of zeros, those of the result not stored: edges need no copy of the code.
Planes of 7 or 15 are cut into tiles of 4 and 3 outputs. The transforms lose about three bits: float32
only, relative error below 2e-5.

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from functools import cache
from itertools import pairwise

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.tiles import finish_streams, product
from cnn.fast.conv.winograd_tiles import (
    PIXEL,
    SIZE,
    input_tile,
    output_tile,
    weights_forth,
)
from cnn.fast.machine.jit import launch, plans, scratch_threads, table, task, workspace
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks, width
from cnn.fast.machine.tables import call, integers, pointer

# --- Weights: (out, in, 3, 3) to U[36][block of rows][channel][rows] ------------------------------


@cache
def _pack_task():
    lanes = width(SIZE)

    @task
    def pack(index, thread, params):
        p = integers(params)
        weight, u, scratch, scratch_bytes = p[0], p[1], p[2], p[3]
        rows, out_channels, channels = p[4], p[5], p[6]
        out_step, channel_step, turned, block_bytes, u_step = p[7], p[8], p[9], p[10], p[11]
        source = pointer(weight + index * rows * out_step * 4, 4)
        inside = min(rows, out_channels - index * rows)
        nine = pointer(scratch + thread * scratch_bytes, 4)
        count = (channels * rows + lanes - 1) // lanes
        for c in range(channels):
            for k in range(rows):
                at = c * channel_step + k * out_step
                for t in range(9):
                    value = source[at + (8 - t if turned else t)] if k < inside else np.float32(0)
                    nine[t * count * lanes + c * rows + k] = value
        weights_forth(
            scratch + thread * scratch_bytes, count * lanes * 4, u + index * block_bytes, u_step, count
        )

    return pack


# --- Tiles ----------------------------------------------------------------------------------------


def _axis_tiles(size):
    """Cut an axis into tiles of 4 and, where that saves points, 3 outputs: [(start, outputs, points)].

    A tile of three outputs leaves out the sixth point, which plays a part in the fourth output only.
    """
    count = -(-size // 4)
    narrow = min(count, 4 * count - size)
    sizes = [4] * (count - narrow) + [3] * narrow
    starts = [sum(sizes[:i]) for i in range(count)]
    return [(start, min(n, size - start), n + 2) for start, n in zip(starts, sizes, strict=True)]


def tile_tables(images, out_size, group, unit=1):
    """Groups of up to ``group`` tiles with equal points, and the tiles of one image that they number.

    All groups of a kind but one are whole multiples of ``unit`` tiles, which ``group`` is as well.

    Returns (groups, tiles): rows (first, count, rows of points, columns of points, index of the kind's first
    tile in ``tiles``, tiles of the kind in an image) and (top, left, rows, columns). Kinds take turns, so
    that threads which share the groups evenly share the work.
    """
    kinds = {}
    for top, rows, down in _axis_tiles(out_size[0]):
        for left, columns, across in _axis_tiles(out_size[1]):
            kinds.setdefault((down, across), []).append((top, left, rows, columns))
    groups, tiles = [], []
    for number, ((down, across), members) in enumerate(kinds.items()):
        total = images * len(members)
        units = -(-total // unit)
        cuts = -(-units * unit // group)
        ends = [min(total, units * i // cuts * unit) for i in range(cuts + 1)]
        if number % 2:  # the small group first: at the end of all kinds they would be the last thread's
            ends = [total - end for end in reversed(ends)]
        groups += [
            ((first + last) / total, (first, last - first, down, across, len(tiles), len(members)))
            for first, last in pairwise(ends)
        ]
        tiles += members
    groups = [row for _, row in sorted(groups)]
    return table(groups), table(tiles)


# --- Forward and d-input --------------------------------------------------------------------------


@cache
def _forward_task():
    @task
    def forward(index, thread, params):
        p = integers(params)
        x, u, bias, y, scratch, scratch_bytes = p[0], p[1], p[2], p[3], p[4], p[5]
        group, tiles = integers(p[6] + index * 48), p[7]
        channels, out_channels, chunk = p[8], p[9], p[10]
        height, width, above, left = p[11], p[12], p[13], p[14]
        out_height, out_width = p[15], p[16]
        u_block, u_step, v_step, m_step, zeros = p[17], p[18], p[19], p[20], p[21]
        lowest = pointer(params + 22 * 8, 4)[0]
        multiply, rows = p[23], p[24]
        first, count, down, across = group[0], group[1], group[2], group[3]
        tiles, per_image = tiles + group[4] * 32, group[5]
        v = scratch + thread * scratch_bytes
        m = v + 36 * v_step
        in_plane, out_plane = height * width * 64, out_height * out_width * 64
        for t in range(count):
            block, tile = (first + t) // per_image, integers(tiles + (first + t) % per_image * 32)
            input_tile(
                0, x + block * channels * in_plane, in_plane, channels,
                tile[0] - above, tile[1] - left, height, width, width * 64, zeros,
                v + t * channels * 64, 64, v_step, down,
            )  # fmt: skip
        for k in range(0, out_channels, chunk):
            size = min(chunk, out_channels - k)
            for i in range(down):
                for j in range(across):
                    xi = 6 * i + j
                    weights = u + xi * u_step + k // rows * u_block
                    call(multiply, (
                        v + xi * v_step, weights, zeros, m + xi * m_step, params + 25 * 8, count,
                        (size + rows - 1) // rows, chunk, channels, channels * 64, u_block, 64, chunk * 64,
                    ))  # fmt: skip
            for t in range(count):
                block, tile = (first + t) // per_image, integers(tiles + (first + t) % per_image * 32)
                corner = (tile[0] * out_width + tile[1]) * 64
                output_tile(
                    m + t * chunk * 64, m_step, bias + k * 4, lowest,
                    y + (block * out_channels + k) * out_plane + corner, out_plane, size,
                    tile[2], tile[3], across, out_width * 64,
                )  # fmt: skip
        finish_streams()

    return forward


def lines(count):
    """Bytes of ``count`` pixels, an odd number of cache lines: 36 streams of a round size would collide."""
    return (count | 1) * PIXEL


CHUNK = 64  # output channels whose products wait in the L2 cache to be transformed back


class ForwardPlan:
    """One geometry of forward or d-input."""

    def __init__(self, images, channels, out_channels, in_shape, out_shape, above, left):
        rows, pixels = next(b for b in blocks(SIZE)[0] if b[0] <= out_channels)
        row_blocks = -(-out_channels // rows)
        chunk = -(-row_blocks // max(1, round(out_channels / CHUNK))) * rows
        self.groups, self.tiles = tile_tables(images, out_shape, tile_group(channels, pixels), pixels)
        self.tasks = len(self.groups)
        group = int(self.groups[:, 1].max())
        v_step, m_step = lines(channels * group), lines(chunk * group)
        scratch_bytes = 36 * (v_step + m_step)
        threads = scratch_threads()
        self.scratch = workspace("scratch", threads * scratch_bytes)
        block_bytes = -(-channels * rows // LANES) * PIXEL
        u_step = lines(row_blocks * block_bytes // PIXEL)
        self.u = workspace("weights", 36 * u_step)
        self.zeros = aligned_zeros((max((out_channels + rows) * SIZE, 6 * PIXEL),), np.uint8)
        self.params = table(
            [
                0, self.u.ctypes.data, 0, 0, self.scratch.ctypes.data, scratch_bytes,
                self.groups.ctypes.data, self.tiles.ctypes.data, channels, out_channels, chunk, *in_shape,
                above, left, *out_shape, block_bytes, u_step, v_step, m_step, self.zeros.ctypes.data, 0,
                product(rows, pixels, SIZE), rows, 0,
            ]
        )  # fmt: skip
        self.params[25:26].view(np.float32)[0] = -np.inf
        nine_bytes = 9 * (block_bytes + PIXEL)
        self.nine = aligned_zeros((threads * nine_bytes,), np.uint8)
        self.pack_tasks = row_blocks
        self.pack_params = table(
            [
                0, self.u.ctypes.data, self.nine.ctypes.data, nine_bytes, rows, out_channels, channels, 0, 0,
                0, block_bytes, u_step,
            ]
        )  # fmt: skip

    def run(self, x, weight, out_step, channel_step, turned, bias, out, floor=-np.inf):
        """Transform the weights (``turned``: by 180 degrees first), then all tiles."""
        pack, params = self.pack_params, self.params
        pack[0] = weight.ctypes.data
        pack[7:10] = out_step, channel_step, turned
        launch(_pack_task(), self.pack_tasks, pack)
        params[0], params[3] = x.address, out.address
        params[2] = self.zeros.ctypes.data if bias is None else bias.ctypes.data
        params[22:23].view(np.float32)[0] = floor
        launch(_forward_task(), self.tasks, params)


def tile_group(channels, pixels):
    """Tiles whose transforms are multiplied together: more reuse of weights, fewer stay in the L2 cache.

    A multiple of ``pixels``, which the register tile takes at once: where that is three, four take as long as
    six.
    """
    return -(-(4 if channels <= 96 else 2) // pixels) * pixels


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


