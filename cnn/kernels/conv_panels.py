"""The weight gradient of a direct convolution with many channels: matrix products over pixels and images.

    dweight[k, c, u, v] += sum over n, i, j of dy[n, k, i, j] * x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]

Of dy and x one is the left operand, read number by number; the other, the right one, is transposed a strip of
rows at a time into panels of sixteen channels side by side, which stay in the L1 cache while the rows of the
left operand pass. Each tap of the window is one product of the same panels, shifted.
"""

from functools import cache

import numpy as np

from cnn.blocked import LANES, aligned_zeros
from cnn.kernels.conv_direct import forward_taps
from cnn.kernels.jit import launch, scratch_threads, table, task
from cnn.kernels.simd import call, numbers, peek
from cnn.kernels.tiles import copy_box, outer_sum, sum_rows, transpose_run

STRIP_PIXELS = 16  # of dy that one strip covers at least, where the image has them
SUM_BYTES = 8 << 20  # of partial sums, unless fewer than two pieces were left


@cache
def _sum_task(size):
    @task
    def sums(index, thread, p):
        dy, x, total, scratch, scratch_bytes = peek(p, 0), peek(p, 1), peek(p, 2), peek(p, 3), peek(p, 4)
        units, parts, groups, strips, strip = peek(p, 5), peek(p, 6), peek(p, 7), peek(p, 8), peek(p, 9)
        height, width, in_height, in_width = peek(p, 10), peek(p, 11), peek(p, 12), peek(p, 13)
        dy_channels, x_channels, in_plane, in_row, in_pixel = (
            peek(p, 14), peek(p, 15), peek(p, 16), peek(p, 17), peek(p, 18)
        )  # fmt: skip
        tap_rows, rows_of_taps, tap_columns, columns_of_taps = (
            peek(p, 19), peek(p, 20), peek(p, 21), peek(p, 22)
        )  # fmt: skip
        down, across, dy_left, left_plane, panel_block = (
            peek(p, 23), peek(p, 24), peek(p, 25), peek(p, 26), peek(p, 27)
        )  # fmt: skip
        row_blocks, s_row, s_tap, s_bytes = peek(p, 28), peek(p, 29), peek(p, 30), peek(p, 31)
        copy, flip, multiply, panels_at = peek(p, 32), peek(p, 33), peek(p, 34), peek(p, 35)
        pixel = 16 * size
        group, part = index % groups, index // groups
        total += index * s_bytes
        cells = numbers(total, size)
        for i in range(s_bytes // size):
            cells[i] = 0
        left = scratch + thread * scratch_bytes
        panels = left + panels_at
        right_channels = x_channels if dy_left else dy_channels
        # bytes of a pixel of dy and x where they are copied to
        dy_pixel, x_pixel = (pixel, 16 * pixel) if dy_left else (16 * pixel, pixel)
        for unit in range(units * part // parts, units * (part + 1) // parts):
            block, top = unit // strips, unit % strips * strip
            bottom = min(top + strip, height)
            low = min(in_height, max(0, top * down + peek(tap_rows, 2)))
            high = min(in_height, (bottom - 1) * down + peek(tap_rows, 3 * rows_of_taps - 1) + 1)
            dy_plane = height * width * pixel
            dy_from = dy + (block * groups + group) * dy_channels * dy_plane + top * width * pixel
            x_from = x + (block * groups + group) * x_channels * in_plane + low * in_row
            dy_box = (dy_plane, bottom - top, width * pixel, width, pixel)
            x_box = (in_plane, high - low, in_row, in_width, in_pixel)
            if dy_left:
                source, channels, box, right, right_box = dy_from, dy_channels, dy_box, x_from, x_box
            else:
                source, channels, box, right, right_box = x_from, x_channels, x_box, dy_from, dy_box
            plane, rows, row, count, step = box
            if row == count * step:
                rows, count = 1, rows * count
            box = (channels, plane, left_plane, rows, row, count * pixel, count, step, pixel)
            call(copy, (source, left, *box))
            plane, rows, row, count, step = right_box
            if row == count * step:
                rows, count = 1, rows * count
            for b in range(0, right_channels, 16):
                # The last block is moved up to end with the last channel: it has sums of its own.
                at = right + min(b, right_channels - 16) * plane
                to = panels + b // 16 * panel_block
                for y in range(rows):
                    call(flip, (at + y * row, plane, count, step, to + y * count * 16 * pixel))
            dy_row, x_row = width * dy_pixel, in_width * x_pixel
            for b in range(0, right_channels, 16):
                panel = panels + b // 16 * panel_block
                out = total + b * size
                for u in range(rows_of_taps):
                    first, last = max(top, peek(tap_rows, 3 * u)), min(bottom, peek(tap_rows, 3 * u + 1))
                    for v in range(columns_of_taps):
                        start, stop = peek(tap_columns, 3 * v), peek(tap_columns, 3 * v + 1)
                        if first < last and start < stop:
                            dy_at = (first - top) * dy_row + start * dy_pixel
                            x_at = (first * down + peek(tap_rows, 3 * u + 2) - low) * x_row
                            x_at += (start * across + peek(tap_columns, 3 * v + 2)) * x_pixel
                            dy_steps, x_steps = (dy_row, dy_pixel), (down * x_row, across * x_pixel)
                            if dy_left:
                                a, b_, g, s = panel + x_at, left + dy_at, dy_steps, x_steps
                            else:
                                a, b_, g, s = panel + dy_at, left + x_at, x_steps, dy_steps
                            ends = (a, b_, left_plane, out, s_row, row_blocks)
                            if stop - start == 1:
                                call(multiply, (*ends, 1, 0, 0, last - first, s[0], g[0]))
                            else:
                                call(multiply, (*ends, last - first, s[0], g[0], stop - start, s[1], g[1]))
                        out += s_tap

    return sums


@cache
def _add_task(size):
    """dweight += the sum over parts, for one channel of the left operand."""

    @task
    def add(index, thread, p):
        sums, parts, groups, left_channels, right_channels, taps = (
            peek(p, 0), peek(p, 1), peek(p, 2), peek(p, 3), peek(p, 4), peek(p, 5)
        )  # fmt: skip
        s_row, s_tap, s_bytes, left_step, right_step, group_step = (
            peek(p, 6), peek(p, 7), peek(p, 8), peek(p, 9), peek(p, 10), peek(p, 11)
        )  # fmt: skip
        group, channel = index // left_channels, index % left_channels
        weight = numbers(peek(p, 12) + (group * group_step + channel * left_step) * size, size)
        last = (right_channels - 1) // 16 * 16
        for t in range(taps):
            start = sums + group * s_bytes + t * s_tap + channel * s_row
            total = numbers(start, size)
            for part in range(1, parts):
                other = numbers(start + part * groups * s_bytes, size)
                for c in range(s_row // size):
                    total[c] += other[c]
            # Added once: the gradient of two passes is to be exactly the sum of both.
            for c in range(last):
                weight[c * right_step + t] += total[c]
            for c in range(last, right_channels):
                weight[c * right_step + t] += total[c + last + 16 - right_channels]

    return add


def _padded(left, right, size):
    rows = sum_rows(size)
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
        height, width, in_plane, in_row, in_pixel = source
        spans = []
        for axis in (0, 1):
            geometry = kernel[axis], stride[axis], before[axis], dilation[axis]
            met = forward_taps(source[axis], dy_shape[axis], *geometry)
            span = []
            for u in range(kernel[axis]):
                inside = [i for i, pairs in enumerate(met) if any(tap == u for tap, _ in pairs)]
                first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
                span.append((first, last, u * dilation[axis] - before[axis]))
            spans.append(span)
        self.tap_rows, self.tap_columns = table(spans[0]), table(spans[1])
        strip = min(dy_shape[0], -(-STRIP_PIXELS // dy_shape[1]))
        strips = -(-dy_shape[0] // strip)
        in_rows = min((strip - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1, height)
        dy_pixels, x_pixels = strip * dy_shape[1], in_rows * width
        self.dy_left = _padded(*channels, size) <= _padded(*channels[::-1], size)
        left, right = channels if self.dy_left else channels[::-1]
        left_pixels, right_pixels = (dy_pixels, x_pixels) if self.dy_left else (x_pixels, dy_pixels)
        rows, blocks = sum_rows(size), -(-right // LANES)
        row_blocks = -(-left // rows)
        # An odd number of cache lines: planes of a round size would compete for the same few cache sets.
        left_plane = (left_pixels | 1) * pixel
        panel_block = right_pixels * LANES * pixel
        left_bytes = row_blocks * rows * left_plane
        scratch_bytes = left_bytes + blocks * panel_block + 64
        self.scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        taps = kernel[0] * kernel[1]
        s_row = blocks * pixel
        s_tap = row_blocks * rows * s_row
        s_bytes = taps * s_tap
        parts = min(images * strips, max(1, -(-8 // groups)), max(2, SUM_BYTES // (s_bytes * groups)))
        self.tasks = parts * groups
        self.sums = aligned_zeros((self.tasks * s_bytes,), np.uint8)
        self.params = table(
            [
                0, 0, self.sums.ctypes.data, self.scratch.ctypes.data, scratch_bytes,
                images * strips, parts, groups, strips, strip, *dy_shape, height, width, *channels,
                in_plane, in_row, in_pixel, self.tap_rows.ctypes.data, kernel[0],
                self.tap_columns.ctypes.data, kernel[1], *stride, int(self.dy_left), left_plane, panel_block,
                row_blocks, s_row, s_tap, s_bytes, copy_box(size), transpose_run(size), outer_sum(size),
                left_bytes,
            ]
        )  # fmt: skip
        steps = (channels[1] * taps, taps) if self.dy_left else (taps, channels[1] * taps)
        self.rows = groups * left
        self.add_params = table(
            [
                self.sums.ctypes.data, parts, groups, left, right, taps, s_row, s_tap, s_bytes, *steps,
                channels[0] * channels[1] * taps, 0,
            ]
        )  # fmt: skip

    def run(self, dy, x, dweight):
        """Sum the pieces, then add them to ``dweight`` in a fixed order."""
        self.params[0], self.params[1] = dy.address, x.address
        launch(_sum_task(self.size), self.tasks, self.params)
        self.add_params[12] = dweight.ctypes.data
        launch(_add_task(self.size), self.rows, self.add_params)
