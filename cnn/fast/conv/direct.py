"""Direct convolution of any geometry on blocked arrays: forward and d-input (d-weight: conv_dots.py).

Both are one kernel. Each output pixel gathers products over the taps of the window that meet a
pixel inside of the other array: for forward those are x pixels, for d-input the dy pixels that x pixel went
into (with stride 2, taps of one parity: no zeros are inserted and multiplied). Which taps those are depends
on the row and the column separately and is worked out in Python (``taps``), once a geometry: a row table and
a list of column segments. Padding, stride and dilation thus never reach the compiled code.
"""

from functools import cache
from itertools import pairwise

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.pointwise import PointwisePlan
from cnn.fast.conv.pool_2x2 import max_2x2
from cnn.fast.conv.taps import Axis
from cnn.fast.conv.tiles import STORE, STREAM, copy_box, finish_streams, outer_run, prefetch
from cnn.fast.machine.jit import launch, plans, scratch_threads, table, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks, width
from cnn.fast.machine.tables import call, integers, pointer

BAND = 8  # rows that one call computes, at most
STRIP_BYTES = 64 * 1024  # what a strip of rows should touch: of 512 KiB of L2, but larger strips were slower


@cache
def _gather_task(size):
    """The compiled gather; ``tile`` is the address of ``tiles.outer_run`` for its register block."""

    @task
    def gather(index, thread, params):
        p = integers(params)
        x, w, bias, out, scratch = p[0], p[1], p[2], p[3], p[4]
        row_table, segments, tile, strip_count = integers(p[5]), p[6], p[7], p[9]
        rows, full, small_tile = p[27], p[29], p[30]
        pool, out_row = p[31], p[32]
        groups, in_channels, out_channels = p[10], p[11], p[12]
        in_plane, in_row, in_pixel, out_plane = p[13], p[14], p[15], p[16]
        scratch_plane, scratch_bytes = p[17], p[18]
        x_channel, x_row = in_plane, in_row
        w_channel, w_tap_row, w_tap, w_block = p[19], p[20], p[21], p[22]
        row_step, x_tap, channels_inside = p[23], p[24], p[25]

        strip = integers(p[8] + index % strip_count * 64)
        group = index // strip_count % groups
        block = index // strip_count // groups
        first_row, last_row, low, high = strip[0], strip[1], strip[2], strip[3]
        first_run, last_run, left, right = strip[4], strip[5], strip[6], strip[7]
        source = x + (block * groups + group) * in_channels * in_plane + low * in_row + left * in_pixel
        ahead = scratch_bytes == 0
        if scratch_bytes:
            # Planes whose size is a power of two would compete for the same few cache sets.
            x_channel, x_row = scratch_plane, (right - left) * 16 * size
            start = scratch + thread * scratch_bytes
            planes, pixels = (in_channels, in_plane, scratch_plane), (right - left, in_pixel, 16 * size)
            call(p[28], (source, start, *planes, high - low, in_row, x_row, *pixels))
            source = start
        x_tap_row = row_step * x_row
        planes = (block * groups + group) * out_channels
        if pool:
            # The strip stays with this thread; only the largest of each window leaves.
            strip_sums = p[33] + thread * p[34]
            out_plane = (last_row - first_row) * out_row
            out = strip_sums - first_row * out_row
        else:
            out += planes * out_plane
        row_blocks = (out_channels + rows - 1) // rows
        for j in range(row_blocks):
            channel = j * rows - max(0, j - full)  # behind the full blocks each has one row less
            run_tile = tile if j < full else small_tile
            weights = w + (group * row_blocks + j) * w_block
            shift = bias + (group * out_channels + channel) * size
            target = out + channel * out_plane
            y = first_row
            while y < last_row:
                at_row = integers(p[5] + 32 * y)
                # Rows whose windows meet the same taps follow each other evenly: one call for all of them.
                band, in_step = 1, at_row[5] - at_row[1] if y + 1 < last_row else 0
                while (
                    band < BAND and y + band < last_row
                    and at_row[4 * band + 1] == at_row[1] + band * in_step
                    and at_row[4 * band + 2] == at_row[2] and at_row[4 * band + 3] == at_row[3]
                ):  # fmt: skip
                    band += 1
                y_out, y_in, y_w, y_taps = at_row[0], (at_row[1] - low) * x_row, at_row[2], at_row[3]
                y += band
                if ahead and j == 0 and y < last_row:
                    # Rows that nobody copies are asked for early: no hardware foresees a window with strides.
                    old, new = 4 * (y - 1), 4 * (min(y + band, last_row) - 1)
                    old_end = row_table[old + 1] + (row_table[old + 3] - 1) * row_step
                    new_end = row_table[new + 1] + (row_table[new + 3] - 1) * row_step
                    for c in range(in_channels):
                        start = source + c * x_channel + (old_end + 1 - low) * x_row
                        prefetch(start, (new_end - old_end) * x_row // 64)
                for run in range(first_run, last_run):
                    s = integers(segments + 56 * run)
                    count, to, out_step = s[0], target + y_out + s[1], s[2]
                    at, pixel_step = source + y_in + s[3] - left * 16 * size, s[4]
                    tap_w, taps = weights + y_w + s[5], s[6]
                    shared = (at, tap_w, shift, to, count, pixel_step, out_plane, out_step, params + 26 * 8)
                    channels, down = (in_channels, x_channel, w_channel), (y_taps, x_tap_row, w_tap_row)
                    across, lines = (taps, x_tap, w_tap), (band, in_step * x_row, out_row)
                    if channels_inside:
                        call(run_tile, (*shared, *down, *across, *channels, size, *lines))
                    else:
                        call(run_tile, (*shared, *channels, *down, *across, size, *lines))
        if pool:
            oh, ow, relu = p[37], p[38], p[39]
            first = (planes * oh + first_row // 2) * ow * 16
            ends = (strip_sums, p[35] + first * size, p[36] + first)
            strip_rows = (last_row - first_row) // 2
            call(pool, (*ends, out_channels, out_plane, out_row, oh * ow * 16, strip_rows, ow, relu))
        else:
            finish_streams()

    return gather


@cache
def _pack_task(size):
    """Order weights as the gather reads them: [group][block of rows][...taps and channels...][rows]."""

    @task
    def pack(index, thread, params):
        p = integers(params)
        weight, packed = pointer(p[0], size), pointer(p[1], size)
        rows, out_channels, channels, taps = p[2], p[3], p[4], p[5]
        group_step, out_step, channel_step = p[6], p[7], p[8]
        to_channel, to_tap, full, last = p[9], p[10], p[11], p[12]
        row_blocks = (out_channels + rows - 1) // rows
        group, j = index // row_blocks, index % row_blocks
        row = min(j * rows - max(0, j - full), last)
        first = group * group_step + row * out_step
        stop = min(rows, out_channels - row)
        start = index * channels * taps * rows
        for c in range(channels):
            for t in range(taps):
                source, target = first + c * channel_step + t, start + c * to_channel + t * to_tap
                for k in range(stop):
                    packed[target + k] = weight[source + k * out_step]

    return pack


def row_block(count, outer):
    """The register block (rows, pixels) that covers ``count`` rows with the least work."""

    def cost(block):
        rows, _ = block
        return -(-count // rows) * (rows + 1)

    return min((b for b in outer if b[0] <= count), key=cost)


def even_blocks(count, outer):
    """Share ``count`` rows out evenly over as few register blocks as ``row_block`` takes.

    Returns (rows, pixels) of the block, and how many blocks have that many rows; the others have one less.
    """
    rows, pixels = row_block(count, outer)
    number = -(-count // rows)
    rows = -(-count // number)
    return (rows, pixels), count - number * (rows - 1)


def run_pixels(rows, most, runs, size):
    """Pixels that a register tile takes at once, at most ``most``: those that fit ``runs`` (lengths) best.

    The last tile of a run is moved back to end with it, so a run of ten takes as long as one of twelve where
    three fit. Twelve sums at once keep the multipliers busy.
    """
    fewest = min(most, -(-12 * width(size) // (rows * LANES)))

    def work(pixels):
        return sum(-(-run // pixels) * pixels if run >= pixels else run for run in runs)

    return min(range(most, fewest - 1, -1), key=work)


class GatherPlan:
    """Everything about one geometry that the compiled gather needs; ``run`` fills in the addresses."""

    def __init__(
        self, images, groups, in_channels, out_channels, source, out_shape, rows, columns, kernel, size,
        pooled=False,
    ):  # fmt: skip
        """images: blocks of sixteen; channels: of one group; out_shape: (h, w); rows, columns: Axis.

        ``source`` is (h, w, bytes of a plane, of a row step, of a pixel step): the input as taps count it.
        With ``pooled`` only the largest of each 2x2 window is written, and which one it was.
        """
        pixel = LANES * size
        taps = kernel[0] * kernel[1]
        _, width, in_plane, in_row, in_pixel = source
        out_row = out_shape[1] * pixel
        self.size = size
        (block_rows, pixels), full = even_blocks(out_channels, blocks(size)[0])
        runs = columns.segments()
        pixels = run_pixels(block_rows, pixels, [run[2] for run in runs], size)
        row_blocks = -(-out_channels // block_rows)
        # Long inner loops are the cheap ones.
        inside = in_channels > kernel[1]
        w_tap, w_channel = (
            (in_channels * block_rows, block_rows) if inside else (block_rows, taps * block_rows)
        )
        w_tap_row = kernel[1] * w_tap
        self.row_table = table(
            [
                (y * out_row, index, tap * w_tap_row * size, count)
                for y, (tap, index, count) in enumerate(rows.first)
            ]
        )
        copied = in_channels > 4 or in_pixel != pixel
        height = out_shape[0] // 2 * 2 if pooled else out_shape[0]  # no window reaches an odd row at the end
        strips = self._strips(
            rows, height, in_channels * width * pixel, images * groups, len(runs), width, 2 if pooled else 1
        )
        self.segments = table(
            [
                (n, at * pixel, step * pixel, index * pixel, index_step * pixel, tap * w_tap * size, count)
                for at, step, n, tap, count, index, index_step in runs
            ]
        )
        self.strips = table(strips)
        plane = (max((s[3] - s[2]) * (s[7] - s[6]) for s in strips) | 1) * pixel
        scratch_bytes = (in_channels * plane + 8191) // 4096 * 4096 - 2048 if copied else 0
        self.scratch = aligned_zeros((scratch_threads() * scratch_bytes + 64,), np.uint8)
        self.packed = aligned_zeros(
            (groups * row_blocks * in_channels * taps * block_rows * size + 64,), np.uint8
        )
        self.no_bias = aligned_zeros((groups * out_channels * size,), np.uint8)
        self.tasks = images * groups * len(strips)
        how = STORE if pooled else STREAM
        tile = outer_run(block_rows, pixels, size, how=how)
        small = outer_run(block_rows - 1, pixels, size, how=how) if full < row_blocks else 0
        sums_bytes = max(s[1] - s[0] for s in strips) * out_row * out_channels + 64 if pooled else 0
        self.sums = aligned_zeros((scratch_threads() * sums_bytes,), np.uint8)
        self.params = table(
            [
                0, self.packed.ctypes.data, 0, 0, self.scratch.ctypes.data,
                self.row_table.ctypes.data, self.segments.ctypes.data, tile,
                self.strips.ctypes.data, len(strips),
                groups, in_channels, out_channels, in_plane, in_row, in_pixel, out_shape[0] * out_row,
                plane, scratch_bytes,
                w_channel * size, rows.tap_step * w_tap_row * size, columns.tap_step * w_tap * size,
                block_rows * in_channels * taps * size,
                rows.index_step, columns.index_step * pixel, int(inside), 0, block_rows, copy_box(size),
                full, small, max_2x2(size) if pooled else 0, out_row, self.sums.ctypes.data, sums_bytes,
                0, 0, out_shape[0] // 2, out_shape[1] // 2, 0,
            ]
        )  # fmt: skip
        self.pack_params = table(
            [
                0,
                self.packed.ctypes.data,
                block_rows,
                out_channels,
                in_channels,
                taps,
                0,
                0,
                0,
                w_channel,
                w_tap,
                full,
                out_channels,
            ]
        )
        self.pack_tasks = groups * row_blocks

    @staticmethod
    def _strips(rows, height, row_bytes, others, runs, width, unit):
        """Cut the output rows so that the input of a strip stays in the L2 cache, with work for all.

        A strip has a multiple of ``unit`` rows.
        """
        pieces, units = 1, height // unit
        while pieces < units:
            step = -(-units // pieces) * unit
            low, high = rows.span(0, step)
            if (high - low) * row_bytes <= STRIP_BYTES and (pieces * others >= 16 or step <= 4):
                break
            pieces += 1
        cuts = [units * i // pieces * unit for i in range(pieces + 1)]
        return [(a, b, *rows.span(a, b), 0, runs, 0, width) for a, b in pairwise(cuts)]

    def run(self, x, weight, steps, bias, out, floor=-np.inf, argmax=None):
        """Pack the weights, then gather; ``steps``: the weight's (group, out, channel) strides in numbers.

        With ``argmax``, where the plan is a pooled one, ``out`` holds the largest of each window or 0.
        """
        pack = self.pack_params
        pack[0] = weight.ctypes.data
        pack[6:9] = steps
        launch(_pack_task(self.size), self.pack_tasks, pack)
        params = self.params
        params[0], params[3] = x.address, out.address
        params[2] = self.no_bias.ctypes.data if bias is None else bias.ctypes.data
        params[26:27].view(np.float32 if self.size == 4 else np.float64)[0] = floor
        if argmax is not None:
            params[35], params[36], params[39] = out.address, argmax.address, 1
        launch(_gather_task(self.size), self.tasks, params)


def _pointwise_plan(images, groups, channels, out_channels, source, out_shape, size):
    block = row_block(out_channels, blocks(size)[0])
    pack = _pack_task(size)
    return PointwisePlan(images, groups, channels, out_channels, source, out_shape, block, pack, size)


@plans
def forward_plan(x_shape, weight_shape, out_shape, stride, padding, dilation, groups, size, pooled=False):
    """The plan of a forward pass; ``size``: bytes of a number. ``out_shape``: before pooling."""
    n, c, h, w = x_shape
    k, _, kh, kw = weight_shape
    pixel = LANES * size
    in_row, in_pixel = w * pixel, pixel
    in_plane = h * in_row
    images, channels = -(-n // LANES), (c // groups, k // groups)
    if (kh, kw) == (1, 1) and padding == ((0, 0), (0, 0)) and channels[0] > 4 and not pooled:
        source = *out_shape, in_plane, stride[0] * in_row, stride[1] * pixel  # without the pixels passed over
        return _pointwise_plan(images, groups, *channels, source, out_shape, size)
    rows = Axis.forward(h, out_shape[0], kh, stride[0], padding[0][0], dilation[0])
    columns = Axis.forward(w, out_shape[1], kw, stride[1], padding[1][0], dilation[1])
    source = h, w, in_plane, in_row, in_pixel
    return GatherPlan(images, groups, *channels, source, out_shape, rows, columns, (kh, kw), size, pooled)


@plans
def input_plan(x_shape, weight_shape, out_shape, stride, padding, dilation, groups, size):
    """The plan of a d-input pass: dy is gathered."""
    n, c, h, w = x_shape
    k, _, kh, kw = weight_shape
    oh, ow = out_shape
    pixel = LANES * size
    images, channels = -(-n // LANES), (k // groups, c // groups)
    source = oh, ow, oh * ow * pixel, ow * pixel, pixel
    if (kh, kw) == (1, 1) and padding == ((0, 0), (0, 0)) and stride == (1, 1):
        return _pointwise_plan(images, groups, *channels, source, (h, w), size)
    rows = Axis.backward(h, oh, kh, stride[0], padding[0][0], dilation[0])
    columns = Axis.backward(w, ow, kw, stride[1], padding[1][0], dilation[1])
    return GatherPlan(images, groups, *channels, source, (h, w), rows, columns, (kh, kw), size)


def forward(x, weight, bias, out, stride, padding, dilation, groups, floor=-np.inf):
    """out = max(floor, weight * x + bias): arrays of one dtype, blocked; the weight contiguous."""
    k, c, kh, kw = weight.shape
    size = x.dtype.itemsize
    plan = forward_plan(x.shape, weight.shape, out.shape[2:], stride, padding, dilation, groups, size)
    taps = kh * kw
    plan.run(x, weight, (k // groups * c * taps, c * taps, taps), bias, out, floor)


def forward_pooled(x, weight, bias, out, argmax, out_shape, stride, padding, dilation, groups):
    """out = max(0, largest of each 2x2 window of weight * x + bias), which is ``out_shape`` large.

    ``argmax``: which cell of the window it was, 4 where none is positive, as ``pool.max_pool2d_forward``.
    """
    k, c, kh, kw = weight.shape
    size = x.dtype.itemsize
    plan = forward_plan(x.shape, weight.shape, out_shape, stride, padding, dilation, groups, size, True)
    taps = kh * kw
    plan.run(x, weight, (k // groups * c * taps, c * taps, taps), bias, out, argmax=argmax)


def backward_input(dy, weight, dx, stride, padding, dilation, groups):
    """dx = the transpose of ``forward`` applied to dy."""
    k, c, kh, kw = weight.shape
    size = dy.dtype.itemsize
    plan = input_plan(dx.shape, weight.shape, dy.shape[2:], stride, padding, dilation, groups, size)
    taps = kh * kw
    plan.run(dy, weight, (k // groups * c * taps, taps, c * taps), None, dx)
