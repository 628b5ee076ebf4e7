"""The transform back of a tile of 2x2 outputs that is a window of a max pool: only the largest is stored.

    y = max(0, largest of bias + A^T M A)        argmax = 2u + v of the first of the largest, 4 where y is 0

As ``winograd_tiles.output_tile`` and ``pool_2x2.max_2x2`` behind it, bit for bit.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.conv.winograd_matrices import points_to_output
from cnn.fast.conv.winograd_tiles import PIXEL, SIZE
from cnn.fast.machine.simd import INT64, Vectors

_BYTE = ir.IntType(8)


class MaximaOfTile(NamedTuple):
    """Where the largest of a window goes."""

    y: int  # address of the first channel
    argmax: int  # address of the first channel
    plane: int  # numbers from one channel to the next


def _largest(v, candidates):
    """Return (the larger of 0 and the largest, its cell): the first of equals wins, a NaN stays."""
    builder, kind = v.builder, ir.VectorType(_BYTE, v.lanes)

    def cell(number):
        return ir.Constant(kind, [number] * v.lanes)

    dead = builder.fcmp_ordered(">=", v.const(0), candidates[0])
    best, place = builder.select(dead, v.const(0), candidates[0]), builder.select(dead, cell(4), cell(0))
    for number, value in enumerate(candidates[1:], 1):
        larger = builder.fcmp_unordered(">", value, best)  # or one of them is NaN
        wins = builder.and_(larger, builder.fcmp_ordered("ord", best, best))
        best, place = builder.select(wins, value, best), builder.select(wins, cell(number), place)
    return best, place


@intrinsic
def tile_maxima(typing_context, source, bias, maxima, channels):
    """Write the largest of a tile of 2x2 outputs of ``channels`` channels: Points to MaximaOfTile."""

    def generate(context, builder, signature, arguments):
        source, bias, maxima, channels = arguments
        (tile, channel, point), (y, argmax, plane) = (
            cgutils.unpack_tuple(builder, record) for record in (source, maxima)
        )
        v = Vectors(builder, types.float32, ordered=True)
        parts = range(LANES // v.lanes)
        half = cgutils.alloca_once(builder, ir.ArrayType(v.type, 12 * len(parts)))
        half = builder.ptrtoint(half, INT64)
        steps = (tile, channel), (y, v.times(plane, SIZE)), (argmax, plane), (bias, SIZE)
        with v.loop(channels, *steps) as (here, to, cells, b):
            six = ir.Constant(INT64, 6)
            with v.loop(six, (here, point), (half, PIXEL)) as (one, other):
                for part in parts:
                    column = [v.load(v.at(one, v.times(point, 6 * i), part * v.bytes)) for i in range(6)]
                    for i, value in enumerate(points_to_output(v, column, 2)):
                        v.store(value, v.at(other, i * 6 * PIXEL + part * v.bytes))
            shift = v.broadcast(b)
            for part in parts:
                pixels = []
                for i in range(2):
                    row = [v.load(v.at(half, (6 * i + j) * PIXEL + part * v.bytes)) for j in range(6)]
                    pixels += [v.add(value, shift) for value in points_to_output(v, row, 2)]
                best, place = _largest(v, pixels)
                v.store(best, v.at(to, part * v.bytes))
                address = v.at(cells, part * v.lanes)
                builder.store(place, builder.inttoptr(address, place.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(source, types.int64, maxima, types.int64), generate
