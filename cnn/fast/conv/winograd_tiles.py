"""The transforms of Winograd's F(4x4, 3x3) and F(2x2, 5x5), written on vectors, from memory to memory.

Both evaluate polynomials at 0, 1, -1, 2, -2 and infinity: with those six points the input's transform is the
same, the others differ in the number of outputs (4 or 2) and of taps (3 or 5). Each one-dimensional transform
is a constant matrix, spelled out with few operations; applied to columns and then to rows of a tile it
becomes the two-dimensional one. ``winograd.py`` says which is used for what.
Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.machine.simd import INT64, Vectors

SIZE = 4  # bytes of a float32
PIXEL = LANES * SIZE


# --- The one-dimensional transforms, on lists of vectors -------------------------------------


def _input_6(v, x):
    """B^T x"""
    a, b = v.fma(v.const(-4), x[2], x[4]), v.fma(v.const(-4), x[1], x[3])
    c, d = v.sub(x[4], x[2]), v.sub(x[3], x[1])
    return [
        v.fma(v.const(4), x[0], v.fma(v.const(-5), x[2], x[4])),
        v.add(a, b),
        v.sub(a, b),
        v.fma(v.const(2), d, c),
        v.fma(v.const(-2), d, c),
        v.fma(v.const(4), x[1], v.fma(v.const(-5), x[3], x[5])),
    ]


def _output(v, m, count):
    """A^T m, ``count`` outputs"""
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    first, second = v.add(v.add(m[0], s1), s2), v.fma(v.const(2), d2, d1)
    if count == 2:
        return [first, v.add(second, m[5])]
    return [first, second, v.fma(v.const(4), s2, s1), v.add(v.fma(v.const(8), d2, d1), m[5])]


def _gradient_6(v, g):
    """A g, of four or two outputs"""
    if len(g) == 2:
        double = v.add(g[1], g[1])
        return [g[0], v.add(g[0], g[1]), v.sub(g[0], g[1]), v.add(g[0], double), v.sub(g[0], double), g[1]]
    even, odd = v.add(g[0], g[2]), v.add(g[1], g[3])
    even2, odd2 = v.fma(v.const(4), g[2], g[0]), v.fma(v.const(8), g[3], v.add(g[1], g[1]))
    return [g[0], v.add(even, odd), v.sub(even, odd), v.add(even2, odd2), v.sub(even2, odd2), g[3]]


def _weight_6(v, w):
    """G w, of three or five taps: at the point p, the sum of w[i] p^i over a constant"""

    def powers(taps, point, constant):
        total = v.mul(v.const(point ** taps[0] * constant), w[taps[0]])
        for i in taps[1:]:
            total = v.fma(v.const(point**i * constant), w[i], total)
        return total

    even, odd = range(0, len(w), 2), range(1, len(w), 2)
    even1, odd1 = powers(even, 1, -1 / 6), powers(odd, 1, -1 / 6)
    even2, odd2 = powers(even, 2, 1 / 24), powers(odd, 2, 1 / 24)
    return [
        v.mul(v.const(1 / 4), w[0]),
        v.add(even1, odd1),
        v.sub(even1, odd1),
        v.add(even2, odd2),
        v.sub(even2, odd2),
        w[-1],
    ]


def _weight_taps(v, s, count):
    """G^T s, ``count`` taps"""
    sums = v.mul(v.const(-1 / 6), v.add(s[1], s[2])), v.mul(v.const(1 / 24), v.add(s[3], s[4]))
    differences = v.mul(v.const(-1 / 6), v.sub(s[1], s[2])), v.mul(v.const(1 / 24), v.sub(s[3], s[4]))
    taps = []
    for i in range(count):
        one, two = differences if i % 2 else sums
        taps.append(v.fma(v.const(2**i), two, one))
    taps[0] = v.fma(v.const(1 / 4), s[0], taps[0])
    taps[-1] = v.add(taps[-1], s[5])
    return taps


def _both_ways(v, transform, load, count):
    """Transform a tile by columns, then by rows; load(i, j) gives its vectors; returns rows of the result."""
    columns = [transform(v, [load(i, j) for i in range(count)]) for j in range(count)]
    return [transform(v, [column[i] for column in columns]) for i in range(len(columns[0]))]


# --- The same in two dimensions, from memory to memory --------------------------------------------


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


def _write_points(v, transform, count, rows, source, target, loops):
    """Write the code of a transform of count x count numbers: the ``rows`` of points of each channel.

    ``source`` and ``target`` are the values of a TileSource and of Points, ``loops`` is (channels, keep).
    """
    builder, (channels, keep) = v.builder, loops
    (image, plane, row, top, left, height, width, zeros), (out, channel, point) = source, target
    parts = [part * v.bytes for part in range(LANES // v.lanes)]
    places = [v.at(top, i) for i in range(count)]
    inside = [builder.icmp_unsigned("<", place, height) for place in places]
    row_at = [v.at(builder.mul(place, row), v.times(left, PIXEL)) for place in places]
    first = _clamp(builder, builder.neg(left), count)
    last = _clamp(builder, builder.sub(width, left), count)
    columns = _clamp(builder, builder.sub(last, first), count)
    # The next channel's pixels are asked for early; within a page of 4 KiB the hardware does that itself.
    far = builder.icmp_signed(">=", plane, ir.Constant(INT64, 4096))
    ahead = builder.select(far, columns, ir.Constant(INT64, 0))
    # Half transformed: only what a tile needs, so that neither loop below runs out of registers.
    half = cgutils.alloca_once(builder, ir.ArrayType(v.type, 6 * len(rows) * len(parts)))
    half = builder.ptrtoint(half, INT64)
    for place in range(0, 6 * len(rows) * PIXEL, v.bytes):
        v.store(v.const(0), v.at(half, place))
    start = v.times(first, PIXEL)
    with v.loop(channels, (image, plane), (out, channel)) as (here, to):
        starts = [builder.select(i, v.at(here, at), zeros) for i, at in zip(inside, row_at, strict=True)]
        with v.loop(ahead, (start, PIXEL)) as (column,):
            for start_ in starts:
                v.prefetch(v.at(start_, column, plane))
        with v.loop(columns, (start, PIXEL)) as (column,):
            for part in parts:
                result = transform(v, [v.load(v.at(start_, column, part)) for start_ in starts])
                for place, kept in enumerate(rows):
                    v.store(result[kept], v.at(half, column, part + place * count * PIXEL))
        with v.loop(keep, (half, count * PIXEL), (to, v.times(point, 6))) as (one, other):
            for part in parts:
                result = transform(v, [v.load(v.at(one, j * PIXEL + part)) for j in range(count)])
                for j, value in enumerate(result):
                    v.store(value, v.at(other, v.times(point, j), part))


def _image_to_tile(transform, count, choices):
    """The intrinsic that transforms a tile of every channel and keeps some of the six rows of points.

    ``count``: rows and columns of the tile before. ``choices``: which rows of points may be kept.
    """

    @intrinsic
    def to_tile(typing_context, choice, source, target, channels, keep):
        """Transform a tile of ``channels`` channels: TileSource to Points.

        ``choice``: the place in ``choices`` of the rows of points to keep, of which the first ``keep`` count.
        """

        def generate(context, builder, signature, arguments):
            choice, source, target, channels, keep = arguments
            source, target = (cgutils.unpack_tuple(builder, record) for record in (source, target))
            for number, rows in enumerate(choices):
                with builder.if_then(builder.icmp_unsigned("==", choice, ir.Constant(INT64, number))):
                    v = Vectors(builder, types.float32)
                    _write_points(v, transform, count, rows, source, target, (channels, keep))
            return context.get_dummy_value()

        return types.void(types.int64, source, target, types.int64, types.int64), generate

    return to_tile


PAIRS = (0, 5), (1, 2), (3, 4)  # rows of points that are computed from the same sums

input_tile = _image_to_tile(_input_6, 6, (range(6),))
input_pair = _image_to_tile(_input_6, 6, PAIRS)
gradient_pair = {count: _image_to_tile(_gradient_6, count, PAIRS) for count in (2, 4)}  # by outputs


def _write_pixels(v, values, outputs, bias_bytes, nontemporal):
    """Write the code of the transform back; ``values``: the arguments of the intrinsic, records unpacked."""
    builder = v.builder
    (tile, channel, point), bias, floor, (image, plane, row_bytes, rows, columns), channels, across = values
    parts = [part * v.bytes for part in range(LANES // v.lanes)]
    lowest = v.splat(floor)
    half = cgutils.alloca_once(builder, ir.ArrayType(v.type, 6 * outputs * len(parts)))
    half = builder.ptrtoint(half, INT64)
    # A pixel outside goes where the last one inside follows: stored from right to left, it is overwritten.
    beyond = [builder.icmp_signed(">=", ir.Constant(INT64, j), columns) for j in range(outputs)]
    edge = v.times(v.at(columns, -1), PIXEL)
    place = [builder.select(beyond[j], edge, ir.Constant(INT64, j * PIXEL)) for j in range(outputs)]
    with v.loop(channels, (tile, channel), (image, plane), (bias, bias_bytes)) as (here, to, b):
        with v.loop(across, (here, point), (half, PIXEL)) as (one, other):
            for part in parts:
                column = [v.load(v.at(one, v.times(point, 6 * i), part)) for i in range(6)]
                for i, value in enumerate(_output(v, column, outputs)):
                    v.store(value, v.at(other, i * 6 * PIXEL + part))
        if bias_bytes == PIXEL:
            shifts = [v.load(v.at(b, part)) for part in parts]
        else:
            shifts = [v.broadcast(b)] * len(parts)
        with v.loop(rows, (half, 6 * PIXEL), (to, row_bytes)) as (one, other):
            for part, shift in zip(parts, shifts, strict=True):
                row = [v.load(v.at(one, j * PIXEL + part)) for j in range(6)]
                result = _output(v, row, outputs)
                put = v.store_nontemporal if nontemporal else v.store
                for j in reversed(range(outputs)):
                    put(v.max(v.add(result[j], shift), lowest), v.at(other, place[j], part))


def _tile_to_image(outputs, bias_bytes, nontemporal=False):
    """The intrinsic that transforms tiles back; a bias for all lanes, or of a whole pixel: one a lane.

    ``outputs``: of a tile, down and across.

    ``nontemporal``: by non-temporal stores, for an array that is read when all of it is there. What is
    overwritten need not be fetched, and the caches stay with the tiles: a training step of ResNet-20 takes
    15 % less.
    """

    @intrinsic
    def to_image(typing_context, source, bias, floor, patch, channels, columns):
        """image = max(floor, bias + A^T tile A) for ``channels`` channels: Points to Patch.

        The last of the ``columns`` of points of a narrow tile is missing: only the last pixel needs it.
        """

        def generate(context, builder, signature, arguments):
            source, bias, floor, patch, channels, columns = arguments
            source, patch = (cgutils.unpack_tuple(builder, record) for record in (source, patch))
            values = source, bias, floor, patch, channels, columns
            v = Vectors(builder, types.float32, ordered=True)  # winograd_pool adds the same
            _write_pixels(v, values, outputs, bias_bytes, nontemporal)
            return context.get_dummy_value()

        i = types.int64
        return types.void(source, i, types.float32, patch, i, i), generate

    return to_image


# by outputs of a tile
output_tile = {count: _tile_to_image(count, SIZE, nontemporal=True) for count in (2, 4)}
output_tile_of_channels = _tile_to_image(4, PIXEL)


def _weights_to_points(taps):
    """The intrinsic for kernels of ``taps`` by ``taps``."""

    @intrinsic
    def transform_weights(typing_context, source, source_step, target, target_step, count):
        """36 vectors G w G^T from the vectors w, ``count`` times along neighbouring numbers."""

        def generate(context, builder, signature, arguments):
            source, source_step, target, target_step, count = arguments
            v = Vectors(builder, types.float32)
            with v.loop(count, (source, v.bytes), (target, v.bytes)) as (s, t):
                result = _both_ways(
                    v,
                    _weight_6,
                    lambda i, j: v.load(v.at(s, builder.mul(source_step, ir.Constant(INT64, taps * i + j)))),
                    taps,
                )
                for i, value in enumerate(value for row in result for value in row):
                    v.store(value, v.at(t, builder.mul(target_step, ir.Constant(INT64, i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return transform_weights


def _points_to_weights(taps):
    """The intrinsic for kernels of ``taps`` by ``taps``."""

    @intrinsic
    def gradient_of_weights(
        typing_context, source, source_step, parts, part_step, target, target_step, count
    ):
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
                result = _both_ways(
                    v, lambda v, s: _weight_taps(v, s, taps), lambda i, j: builder.load(sums[6 * i + j]), 6
                )
                for i, value in enumerate(value for row in result for value in row):
                    v.store(value, v.at(t, builder.mul(target_step, ir.Constant(INT64, i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return gradient_of_weights


transform_weights = {taps: _weights_to_points(taps) for taps in (3, 5)}
gradient_of_weights = {taps: _points_to_weights(taps) for taps in (3, 5)}
