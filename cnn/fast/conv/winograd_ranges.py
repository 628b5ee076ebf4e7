"""Which tiles of Winograd's form a task handles, and the pixels that the next one will read."""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

from cnn.fast.conv.microkernels import prefetch_l2
from cnn.fast.machine.jit import helper
from cnn.fast.machine.tables import reader, records, size_of


class Tile(NamedTuple):
    """A tile of the output."""

    top: int
    left: int
    rows: int
    columns: int


class TileRange(NamedTuple):
    """Tiles of one kind, those with equally many points, that one task handles."""

    first: int  # among the tiles of the kind of all images
    count: int
    down: int  # rows of points
    across: int  # columns of points
    kind: int  # place of the first Tile of the kind
    per_image: int  # tiles of the kind in one image


tile_of, tile_range_of = reader(Tile), reader(TileRange)
TILE_RECORD, TILE_RANGE_RECORD = 8 * size_of(Tile), 8 * size_of(TileRange)


def axis_tiles(size, outputs):
    """Cut an axis into tiles of ``outputs`` or, where that saves points, one less.

    Returns [(start, outputs, points)]. The smaller tile leaves out the sixth point: only the last output
    needs it.
    """
    count = -(-size // outputs)
    narrow = min(count, outputs * count - size)
    sizes = [outputs] * (count - narrow) + [outputs - 1] * narrow
    starts = [sum(sizes[:i]) for i in range(count)]
    return [(start, min(n, size - start), n + 6 - outputs) for start, n in zip(starts, sizes, strict=True)]


def tile_tables(images, out_size, most, unit=1, outputs=4):
    """The TileRanges of up to ``most`` tiles, and the Tiles of one image that they number: two arrays.

    All ranges of a kind but one are whole multiples of ``unit`` tiles, as ``most`` is. Kinds take turns, so
    that threads which share the ranges evenly share the work.
    """
    kinds = {}
    for top, rows, down in axis_tiles(out_size[0], outputs):
        for left, columns, across in axis_tiles(out_size[1], outputs):
            kinds.setdefault((down, across), []).append(Tile(top, left, rows, columns))
    ranges, tiles = [], []
    for number, ((down, across), members) in enumerate(kinds.items()):
        total = images * len(members)
        units = -(-total // unit)
        cuts = -(-units * unit // most)
        ends = [min(total, units * i // cuts * unit) for i in range(cuts + 1)]
        if number % 2:  # the small range first: at the end of all kinds they would be the last thread's
            ends = [total - end for end in reversed(ends)]
        ranges += [
            ((first + last) / total, TileRange(first, last - first, down, across, len(tiles), len(members)))
            for first, last in pairwise(ends)
        ]
        tiles += members
    return records([row for _, row in sorted(ranges)]), records(tiles)


class NextRows(NamedTuple):
    """Rows of pixels that the next range of tiles begins with; bytes unless said otherwise."""

    first: int  # address of the first row of the first channel
    plane: int
    row: int
    rows: int  # of each channel
    count: int  # rows of all channels that are asked for
    lines: int  # cache lines of a row


@cache
def next_rows_of(outputs, pixel):
    """The helper for the NextRows of a range of tiles: of those in the row of its first, mostly of all.

    ``outputs``: of a tile, down and across; ``pixel``: bytes.
    """

    @helper
    def rows_of(p, tiles):
        block, number = tiles.first // tiles.per_image, tiles.first % tiles.per_image
        tile = tile_of(p.tiles + (tiles.kind + number) * TILE_RECORD)
        top, left = max(0, tile.top - p.above), max(0, tile.left - p.left)
        rows = min(p.height, tile.top - p.above + 6) - top
        columns = min(p.width, tile.left - p.left + outputs * (tiles.count - 1) + 6) - left
        row = p.width * pixel
        return NextRows(
            p.x + block * p.channels * p.height * row + top * row + left * pixel, p.height * row, row, rows,
            p.fetches * p.channels * rows, (columns * pixel + 63) // 64,
        )  # fmt: skip

    return rows_of


@helper
def fetch(next_rows, turn, turns):
    """Ask for the NextRows that fall to one of so many turns."""
    for row in range(next_rows.count * turn // turns, next_rows.count * (turn + 1) // turns):
        place = row // next_rows.rows * next_rows.plane + row % next_rows.rows * next_rows.row
        prefetch_l2(next_rows.first + place, next_rows.lines)
