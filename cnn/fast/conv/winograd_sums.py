"""How the pixels of a tile spread, taken by the transform back while it has them in registers.

A normalisation behind the convolution needs the mean and the variance of each channel; a pass over memory of
its own would read the whole array for them. Of each tile and channel, with y = bias + A^T M A and n numbers:

    p, sum of (y - p), sum of (y - p)^2

p is the first pixel of the tile in its first image, but for rounding. As it is one of the n numbers, the sum
of (y - p)^2 is at most n + 1 times that of (y - their mean)^2: the squares do not cancel, however large the
mean. Images past the batch are left out. The sums lie in memory as float32 [block][tile][kind][channel]: they
depend neither on which tiles a task has nor on other blocks. ``kernels.tile_sums`` adds them up.
"""

from functools import cache
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.conv.winograd_matrices import points_to_output
from cnn.fast.conv.winograd_tiles import PIXEL, SIZE, vectors, write_pixels
from cnn.fast.machine.simd import INT32, Vectors

KINDS = 3  # numbers of each tile and channel


class Spread(NamedTuple):
    """Where the numbers of a tile go."""

    address: int  # of p of the first channel
    kind: int  # bytes from one kind of numbers to the next
    lanes: int  # images that count, at least 1


class TileSums(NamedTuple):
    """The numbers of all tiles of an array."""

    address: int
    tiles: int  # address of the ``winograd.Tile`` records that they are in the order of
    tile_count: int  # of an image


class _Measured:
    """What pixels become before they are stored: their bias is added, how they spread summed up."""

    def __init__(self, v, spread, outputs, beyond):
        self._v, self._spread, self._outputs, self._beyond = v, spread, outputs, beyond
        self.steps = ((spread.address, SIZE),)
        self._sums, self._squares = (v.variables(LANES // v.lanes) for _ in range(2))
        kind = ir.VectorType(INT32, v.lanes)
        one = ir.Constant(kind, ir.Undefined)
        count = v.builder.insert_element(one, v.builder.trunc(spread.lanes, INT32), ir.Constant(INT32, 0))
        count = v.shuffle(count, count, [0] * v.lanes)
        parts = [list(range(first, first + v.lanes)) for first in range(0, LANES, v.lanes)]
        self._valid = [v.builder.icmp_signed("<", ir.Constant(kind, part), count) for part in parts]

    def begin(self, half, bias, address):
        v, one = self._v, Vectors(self._v.builder, types.float32, 1)
        row = [one.load(one.at(half, column * PIXEL)) for column in range(6)]
        near = one.add(points_to_output(one, row, self._outputs)[0], one.load(bias))
        self._near = v.builder.extract_element(near, ir.Constant(INT32, 0))
        self._pivot = v.splat(self._near)
        for register in (*self._sums, *self._squares):
            v.builder.store(v.const(0), register)

    def pixels(self, part, values, shift):
        v, builder = self._v, self._v.builder
        values = [v.add(y, shift) for y in values]
        away = [v.sub(y, self._pivot) for y in values]
        # the first column of a tile always counts
        outside = zip(away[1:], self._beyond[1:], strict=True)
        away[1:] = [builder.select(out, v.const(0), number) for number, out in outside]
        squares = builder.load(self._squares[part])
        for number in away:
            squares = v.fma(number, number, squares)
        builder.store(squares, self._squares[part])
        builder.store(v.add(builder.load(self._sums[part]), _total(v, away)), self._sums[part])
        return values

    def end(self, address):
        v, builder, totals = self._v, self._v.builder, []
        for registers in (self._sums, self._squares):
            parts = zip(self._valid, registers, strict=True)
            totals.append(_total(v, [builder.select(ok, builder.load(x), v.const(0)) for ok, x in parts]))
        totals = v.sum_lanes(totals)
        for number in (self._near, *(builder.extract_element(totals, ir.Constant(INT32, i)) for i in (0, 1))):
            builder.store(number, builder.inttoptr(address, number.type.as_pointer()))
            address = v.at(address, self._spread.kind)


def _total(v, values):
    """The sum of vectors, a power of two of them: in pairs, pairs of pairs and so on."""
    while len(values) > 1:
        values = [v.add(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


@cache
def measured_tile_to_image(outputs, size):
    """The intrinsic that transforms tiles back as ``winograd_tiles.tile_to_image`` and takes the sums."""
    form = outputs, SIZE, size, True

    @intrinsic
    def to_image(typing_context, source, bias, patch, channels, columns, spread):
        """image = bias + A^T tile A for ``channels`` channels: Points to Patch, and Spread."""

        def generate(context, builder, signature, arguments):
            source, bias, patch, channels, columns, spread = arguments
            source, patch, spread = (cgutils.unpack_tuple(builder, r) for r in (source, patch, spread))
            v, spread = vectors(builder, size, ordered=True), Spread(*spread)
            values = source, bias, patch, channels, columns
            write_pixels(v, form, values, lambda beyond: _Measured(v, spread, outputs, beyond))
            return context.get_dummy_value()

        i = types.int64
        return types.void(source, i, patch, i, i, spread), generate

    return to_image
