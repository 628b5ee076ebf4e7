"""Winograd's transforms to and from pairs of bfloat16, the operands of ``vdpbf16ps``.

Forward and d-input sum over channels, so that two neighbouring channels make a pair; in d-weight, which sums
over images, two neighbouring images do (``microkernels.transpose_image_pairs``).
"""

from functools import cache, reduce

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.conv.normalised import Reader
from cnn.fast.conv.pairs import taps_of
from cnn.fast.conv.winograd_matrices import both_ways, input_to_points, weight_to_points
from cnn.fast.conv.winograd_tiles import PIXEL, window
from cnn.fast.machine import bf16
from cnn.fast.machine.simd import INT64

LANES = PIXEL // 4


@cache
def input_tile_pairs(size, normalised=False):
    """The intrinsic that transforms tiles of channels by two: B^T x B, rounded, as pairs of channels.

    As ``winograd_tiles.input_tile`` with ``pairs`` of channels; ``size``: bytes of a number of the image;
    ``normalised``: while it is read.
    """
    pixel = LANES * size

    def write(v, source, normalisation, target, pairs, keep):
        builder, (image, plane, row_bytes, *_, zeros), (out, step, point) = v.builder, source, target
        row_at, inside, first, columns = window(v, source, 6, pixel)
        read = Reader(v, size, inside, normalisation if normalised else None)
        # Half transformed: [row][column][even or odd channel].
        half = builder.ptrtoint(cgutils.alloca_once(builder, ir.ArrayType(v.type, 72)), INT64)
        with builder.if_then(builder.icmp_signed("<", columns, ir.Constant(INT64, 6)), likely=False):
            for place in range(0, 72 * PIXEL, PIXEL):  # columns outside stay zero
                v.store(v.const(0), v.at(half, place))
        start, put = v.times(first, pixel), v.times(first, 2 * PIXEL)
        of_image, of_points = (image, v.times(plane, 2)), (out, step)
        whole = reduce(builder.and_, inside)

        def half_transform(rows_of, of_channel):
            """Write the loop over columns; ``rows_of(channel)``: addresses of the six rows."""
            rows = [rows_of(channel) for channel in range(2)]
            with v.loop(columns, (start, pixel), (v.at(half, put), 2 * PIXEL)) as (column, place):
                for channel in range(2):
                    lines = [v.at(line, column) for line in rows[channel]]
                    for line in lines:  # no hardware foresees the next pair's pixels
                        v.prefetch(v.at(line, v.times(plane, 2)))
                    result = input_to_points(v, read.rows(lines, of_channel[channel]))
                    for row, value in enumerate(result):
                        v.store(value, v.at(place, row * 12 * PIXEL + channel * PIXEL))

        with v.loop(pairs, of_image, of_points, *read.steps(2)) as (here, to, *numbers):
            of_channel = [read.numbers(numbers, channel) for channel in range(2)]
            begins = here, v.at(here, plane)
            with builder.if_else(whole, likely=True) as (then, otherwise):
                with then:  # rows are equally far apart: one address and few multiples stay in registers
                    firsts = [v.at(begin, row_at[0]) for begin in begins]
                    half_transform(
                        lambda channel: [v.at(firsts[channel], v.times(row_bytes, i)) for i in range(6)],
                        of_channel,
                    )
                with otherwise:
                    places = list(zip(inside, row_at, strict=True))
                    half_transform(
                        lambda channel: [
                            builder.select(i, v.at(begins[channel], at), zeros) for i, at in places
                        ],
                        of_channel,
                    )
            with v.loop(keep, (half, 12 * PIXEL), (to, v.times(point, 6))) as (one, other):
                even, odd = (
                    input_to_points(v, [v.load(v.at(one, (2 * j + channel) * PIXEL)) for j in range(6)])
                    for channel in range(2)
                )
                for j in range(6):
                    v.store(v.paired(even[j], odd[j]), v.at(other, v.times(point, j)))

    @intrinsic
    def to_tile(typing_context, source, normalisation, target, pairs, keep):
        """Transform a tile of ``pairs`` pairs of channels: TileSource, Normalisation to Points.

        ``keep``: how many rows of points.
        """

        def generate(context, builder, signature, arguments):
            *places, pairs, keep = arguments
            write(bf16.Narrow(builder), *(cgutils.unpack_tuple(builder, p) for p in places), pairs, keep)
            return context.get_dummy_value()

        return types.void(source, normalisation, target, types.int64, types.int64), generate

    return to_tile


@intrinsic
def transform_channel_pairs(typing_context, source, target, target_step, count):
    """36 times sixteen pairs of G w G^T, rounded, of 3x3 kernels, for ``count`` pairs of channels.

    The source is bfloat16 as well: [count][9][even or odd channel][16 output channels].
    """

    def generate(context, builder, signature, arguments):
        source, target, target_step, count = arguments
        v, row = bf16.Narrow(builder), LANES * bf16.SIZE
        with v.loop(count, (source, 18 * row), (target, PIXEL)) as (s, t):
            halves = []
            for channel in range(2):
                taps = [v.load_wide(v.at(s, (2 * tap + channel) * row)) for tap in range(9)]
                halves.append([weight_to_points(v, taps[j::3]) for j in range(3)])
            for i in range(6):
                even, odd = (weight_to_points(v, [column[i] for column in columns]) for columns in halves)
                for j in range(6):
                    v.store(v.paired(even[j], odd[j]), v.at(t, v.times(target_step, 6 * i + j)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@cache
def transform_weight_pairs(taps):
    """The intrinsic for kernels of ``taps`` by ``taps``."""

    @intrinsic
    def transform(typing_context, windows, turned, target, step):
        """G w G^T of Windows, 36 times eight pairs, ``step`` bytes apart; ``turned``: by 180 degrees."""

        def generate(context, builder, signature, arguments):
            windows, turned, target, step = arguments
            v, turned = bf16.Narrow(builder), builder.icmp_signed("!=", turned, ir.Constant(INT64, 0))
            w = taps_of(v, cgutils.unpack_tuple(builder, windows), taps * taps)
            w = [builder.select(turned, other, one) for one, other in zip(w, reversed(w), strict=True)]
            result = both_ways(v, weight_to_points, lambda i, j: w[taps * i + j], taps)
            for i, value in enumerate(value for row in result for value in row):
                v.store(v.halves_paired(value), v.at(target, v.times(step, i)))
            return context.get_dummy_value()

        return types.void(windows, *[types.int64] * 3), generate

    return transform
