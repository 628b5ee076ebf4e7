"""The gather: each output pixel sums products over the taps of a window that meet a pixel of the source.

    out[n, k, i, j] = max(floor, bias[k] + sum over c and taps u, v of w[k, c, u, v] * source[n, c, ...])

The source is x for forward, dy for d-input (with stride 2, taps of one parity: no zeros are inserted and
multiplied). Which taps are inside depends on the row and the column separately and is worked out once a
geometry in Python (``taps``): a table of bands of rows and one of runs of pixels. Padding, stride and
dilation never reach the compiled code.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.ahead import NOTHING, ahead_of_planes, share
from cnn.fast.conv.blocking import even_slivers, pair_block, pixels_at_once
from cnn.fast.conv.geometry import Planes
from cnn.fast.conv.microkernels import (
    STORE,
    STORE_NARROW,
    STORE_NONTEMPORAL,
    Ends,
    Loop,
    Loops,
    memory_fence,
    prefetch,
)
from cnn.fast.conv.pack import NOWHERE, Pack, Packed
from cnn.fast.conv.pairs import pair_planes
from cnn.fast.conv.pool_2x2 import Maxima, max_2x2
from cnn.fast.conv.routines import (
    PAIR_ROWS,
    Copy,
    RowProducts,
    RowProductsAhead,
    copy_planes,
    row_products,
)
from cnn.fast.conv.taps import Axis
from cnn.fast.machine import bf16
from cnn.fast.machine.jit import address, helper, launch, scratch_threads, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks
from cnn.fast.machine.tables import Table, bits, call_with, reader, records, size_of

BAND = 8  # rows that one call computes, at most
STRIP_BYTES = 64 * 1024  # what a strip of rows should touch: of 512 KiB of L2, but larger strips were slower


class Strip(NamedTuple):
    """Rows of the output that one task computes, and what of the source they are summed from."""

    first: int  # output row
    last: int  # output row, one past
    low: int  # source row
    rows: int  # source rows
    first_band: int
    last_band: int  # one past


class Band(NamedTuple):
    """Rows of a strip whose windows meet the same taps: one call computes them."""

    rows: int
    out: int  # bytes from row 0 of the output
    source: int  # bytes from the first source row of the strip to the first that is met
    source_row: int  # bytes between the source rows of neighbours
    weight: int  # bytes to the first row of taps
    taps: int  # rows of taps
    ahead: int  # bytes to the source rows that the next band needs
    ahead_lines: int  # cache lines of them in a channel


class Run(NamedTuple):
    """Pixels of a row whose windows meet the same taps; bytes unless said otherwise."""

    pixels: int  # pixels
    out: int  # from the first pixel of the row
    out_pixel: int  # from one pixel to the next
    source: int
    source_pixel: int
    weight: int
    taps: int  # taps of a row


class Gather(NamedTuple):
    """One geometry; bytes unless said otherwise."""

    x: int  # address of the source
    weight: int  # address of the packed weights
    bias: int  # address
    out: int  # address; with pooling, of the maxima
    argmax: int  # address of their cells
    floor: int  # bits of the lower bound of the result
    itemsize: int
    tasks: int
    groups: int
    in_channels: int  # of a group
    vectors: int  # channels that are multiplied, or pairs of them
    out_channels: int  # of a group
    source: Planes
    copied_plane: int  # of the copy of the source
    scratch: int  # address
    scratch_bytes: int  # of one thread, for the copy; 0: the source is read where it lies
    copy: int  # address of ``copy_planes``
    strips: int  # address of Strip records
    strip_count: int
    bands: int  # address of Band records
    runs: int  # address of Run records
    run_count: int
    longest: int  # number of the run that has the most pixels
    asks: int  # whether for the next strip
    mr: int  # output channels of a full sliver
    full: int  # slivers of mr output channels; those behind them have one less
    last: int  # output channel that no sliver begins behind
    slivers: int
    weight_sliver: int
    nr: int  # pixels of a register block
    products: int  # address of ``row_products`` for mr channels
    smaller: int  # address of that for one less
    down: Loop  # over rows of taps; the count is that of the band
    across: Loop  # over the taps of a row; the count is that of the run
    channels: Loop
    channels_inside: int  # the loop over channels is the innermost, not the outermost
    out_plane: int
    out_row: int
    windows_down: int  # 2x2 windows of the output
    windows_across: int
    maxima: int  # address of ``max_2x2`` if there is pooling
    sums: int  # address
    sums_bytes: int  # of one thread: a strip before pooling


gather_of, strip_of, band_of, run_of = reader(Gather), reader(Strip), reader(Band), reader(Run)
STRIP_RECORD, BAND_RECORD, RUN_RECORD = 8 * size_of(Strip), 8 * size_of(Band), 8 * size_of(Run)


@helper
def _copied(p, strip, source, thread):
    """The address of a copy of the source rows of a strip whose planes start in different cache sets."""
    target = p.scratch + thread * p.scratch_bytes
    pixel = LANES * p.itemsize
    call_with(
        p.copy,
        Copy(
            source=source, target=target, pixels=p.source.width, rows=strip.rows, planes=p.in_channels,
            source_pixel=p.source.pixel, source_row=p.source.row, source_plane=p.source.plane,
            target_pixel=pixel, target_row=p.source.width * pixel, target_plane=p.copied_plane,
        ),
    )  # fmt: skip
    return target


@helper
def _next_strip(p, index):
    """Ahead of what the task behind this one copies, most likely in the same thread."""
    after = index + 1
    strip = strip_of(p.strips + after % p.strip_count * STRIP_RECORD)
    source = p.x + after // p.strip_count * p.in_channels * p.source.plane + strip.low * p.source.row
    size = strip.rows * p.source.row if p.asks and after < p.tasks else 0
    return ahead_of_planes(source, p.in_channels, p.source.plane, size)


@helper
def _band(p, band, ends, routine, out_plane, ahead):
    """out[k, i, j] = max(floor, bias[k] + sum over taps inside and c of w[k, c, u, v] * x[c, ...])

    The products of the longest run ask for the part of ``ahead``, so that it is spread over many of them.
    """
    down = Loop(band.taps, p.down.vectors, p.down.scalars)
    for number in range(p.run_count):
        run = run_of(p.runs + number * RUN_RECORD)
        across = Loop(run.taps, p.across.vectors, p.across.scalars)
        loops = Loops(down, across, p.channels) if p.channels_inside else Loops(p.channels, down, across)
        to = ends.out + band.out + run.out
        ends_ = Ends(
            ends.vectors + band.source + run.source, ends.scalars + band.weight + run.weight, ends.bias, to
        )
        products = RowProducts(
            ends=ends_, loops=loops, scalars_k=p.itemsize, floor=p.floor, out_k=out_plane,
            pixels=run.pixels, vectors_pixel=run.source_pixel, out_pixel=run.out_pixel,
            rows=band.rows, vectors_row=band.source_row, out_row=p.out_row,
        )  # fmt: skip
        call_with(routine, RowProductsAhead(products, ahead if number == p.longest else NOTHING))


@helper
def _strip(p, strip, x, out, group, out_plane, ahead):
    """All output channels of a strip, a sliver after the other."""
    bands = strip.last_band - strip.first_band
    across = (run_of(p.runs + p.longest * RUN_RECORD).pixels + p.nr - 1) // p.nr
    for j in range(p.slivers):
        k = min(j * p.mr - max(0, j - p.full), p.last)
        routine = p.products if j < p.full else p.smaller
        weight = p.weight + (group * p.slivers + j) * p.weight_sliver
        bias = p.bias + (group * p.out_channels + k) * p.itemsize
        for number in range(strip.first_band, strip.last_band):
            band = band_of(p.bands + number * BAND_RECORD)
            if j == 0 and p.scratch_bytes == 0:
                # The hardware does not foresee the addresses of a window with strides.
                for c in range(p.in_channels):
                    prefetch(x + c * p.channels.vectors + band.ahead, band.ahead_lines)
            part = share(ahead, j * bands + number - strip.first_band, p.slivers * bands, band.rows * across)
            _band(p, band, Ends(x, weight, bias, out + k * out_plane), routine, out_plane, part)


@helper
def _maxima(p, strip, planes, sums, out_plane):
    """The maxima of the 2x2 windows of a strip; ``planes``: how many planes of the output stand before."""
    first = (planes * p.windows_down + strip.first // 2) * p.windows_across * LANES
    call_with(
        p.maxima,
        Maxima(
            x=sums, y=p.out + first * p.itemsize, argmax=p.argmax + first, channels=p.out_channels,
            x_plane=out_plane, x_row=p.out_row, y_plane=p.windows_down * p.windows_across * LANES,
            height=(strip.last - strip.first) // 2, width=p.windows_across, relu=1,
        ),
    )  # fmt: skip


@cache
def _gather_task():
    @task
    def gather(index, thread, params):
        p = gather_of(params)
        strip = strip_of(p.strips + index % p.strip_count * STRIP_RECORD)
        group, block = index // p.strip_count % p.groups, index // p.strip_count // p.groups
        planes = block * p.groups + group
        x = p.x + planes * p.in_channels * p.source.plane + strip.low * p.source.row
        if p.scratch_bytes:
            x = _copied(p, strip, x, thread)
        planes *= p.out_channels
        ahead = _next_strip(p, index)
        if p.maxima:
            # The strip stays with this thread; only the largest of each window leaves.
            sums = p.sums + thread * p.sums_bytes
            out_plane = (strip.last - strip.first) * p.out_row
            _strip(p, strip, x, sums - strip.first * p.out_row, group, out_plane, ahead)
            _maxima(p, strip, planes, sums, out_plane)
        else:
            _strip(p, strip, x, p.out + planes * p.out_plane, group, p.out_plane, ahead)
            memory_fence()

    return gather


class Problem(NamedTuple):
    """What a gather computes, forward or backward."""

    blocks: int  # of sixteen images
    groups: int
    in_channels: int  # of a group
    out_channels: int  # of a group
    source: Planes
    out_size: tuple  # (h, w)
    rows: Axis
    columns: Axis
    kernel: tuple
    itemsize: int  # bytes of a number that is multiplied
    read_size: int  # of a number of the source in memory
    written_size: int  # of a number of the result in memory
    pairs: bool = False  # whether pairs of bfloat16 are multiplied: a pair takes the place of a number

    @property
    def vectors(self):
        """Channels of a group, or pairs of them."""
        return -(-self.in_channels // 2) if self.pairs else self.in_channels


def _cut(problem, unit):
    """Cut the output rows so that the source of a strip stays in the L2 cache, with work for all threads.

    Returns [(first, last, low, high)]: output rows, a multiple of ``unit``, and the source rows they meet.
    """
    rows, units = problem.rows, problem.out_size[0] // unit  # no 2x2 window reaches an odd row at the end
    row_bytes = problem.vectors * problem.source.width * LANES * problem.itemsize
    others = problem.blocks * problem.groups
    count = 1
    while count < units:
        step = -(-units // count) * unit
        low, high = rows.span(0, step)
        if (high - low) * row_bytes <= STRIP_BYTES and (count * others >= 16 or step <= 4):
            break
        count += 1
    cuts = [units * i // count * unit for i in range(count + 1)]
    return [(first, last, *rows.span(first, last)) for first, last in pairwise(cuts)]


def _bands(rows, strip, source_row, out_row, weight_row):
    """The Bands of a strip (first, last, low); rows in bytes: of source, output and weight."""
    first, last, low = strip
    bands, y = [], first

    def end(row):
        _, index, taps = rows.first[row]
        return index + (taps - 1) * rows.index_step

    while y < last:
        tap, index, taps = rows.first[y]
        count, step = 1, rows.first[y + 1][1] - index if y + 1 < last else 0
        while count < min(BAND, last - y) and rows.first[y + count] == (tap, index + count * step, taps):
            count += 1
        ahead = lines = 0
        if y + count < last:
            reached = end(y + count - 1)
            ahead = (reached + 1 - low) * source_row
            lines = (end(min(y + 2 * count, last) - 1) - reached) * source_row // 64
        place = y * out_row, (index - low) * source_row
        bands.append(Band(count, *place, step * source_row, tap * weight_row, taps, ahead, lines))
        y += count
    return bands


class GatherPlan:
    """The tables and the memory of one gather; ``run`` fills in the addresses of arrays."""

    def __init__(self, problem, pooled):
        """``pooled``: only the largest of each 2x2 window is written, and which one it was."""
        g = self._problem = problem
        pixel, window_taps = LANES * g.itemsize, g.kernel[0] * g.kernel[1]
        self._runs = g.columns.segments()
        if g.pairs:
            self._mr, most = pair_block(g.out_channels)
            self._full = -(-g.out_channels // self._mr)
        else:
            (self._mr, most), self._full = even_slivers(g.out_channels, blocks(g.itemsize)[0])
        self._nr = pixels_at_once(self._mr, most, [run[2] for run in self._runs], g.itemsize)
        # Long inner loops are the cheap ones.
        self._inside = g.vectors > g.kernel[1]
        row = PAIR_ROWS if g.pairs else self._mr
        tap, channel = (g.vectors * row, row) if self._inside else (row, window_taps * row)
        self._last = g.out_channels - self._mr if g.pairs else g.out_channels
        pack = Pack(
            weight=0, end=0, packed=0, source=NOWHERE, mr=self._mr, full=self._full, last=self._last,
            out_channels=g.out_channels, channels=g.in_channels, taps=window_taps, packed_channel=channel,
            packed_tap=tap,
        )  # fmt: skip
        self._packed = Packed(g.groups, g.itemsize, pack, g.pairs)
        self._weight_tap, self._weight_channel = tap * g.itemsize, channel * g.itemsize
        copied = g.pairs or g.in_channels > 4 or g.source.pixel != pixel
        self._source_row = g.source.width * pixel if copied else g.source.row
        self._out_pixel = LANES * g.written_size
        self._out_row = g.out_size[1] * self._out_pixel
        self._lay_out(pooled)
        largest = max(strip.rows for strip in self._strips) * g.source.width
        plane = (largest | 1) * pixel if copied else g.source.plane
        scratch_bytes = (g.vectors * plane + 8191) // 4096 * 4096 - 2048 if copied else 0
        rows = max(strip.last - strip.first for strip in self._strips)
        sums_bytes = rows * self._out_row * g.out_channels + 64 if pooled else 0
        self._scratch = aligned_zeros((scratch_threads() * scratch_bytes + 64,), np.uint8)
        self._sums = aligned_zeros((scratch_threads() * sums_bytes,), np.uint8)
        self._no_bias = aligned_zeros((g.groups * g.out_channels * g.itemsize,), np.uint8)
        self._tasks = g.blocks * g.groups * len(self._strips)
        self._table = Table(self._record(pooled, plane, scratch_bytes, sums_bytes))

    def _lay_out(self, pooled):
        """Make the tables of strips, bands and runs."""
        g, pixel = self._problem, LANES * self._problem.itemsize
        row_steps = self._source_row, self._out_row, g.kernel[1] * self._weight_tap
        self._strips, bands = [], []
        for first, last, low, high in _cut(g, 2 if pooled else 1):
            found = _bands(g.rows, (first, last, low), *row_steps)
            self._strips.append(Strip(first, last, low, high - low, len(bands), len(bands) + len(found)))
            bands += found
        out_pixel = self._out_pixel
        runs = [
            Run(
                pixels=count, out=at * out_pixel, out_pixel=step * out_pixel, source=index * pixel,
                source_pixel=index_step * pixel, weight=tap * self._weight_tap, taps=taps,
            )
            for at, step, count, tap, taps, index, index_step in self._runs
        ]  # fmt: skip
        self._tables = records(self._strips), records(bands), records(runs)

    def _record(self, pooled, copied_plane, scratch_bytes, sums_bytes):
        g, pixel = self._problem, LANES * self._problem.itemsize
        strips, bands, runs = (array.ctypes.data for array in self._tables)
        row_tap, tap = g.kernel[1] * self._weight_tap, self._weight_tap
        # A load waits for a non-temporal store before it whose address has the same last twelve bits. Where
        # there is much to multiply for each result, that costs more than fetching what is overwritten.
        turns = g.vectors * g.kernel[0] * g.kernel[1] / (g.rows.phases * g.columns.phases)
        how = STORE if pooled or scratch_bytes == 0 or turns >= 64 else STORE_NONTEMPORAL
        how = STORE_NARROW if g.written_size < g.itemsize and not pooled else how
        operand = bf16.SIZE if g.pairs else g.itemsize
        # Of more planes most would drive each other out of the cache before they are copied.
        longest = max(range(len(self._runs)), key=lambda run: self._runs[run][2])
        asks = int(scratch_bytes > 0 and self._packed.slivers > 1 and g.in_channels <= 32)
        products = [
            row_products(mr, self._nr, operand, how=how, ahead=True) if mr else 0
            for mr in (self._mr, self._mr - 1 if self._full < self._packed.slivers else 0)
        ]
        return Gather(
            x=0, weight=self._packed.address, bias=0, out=0, argmax=0, floor=0, itemsize=g.itemsize,
            tasks=self._tasks, groups=g.groups, in_channels=g.in_channels, vectors=g.vectors,
            out_channels=g.out_channels, source=g.source, copied_plane=copied_plane,
            scratch=self._scratch.ctypes.data, scratch_bytes=scratch_bytes,
            copy=pair_planes(g.read_size) if g.pairs else copy_planes(g.itemsize, g.read_size),
            strips=strips, strip_count=len(self._strips),
            bands=bands, runs=runs, run_count=len(self._runs),
            longest=longest, asks=asks, mr=self._mr, full=self._full, last=self._last,
            slivers=self._packed.slivers, weight_sliver=self._packed.sliver_bytes,
            nr=self._nr, products=products[0], smaller=products[1],
            down=Loop(0, g.rows.index_step * self._source_row, g.rows.tap_step * row_tap),
            across=Loop(0, g.columns.index_step * pixel, g.columns.tap_step * tap),
            channels=Loop(g.vectors, copied_plane, self._weight_channel),
            channels_inside=self._inside, out_plane=g.out_size[0] * self._out_row, out_row=self._out_row,
            windows_down=g.out_size[0] // 2, windows_across=g.out_size[1] // 2,
            maxima=max_2x2(g.itemsize) if pooled else 0, sums=self._sums.ctypes.data, sums_bytes=sums_bytes,
        )  # fmt: skip

    def run(self, x, weight, strides, bias, out, floor=-np.inf, argmax=None):
        """Pack the weight, then gather; ``strides``: how the weight is read.

        With ``argmax``, where the plan is a pooled one, ``out`` gets max(0, largest of each window).
        """
        self._packed.fill(weight, strides)
        self._table.set(
            x=x.address, out=out.address, bias=address(self._no_bias if bias is None else bias),
            argmax=0 if argmax is None else argmax.address, floor=bits(floor),
        )  # fmt: skip
        launch(_gather_task(), self._tasks, self._table.array)
