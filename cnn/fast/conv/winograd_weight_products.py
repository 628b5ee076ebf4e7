"""The products of Winograd's weight gradient at one point, while pixels of the next tiles are on their way.

A prefetch that finds all of the processor's buffers for missing lines taken is dropped, and there are some
twenty: pixels have to be asked for few by few. The time for it is between products, which miss none.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.microkernels import ADD, ONCE, STORE, Ends, Loop, Loops, Steps, outer_product, prefetch_l2
from cnn.fast.conv.routines import Transposition
from cnn.fast.machine.jit import helper, task
from cnn.fast.machine.tables import call_with, reader, size_of

ROWS = 4  # and columns of a tile that the tiles before have not, if it has four outputs


class Corner(NamedTuple):
    """Pixels that will be read soon: ROWS rows of ROWS pixels of one channel."""

    pixels: int  # address of the first
    row: int  # bytes


corner_of, CORNER_NUMBERS = reader(Corner), size_of(Corner)


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
    corners: int  # address of Corner records
    first: int  # row of pixels, counted over all corners, to ask for
    last: int  # one past all rows
    each: int  # rows to ask for with a sliver
    lines: int  # of a row
    transpose: int  # address of ``transpose_pixels``


point_products_of = reader(PointProducts)


@helper
def _ask(p, first):
    """Ask for the rows of pixels from number ``first`` on that are due."""
    for number in range(first, min(first + p.each, p.last)):
        corner = corner_of(p.corners + number // ROWS * CORNER_NUMBERS * 8)
        prefetch_l2(corner.pixels + number % ROWS * corner.row, p.lines)


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
