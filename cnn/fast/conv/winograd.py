"""Winograd convolution: 36 multiplications where the direct form needs 144, F(4x4, 3x3), or 100, F(2x2, 5x5).

A tile of 4x4 outputs y of a 3x3 kernel depends on 6x6 inputs x, and so does one of 2x2 outputs of a 5x5
kernel. With the constant matrices B, G, A of Lavin and Gray

    y  = A^T [ sum over c of (G w G^T) o (B^T x B) ] A                     forward
    dw = G^T [ sum over tiles and images of (A dy A^T) o (B^T x B) ] G     d-weight

where o multiplies numbers of equal position: 36 independent matrix products over channels, one for each of
the 6x6 points, done by the same micro-kernels as the direct form. d-input is forward with w turned by 180
degrees, d-weight is in ``winograd_weight.py``. Some tiles are transformed and multiplied together, as many as
stay in the cache. Pixels outside of the image are read from a row of zeros, those of the result not stored:
edges need no copy of the code. Planes of 7 or 15 are cut into tiles of 4 and 3 outputs. The transforms lose
about one bit: relative error below 5e-6. Where a 2x2 pool follows, tiles of 2x2 outputs are its windows,
and only the largest is stored. With products of bfloat16 (``Form.pairs``) U and V are rounded, and the
relative error is 1e-2.

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import pair_block, tile_block
from cnn.fast.conv.microkernels import memory_fence
from cnn.fast.conv.normalised import AS_IT_IS, Normalisation, addresses_of
from cnn.fast.conv.winograd_pairs import input_tile_pairs
from cnn.fast.conv.winograd_pool import MaximaOfTile, tile_maxima
from cnn.fast.conv.winograd_products import PointProducts, point_products
from cnn.fast.conv.winograd_ranges import (
    TILE_RANGE_RECORD,
    TILE_RECORD,
    TileRange,
    next_rows_of,
    tile_of,
    tile_range_of,
    tile_tables,
)
from cnn.fast.conv.winograd_sums import KINDS, Spread, TileSums, measured_tile_to_image
from cnn.fast.conv.winograd_tiles import (
    PIXEL,
    SIZE,
    Patch,
    Points,
    TileSource,
    input_tile,
    tile_to_image,
)
from cnn.fast.conv.winograd_u import Weights, pair_weights_task, weights_task
from cnn.fast.machine import bf16
from cnn.fast.machine.jit import address, helper, launch, plans, scratch_threads, task, workspace
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.tables import Table, bits, call_with, from_bits, reader


def outputs_of(taps):
    """Outputs of a tile, down and across, for a kernel of ``taps`` by ``taps``: six points are one less."""
    return 7 - taps


class Form(NamedTuple):
    """What arrays hold and what is multiplied."""

    x_size: int = SIZE  # bytes of a number of what is read: 4 for float32, 2 for bfloat16
    y_size: int = SIZE  # the same of what is written
    pairs: bool = False  # products of pairs of bfloat16, not of float32
    normalised: bool = False  # what is read of x is max(0, its normalisation)

    @property
    def operand(self):
        """Bytes of a number that is multiplied."""
        return bf16.SIZE if self.pairs else SIZE


FLOAT32 = Form()


class Forward(NamedTuple):
    """Forward or d-input of one geometry; bytes unless said otherwise."""

    x: int  # address
    u: int  # address of the transformed weights
    bias: int  # address
    y: int  # address; with pooling, of the maxima
    argmax: int  # address of their cells
    floor: int  # bits of the lower bound of the result
    zeros: int  # address of zeros
    normalisation: Normalisation
    channels: int
    vectors: int  # of a transformed pixel: channels, or pairs of them
    out_channels: int
    height: int  # pixels of x
    width: int
    above: int  # padding
    left: int
    out_height: int  # pixels of y
    out_width: int
    ranges: int  # address of TileRange records, one a task
    last: int  # number of the last range
    fetches: int  # whether the next range's pixels are asked for
    tiles: int  # address of Tile records
    scratch: int  # address
    scratch_bytes: int  # of one thread: v and m
    chunk: int  # output channels whose products wait in the L2 cache to be transformed back
    u_sliver: int  # from one sliver of mr output channels to the next
    u_point: int  # from one point to the next
    v_point: int
    m_point: int
    mr: int
    products: int  # address of ``point_products``
    images: int
    tile_count: int  # of an image
    sums: int  # address of the numbers of each tile, where they are taken


forward_of = reader(Forward)


@cache
def _transform_inputs(form):
    """The helper for V = B^T x B of all channels of a range of tiles."""
    pixel, pairs = LANES * form.x_size, form.pairs
    pairs_tile = input_tile_pairs(form.x_size, form.normalised) if pairs else None
    tile_of_floats = None if pairs else input_tile(SIZE, form.normalised)

    @helper
    def transform(p, tiles, v):
        plane = p.height * p.width * pixel
        for t in range(tiles.count):
            block, number = (tiles.first + t) // tiles.per_image, (tiles.first + t) % tiles.per_image
            tile = tile_of(p.tiles + (tiles.kind + number) * TILE_RECORD)
            source = TileSource(
                p.x + block * p.channels * plane, plane, p.width * pixel, tile.top - p.above,
                tile.left - p.left, p.height, p.width, p.zeros,
            )  # fmt: skip
            target = Points(v + t * p.vectors * PIXEL, PIXEL, p.v_point)
            if pairs:
                pairs_tile(source, p.normalisation, target, p.vectors, tiles.down)
            else:
                tile_of_floats(0, source, p.normalisation, target, p.vectors, tiles.down)

    return transform


@helper
def _multiply(p, tiles, v, m, k, next_rows):
    """The products for a chunk of k."""
    call_with(
        p.products,
        PointProducts(
            v, p.u + k // p.mr * p.u_sliver, m, p.v_point, p.u_point, p.m_point, v_tile=p.vectors * PIXEL,
            m_tile=p.chunk * PIXEL, u_sliver=p.u_sliver, down=tiles.down, across=tiles.across,
            tiles=tiles.count, vectors=p.vectors, next_rows=next_rows,
            slivers=(min(p.chunk, p.out_channels - k) + p.mr - 1) // p.mr,
        ),
    )  # fmt: skip


@cache
def _transform_outputs(outputs, form, measured):
    """The helper for y = max(floor, bias + A^T M A) for a chunk of k.

    ``measured``: without a floor, and how the pixels of each tile spread is taken as well.
    """
    to_image = tile_to_image(outputs, SIZE, True, form.y_size)
    to_image_measured = measured_tile_to_image(outputs, form.y_size)
    pixel = LANES * form.y_size

    @helper
    def transform_outputs(p, tiles, m, k):
        floor, plane = np.float32(from_bits(p.floor)), p.out_height * p.out_width * pixel
        for t in range(tiles.count):
            block, number = (tiles.first + t) // tiles.per_image, (tiles.first + t) % tiles.per_image
            tile = tile_of(p.tiles + (tiles.kind + number) * TILE_RECORD)
            corner = (tile.top * p.out_width + tile.left) * pixel
            patch = Patch(
                p.y + (block * p.out_channels + k) * plane + corner, plane, p.out_width * pixel, tile.rows,
                tile.columns,
            )  # fmt: skip
            source = Points(m + t * p.chunk * PIXEL, PIXEL, p.m_point)
            count, bias = min(p.chunk, p.out_channels - k), p.bias + k * SIZE
            if measured:
                place = (block * p.tile_count + tiles.kind + number) * KINDS * p.out_channels + k
                lanes = min(LANES, p.images - block * LANES)
                spread = Spread(p.sums + place * SIZE, p.out_channels * SIZE, lanes)
                to_image_measured(source, bias, patch, count, tiles.across, spread)
            else:
                to_image(source, bias, floor, patch, count, tiles.across)

    return transform_outputs


@helper
def _transform_maxima(p, tiles, m, k):
    """y = max(0, the largest of bias + A^T M A) for a chunk of k, and where it lies: a tile is a window."""
    plane = (p.out_height // 2) * (p.out_width // 2) * LANES
    for t in range(tiles.count):
        block, number = (tiles.first + t) // tiles.per_image, (tiles.first + t) % tiles.per_image
        tile = tile_of(p.tiles + (tiles.kind + number) * TILE_RECORD)
        place = (block * p.out_channels + k) * plane
        place += (tile.top // 2 * (p.out_width // 2) + tile.left // 2) * LANES
        maxima = MaximaOfTile(p.y + place * SIZE, p.argmax + place, plane)
        source = Points(m + t * p.chunk * PIXEL, PIXEL, p.m_point)
        tile_maxima(source, p.bias + k * SIZE, maxima, min(p.chunk, p.out_channels - k))


@cache
def _forward_task(outputs, form, pooled=False, measured=False):
    transform_inputs = _transform_inputs(form)
    transform_back = _transform_maxima
    if not pooled:
        transform_back = _transform_outputs(outputs, form, measured)
    rows_of = next_rows_of(outputs, LANES * form.x_size)

    @task
    def forward(index, thread, params):
        p = forward_of(params)
        tiles = tile_range_of(p.ranges + index * TILE_RANGE_RECORD)
        v = p.scratch + thread * p.scratch_bytes
        m = v + 36 * p.v_point
        next_rows = rows_of(p, tile_range_of(p.ranges + min(index + 1, p.last) * TILE_RANGE_RECORD))
        transform_inputs(p, tiles, v)
        for k in range(0, p.out_channels, p.chunk):
            _multiply(p, tiles, v, m, k, next_rows)
            transform_back(p, tiles, m, k)
        memory_fence()

    return forward


def odd_lines(pixels):
    """Bytes of at least so many pixels, an odd number of cache lines.

    The 36 points are that far apart: at a distance of a power of two they would compete for the same cache
    sets.
    """
    return (pixels | 1) * PIXEL


CHUNK = 64  # output channels whose products wait in the L2 cache to be transformed back
FETCH = 1 << 19  # bytes of v and m that leave room in an L2 cache for pixels: up to 32 channels


class ForwardPlan:
    """The tables and the memory of one geometry of forward or d-input; ``run`` fills in the addresses."""

    def __init__(self, x_shape, out_shape, above, left, taps, pooled=False, form=FLOAT32):
        """``pooled``: only the largest of each 2x2 window is written, and which one it was; for 5 taps."""
        outputs, self._window = outputs_of(taps), taps * taps
        size = [n // 2 * 2 if pooled else n for n in out_shape[2:]]
        images, channels, out_channels = -(-x_shape[0] // LANES), x_shape[1], out_shape[1]
        mr, nr = pair_block(out_channels) if form.pairs else tile_block(out_channels)
        vectors = channels // 2 if form.pairs else channels
        count = -(-out_channels // mr)
        chunk = -(-count // max(1, round(out_channels / CHUNK))) * mr
        most = tiles_at_once(channels, nr)
        ranges, tiles = self._records = tile_tables(images, size, most, nr, outputs)
        self._tasks = len(ranges)
        most, threads = int(ranges[:, TileRange._fields.index("count")].max()), scratch_threads()
        v_point, m_point = odd_lines(vectors * most), odd_lines(chunk * most)
        scratch_bytes = 36 * (v_point + m_point)
        self._scratch = workspace("scratch", threads * scratch_bytes)
        u_sliver = -(-vectors * mr // LANES) * PIXEL
        u_point = odd_lines(count * u_sliver // PIXEL)
        self._u = workspace("weights", 36 * u_point)
        self._zeros = aligned_zeros((max((out_channels + mr) * SIZE, 6 * PIXEL),), np.uint8)
        self._table = Table(
            Forward(
                x=0, u=self._u.ctypes.data, bias=0, y=0, argmax=0, floor=0, zeros=self._zeros.ctypes.data,
                normalisation=AS_IT_IS, channels=channels, vectors=vectors, out_channels=out_channels,
                height=x_shape[2], width=x_shape[3], above=above, left=left, out_height=out_shape[2],
                out_width=out_shape[3], ranges=ranges.ctypes.data, last=len(ranges) - 1,
                fetches=scratch_bytes <= FETCH, tiles=tiles.ctypes.data, scratch=self._scratch.ctypes.data,
                scratch_bytes=scratch_bytes, chunk=chunk, u_sliver=u_sliver, u_point=u_point, v_point=v_point,
                m_point=m_point, mr=mr, products=point_products(mr, nr, form.operand), images=x_shape[0],
                tile_count=len(tiles), sums=0,
            )
        )  # fmt: skip
        window_bytes = 0 if form.pairs else self._window * (-(-channels * mr // LANES) + 1) * PIXEL
        self._windows = aligned_zeros((threads * window_bytes,), np.uint8)
        self._slivers = count
        self._weights_task = pair_weights_task(taps) if form.pairs else weights_task(taps)
        self._forward_task = _forward_task(outputs, form, pooled)
        self._measured_task = None if pooled else _forward_task(outputs, form, measured=True)
        self._sums_bytes = images * len(tiles) * KINDS * out_channels * SIZE
        self._weights = Table(
            Weights(
                weight=0, end=0, u=self._u.ctypes.data, scratch=self._windows.ctypes.data,
                scratch_bytes=window_bytes, window=self._window, mr=mr, out_channels=out_channels,
                channels=channels, out_step=0, channel_step=0, turned=0, u_sliver=u_sliver, u_point=u_point,
            )
        )  # fmt: skip

    def run(self, x, weight, bias, out, floor=-np.inf, turned=False, argmax=None, normalisation=()):
        """Transform the weights, then all tiles. ``turned``: by 180 degrees, and out and in exchanged.

        With ``argmax``, where the plan is a pooled one, ``out`` gets max(0, largest of each window).
        """
        self._transform_weights(weight, turned)
        self._table.set(argmax=0 if argmax is None else argmax.address, floor=bits(floor))
        self._launch(self._forward_task, x, bias, out, normalisation)

    def run_measured(self, x, weight, bias, out, normalisation=()):
        """As ``run``; return the TileSums of ``out``, there until another run takes some."""
        self._transform_weights(weight, False)
        sums, tiles = workspace("sums of tiles", self._sums_bytes), self._records[1]
        self._table.set(sums=sums.ctypes.data)
        self._launch(self._measured_task, x, bias, out, normalisation)
        return TileSums(sums.ctypes.data, tiles.ctypes.data, len(tiles))

    def _launch(self, function, x, bias, out, normalisation):
        ends = {"x": x.address, "y": out.address, "normalisation": addresses_of(normalisation)}
        self._table.set(bias=address(self._zeros if bias is None else bias), **ends)
        launch(function, self._tasks, self._table.array)

    def _transform_weights(self, weight, turned):
        filter_step, start = weight.shape[1] * self._window, address(weight)
        self._weights.set(
            weight=start, end=start + weight.nbytes, out_step=self._window if turned else filter_step,
            channel_step=filter_step if turned else self._window, turned=turned,
        )  # fmt: skip
        launch(self._weights_task, self._slivers, self._weights.array)


def tiles_at_once(channels, nr):
    """Tiles whose transforms are multiplied together: more reuse of weights, fewer stay in the L2 cache.

    A multiple of ``nr``, which the register block takes at once: where that is three, four take as long as
    six, and where it is one (AVX2), two of few channels leave the L2 cache room for the next tiles' pixels.
    """
    return -(-(4 if channels <= 96 and nr > 1 else 2) // nr) * nr


@plans
def forward_plan(x_shape, out_shape, above, left, taps, pooled=False, form=FLOAT32):
    """The plan of a forward or d-input pass with ``above`` rows and ``left`` columns of padding."""
    return ForwardPlan(x_shape, out_shape, above, left, taps, pooled, form)


def forward(x, weight, bias, out, padding, floor=-np.inf, pairs=False, normalisation=()):
    """out = max(floor, weight * x + bias), a 3x3 or 5x5 weight, stride 1; ``pairs``: products in bfloat16.

    ``normalisation``: (mean, rstd, weight, bias), contiguous float32, of what x is read as, if any.
    """
    form = Form(x.itemsize, out.itemsize, pairs, bool(normalisation))
    plan = forward_plan(x.shape, out.shape, padding[0][0], padding[1][0], weight.shape[2], False, form)
    plan.run(x, weight, bias, out, floor, normalisation=normalisation)


def forward_measured(x, weight, bias, out, padding, pairs=False, normalisation=()):
    """As ``forward`` without a floor; return the TileSums of what was computed, before it is rounded."""
    form = Form(x.itemsize, out.itemsize, pairs, bool(normalisation))
    plan = forward_plan(x.shape, out.shape, padding[0][0], padding[1][0], weight.shape[2], False, form)
    return plan.run_measured(x, weight, bias, out, normalisation)


def forward_pooled(x, weight, bias, out, argmax, out_size, padding):
    """out = max(0, the largest of each 2x2 window of weight * x + bias) for a 5x5 weight, float32."""
    out_shape = *out.shape[:2], *out_size
    plan = forward_plan(x.shape, out_shape, padding[0][0], padding[1][0], weight.shape[2], True)
    plan.run(x, weight, bias, out, argmax=argmax)


def backward_input(dy, weight, dx, padding, pairs=False):
    """dx: the window turned by 180 degrees runs over dy."""
    taps, form = weight.shape[2], Form(dy.itemsize, dx.itemsize, pairs)
    ends = taps - 1 - padding[0][0], taps - 1 - padding[1][0]
    plan = forward_plan(dy.shape, dx.shape, *ends, taps, False, form)
    plan.run(dy, weight, None, dx, turned=True)
