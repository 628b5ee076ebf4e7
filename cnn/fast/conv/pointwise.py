"""Convolution with a window of one pixel: a matrix product for every pixel. Forward and, transposed, d-input.

    y[n, k, i, j] = bias[k] + sum over c of weight[k, c] * x[n, c, i*sh, j*sw]

Pixels are taken in pieces. A piece is first copied to where the channels of a pixel lie side by side: what is
read are long runs of each plane, not single pixels of all planes, which would compete for a few cache sets.
Copying waits for memory, multiplying does not: the next piece is copied a few channels at a time between the
products of this one, and these ask for the channels that are due next.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.ahead import NOTHING, ahead_of_planes, share
from cnn.fast.conv.blocking import pixel_pair_block, register_block
from cnn.fast.conv.geometry import Planes
from cnn.fast.conv.microkernels import STORE, STORE_NARROW_ROW, STORE_NONTEMPORAL, Ends, memory_fence
from cnn.fast.conv.pack import NOWHERE, Pack, Packed
from cnn.fast.conv.pairs import pair_planes
from cnn.fast.conv.routines import (
    PAIR_ROWS,
    Copy,
    PixelProducts,
    PixelProductsAhead,
    copy_planes,
    pixel_products,
)
from cnn.fast.machine import bf16
from cnn.fast.machine.jit import address, helper, launch, scratch_threads, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks, vector_registers
from cnn.fast.machine.tables import Table, bits, call_with, reader, records, size_of

# Of input that a piece keeps in the L2 cache: little, so that there are many, of which only the first of a
# task is copied while nothing is multiplied.
PIECE_BYTES = vector_registers()[0] << 10
# By their last twelve bits, results lie so many bytes before the pixels that they are summed from: a load
# waits for a non-temporal store before it that has these bits in common, and that is not to be a recent one.
STEP = 256
FOUND_BYTES = 8 << 20  # of results that the next layer still finds in a cache, if they are stored plainly
SLICES = 16  # that a piece is copied in, at most
SLICE_VECTORS = 4  # channels, or pairs of them, of a slice at least


class Piece(NamedTuple):
    """A rectangle of pixels."""

    top: int
    rows: int
    left: int
    columns: int


class Pointwise(NamedTuple):
    """One geometry; bytes unless said otherwise."""

    x: int  # address
    weight: int  # address of the packed weights
    bias: int  # address
    out: int  # address
    floor: int  # bits of the lower bound of the result
    itemsize: int
    groups: int
    in_channels: int  # of a group
    vectors: int  # channels that are multiplied, or pairs of them
    paired: int  # channels of a vector
    out_channels: int  # of a group
    source: Planes
    out_plane: int
    pieces: int  # address of Piece records
    piece_count: int  # of an image
    parts: int  # tasks of an image
    scratch: int  # address
    scratch_bytes: int  # of one copy; each thread has two
    copied_pixel: int  # from one pixel of the copy to the next
    nr: int  # pixels of a register block
    slivers: int
    last: int  # output channel that the last sliver begins with
    weight_sliver: int
    weight_group: int
    out_pixel: int
    copy: int  # address of ``copy_planes``
    products: int  # address of ``pixel_products``


pointwise_of, piece_of = reader(Pointwise), reader(Piece)
PIECE_RECORD = 8 * size_of(Piece)


@helper
def _place(p, piece, out, number):
    """Where copy ``number`` begins, if it is to be of a piece: see STEP."""
    start = p.scratch + number * p.scratch_bytes
    return start + (out + (piece.top * p.source.width + piece.left) * p.out_pixel + STEP - start) % 4096


@helper
def _copy(p, x, piece, target, first, last):
    """Copy vectors ``first`` ... ``last`` - 1 of a piece; ``x``: address of channel 0."""
    source, channel = p.source, first * p.paired
    call_with(
        p.copy,
        Copy(
            source=x + channel * source.plane + piece.top * source.row + piece.left * source.pixel,
            target=target + first * 16 * p.itemsize,
            planes=min(p.in_channels, last * p.paired) - channel, source_plane=source.plane,
            target_plane=16 * p.itemsize, rows=piece.rows, source_row=source.row,
            target_row=piece.columns * p.copied_pixel, pixels=piece.columns, source_pixel=source.pixel,
            target_pixel=p.copied_pixel,
        ),
    )  # fmt: skip


@helper
def _ahead(p, x, piece, first, last):
    """Ahead of what ``_copy`` reads, unless it is many short rows."""
    source, channel = p.source, first * p.paired
    place = x + channel * source.plane + piece.top * source.row + piece.left * source.pixel
    size = piece.columns * source.pixel if piece.rows == 1 else 0
    return ahead_of_planes(place, (last - first) * p.paired, source.plane, size)


@helper
def _multiply(p, piece, copied, group, out, first, last, ahead):
    """Pixels ``first`` ... ``last`` - 1 of a piece."""
    first = max(0, min(first, last - p.nr))  # a whole register block: some pixels twice, to the same bits
    at = piece.top * p.source.width + piece.left + first
    ends = Ends(
        copied + first * p.copied_pixel, p.weight + group * p.weight_group,
        p.bias + group * p.out_channels * p.itemsize, out + at * p.out_pixel,
    )  # fmt: skip
    products = PixelProducts(
        ends=ends, floor=p.floor, pixels=last - first, vectors_pixel=p.copied_pixel,
        out_pixel=p.out_pixel, channels=p.vectors, slivers=p.slivers, last=p.last,
        scalars_sliver=p.weight_sliver, out_k=p.out_plane,
    )  # fmt: skip
    blocks = (last - first + p.nr - 1) // p.nr * p.slivers
    call_with(p.products, PixelProductsAhead(products, share(ahead, 0, 1, blocks)))


@cache
def _pointwise_task():
    """Some of the pieces of a group of channels of a block of images."""

    @task
    def pointwise(index, thread, params):
        p = pointwise_of(params)
        part, planes = index % p.parts, index // p.parts
        x, out = p.x + planes * p.in_channels * p.source.plane, p.out + planes * p.out_channels * p.out_plane
        first, end = p.piece_count * part // p.parts, p.piece_count * (part + 1) // p.parts
        here = _place(p, piece_of(p.pieces + first * PIECE_RECORD), out, 2 * thread + first % 2)
        _copy(p, x, piece_of(p.pieces + first * PIECE_RECORD), here, 0, p.vectors)
        for number in range(first, end):
            piece = piece_of(p.pieces + number * PIECE_RECORD)
            after = piece_of(p.pieces + min(number + 1, end - 1) * PIECE_RECORD)
            there = _place(p, after, out, 2 * thread + (number + 1) % 2)
            pixels = piece.rows * piece.columns
            units = (pixels + p.nr - 1) // p.nr
            slices = max(1, min(units, SLICES, p.vectors // SLICE_VECTORS))
            for s in range(slices):
                low, high = p.vectors * s // slices, p.vectors * (s + 1) // slices
                ahead = _ahead(p, x, after, low, high) if number + 1 < end else NOTHING
                start, stop = units * s // slices * p.nr, min(pixels, units * (s + 1) // slices * p.nr)
                _multiply(p, piece, here, planes % p.groups, out, start, stop, ahead)
                if number + 1 < end:
                    _copy(p, x, after, there, low, high)
            here = there
        memory_fence()

    return pointwise


def _cut(source, nr, count):
    """The Pieces of an image, some ``count`` pixels each."""
    if source.height == 1:
        units = -(-source.width // nr)  # pieces are whole register blocks, but for the last
        cuts = min(units, -(-source.width // count))
        ends = [min(source.width, units * i // cuts * nr) for i in range(cuts + 1)]
        return [Piece(0, 1, a, b - a) for a, b in pairwise(ends)]
    cuts = -(-source.height // max(1, count // source.width))
    tops = [source.height * i // cuts for i in range(cuts + 1)]
    return [Piece(top, bottom - top, 0, source.width) for top, bottom in pairwise(tops)]


class PointwisePlan:
    """The tables and the memory of one geometry; ``run`` fills in the addresses of arrays."""

    def __init__(self, geometry, channels, source, out_size):
        """``channels``: (in, out) of one group; ``source``: the Planes of the pixels that are read."""
        groups, itemsize = geometry.window.groups, geometry.itemsize
        (in_channels, out_channels), pixel = channels, LANES * itemsize
        read_size, written_size = geometry.sizes
        plane_bytes = out_size[0] * out_size[1] * LANES * written_size
        large = geometry.blocks * groups * out_channels * plane_bytes >= FOUND_BYTES
        how = STORE_NARROW_ROW if written_size < itemsize else STORE_NONTEMPORAL if large else STORE
        pairs, outer = geometry.pairs, blocks(itemsize)[0]
        mr, nr = pixel_pair_block(out_channels) if pairs else register_block(out_channels, outer)
        operand, vectors = (bf16.SIZE, -(-in_channels // 2)) if pairs else (itemsize, in_channels)
        count, rows = -(-out_channels // mr), PAIR_ROWS if pairs else mr
        pack = Pack(
            weight=0, end=0, packed=0, source=NOWHERE, mr=rows, full=-(-out_channels // rows),
            last=out_channels - mr, out_channels=out_channels, channels=in_channels, taps=1,
            packed_channel=rows, packed_tap=vectors * rows,
        )  # fmt: skip
        self._packed = Packed(groups, itemsize, pack, pairs)
        # An odd number of cache lines: pixels of a round size would compete for the same cache sets.
        copied_pixel = (vectors | 1) * pixel
        if source.row == source.width * source.pixel:
            source = source._replace(height=1, width=source.height * source.width)
        pieces = _cut(source, nr, max(12, PIECE_BYTES // copied_pixel))
        self._pieces = records(pieces)
        scratch_bytes = max(piece.rows * piece.columns for piece in pieces) * copied_pixel + 4096
        self._scratch = aligned_zeros((scratch_threads() * 2 * scratch_bytes,), np.uint8)
        # Enough tasks for many threads; several pieces in each, so that all but the first are copied ahead.
        parts = min(len(pieces), -(-16 // (geometry.blocks * groups)))
        self._no_bias = aligned_zeros((groups * out_channels * itemsize,), np.uint8)
        self._tasks = geometry.blocks * groups * parts
        self._table = Table(
            Pointwise(
                x=0, weight=self._packed.address, bias=0, out=0, floor=0, itemsize=itemsize, groups=groups,
                in_channels=in_channels, vectors=vectors, paired=2 if pairs else 1,
                out_channels=out_channels, source=source,
                out_plane=plane_bytes, pieces=self._pieces.ctypes.data,
                piece_count=len(pieces), parts=parts, scratch=self._scratch.ctypes.data,
                scratch_bytes=scratch_bytes, copied_pixel=copied_pixel, nr=nr, slivers=count,
                last=out_channels - mr, weight_sliver=self._packed.sliver_bytes,
                weight_group=self._packed.slivers * self._packed.sliver_bytes,
                out_pixel=LANES * written_size,
                copy=pair_planes(read_size) if pairs else copy_planes(itemsize, read_size),
                products=pixel_products(mr, nr, operand, how, ahead=True, ceiling=geometry.ceiling),
            )
        )  # fmt: skip

    def run(self, x, weight, strides, bias, out, floor=-np.inf, keep=None):
        """Pack the weight, then multiply; ``strides``: how the weight is read; ``keep``: see ``Packed``."""
        packed = self._packed.place(weight, strides, keep)
        self._table.set(
            x=x.address, weight=packed, out=out.address,
            bias=address(self._no_bias if bias is None else bias),
            floor=bits(floor),
        )  # fmt: skip
        launch(_pointwise_task(), self._tasks, self._table.array)
