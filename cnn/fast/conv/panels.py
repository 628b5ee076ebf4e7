"""The weight gradient of a direct convolution with many channels: matrix products over pixels and images.

    dweight[k, c, u, v] += sum over n, i, j of dy[n, k, i, j] * x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]

Of dy and x one is the left operand, read number by number; the other, the right one, is transposed a strip of
rows at a time into panels of sixteen channels side by side, which stay in the L1 cache while the rows of the
left operand pass. Each tap of the window is one product of the same panels, shifted.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import even_slivers, panel_choices, panel_rows
from cnn.fast.conv.microkernels import Loop
from cnn.fast.conv.routines import (
    Copy,
    PanelProducts,
    Transposition,
    copy_planes,
    panel_products,
    transpose_pixels,
)
from cnn.fast.machine.jit import address, helper, launch, scratch_threads, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.tables import Table, call_with, pointer, reader, records, size_of

STRIP_PIXELS = 16  # of dy that one strip covers at least, where the image has them
SUM_BYTES = 8 << 20  # of sums, unless fewer than two parts were left


class Rows(NamedTuple):
    """Rows of an operand: one long row where they follow each other without a gap."""

    offset: int  # bytes from row 0
    rows: int
    pixels: int  # of a row


class Strip(NamedTuple):
    """What of both operands meets."""

    left: Rows
    right: Rows


class Tap(NamedTuple):
    """A tap of the window, and what of a strip meets it."""

    right: int  # bytes in the panel
    left: int  # bytes in the copy
    a: Loop  # over the pixels; a count of 0: nothing meets the tap
    b: Loop


class Operand(NamedTuple):
    """The left or the right operand; bytes."""

    channels: int  # of a group
    plane: int
    row: int
    pixel: int
    image: int  # from one group of a block of images to the next


class Sums(NamedTuple):
    """One geometry; bytes unless said otherwise."""

    left_array: int  # address
    right_array: int  # address
    left: Operand
    right: Operand
    itemsize: int  # of a number that is multiplied; sums of bfloat16 are float32
    units: int  # strips of all blocks of images
    parts: int  # that the units are divided into
    groups: int
    strips: int  # address of Strip records
    strip_count: int  # of an image
    taps: int  # address of Tap records, those of a strip side by side
    tap_count: int
    scratch: int  # address
    scratch_bytes: int  # of one thread
    scratch_panels: int  # from the copy of the left operand to the panels of the right one
    copied_plane: int  # of the copy of the left operand
    panel: int  # from one panel to the next
    full: int  # slivers of mr rows of the left operand
    others: int  # slivers of one row less, behind them
    mr: int
    sums: int  # address: [part][group][tap][row][column]
    sums_bytes: int  # of a part of a group
    sums_tap: int
    sums_row: int
    copy: int  # address of ``copy_planes``
    transpose: int  # address of ``transpose_pixels``
    products: int  # address of ``panel_products`` for mr rows
    smaller: int  # address of that for one less


sums_of, strip_of, tap_of = reader(Sums), reader(Strip), reader(Tap)
STRIP_RECORD, TAP_RECORD = 8 * size_of(Strip), 8 * size_of(Tap)


@helper
def _copied_left(p, rows, image, target):
    """Copy the rows of the left operand that belong to a strip."""
    pixel = LANES * p.itemsize
    call_with(
        p.copy,
        Copy(
            source=p.left_array + image * p.left.image + rows.offset, target=target,
            planes=p.left.channels, source_plane=p.left.plane, target_plane=p.copied_plane, rows=rows.rows,
            source_row=p.left.row, target_row=rows.pixels * pixel, pixels=rows.pixels,
            source_pixel=p.left.pixel, target_pixel=pixel,
        ),
    )  # fmt: skip


@helper
def _transposed_right(p, rows, image, panels):
    """Fill in the panels: the last one is moved up to end with the last channel."""
    start = p.right_array + image * p.right.image + rows.offset
    for c in range(0, p.right.channels, 16):
        source = start + min(c, p.right.channels - 16) * p.right.plane
        for row in range(rows.rows):
            panel = panels + c // 16 * p.panel + row * rows.pixels * 256 * p.itemsize
            at = source + row * p.right.row
            call_with(p.transpose, Transposition(at, panel, rows.pixels, p.right.plane, p.right.pixel))


@helper
def _add_strip(p, taps, left, panels, sums):
    """sums[tap][k, c] += sum over pixels and lanes of left[k, i, j] * right[c, ...]"""
    for number in range((p.right.channels + 15) // 16):
        for t in range(p.tap_count):
            tap = tap_of(taps + t * TAP_RECORD)
            if tap.a.count:
                panel, out = panels + number * p.panel + tap.right, sums + number * 16 * max(4, p.itemsize)
                rows, out = left + tap.left, out + t * p.sums_tap
                call_with(
                    p.products,
                    PanelProducts(panel, rows, out, p.copied_plane, p.sums_row, p.full, tap.a, tap.b),
                )
                if p.others:
                    rows, out = rows + p.full * p.mr * p.copied_plane, out + p.full * p.mr * p.sums_row
                    call_with(
                        p.smaller,
                        PanelProducts(panel, rows, out, p.copied_plane, p.sums_row, p.others, tap.a, tap.b),
                    )


@cache
def _sum_task():
    @task
    def sums(index, thread, params):
        p = sums_of(params)
        group, part = index % p.groups, index // p.groups
        total = p.sums + index * p.sums_bytes
        cells = pointer(total, 8)
        for i in range(p.sums_bytes // 8):
            cells[i] = 0
        copied = p.scratch + thread * p.scratch_bytes
        panels = copied + p.scratch_panels
        for unit in range(p.units * part // p.parts, p.units * (part + 1) // p.parts):
            image, number = unit // p.strip_count * p.groups + group, unit % p.strip_count
            strip = strip_of(p.strips + number * STRIP_RECORD)
            _copied_left(p, strip.left, image, copied)
            _transposed_right(p, strip.right, image, panels)
            _add_strip(p, p.taps + number * p.tap_count * TAP_RECORD, copied, panels, total)

    return sums


class Add(NamedTuple):
    """dweight += the sum over parts; steps of the sums in bytes, of the weight in numbers."""

    sums: int  # address
    dweight: int  # address
    parts: int
    groups: int
    left_channels: int  # of a group
    right_channels: int  # of a group
    taps: int
    sums_row: int
    sums_tap: int
    sums_bytes: int  # of a part of a group
    left_step: int
    right_step: int
    group_step: int


add_of = reader(Add)


@cache
def _add_task(itemsize):
    """One channel of the left operand."""

    @task
    def add(index, thread, params):
        p = add_of(params)
        group, channel = index // p.left_channels, index % p.left_channels
        weight = pointer(p.dweight + (group * p.group_step + channel * p.left_step) * itemsize, itemsize)
        last = (p.right_channels - 1) // 16 * 16
        for t in range(p.taps):
            start = p.sums + group * p.sums_bytes + t * p.sums_tap + channel * p.sums_row
            total = pointer(start, itemsize)
            for part in range(1, p.parts):
                other = pointer(start + part * p.groups * p.sums_bytes, itemsize)
                for c in range(p.sums_row // itemsize):
                    total[c] += other[c]
            # Added once: the gradient of two passes is to be exactly the sum of both.
            for c in range(p.right_channels):
                moved = c + last + 16 - p.right_channels if c >= last else c
                weight[c * p.right_step + t] += total[moved]

    return add


def _padded(left, right, itemsize):
    mr = panel_rows(itemsize, left)
    return -(-left // mr) * mr * -(-right // LANES) * LANES if right >= LANES else np.inf


def suits(out_channels, in_channels, itemsize):
    """Whether the channels of one group fill the register block well enough."""
    cells = min(_padded(out_channels, in_channels, itemsize), _padded(in_channels, out_channels, itemsize))
    return min(out_channels, in_channels) >= 6 and cells <= 1.5 * out_channels * in_channels


def _rows(planes, first, count):
    if planes.row == planes.width * planes.pixel:
        return Rows(first * planes.row, 1, count * planes.width)
    return Rows(first * planes.row, count, planes.width)


def _tables(g, order, dy_pixel, x_pixel):
    """The Strips, and the Taps of each; the last two: bytes of a pixel in the copy or the panels.

    ``order`` puts what belongs to dy and to x in the order (left, right).
    """
    down, across = g.reaches
    height = min(g.dy.height, -(-STRIP_PIXELS // g.dy.width))
    strips, taps = [], []
    for top in range(0, g.dy.height, height):
        bottom = min(top + height, g.dy.height)
        low = min(g.x.height, max(0, top * g.stride[0] + down[0][2]))
        high = max(low, min(g.x.height, (bottom - 1) * g.stride[0] + down[-1][2] + 1))
        strips.append(Strip(*order(_rows(g.dy, top, bottom - top), _rows(g.x, low, high - low))))
        for first, last, row in down:
            first, last = max(first, top), min(last, bottom)
            for start, stop, column in across:
                dy = ((first - top) * g.dy.width + start) * dy_pixel
                x = (first * g.stride[0] + row - low) * g.x.width + start * g.stride[1] + column
                steps = order(g.dy.width * dy_pixel, g.stride[0] * g.x.width * x_pixel)[::-1]
                rows = Loop(last - first, *steps)
                pixels = Loop(stop - start, *order(dy_pixel, g.stride[1] * x_pixel)[::-1])
                # Long inner loops are the cheap ones.
                loops = (pixels, rows) if pixels.count == 1 else (rows, pixels)
                if first >= last or start >= stop:
                    loops = Loop(0, 0, 0), Loop(0, 0, 0)
                taps.append(Tap(*order(dy, x * x_pixel)[::-1], *loops))
    return strips, taps


class PanelPlan:
    """The tables and the memory of one geometry; ``run`` fills in the addresses of arrays."""

    def __init__(self, problem):
        g, itemsize, operand = problem, problem.itemsize, problem.operand
        pixel = LANES * operand
        channels = g.out_channels, g.in_channels
        self._dy_left = _padded(*channels, itemsize) <= _padded(*channels[::-1], itemsize)
        pixels = (pixel, LANES * pixel) if self._dy_left else (LANES * pixel, pixel)
        strips, taps = _tables(g, self._order, *pixels)
        self._records = records(strips), records(taps)
        left, right = self._order(*channels)
        (mr, _), full = even_slivers(left, [(rows, 1) for rows in panel_choices(itemsize)])
        others = -(-left // mr) - full
        panels, tap_count = -(-right // LANES), g.kernel[0] * g.kernel[1]
        # An odd number of cache lines: planes of a round size would compete for the same few cache sets.
        copied_plane = (max(strip.left.rows * strip.left.pixels for strip in strips) | 1) * pixel
        panel = max(strip.right.rows * strip.right.pixels for strip in strips) * LANES * pixel
        copied_bytes = left * copied_plane
        scratch_bytes = copied_bytes + panels * panel + 64
        self._scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        sums_row = panels * LANES * itemsize
        sums_tap = left * sums_row
        sums_bytes, units = tap_count * sums_tap, g.blocks * len(strips)
        parts = min(units, max(1, -(-8 // g.groups)), max(2, SUM_BYTES // (sums_bytes * g.groups)))
        self._tasks, self._rows, self._itemsize = parts * g.groups, g.groups * left, itemsize
        self._sums = aligned_zeros((self._tasks * sums_bytes,), np.uint8)
        operands = (
            Operand(count, plane.plane, plane.row, plane.pixel, count * plane.plane)
            for count, plane in zip(channels, (g.dy, g.x), strict=True)
        )
        one, other = self._order(*operands)
        self._table = Table(
            Sums(
                left_array=0, right_array=0, left=one, right=other, itemsize=operand, units=units,
                parts=parts, groups=g.groups,
                strips=self._records[0].ctypes.data, strip_count=len(strips),
                taps=self._records[1].ctypes.data, tap_count=tap_count, scratch=self._scratch.ctypes.data,
                scratch_bytes=scratch_bytes, scratch_panels=copied_bytes, copied_plane=copied_plane,
                panel=panel, full=full, others=others, mr=mr, sums=self._sums.ctypes.data,
                sums_bytes=sums_bytes,
                sums_tap=sums_tap, sums_row=sums_row, copy=copy_planes(operand),
                transpose=transpose_pixels(operand), products=panel_products(mr, operand),
                smaller=panel_products(mr - 1, operand) if others else 0,
            )
        )  # fmt: skip
        left_step, right_step = self._order(g.in_channels * tap_count, tap_count)
        self._add = Table(
            Add(
                sums=self._sums.ctypes.data, dweight=0, parts=parts, groups=g.groups, left_channels=left,
                right_channels=right, taps=tap_count, sums_row=sums_row, sums_tap=sums_tap,
                sums_bytes=sums_bytes, left_step=left_step, right_step=right_step,
                group_step=g.out_channels * g.in_channels * tap_count,
            )
        )  # fmt: skip

    def _order(self, dy, x):
        """(left, right) of what belongs to dy and to x."""
        return (dy, x) if self._dy_left else (x, dy)

    def run(self, dy, x, dweight):
        """Sum the parts, then add them to ``dweight`` in a fixed order."""
        left, right = self._order(dy.address, x.address)
        self._table.set(left_array=left, right_array=right)
        launch(_sum_task(), self._tasks, self._table.array)
        self._add.set(dweight=address(dweight))
        launch(_add_task(self._itemsize), self._rows, self._add.array)
