"""The transforms of Winograd's F(4x4, 3x3), written on vectors, from memory to memory.

Each one-dimensional transform of ``winograd_matrices.py``, applied to columns and then to rows of a tile,
becomes the two-dimensional one. ``winograd.py`` says which is used for what. Images and transformed tiles are
float32, or bfloat16: sixteen numbers of a pixel, 64 or 32 bytes, are the same vector in a register.
Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from functools import cache
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.conv.normalised import Reader
from cnn.fast.conv.winograd_matrices import (
    both_ways,
    gradient_to_points,
    input_to_points,
    points_to_output,
    points_to_weight,
    weight_to_points,
)
from cnn.fast.machine import bf16
from cnn.fast.machine.simd import INT64, Vectors

SIZE = 4  # bytes of a float32
PIXEL = LANES * SIZE


# --- The transforms in two dimensions, from memory to memory ---------------------------------------


def _clamp(builder, value, high):
    """min(max(value, 0), high) for a signed value and an integer."""
    zero, top = ir.Constant(INT64, 0), ir.Constant(INT64, high)
    value = builder.select(builder.icmp_signed("<", value, zero), zero, value)
    return builder.select(builder.icmp_signed(">", value, top), top, value)


class TileSource(NamedTuple):
    """Where a tile of the input lies; pixels outside of the image count as zero."""

    image: int  # address of the first plane
    plane: int  # bytes from one channel to the next
    row: int  # bytes
    top: int  # row of the tile's first point, may be outside
    left: int  # column of the tile's first point, may be outside
    height: int  # rows of the image that count
    width: int  # columns of the image that count
    zeros: int  # address of a row of six pixels of zeros


class Points(NamedTuple):
    """Where transformed tiles lie; bytes."""

    tile: int  # address of the first point of the first channel
    channel: int  # from one channel to the next
    point: int  # from one of the 36 points to the next


class Patch(NamedTuple):
    """Where the pixels of a tile of the output lie."""

    image: int  # address of the first pixel of the first channel
    plane: int  # bytes from one channel to the next
    row: int  # bytes
    rows: int  # pixels inside of the image, at least 1
    columns: int  # pixels inside of the image, at least 1


def window(v, source, count, pixel):
    """Write what all channels share: (place of each row, which are inside, first column, columns inside)."""
    builder = v.builder
    _, _, row, top, left, height, width, _ = source
    places = [v.at(top, i) for i in range(count)]
    inside = [builder.icmp_unsigned("<", place, height) for place in places]
    row_at = [v.at(builder.mul(place, row), v.times(left, pixel)) for place in places]
    first = _clamp(builder, builder.neg(left), count)
    last = _clamp(builder, builder.sub(width, left), count)
    return row_at, inside, first, _clamp(builder, builder.sub(last, first), count)


def _write_points(v, form, rows, source, normalisation, target, loops):
    """Write the code of a transform of count x count numbers: the ``rows`` of points of each channel.

    ``form`` is (transform, count, bytes of a number of the image, of the points); ``source``,
    ``normalisation`` (or None) and ``target`` are the values of a TileSource, a Normalisation and of Points,
    ``loops`` is (channels, keep).
    """
    builder, (channels, keep), (transform, count, size, point_size) = v.builder, loops, form
    (image, plane, *_, zeros), (out, channel, point) = source, target
    parts, pixel = [part * v.bytes for part in range(LANES // v.lanes)], LANES * size
    write = v.store_narrow if point_size == bf16.SIZE else v.store
    row_at, inside, first, columns = window(v, source, count, pixel)
    read = Reader(v, size, inside, normalisation)
    # Half transformed: only what a tile needs, so that neither loop below runs out of registers.
    half = cgutils.alloca_once(builder, ir.ArrayType(v.type, 6 * len(rows) * len(parts)))
    half = builder.ptrtoint(half, INT64)
    for place in range(0, 6 * len(rows) * PIXEL, v.bytes):
        v.store(v.const(0), v.at(half, place))
    start, put = v.times(first, pixel), v.times(first, PIXEL)
    with v.loop(channels, (image, plane), (out, channel), *read.steps()) as (here, to, *at):
        numbers = read.numbers(at)
        starts = [builder.select(i, v.at(here, at), zeros) for i, at in zip(inside, row_at, strict=True)]
        with v.loop(columns, (start, pixel), (v.at(half, put), PIXEL)) as (column, place):
            for start_ in starts:  # no hardware foresees the next channel's pixels
                v.prefetch(v.at(start_, column, plane))
            for part in parts:
                result = transform(v, read.rows([v.at(s, column, part) for s in starts], numbers))
                for number, kept in enumerate(rows):
                    v.store(result[kept], v.at(place, part + number * count * PIXEL))
        with v.loop(keep, (half, count * PIXEL), (to, v.times(point, 6))) as (one, other):
            for part in parts:
                result = transform(v, [v.load(v.at(one, j * PIXEL + part)) for j in range(count)])
                for j, value in enumerate(result):
                    write(value, v.at(other, v.times(point, j), part))


def image_to_tile(transform, count, choices, size=SIZE, point_size=SIZE, normalised=False):
    """The intrinsic that transforms a tile of every channel and keeps some of the six rows of points.

    ``count``: rows and columns of the tile before. ``choices``: which rows of points may be kept. ``size``
    and ``point_size``: bytes of a number of the image and of the points. ``normalised``: while it is read.
    """
    form = transform, count, size, point_size

    @intrinsic
    def to_tile(typing_context, choice, source, normalisation, target, channels, keep):
        """Transform a tile of ``channels`` channels: TileSource, Normalisation to Points.

        ``choice``: the place in ``choices`` of the rows of points to keep, of which the first ``keep`` count.
        """

        def generate(context, builder, signature, arguments):
            choice, *places, channels, keep = arguments
            source, numbers, target = (cgutils.unpack_tuple(builder, record) for record in places)
            for number, rows in enumerate(choices):
                with builder.if_then(builder.icmp_unsigned("==", choice, ir.Constant(INT64, number))):
                    v = vectors(builder, size, point_size)
                    places = source, numbers if normalised else None, target
                    _write_points(v, form, rows, *places, (channels, keep))
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, source, normalisation, target, i, i), generate

    return to_tile


def vectors(builder, *sizes, ordered=False):
    """What writes arithmetic on float32 for arrays whose numbers have these sizes."""
    if bf16.SIZE in sizes:
        return bf16.Narrow(builder)
    return Vectors(builder, types.float32, ordered=ordered)


PAIRS = (0, 5), (1, 2), (3, 4)  # rows of points that are computed from the same sums
ALL_ROWS = len(PAIRS)  # the choice of all six


@cache
def input_tile(point_size=SIZE, normalised=False):
    """The intrinsic that transforms a tile of float32 x and keeps all rows, as choice 0."""
    return image_to_tile(input_to_points, 6, (range(6),), SIZE, point_size, normalised)


@cache
def tile_pair(outputs, size=SIZE, point_size=SIZE, normalised=False):
    """The intrinsic that transforms a tile of dy, of so many outputs, or of x (0), and keeps one of PAIRS.

    Or, as ALL_ROWS, all.
    """
    choices = *PAIRS, range(6)
    if outputs:
        return image_to_tile(gradient_to_points, outputs, choices, size, point_size)
    return image_to_tile(input_to_points, 6, choices, size, point_size, normalised)


class AtLeast:
    """What pixels become before they are stored: their bias is added, and none is below a floor."""

    steps = ()  # further addresses that go from channel to channel, as ``Vectors.loop`` takes them

    def __init__(self, v, floor):
        self._v, self._lowest = v, v.splat(floor)

    def begin(self, half, bias, *addresses):
        """Write what comes before the pixels of a channel; ``half``: address of the half transformed tile."""

    def pixels(self, part, values, shift):
        """Return what is stored of a row; ``values``: without the bias, ``shift``; ``part``: of the lanes."""
        return [self._v.max(self._v.add(y, shift), self._lowest) for y in values]

    def end(self, *addresses):
        """Write what follows the pixels of a channel."""


def write_pixels(v, form, values, make):
    """Write the code of the transform back; ``values``: arguments of the intrinsic, records unpacked.

    ``form``: (outputs, bytes of a bias, bytes of a number of the image, whether stores are non-temporal).
    ``make(beyond)`` returns what pixels become, such as AtLeast; ``beyond``: which columns do not count.
    """
    builder, (outputs, bias_bytes, size, nontemporal) = v.builder, form
    (tile, channel, point), bias, (image, plane, row_bytes, rows, columns), channels, across = values
    parts, pixel = [part * v.bytes for part in range(LANES // v.lanes)], LANES * size
    half = cgutils.alloca_once(builder, ir.ArrayType(v.type, 6 * outputs * len(parts)))
    half = builder.ptrtoint(half, INT64)
    # A pixel outside goes where the last one inside follows: stored from right to left, it is overwritten.
    beyond = [builder.icmp_signed(">=", ir.Constant(INT64, j), columns) for j in range(outputs)]
    edge = v.times(v.at(columns, -1), pixel)
    place = [builder.select(beyond[j], edge, ir.Constant(INT64, j * pixel)) for j in range(outputs)]
    store = make(beyond)
    with v.loop(channels, (tile, channel), (image, plane), (bias, bias_bytes), *store.steps) as now:
        here, to, b, *own = now
        with v.loop(across, (here, point), (half, PIXEL)) as (one, other):
            for part in parts:
                column = [v.load(v.at(one, v.times(point, 6 * i), part)) for i in range(6)]
                for i, value in enumerate(points_to_output(v, column, outputs)):
                    v.store(value, v.at(other, i * 6 * PIXEL + part))
        if bias_bytes == PIXEL:
            shifts = [v.load(v.at(b, part)) for part in parts]
        else:
            shifts = [v.broadcast(b)] * len(parts)
        store.begin(half, b, *own)
        with v.loop(rows, (half, 6 * PIXEL), (to, row_bytes)) as (one, other):
            for number, (part, shift) in enumerate(zip(parts, shifts, strict=True)):
                row = [v.load(v.at(one, j * PIXEL + part)) for j in range(6)]
                result = store.pixels(number, points_to_output(v, row, outputs), shift)
                put = v.store_nontemporal if nontemporal else v.store
                if size == bf16.SIZE:
                    _write_narrow(v, result, other, place, builder.not_(beyond[-1]), v.times(plane, 2))
                    continue
                for j in reversed(range(outputs)):
                    put(result[j], v.at(other, place[j], part))
        store.end(*own)


def _write_narrow(v, row, to, place, whole, ahead):
    """Write the stores of a row of pixels in bfloat16: non-temporal ones of whole cache lines, two pixels.

    Rows of odd planes begin in the middle of a line every other time, and narrow tiles end there. What is
    stored of a line in part is fetched first, so these lines are asked for ``ahead`` bytes before.
    """
    builder, pixel, last, zero = v.builder, LANES * bf16.SIZE, len(row) - 1, ir.Constant(INT64, 0)

    def in_line(address):
        return builder.icmp_unsigned("==", builder.and_(address, ir.Constant(INT64, 63)), zero)

    def pairs(first):
        for j in range(first, last, 2):
            v.store_nontemporal(v.side_by_side(row[j], row[j + 1]), v.at(to, j * pixel))

    next_row = v.at(to, ahead)
    with builder.if_then(builder.not_(builder.and_(whole, in_line(next_row)))):
        for at in (0, len(row) * pixel // 2, len(row) * pixel - 1):
            v.prefetch(v.at(next_row, at), write=True)
    with builder.if_else(whole) as (then, otherwise):
        with then, builder.if_else(in_line(to)) as (aligned, between):
            with aligned:
                pairs(0)
            with between:
                v.store_narrow(row[0], to)
                pairs(1)
                v.store_narrow(row[last], v.at(to, last * pixel))
        with otherwise:
            for j in reversed(range(len(row))):
                v.store_narrow(row[j], v.at(to, place[j]))


@cache
def tile_to_image(outputs, bias_bytes, nontemporal=False, size=SIZE):
    """The intrinsic that transforms tiles back; a bias for all lanes, or of a whole pixel: one a lane.

    ``outputs``: of a tile, down and across; ``size``: bytes of a number of the image.

    ``nontemporal``: by non-temporal stores, for an array that is read when all of it is there. What is
    overwritten need not be fetched, and the caches stay with the tiles: a training step of ResNet-20 takes
    15 % less. In bfloat16 all stores of whole cache lines are.
    """
    form = outputs, bias_bytes, size, nontemporal

    @intrinsic
    def to_image(typing_context, source, bias, floor, patch, channels, columns):
        """image = max(floor, bias + A^T tile A) for ``channels`` channels: Points to Patch.

        The last of the ``columns`` of points of a narrow tile is missing: only the last pixel needs it.
        """

        def generate(context, builder, signature, arguments):
            source, bias, floor, patch, channels, columns = arguments
            source, patch = (cgutils.unpack_tuple(builder, record) for record in (source, patch))
            v = vectors(builder, size, ordered=True)  # winograd_pool adds the same
            values = source, bias, patch, channels, columns
            write_pixels(v, form, values, lambda beyond: AtLeast(v, floor))
            return context.get_dummy_value()

        i = types.int64
        return types.void(source, i, types.float32, patch, i, i), generate

    return to_image


def _weights_to_points(taps):
    """The intrinsic for kernels of ``taps`` by ``taps``."""

    @intrinsic
    def transform_weights(typing_context, source, source_step, target, target_step, count):
        """36 vectors G w G^T from the vectors w, ``count`` times along neighbouring numbers."""

        def generate(context, builder, signature, arguments):
            source, source_step, target, target_step, count = arguments
            v = Vectors(builder, types.float32)
            with v.loop(count, (source, v.bytes), (target, v.bytes)) as (s, t):
                result = both_ways(
                    v,
                    weight_to_points,
                    lambda i, j: v.load(v.at(s, builder.mul(source_step, ir.Constant(INT64, taps * i + j)))),
                    taps,
                )
                for i, value in enumerate(value for row in result for value in row):
                    v.store(value, v.at(t, builder.mul(target_step, ir.Constant(INT64, i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return transform_weights


@cache
def gradient_of_weights(taps):
    """The intrinsic that transforms sums back to the gradient of kernels of ``taps`` by ``taps``."""

    @intrinsic
    def back(typing_context, source, source_step, parts, part_step, target, target_step, count):
        """The vectors G^T s G from 36 vectors s, each the sum of ``parts``, ``count`` times along numbers."""

        def generate(context, builder, signature, arguments):
            source, source_step, parts, part_step, target, target_step, count = arguments
            v = Vectors(builder, types.float32)
            sums = v.variables(36)
            with v.loop(count, (source, v.bytes), (target, v.bytes)) as (s, t):
                for register in sums:
                    builder.store(v.const(0), register)
                with v.loop(parts, (s, part_step)) as (here,):
                    for i, register in enumerate(sums):
                        value = v.load(v.at(here, builder.mul(source_step, ir.Constant(INT64, i))))
                        builder.store(v.add(builder.load(register), value), register)
                result = both_ways(
                    v,
                    lambda v, s: points_to_weight(v, s, taps),
                    lambda i, j: builder.load(sums[6 * i + j]),
                    6,
                )
                for i, value in enumerate(value for row in result for value in row):
                    v.store(value, v.at(t, builder.mul(target_step, ir.Constant(INT64, i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return back


transform_weights = {taps: _weights_to_points(taps) for taps in (3, 5)}
