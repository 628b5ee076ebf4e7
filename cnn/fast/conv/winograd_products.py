"""The products of Winograd's form: at each of its points a matrix product over channels.

Memory rests meanwhile: that is the time for the next tiles' pixels to come into the L2 cache.
"""

from functools import cache
from typing import NamedTuple

from cnn.fast.conv.ahead import NOTHING
from cnn.fast.conv.microkernels import SUMS, Ends
from cnn.fast.conv.routines import PixelProducts, products_of_pixels
from cnn.fast.conv.winograd_ranges import NextRows, fetch
from cnn.fast.conv.winograd_tiles import PIXEL
from cnn.fast.machine.jit import task
from cnn.fast.machine.tables import reader


class PointProducts(NamedTuple):
    """M[point][tile][k] = sum over c of U[point][k][c] * V[point][tile][c]; bytes unless said otherwise."""

    v: int  # address
    u: int  # address of the first sliver
    m: int  # address
    v_point: int
    u_point: int
    m_point: int
    v_tile: int
    m_tile: int
    u_sliver: int
    down: int  # rows of points
    across: int  # columns of points
    tiles: int
    vectors: int  # of a tile at a point: channels, or pairs of them
    slivers: int
    next_rows: NextRows


point_products_of = reader(PointProducts)


@cache
def point_products(mr, nr, itemsize):
    """The routine for PointProducts; ``itemsize`` 2 for pairs of bfloat16."""
    multiply = products_of_pixels(mr, nr, itemsize, SUMS)

    @task
    def products(record):
        p = point_products_of(record)
        for i in range(p.down):
            for j in range(p.across):
                fetch(p.next_rows, i * p.across + j, p.down * p.across)
                xi = 6 * i + j
                multiply(
                    PixelProducts(
                        Ends(p.v + xi * p.v_point, p.u + xi * p.u_point, 0, p.m + xi * p.m_point), floor=0,
                        pixels=p.tiles, vectors_pixel=p.v_tile, out_pixel=p.m_tile, channels=p.vectors,
                        slivers=p.slivers, last=p.slivers * mr, scalars_sliver=p.u_sliver, out_k=PIXEL,
                    ),
                    NOTHING,
                )  # fmt: skip

    return products
