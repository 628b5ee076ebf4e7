"""The products of Winograd's weight gradient at one point, while pixels of the next tiles are on their way.

A prefetch that finds all of the processor's buffers for missing lines taken is dropped, and there are some
twenty: pixels have to be asked for few by few. The time for it is between products, which miss none.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.conv.microkernels import ADD, ONCE, STORE, Ends, Loop, Loops, Steps, outer_product
from cnn.fast.conv.routines import Transposition
from cnn.fast.machine.jit import helper, task
from cnn.fast.machine.simd import Vectors
from cnn.fast.machine.tables import call_with, reader, size_of

ROWS = 4  # of a tile that no tile before has read


class Ahead(NamedTuple):
    """Pixels that will be read soon: ROWS rows of ROWS pixels of one channel."""

    pixels: int  # address
    row: int  # bytes


ahead_of = reader(Ahead)
AHEAD_RECORD = 8 * size_of(Ahead)


@intrinsic
def prefetch_row(typing_context, address, size):
    """Ask for ROWS pixels whose numbers have ``size`` bytes."""

    def generate(context, builder, signature, arguments):
        address, size = arguments
        v = Vectors(builder, types.float32)
        with v.loop(builder.mul(size, ir.Constant(size.type, ROWS * LANES // 64)), (address, 64)) as (line,):
            v.prefetch(line)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


class PointProducts(NamedTuple):
    """The products of both operands at one point; bytes unless said otherwise."""

    left: int  # address: [row][tile][lane]
    right: int  # address: [column][tile][lane]
    panel: int  # address, for sixteen columns: [tile][lane][column]
    out: int  # address of the sums: [row][column]
    zeros: int  # address of mr zeros if these are the first products, which nothing is added to
    channel: int  # from one row or column of the operands to the next
    out_row: int
    slivers: int  # of mr rows
    columns: int
    tiles: int
    ahead: int  # address of Ahead records
    first: int  # row of pixels of them to ask for
    last: int
    each: int  # how many to ask for while a sliver is multiplied
    size: int  # of a number there
    transpose: int  # address of ``transpose_pixels``


point_products_of = reader(PointProducts)


@helper
def _ask(p, first):
    """Ask for the rows of pixels from number ``first`` on that are due."""
    for number in range(first, min(first + p.each, p.last)):
        ahead = ahead_of(p.ahead + number // ROWS * AHEAD_RECORD)
        prefetch_row(ahead.pixels + number % ROWS * ahead.row, p.size)


@cache
def point_products(mr, itemsize):
    """The routine for PointProducts: as ``panel_products``, for all columns."""
    pixel = LANES * itemsize
    lanes = Loop(LANES, LANES * itemsize, itemsize) if itemsize > 2 else Loop(LANES // 2, LANES * 4, 4)

    @task
    def products(record):
        p = point_products_of(record)
        loops = Loops(ONCE, Loop(p.tiles, LANES * pixel, pixel), lanes)
        steps, first = Steps(p.channel, 0, p.out_row, 0), p.first
        for c in range(0, p.columns, LANES):
            source = p.right + c * p.channel
            call_with(p.transpose, Transposition(source, p.panel, p.tiles, p.channel, pixel))
            left, out = p.left, p.out + c * 4
            for _ in range(p.slivers):
                ends = Ends(p.panel, left, p.zeros, out)
                if p.zeros:
                    outer_product(ends, loops, steps, np.float32(-np.inf), STORE, mr, 1, itemsize)
                else:
                    outer_product(ends, loops, steps, np.float32(0), ADD, mr, 1, itemsize)
                _ask(p, first)
                first += p.each
                left += mr * p.channel
                out += mr * p.out_row

    return products
