"""Pairs of channels in bfloat16, the operands of ``vdpbf16ps``: how pixels are copied and weights packed.

In memory each channel is a plane of its own. What sums over channels wants two of them side by side, so that
one instruction takes both: sixteen pairs, 64 bytes, are a pixel, and eight pairs, 32 bytes, are one tap of
eight output channels. Where the number of channels is odd, the last one is paired with itself, and its
weights with zeros.
"""

from functools import cache
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.conv.routines import PAIR_ROWS, copy_of
from cnn.fast.machine import bf16
from cnn.fast.machine.jit import task
from cnn.fast.machine.simd import INT64

MOST_TAPS = 64  # of a window whose weights are packed in pairs: the code for each tap is written out

_VECTOR = 4 * LANES  # bytes
_I16 = ir.VectorType(ir.IntType(16), LANES)


class Windows(NamedTuple):
    """The weights of eight output channels and two channels; bytes. What is not there counts as zero."""

    weight: int  # address of the first window
    out: int  # from one output channel to the next
    channel: int  # from the even channel to the odd one
    outs: int  # output channels that there are from here on
    channels: int  # channels that there are from here on
    end: int  # address one past the whole weight


def taps_of(v, windows, taps):
    """Write the loads of Windows: for each of the ``taps`` a vector, eight output channels of either channel.

    The windows are read in whole vectors, which are transposed. Those that reach beyond the weight, and
    those that are not there, are copied between zeros first.
    """
    builder, blocks = v.builder, -(-taps // LANES)
    weight, out, channel, outs, channels, end = windows
    rows = [(odd, k) for odd in range(2) for k in range(PAIR_ROWS)]
    places = [v.at(weight, v.times(channel, odd), v.times(out, k)) for odd, k in rows]
    spare = cgutils.alloca_once(builder, ir.ArrayType(v.type, len(rows) * blocks))
    spare = builder.ptrtoint(spare, INT64)
    there = [
        builder.and_(
            builder.icmp_signed(">", outs, ir.Constant(INT64, k)),
            builder.icmp_signed(">", channels, ir.Constant(INT64, odd)),
        )
        for odd, k in rows
    ]
    whole = builder.and_(there[-1], builder.icmp_signed("<=", v.at(places[-1], blocks * _VECTOR), end))
    with builder.if_then(builder.not_(whole), likely=False):
        for number, (is_there, place) in enumerate(zip(there, places, strict=True)):
            copy = v.at(spare, number * blocks * _VECTOR)
            for block in range(blocks):
                v.store(v.const(0), v.at(copy, block * _VECTOR))
            count = builder.select(is_there, ir.Constant(INT64, taps), ir.Constant(INT64, 0))
            with v.loop(count, (place, 4), (copy, 4)) as (source, target):
                builder.store(v.scalar(source), builder.inttoptr(target, v.number.as_pointer()))
    places = [
        builder.select(whole, place, v.at(spare, number * blocks * _VECTOR))
        for number, place in enumerate(places)
    ]
    vectors = []
    for block in range(blocks):
        vectors += v.transpose([v.load(v.at(place, block * _VECTOR)) for place in places])
    return vectors[:taps]


@cache
def pack_windows(taps):
    """The intrinsic that rounds and stores Windows of ``taps`` taps."""

    @intrinsic
    def pack(typing_context, windows, target, step):
        """32 bytes for each tap, ``step`` bytes apart: eight pairs, the even channel first."""

        def generate(context, builder, signature, arguments):
            windows, target, step = arguments
            v = bf16.Narrow(builder)
            for tap, value in enumerate(taps_of(v, cgutils.unpack_tuple(builder, windows), taps)):
                v.store(v.halves_paired(value), v.at(target, v.times(step, tap)))
            return context.get_dummy_value()

        return types.void(windows, types.int64, types.int64), generate

    return pack


@cache
def pair_planes(source_size):
    """The routine for Copy that pairs channels; ``source_size``: bytes of a number that is read.

    ``planes`` and ``source_plane`` of the record are of channels, ``target_plane`` is of pairs.
    """

    @intrinsic
    def pair_lanes(typing_context, even, odd, target, count, source_step, target_step):
        """Pair ``count`` pixels of sixteen lanes of two channels."""

        def generate(context, builder, signature, arguments):
            even, odd, target, count, source_step, target_step = arguments
            v = bf16.Narrow(builder)
            steps = (even, source_step), (odd, source_step), (target, target_step)
            with v.loop(count, *steps) as (one, other, to):
                if source_size == bf16.SIZE:
                    one, other = (
                        builder.load(builder.inttoptr(at, _I16.as_pointer()), align=source_size)
                        for at in (one, other)
                    )
                    v.store(v.shuffle(one, other, [i // 2 + LANES * (i % 2) for i in range(2 * LANES)]), to)
                else:
                    v.store(v.paired(v.load(one), v.load(other)), to)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    @task
    def copy(record):
        p = copy_of(record)
        for plane in range(0, p.planes, 2):
            for row in range(p.rows):
                even = p.source + plane * p.source_plane + row * p.source_row
                odd = even + p.source_plane if plane + 1 < p.planes else even
                target = p.target + plane // 2 * p.target_plane + row * p.target_row
                pair_lanes(even, odd, target, p.pixels, p.source_pixel, p.target_pixel)

    return copy
