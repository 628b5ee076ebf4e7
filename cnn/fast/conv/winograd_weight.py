"""The weight gradient by Winograd's transforms: 36 matrix products over tiles and images.

    dw += G^T [ sum over tiles and images of (A dy A^T) o (B^T x B) ] G

A task transforms a pair of rows of the 6x6 points for some tiles of all channels, so that what it has to keep
is small enough for the cache; then it multiplies, and goes on to the next pair of the same tiles. Where the
sums of all pairs are too large to be added to in turn, each pair is a task of its own. Of dy and x one is the
left operand, read number by number, the other the right one, transposed so that sixteen channels lie side by
side. The products ask for the pixels of the tiles that come next: with 16 channels, waiting for them took a
quarter of the time.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import panel_rows
from cnn.fast.conv.normalised import AS_IT_IS, Normalisation, addresses_of
from cnn.fast.conv.routines import transpose_pixels
from cnn.fast.conv.winograd import FLOAT32, Form, odd_lines, outputs_of
from cnn.fast.conv.winograd_back import Add, add_task
from cnn.fast.conv.winograd_ranges import (
    TILE_RANGE_RECORD,
    TILE_RECORD,
    TileRange,
    tile_of,
    tile_range_of,
    tile_tables,
)
from cnn.fast.conv.winograd_tiles import (
    ALL_ROWS,
    PIXEL,
    SIZE,
    Points,
    TileSource,
    tile_pair,
)
from cnn.fast.conv.winograd_weight_products import CORNER_NUMBERS, ROWS, PointProducts, point_products
from cnn.fast.machine.jit import address, helper, launch, plans, scratch_threads, task, workspace
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import vector_registers
from cnn.fast.machine.tables import Table, call_with, integers, pointer, reader

CHUNK = 128  # channels of the left operand in one task: those of the right are transformed for each
FEW_TILES = 2  # of sixteen images, up to which large sums cost more than the products
SUM_BYTES = 8 << 20  # of sums, unless fewer than two parts were left
TILE_BYTES = 192 << 10  # of transformed tiles, which leave room in an L2 cache of 512 KiB
#: Of a transformed tile, up to which all rows of points are transformed at once, by how many vector registers
#: there are: with more of them products take less time, and want more tiles at once.
WHOLE_BYTES = {16: 160 << 10, 32: 80 << 10}
TOGETHER = 2 << 20  # of sums that a task may add to in turn


class Operand(NamedTuple):
    """dy or x."""

    channels: int
    height: int  # pixels
    width: int  # pixels
    above: int  # padding
    left: int  # padding
    pixel: int  # bytes
    clipped: int  # the tile is that of the output, so pixels behind its end are not part of it
    zeros: int  # address of zeros
    transform: int  # address of the routine for TransformPair


class TransformPair(NamedTuple):
    """The transform of a pair of rows of points of some tiles; bytes."""

    array: int  # address of the operand
    operand: Operand
    normalisation: Normalisation  # of x, from its first channel on
    pair: int  # place in ``winograd_tiles.PAIRS``, or ALL_ROWS
    keep: int  # how many of these rows of points the tiles have
    tiles: int  # address of the Tile records of an image
    range: TileRange
    first: int  # channel
    channels: int
    out: Points  # of the first tile


transform_pair_of = reader(TransformPair)


@cache
def _transform(outputs, size, point_size, normalised=False):
    """The routine for TransformPair: A dy A^T of tiles of so many outputs, or B^T x B for 0."""
    to_points = tile_pair(outputs, size, point_size, normalised)
    pixel, point_pixel = LANES * size, LANES * point_size

    @task
    def transform(record):
        p = transform_pair_of(record)
        x, tiles, first = p.operand, p.range, p.first * SIZE
        n = p.normalisation
        n = Normalisation(n.mean + first, n.rstd + first, n.weight + first, n.bias + first)
        plane = x.height * x.width * pixel
        for t in range(tiles.count):
            block, number = (tiles.first + t) // tiles.per_image, (tiles.first + t) % tiles.per_image
            tile = tile_of(p.tiles + (tiles.kind + number) * TILE_RECORD)
            top, left = tile.top - x.above, tile.left - x.left
            bottom = min(x.height, top + tile.rows) if x.clipped else x.height
            right = min(x.width, left + tile.columns) if x.clipped else x.width
            image = p.array + (block * x.channels + p.first) * plane
            source = TileSource(image, plane, x.width * pixel, top, left, bottom, right, x.zeros)
            target = Points(p.out.tile + t * point_pixel, p.out.channel, p.out.point)
            to_points(p.pair, source, n, target, p.channels, p.keep)

    return transform


class Sums(NamedTuple):
    """One geometry; bytes unless said otherwise."""

    left_array: int  # address
    right_array: int  # address
    left: Operand
    right: Operand
    normalisation: Normalisation  # of x
    ranges: int  # address of TileRange records
    range_count: int
    tiles: int  # address of Tile records
    sums: int  # address: [part][chunk][point][row][column]
    scratch: int  # address
    scratch_bytes: int  # of one thread
    first: int  # channel of the left operand
    chunks: int  # of the channels of the left operand
    chunk: int  # channels of the left operand
    parts: int  # that the ranges are divided into
    splits: int  # tasks that share the three pairs of rows of points
    whole: int  # whether all rows are transformed at once
    slots: int  # points of transformed tiles at once
    left_point: int  # from one point of the transformed tiles to the next
    right_point: int
    panel_bytes: int  # of sixteen channels
    each: int  # rows of pixels of the next tiles that are asked for with a sliver
    lines: int  # of such a row
    channel: int  # from one channel of the transformed tiles to the next
    sums_row: int
    sums_point: int
    mr: int
    products: int  # address of ``point_products``
    transpose: int  # address of ``transpose_pixels``


sums_of = reader(Sums)


@helper
def _rows(pair):
    """How many rows of points a pair has, or ALL_ROWS."""
    return 6 if pair == ALL_ROWS else 2


@helper
def _row_of(pair, i):
    """Row number i of a pair: (0, 5), (1, 2), (3, 4), or of ALL_ROWS."""
    if pair == ALL_ROWS:
        return i
    return 2 * pair - 1 + i if pair else 5 * i


@helper
def _clear(p, sums):
    """sums = 0 for one point."""
    cells = pointer(sums, 4)
    for j in range(p.sums_point // 4):
        cells[j] = 0


@helper
def _transform_pair(p, tiles, pair, k, left):
    """A pair of rows of points of a range of tiles: the left operand to ``left``, the right one behind."""
    keep = tiles.down if pair == ALL_ROWS else 2 if _row_of(pair, 1) < tiles.down else 1
    count = min(p.chunk, p.left.channels - k)
    target = Points(left, p.channel, p.left_point)
    call_with(
        p.left.transform,
        TransformPair(p.left_array, p.left, p.normalisation, pair, keep, p.tiles, tiles, k, count, target),
    )  # fmt: skip
    target, count = Points(left + p.slots * p.left_point, p.channel, p.right_point), p.right.channels
    call_with(
        p.right.transform,
        TransformPair(p.right_array, p.right, p.normalisation, pair, keep, p.tiles, tiles, 0, count, target),
    )  # fmt: skip


@helper
def _foresee(p, tiles, k, corners):
    """Write a Corner for each tile and channel that comes next; return how many.

    Of x it is that of the pixels which the tiles above and before have not.
    """
    number, cells = 0, integers(corners)
    for side in range(2):
        x, array = (p.right, p.right_array) if side else (p.left, p.left_array)
        row = x.width * x.pixel
        first, last = (0, x.channels) if side else (k, min(k + p.chunk, x.channels))
        overlap = 0 if x.clipped else 2
        for t in range(tiles.count):
            block, place = (tiles.first + t) // tiles.per_image, (tiles.first + t) % tiles.per_image
            tile = tile_of(p.tiles + (tiles.kind + place) * TILE_RECORD)
            top = max(0, tile.top - x.above + overlap) if tile.top else 0
            left = max(0, tile.left - x.left + overlap) if tile.left else 0
            at = array + block * x.channels * x.height * row + top * row + left * x.pixel
            for c in range(first, last):
                cells[CORNER_NUMBERS * number] = at + c * x.height * row
                cells[CORNER_NUMBERS * number + 1] = row
                number += 1
    return number


@helper
def _add_pair(p, tiles, pair, rows, left, sums, fresh, point, ahead):
    """sums[point][k, c] += sum over tiles and lanes of left[point][k] * right[point][c] for a pair.

    ``point``: how many of this range were multiplied before; ``ahead``: rows of pixels of the next range.
    """
    right = left + p.slots * p.left_point
    panel = right + p.slots * p.right_point
    slivers = (rows + p.mr - 1) // p.mr
    due = (p.right.channels + LANES - 1) // LANES * slivers * p.each
    for i in range(_rows(pair)):
        row = _row_of(pair, i)
        for j in range(6):
            xi, total = 6 * i + j, sums + (6 * row + j) * p.sums_point
            if row >= tiles.down or j >= tiles.across:
                if fresh:
                    _clear(p, total)
                continue
            call_with(
                p.products,
                PointProducts(
                    left + xi * p.left_point, right + xi * p.right_point, panel, total, fresh * p.left.zeros,
                    p.channel, p.sums_row, slivers, p.right.channels, tiles.count, panel + p.panel_bytes,
                    (point + xi) * due, ahead, p.each, p.lines, p.transpose,
                ),
            )  # fmt: skip


@cache
def _sum_task():
    @task
    def sums(index, thread, params):
        p = sums_of(params)
        split, chunk = index % p.splits, index // p.splits % p.chunks
        part, k = index // p.splits // p.chunks, p.first + chunk * p.chunk
        if k >= p.left.channels:
            return
        left = p.scratch + thread * p.scratch_bytes
        total = p.sums + (part * p.chunks + chunk) * 36 * p.sums_point
        first, last = 3 * split // p.splits, 3 * (split + 1) // p.splits
        if p.whole:
            first, last = ALL_ROWS, ALL_ROWS + 1
        begin, end = p.range_count * part // p.parts, p.range_count * (part + 1) // p.parts
        for q in range(begin, end):
            tiles = tile_range_of(p.ranges + q * TILE_RANGE_RECORD)
            ahead = 0
            if q + 1 < end:
                following = tile_range_of(p.ranges + (q + 1) * TILE_RANGE_RECORD)
                corners = left + p.slots * (p.left_point + p.right_point) + p.panel_bytes
                ahead = ROWS * _foresee(p, following, k, corners)
            for pair in range(first, last):
                _transform_pair(p, tiles, pair, k, left)
                point = 12 * (pair - first)
                rows = min(p.chunk, p.left.channels - k)
                _add_pair(p, tiles, pair, rows, left, total, q == begin, point, ahead)

    return sums


def dy_is_left(out_channels, channels):
    """Whether dy as the left operand fits the register block better than x."""

    def cost(left, right):
        mr = panel_rows(SIZE, left)
        return -(-left // mr) * mr * -(-right // LANES)

    return cost(out_channels, channels) <= cost(channels, out_channels)


class WeightPlan:
    """The tables and the memory of one geometry; ``run`` fills in the addresses of arrays."""

    def __init__(self, x_shape, out_shape, above, left, taps, form=FLOAT32):
        window, outputs, pixel = taps * taps, outputs_of(taps), LANES * form.operand
        self._add_task = add_task(taps)
        images, channels, out_channels = -(-x_shape[0] // LANES), x_shape[1], out_shape[1]
        self._zeros = aligned_zeros((6 * PIXEL,), np.uint8)
        zeros = self._zeros.ctypes.data
        self._dy_left, operand = dy_is_left(out_channels, channels), form.operand
        of_dy = _transform(outputs, form.y_size, operand)
        of_x = _transform(0, form.x_size, operand, form.normalised)
        one, other = self._order(
            Operand(out_channels, *out_shape[2:], 0, 0, LANES * form.y_size, True, zeros, of_dy),
            Operand(channels, *x_shape[2:], above, left, LANES * form.x_size, False, zeros, of_x),
        )
        mr = panel_rows(SIZE, one.channels)
        columns = -(-other.channels // LANES) * LANES
        total = images * -(-out_shape[2] // outputs) * -(-out_shape[3] // outputs)
        large = total <= FEW_TILES and 36 * one.channels * columns * SIZE > SUM_BYTES
        chunks = -(-one.channels // (CHUNK // 4 if large else CHUNK))
        chunk = -(-one.channels // chunks // mr) * mr
        chunks = -(-one.channels // chunk)
        # All rows at once where they are near and there are tasks enough without sharing out the pairs.
        fits = 36 * (chunk + columns) * pixel <= WHOLE_BYTES[vector_registers()[1]]
        for whole in (fits, False):
            slots = 36 if whole else 12
            fitting = TILE_BYTES // (slots * (chunk + columns) * pixel)
            most = min(16, max(2 if whole else 4, fitting))
            ranges, tiles = self._records = tile_tables(images, out_shape[2:], most, 1, outputs)
            if len(ranges) >= 4:
                break
        most = int(ranges[:, TileRange._fields.index("count")].max())
        self._rounds = range(0, one.channels, 2 * chunk if large else one.channels)
        chunks = 2 if large else chunks
        sums_row = columns * SIZE
        sums_point = odd_lines(chunk * sums_row // PIXEL)
        # Tiles of all pairs are read while they are near; where their sums would not be, or there were hardly
        # any tasks, a pair at a time.
        self.splits = 1 if 36 * sums_point <= TOGETHER and len(ranges) >= 4 else 3
        parts = min(8 if self.splits == 1 else 4, SUM_BYTES // (36 * sums_point * chunks))
        parts = min(len(ranges), max(1, parts))
        self._tasks, threads = self.splits * chunks * parts, scratch_threads()
        self._sums = workspace("sums", parts * chunks * 36 * sums_point)
        left_point, right_point = (odd_lines(-(-rows * most * pixel // PIXEL)) for rows in (chunk, columns))
        # Pixels of the next tiles are asked for evenly while these are multiplied.
        panel_bytes, corners = most * LANES * pixel, most * (chunk + other.channels)
        slivers = (12 if self.splits == 3 else 36) * (columns // LANES) * (chunk // mr)
        each, lines = -(-ROWS * corners // slivers), ROWS * LANES * form.x_size // PIXEL
        scratch_bytes = slots * (left_point + right_point) + panel_bytes
        scratch_bytes += -(-corners * CORNER_NUMBERS * 8 // PIXEL) * PIXEL
        self._scratch = workspace("scratch", threads * scratch_bytes)
        self._table = Table(
            Sums(
                left_array=0, right_array=0, left=one, right=other, normalisation=AS_IT_IS,
                ranges=ranges.ctypes.data, range_count=len(ranges), tiles=tiles.ctypes.data,
                sums=self._sums.ctypes.data, scratch=self._scratch.ctypes.data, scratch_bytes=scratch_bytes,
                first=0, chunks=chunks, chunk=chunk, parts=parts, splits=self.splits, whole=whole,
                slots=slots, left_point=left_point, right_point=right_point, panel_bytes=panel_bytes,
                each=each, lines=lines, channel=most * pixel, sums_row=sums_row, sums_point=sums_point,
                mr=mr, products=point_products(mr, operand), transpose=transpose_pixels(operand),
            )
        )  # fmt: skip
        self._windows, self._rows = aligned_zeros((threads * window * sums_row,), np.uint8), one.channels
        self._left_step, right_step = self._order(channels * window, window)
        self._add = Table(
            Add(
                sums=self._sums.ctypes.data, dweight=0, scratch=self._windows.ctypes.data,
                window=window, channels=other.channels, chunk=chunk, chunks=chunks, parts=parts,
                sums_row=sums_row, sums_point=sums_point, left_step=self._left_step, right_step=right_step,
            )
        )  # fmt: skip

    def _order(self, dy, x):
        """(left, right) of what belongs to dy and to x."""
        return (dy, x) if self._dy_left else (x, dy)

    def run(self, dy, x, dweight, normalisation=()):
        """Sum the parts, then transform back and add to ``dweight`` in a fixed order.

        Large sums of few tiles are made and transformed back some channels at a time, while they are near.
        """
        left, right = self._order(dy.address, x.address)
        start = address(dweight)
        self._table.set(normalisation=addresses_of(normalisation))
        for first in self._rounds:
            self._table.set(left_array=left, right_array=right, first=first)
            launch(_sum_task(), self._tasks, self._table.array)
            self._add.set(dweight=start + first * self._left_step * SIZE)
            launch(self._add_task, min(self._rounds.step, self._rows - first), self._add.array)


@plans
def weight_plan(x_shape, out_shape, above, left, taps, form=FLOAT32):
    """The plan of a d-weight pass; ``form.y_size`` is that of dy."""
    return WeightPlan(x_shape, out_shape, above, left, taps, form)


def backward_weight(dy, x, dweight, padding, pairs=False, normalisation=()):
    """dweight += the sum over images and tiles; ``pairs``: products in bfloat16.

    ``normalisation``: as in ``winograd.forward``.
    """
    ends, form = (padding[0][0], padding[1][0]), Form(x.itemsize, dy.itemsize, pairs, bool(normalisation))
    plan = weight_plan(x.shape, dy.shape, *ends, dweight.shape[2], form)
    plan.run(dy, x, dweight, normalisation)
