"""The weight gradient of a direct convolution with many channels: matrix products over pixels and images.

    dweight[k, c, u, v] += sum over n, i, j of dy[n, k, i, j] * x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]

Of dy and x one is the left operand, read number by number; the other, the right one, is transposed a strip of
rows at a time into panels of sixteen channels side by side, which stay in the L1 cache while the rows of the
left operand pass. Each tap of the window is one product of the same panels, shifted.
"""

from functools import cache

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.taps import forward_taps
from cnn.fast.conv.tiles import copy_box, outer_sum, sum_rows, transpose_run
from cnn.fast.machine.jit import launch, scratch_threads, table, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.tables import call, integers, pointer

STRIP_PIXELS = 16  # of dy that one strip covers at least, where the image has them
SUM_BYTES = 8 << 20  # of partial sums, unless fewer than two pieces were left


@cache
def _sum_task(size):
    @task
    def sums(index, thread, params):
        p = integers(params)
        left, right, total = p[0], p[1], p[2]
        scratch, scratch_bytes = p[3], p[4]
        units, parts, groups, strips, strip_table = p[5], p[6], p[7], p[8], p[9]
        taps, tap_table, left_channels, left_plane, left_row, left_pixel, left_image = (
            p[10], p[11], p[12], p[13], p[14], p[15], p[16]
        )  # fmt: skip
        right_channels, right_plane, right_row, right_pixel, right_image = p[17], p[18], p[19], p[20], p[21]
        copied_plane, panel_bytes, row_blocks, s_row, s_tap, s_bytes = (
            p[22], p[23], p[24], p[25], p[26], p[27]
        )  # fmt: skip
        copy, flip, multiply = p[28], p[29], p[30]
        pixel = 16 * size
        group, part = index % groups, index // groups
        total += index * s_bytes
        cells = pointer(total, size)
        for i in range(s_bytes // size):
            cells[i] = 0
        copied = scratch + thread * scratch_bytes
        panels = copied + p[31]
        for unit in range(units * part // parts, units * (part + 1) // parts):
            image, strip = unit // strips * groups + group, unit % strips
            s = integers(strip_table + strip * 48)
            count = s[2]
            ends = (left + image * left_image + s[0], copied, left_channels, left_plane, copied_plane)
            call(copy, (*ends, s[1], left_row, count * pixel, count, left_pixel, pixel))
            start, rows, count = right + image * right_image + s[3], s[4], s[5]
            for b in range(0, right_channels, 16):
                # The last block is moved up to end with the last channel: it has sums of its own.
                at = start + min(b, right_channels - 16) * right_plane
                panel = panels + b // 16 * panel_bytes
                for y in range(rows):
                    to = panel + y * count * 16 * pixel
                    call(flip, (at + y * right_row, right_plane, count, right_pixel, to))
            for b in range(0, right_channels, 16):
                panel, out = panels + b // 16 * panel_bytes, total + b * size
                for tap in range(taps):
                    t = integers(tap_table + (strip * taps + tap) * 64)
                    if t[2]:
                        ends = (panel + t[0], copied + t[1], copied_plane, out, s_row, row_blocks)
                        outer = (t[2], t[3], t[4])
                        call(multiply, (*ends, *outer, t[5], t[6], t[7]))
                    out += s_tap

    return sums


@cache
def _add_task(size):
    """dweight += the sum over parts, for one channel of the left operand."""

    @task
    def add(index, thread, params):
        p = integers(params)
        sums, parts, groups, left_channels, right_channels, taps = p[0], p[1], p[2], p[3], p[4], p[5]
        s_row, s_tap, s_bytes, left_step, right_step, group_step = p[6], p[7], p[8], p[9], p[10], p[11]
        group, channel = index // left_channels, index % left_channels
        weight = pointer(p[12] + (group * group_step + channel * left_step) * size, size)
        last = (right_channels - 1) // 16 * 16
        for t in range(taps):
            start = sums + group * s_bytes + t * s_tap + channel * s_row
            total = pointer(start, size)
            for part in range(1, parts):
                other = pointer(start + part * groups * s_bytes, size)
                for c in range(s_row // size):
                    total[c] += other[c]
            # Added once: the gradient of two passes is to be exactly the sum of both.
            for c in range(right_channels):
                moved = c + last + 16 - right_channels if c >= last else c
                weight[c * right_step + t] += total[moved]

    return add


def _padded(left, right, size):
    rows = sum_rows(size, left)
    return -(-left // rows) * rows * -(-right // LANES) * LANES if right >= LANES else np.inf


def suits(out_channels, in_channels, size):
    """Whether the channels of one group fill the register tile well enough."""
    cells = min(_padded(out_channels, in_channels, size), _padded(in_channels, out_channels, size))
    return min(out_channels, in_channels) >= 6 and cells <= 1.5 * out_channels * in_channels


class PanelPlan:
    """Everything about one geometry that the compiled sums need; ``run`` fills in the addresses."""

    def __init__(self, images, groups, channels, source, dy_shape, kernel, stride, before, dilation, size):
        """images: blocks of sixteen; channels: (out, in) of one group; the last but one: (down, across).

        ``source`` is (h, w, bytes of a plane, of a row step, of a pixel step): the input as taps count it.
        """
        self.size, pixel = size, LANES * size
        out_height, out_width = dy_shape
        height, width, *x_steps = source
        dy_steps = out_height * out_width * pixel, out_width * pixel, pixel
        self.dy_left = _padded(*channels, size) <= _padded(*channels[::-1], size)
        left, right = channels if self.dy_left else channels[::-1]
        dy_pixel, x_pixel = (pixel, LANES * pixel) if self.dy_left else (LANES * pixel, pixel)

        def order(dy_value, x_value):
            return (dy_value, x_value) if self.dy_left else (x_value, dy_value)

        def lines(first, count, row_width, steps):
            """(offset, rows, pixels of a row) of some rows: one long row where they follow each other."""
            whole = steps[1] == row_width * steps[2]
            return (first * steps[1], 1, count * row_width) if whole else (first * steps[1], count, row_width)

        def taps_of(axis):
            """For each tap: (first output inside, one past the last, input index of output 0)."""
            size_, window = source[axis], (kernel[axis], stride[axis], before[axis], dilation[axis])
            met = forward_taps(size_, dy_shape[axis], *window)
            for u in range(kernel[axis]):
                inside = [i for i, pairs in enumerate(met) if any(tap == u for tap, _ in pairs)]
                first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
                yield first, last, u * dilation[axis] - before[axis]

        down, across = list(taps_of(0)), list(taps_of(1))
        strip = min(out_height, -(-STRIP_PIXELS // out_width))
        strips, taps = [], []
        for top in range(0, out_height, strip):
            bottom = min(top + strip, out_height)
            low = min(height, max(0, top * stride[0] + down[0][2]))
            high = max(low, min(height, (bottom - 1) * stride[0] + down[-1][2] + 1))
            boxes = lines(top, bottom - top, out_width, dy_steps), lines(low, high - low, width, x_steps)
            strips.append([n for box in order(*boxes) for n in box])
            for first, last, row in down:
                first, last = max(first, top), min(last, bottom)
                for start, stop, column in across:
                    dy_at = ((first - top) * out_width + start) * dy_pixel
                    x_at = (first * stride[0] + row - low) * width + start * stride[1] + column
                    steps = order(out_width * dy_pixel, stride[0] * width * x_pixel)[::-1]
                    rows = max(0, last - first) if stop > start else 0, *steps
                    pixels = stop - start, *order(dy_pixel, stride[1] * x_pixel)[::-1]
                    # Long inner loops are the cheap ones.
                    loops = (*pixels, *rows) if pixels[0] == 1 else (*rows, *pixels)
                    loops = loops if rows[0] else (0,) * 6
                    taps.append((*order(dy_at, x_at * x_pixel)[::-1], *loops))
        self.strips, self.taps = table(strips), table(taps)
        left_pixels, right_pixels = (int((self.strips[:, i] * self.strips[:, i + 1]).max()) for i in (1, 4))
        rows, blocks = sum_rows(size, left), -(-right // LANES)
        row_blocks = -(-left // rows)
        # An odd number of cache lines: planes of a round size would compete for the same few cache sets.
        copied_plane = (left_pixels | 1) * pixel
        panel_bytes = right_pixels * LANES * pixel
        copied_bytes = row_blocks * rows * copied_plane
        scratch_bytes = copied_bytes + blocks * panel_bytes + 64
        self.scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        tap_count = kernel[0] * kernel[1]
        s_row = blocks * pixel
        s_tap = row_blocks * rows * s_row
        s_bytes = tap_count * s_tap
        units = images * len(strips)
        parts = min(units, max(1, -(-8 // groups)), max(2, SUM_BYTES // (s_bytes * groups)))
        self.tasks = parts * groups
        self.sums = aligned_zeros((self.tasks * s_bytes,), np.uint8)
        dy_side = channels[0], *dy_steps, channels[0] * dy_steps[0]
        x_side = channels[1], *x_steps, channels[1] * x_steps[0]
        one, other = order(dy_side, x_side)
        self.params = table(
            [
                0, 0, self.sums.ctypes.data, self.scratch.ctypes.data, scratch_bytes,
                units, parts, groups, len(strips), self.strips.ctypes.data, tap_count, self.taps.ctypes.data,
                *one, *other, copied_plane, panel_bytes, row_blocks, s_row, s_tap, s_bytes,
                copy_box(size), transpose_run(size), outer_sum(rows, size), copied_bytes,
            ]
        )  # fmt: skip
        steps = order(channels[1] * tap_count, tap_count)
        self.rows = groups * left
        self.add_params = table(
            [
                self.sums.ctypes.data, parts, groups, left, right, tap_count, s_row, s_tap, s_bytes, *steps,
                channels[0] * channels[1] * tap_count, 0,
            ]
        )  # fmt: skip

    def run(self, dy, x, dweight):
        """Sum the pieces, then add them to ``dweight`` in a fixed order."""
        self.params[:2] = (dy.address, x.address) if self.dy_left else (x.address, dy.address)
        launch(_sum_task(self.size), self.tasks, self.params)
        self.add_params[12] = dweight.ctypes.data
        launch(_add_task(self.size), self.rows, self.add_params)
