"""Batch statistics from the numbers that a convolution took of its tiles (``conv.winograd_sums``).

With p, s and q of tile t, n_t numbers, and m the mean of a block of sixteen images:

    m * sum n_t = sum of (n_t p_t + s_t),    squares = sum of (q_t + 2 s_t (p_t - m) + n_t (p_t - m)^2)

in float64 and in the order of the tiles of a plane. What a block gets depends on its images only.
"""

from typing import NamedTuple

from cnn.fast.conv.winograd_ranges import TILE_RECORD, tile_of
from cnn.fast.conv.winograd_sums import KINDS
from cnn.fast.kernels.shared import BlockSums
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import pointer, reader


class Blocks(NamedTuple):
    """A piece is a block of sixteen images."""

    sums: int  # address of float32 (blocks, tiles, KINDS, channels)
    tiles: int  # address of Tile records
    tile_count: int  # of an image
    planes: int  # address of float64 (blocks, channels, 2): mean and sum of squares about it of each plane
    images: int
    channels: int


blocks_of = reader(Blocks)


@task
def _blocks_task(index, thread, params):
    p = blocks_of(params)
    lanes, channels = min(16, p.images - index * 16), p.channels
    first, out = index * p.tile_count * KINDS * channels, index * channels * 2
    sums, planes, count = pointer(p.sums, 4), pointer(p.planes, 8), 0
    for i in range(out, out + 2 * channels):
        planes[i] = 0.0
    for t in range(p.tile_count):
        tile = tile_of(p.tiles + t * TILE_RECORD)
        numbers, near = tile.rows * tile.columns * lanes, first + t * KINDS * channels
        count += numbers
        for c in range(channels):
            planes[out + 2 * c] += numbers * float(sums[near + c]) + float(sums[near + channels + c])
    for c in range(channels):
        planes[out + 2 * c] /= count
    for t in range(p.tile_count):
        tile = tile_of(p.tiles + t * TILE_RECORD)
        numbers, near = tile.rows * tile.columns * lanes, first + t * KINDS * channels
        for c in range(channels):
            away = float(sums[near + c]) - planes[out + 2 * c]
            of_pivot = 2.0 * float(sums[near + channels + c]) + numbers * away
            planes[out + 2 * c + 1] += float(sums[near + 2 * channels + c]) + away * of_pivot


def moments_of(y, taken):
    """Return the BlockSums of y: mean and sum of squares about it; ``taken``: the TileSums of y."""
    planes = BlockSums(y, 2)
    blocks, channels = y.buffer.shape[:2]
    launch(_blocks_task, blocks, table(Blocks(*taken, planes.own, y.shape[0], channels)))
    return planes
