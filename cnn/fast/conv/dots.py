"""The weight gradient of a direct convolution with few channels: dot products of dy with x.

    dweight[k, c, u, v] += sum over n, i, j of dy[n, k, i, j] * x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]

The mr rows of the register block are channels of dy, its nr columns input channels of one tap where there are
several (the rows and columns of dy that meet the padding are then left out), else the taps of one row of the
window (first layers, depthwise; x is then copied with its padding). Both operands are copied, a strip of rows
at a time, to where they neither leave the cache nor collide in it; if 2x2 maxima are taken behind the
convolution, the copy of dy is filled in from their gradient, and dy itself is never stored. With many
channels, ``panels.py`` is faster. Of bfloat16, two neighbouring pixels of sixteen images are 32 numbers,
which one ``vdpbf16ps`` multiplies as they lie in memory, if the window has no stride across.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.blocking import dot_block
from cnn.fast.conv.geometry import Planes
from cnn.fast.conv.microkernels import DotEnds, DotLoop, DotLoops, DotSteps
from cnn.fast.conv.pool_2x2 import MaximaGradient, unpool_2x2
from cnn.fast.conv.routines import Copy, Dot, copy_planes, dot
from cnn.fast.machine.jit import address, helper, launch, scratch_threads, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks
from cnn.fast.machine.simd import width as width_of
from cnn.fast.machine.tables import Table, call_with, integers, pointer, reader, records, size_of

L1_BYTES = 24 * 1024  # what the loops of a dot product should touch, of the 32 KiB that nearly every core has
NO_LOOP = DotLoop(0, 0, 0)
CHUNK = 48  # output channels of one task, at most


class Strip(NamedTuple):
    """Rows of dy, and the rows of x that they meet."""

    dy: int  # bytes from row 0
    dy_rows: int
    windows: int  # numbers from window 0 of a pooled dy
    x: int  # bytes from row 0
    x_rows: int


class Tap(NamedTuple):
    """A tap of the window, or a row of taps, and what of a strip meets it."""

    dy: int  # bytes from the first row of the strip
    x: int  # bytes from the first row of the copy of x
    loops: DotLoops  # a count of 0: nothing meets it


class Dots(NamedTuple):
    """One geometry; bytes unless said otherwise."""

    dy: int  # address; of a pooled dy where there is pooling
    argmax: int  # address of its cells
    x: int  # address
    sums: int  # address: [part][group][chunk] of sums
    sums_bytes: int  # of a task
    itemsize: int  # of a sum
    blocks: int  # of sixteen images
    parts: int  # that the blocks are divided into
    groups: int
    chunks: int
    chunk: int  # output channels of a chunk
    in_channels: int  # of a group
    out_channels: int  # of a group
    dy_planes: Planes  # before pooling
    x_planes: Planes
    x_copied: Planes  # of the copy
    x_start: int  # from the start of a row of the copy to its first pixel
    x_pixels: int  # pixels of a row that are copied
    dy_plane: int  # of the copy of dy; 0: dy is read where it lies
    strips: int  # address of Strip records
    strip_count: int
    taps: int  # address of Tap records, those of a strip side by side
    tap_count: int
    right_step: int  # from one column of the register block to the next
    scratch: int  # address
    scratch_bytes: int  # of one thread
    scratch_dy: int  # from the copy of x to that of dy
    mr: int
    nr: int  # columns of sums
    channels_at_once: int  # input channels that a register block spans
    cached: int  # input channels whose strips stay in the L1 cache
    product: int  # address of ``dot``
    copy: int  # address of ``copy_planes``
    unpool: int  # address of ``unpool_2x2`` if there is pooling


dots_of, strip_of, tap_of = reader(Dots), reader(Strip), reader(Tap)
STRIP_RECORD, TAP_RECORD = 8 * size_of(Strip), 8 * size_of(Tap)


@helper
def _copied_x(p, strip, planes, scratch):
    """Copy the rows of x that a strip meets; ``planes``: how many planes of x stand before."""
    source = p.x + planes * p.x_planes.plane + strip.x
    call_with(
        p.copy,
        Copy(
            source=source, target=scratch + p.x_start, planes=p.in_channels, rows=strip.x_rows,
            pixels=p.x_pixels, source_plane=p.x_planes.plane, source_row=p.x_planes.row,
            source_pixel=p.x_planes.pixel, target_plane=p.x_copied.plane, target_row=p.x_copied.row,
            target_pixel=p.x_copied.pixel,
        ),
    )  # fmt: skip


@helper
def _copied_dy(p, strip, planes, channels, scratch):
    """The address of the strip of dy: of a copy, of the gradient of the pool, or where it lies."""
    whole, target = p.dy_planes, scratch + p.scratch_dy
    if p.unpool:
        windows = whole.width // 2
        plane = whole.height // 2 * windows * 16
        at = planes * plane + strip.windows
        call_with(
            p.unpool,
            MaximaGradient(
                dy=p.dy + at * p.itemsize, argmax=p.argmax + at, dx=target, channels=channels,
                dy_plane=plane, dx_plane=p.dy_plane, height=strip.dy_rows, width=whole.width,
                windows=windows,
            ),
        )  # fmt: skip
        return target
    source = p.dy + planes * whole.plane + strip.dy
    if p.dy_plane == 0:
        return source
    call_with(
        p.copy,
        Copy(
            source=source, target=target, planes=channels, source_plane=whole.plane,
            target_plane=p.dy_plane, rows=1, source_row=0, target_row=0,
            pixels=strip.dy_rows * whole.width, source_pixel=whole.pixel, target_pixel=whole.pixel,
        ),
    )  # fmt: skip
    return target


@helper
def _add_strip(p, taps, dy, x, sums, channels):
    """sums[sliver][column block][tap][k, c] += sum over pixels and lanes of dy[k, i, j] * x[c, ...]"""
    cells = p.mr * p.nr * p.itemsize
    dy_plane = p.dy_plane if p.dy_plane else p.dy_planes.plane
    columns = (p.in_channels + p.channels_at_once - 1) // p.channels_at_once
    steps = DotSteps(dy_plane, p.right_step, p.nr * p.itemsize)
    for first in range(0, p.in_channels, p.cached):
        last = min(first + p.cached, p.in_channels)
        for j in range((channels + p.mr - 1) // p.mr):
            left = dy + min(j * p.mr, channels - p.mr) * dy_plane
            for c in range(first, last, p.channels_at_once):
                right = x + min(c, p.in_channels - p.channels_at_once) * p.x_copied.plane
                out = sums + (j * columns + c // p.channels_at_once) * p.tap_count * cells
                for number in range(p.tap_count):
                    tap = tap_of(taps + number * TAP_RECORD)
                    if tap.loops.a.count:
                        ends = DotEnds(left + tap.dy, right + tap.x, out + number * cells)
                        call_with(p.product, Dot(ends, steps, tap.loops))


@cache
def _dot_task():
    @task
    def dots(index, thread, params):
        p = dots_of(params)
        chunk, group = index % p.chunks, index // p.chunks % p.groups
        part = index // p.chunks // p.groups
        k = chunk * p.chunk
        channels = min(p.chunk, p.out_channels - k)
        sums, scratch = p.sums + index * p.sums_bytes, p.scratch + thread * p.scratch_bytes
        cells = pointer(sums, 8)
        for i in range(p.sums_bytes // 8):
            cells[i] = 0
        for block in range(p.blocks * part // p.parts, p.blocks * (part + 1) // p.parts):
            planes = block * p.groups + group
            for number in range(p.strip_count):
                strip = strip_of(p.strips + number * STRIP_RECORD)
                _copied_x(p, strip, planes * p.in_channels, scratch)
                dy = _copied_dy(p, strip, planes * p.out_channels + k, channels, scratch)
                _add_strip(p, p.taps + number * p.tap_count * TAP_RECORD, dy, scratch, sums, channels)

    return dots


class Add(NamedTuple):
    """dweight[k, c, t] += sum over parts of sums[part][out[k] + in[c] + tap[t]]; places in numbers."""

    sums: int  # address
    dweight: int  # address
    out_places: int  # address
    in_places: int  # address
    tap_places: int  # address
    parts: int
    part: int  # numbers from one part of the sums to the next
    in_channels: int  # of a group
    taps: int


add_of = reader(Add)


@cache
def _add_task(itemsize):
    """One output channel of all groups."""

    @task
    def add(index, thread, params):
        p = add_of(params)
        sums, dweight = pointer(p.sums, itemsize), pointer(p.dweight, itemsize)
        ins, taps = integers(p.in_places), integers(p.tap_places)
        start, first = integers(p.out_places)[index], index * p.in_channels * p.taps
        for part in range(1, p.parts):
            for c in range(p.in_channels):
                for t in range(p.taps):
                    at = start + ins[c] + taps[t]
                    sums[at] += sums[at + part * p.part]
        # In a loop of its own: the gradient of two passes is to be exactly the sum of both.
        for c in range(p.in_channels):
            for t in range(p.taps):
                dweight[first + c * p.taps + t] += sums[start + ins[c] + taps[t]]

    return add


class Blocking(NamedTuple):
    """How the work of a geometry is cut."""

    taps_across: bool  # the columns of the register block are the taps of a row, not input channels
    mr: int
    nr: int
    strip: int  # rows of dy, at most
    x_rows: int  # rows of x that a strip meets, at most
    x_width: int  # pixels of a row of the copy of x
    cached: int  # input channels whose strips stay in the L1 cache
    chunk: int  # output channels of a task
    chunks: int


def _blocking(problem):
    """Choose the Blocking."""
    g, pixel = problem, LANES * problem.operand
    dot_mr, dot_nr = blocks(g.itemsize)[1]
    sums, x_width = dot_mr * dot_nr, g.x.width
    across = g.in_channels <= 2 and 2 <= g.kernel[1] <= width_of(g.itemsize)
    if across:
        nr = g.kernel[1]
        mr = min(g.out_channels, max(1, sums // nr))
        mr = -(-g.out_channels // -(-g.out_channels // mr))  # shared out evenly
        met = (g.dy.width - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
        x_width = max(met, g.before[1] + 1)
    else:
        mr, nr = dot_block(g.out_channels, g.in_channels, sums)

    def rows_of(strip):
        return min((strip - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1, g.x.height)

    def bytes_of(strip):
        return (mr * strip * g.dy.width + (1 if across else nr) * rows_of(strip) * x_width) * pixel

    strip = 1
    while strip < g.dy.height and bytes_of(strip + 1) <= L1_BYTES // 2:
        strip += 1
    # An even number, so that strips hold whole windows of a pool behind, whether there is one or not: sums in
    # another order would be other bits.
    strip = max(2, strip // 2 * 2) if g.dy.height > 1 else 1
    one = rows_of(strip) * x_width * pixel
    cached = max(1, (L1_BYTES - mr * strip * g.dy.width * pixel) // one // nr) * nr
    # Enough tasks for many threads; few enough that adding their sums up costs nothing.
    chunks = -(-g.out_channels // CHUNK)
    chunk = -(-g.out_channels // chunks // mr) * mr
    chunks = -(-g.out_channels // chunk)
    if g.out_channels - (chunks - 1) * chunk < mr:  # a register block must fit the last chunk
        chunk, chunks = g.out_channels, 1
    cached = g.in_channels if across else cached
    return Blocking(across, mr, nr, strip, rows_of(strip), x_width, cached, chunk, chunks)


def _tables(g, cut):
    """The Strips, and the Taps of each."""
    down, across = g.reaches
    x_pixel, x_row = LANES * g.operand, cut.x_width * LANES * g.operand
    if cut.taps_across:
        across = [(0, g.dy.width, 0)]
    strips, taps = [], []
    for top in range(0, g.dy.height, cut.strip):
        bottom = min(top + cut.strip, g.dy.height)
        low = min(g.x.height, max(0, top * g.stride[0] + down[0][2]))
        high = min(g.x.height, (bottom - 1) * g.stride[0] + down[-1][2] + 1)
        windows = top // 2 * (g.dy.width // 2) * LANES
        strips.append(Strip(top * g.dy.row, bottom - top, windows, low * g.x.row, high - low))
        for first, last, row in down:
            first, last = max(first, top), min(last, bottom)
            for left, right, column in across:
                dy = (first - top) * g.dy.row + left * g.dy.pixel
                x = (first * g.stride[0] + row - low) * x_row + (left * g.stride[1] + column) * x_pixel
                rows = DotLoop(last - first, g.dy.row, g.stride[0] * x_row)
                pixels = DotLoop(right - left, g.dy.pixel, g.stride[1] * x_pixel)
                if first >= last or left >= right:
                    taps.append(Tap(0, 0, DotLoops(NO_LOOP, NO_LOOP)))
                elif right - left == 1 and g.operand == g.itemsize:  # else turns of b are neighbours
                    taps.append(Tap(dy, x, DotLoops(DotLoop(1, 0, 0), rows)))
                else:
                    taps.append(Tap(dy, x, DotLoops(rows, pixels)))
    return strips, taps


def _places(g, cut):
    """Where among the sums of a part each output channel, input channel and tap stands, and how many it has.

    Sums are [group][chunk][sliver][columns of nr][tap][mr][nr]; the last sliver of a chunk is moved up to end
    with it, as are the last columns.
    """
    cells, kernel_taps = cut.mr * cut.nr, g.kernel[0] * g.kernel[1]
    taps = g.kernel[0] if cut.taps_across else kernel_taps
    at_once = 1 if cut.taps_across else cut.nr
    columns = -(-g.in_channels // at_once)
    sliver = columns * taps * cells
    chunk = -(-(-(-cut.chunk // cut.mr) * sliver * g.itemsize) // 64) * 64 // g.itemsize  # whole cache lines
    outs, ins = [], []
    for channel in range(g.groups * g.out_channels):
        group, k = divmod(channel, g.out_channels)
        number, k = divmod(k, cut.chunk)
        j, count = k // cut.mr, min(cut.chunk, g.out_channels - number * cut.chunk)
        moved = k - min(j * cut.mr, count - cut.mr)
        outs.append((group * cut.chunks + number) * chunk + j * sliver + moved * cut.nr)
    for c in range(g.in_channels):
        moved = c - min(c // at_once * at_once, g.in_channels - at_once)
        ins.append(c // at_once * taps * cells + moved)
    ends = [divmod(t, g.kernel[1]) if cut.taps_across else (t, 0) for t in range(kernel_taps)]
    places = outs, ins, [t * cells + column for t, column in ends]
    return [np.array(place, np.int64) for place in places], chunk


class DotPlan:
    """The tables and the memory of one geometry; ``run`` fills in the addresses of arrays."""

    def __init__(self, problem, pooled):
        """``pooled``: dy is that of 2x2 maxima behind the convolution."""
        g, cut, pixel = problem, _blocking(problem), LANES * problem.operand
        strips, taps = _tables(g, cut)
        self._records, (self._places, chunk) = (records(strips), records(taps)), _places(g, cut)
        parts = min(g.blocks, max(1, -(-16 // (cut.chunks * g.groups))))
        self._tasks, self._itemsize = parts * g.groups * cut.chunks, g.itemsize
        self._sums = aligned_zeros((self._tasks * chunk * g.itemsize,), np.uint8)
        x_plane = (cut.x_rows * cut.x_width | 1) * pixel
        dy_plane = (cut.strip * g.dy.width | 1) * pixel if g.in_channels > 4 or pooled else 0
        scratch_bytes = g.in_channels * x_plane + cut.chunk * dy_plane + 64
        self._scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        start = g.before[1] if cut.taps_across else 0
        self._table = Table(
            Dots(
                dy=0, argmax=0, x=0, sums=self._sums.ctypes.data, sums_bytes=chunk * g.itemsize,
                itemsize=g.itemsize, blocks=g.blocks, parts=parts, groups=g.groups, chunks=cut.chunks,
                chunk=cut.chunk, in_channels=g.in_channels, out_channels=g.out_channels, dy_planes=g.dy,
                x_planes=g.x, x_copied=Planes(cut.x_rows, cut.x_width, x_plane, cut.x_width * pixel, pixel),
                x_start=start * pixel, x_pixels=min(g.x.width, cut.x_width - start), dy_plane=dy_plane,
                strips=self._records[0].ctypes.data, strip_count=len(strips),
                taps=self._records[1].ctypes.data, tap_count=len(taps) // len(strips),
                right_step=g.dilation[1] * pixel if cut.taps_across else x_plane,
                scratch=self._scratch.ctypes.data, scratch_bytes=scratch_bytes,
                scratch_dy=g.in_channels * x_plane, mr=cut.mr, nr=cut.nr,
                channels_at_once=1 if cut.taps_across else cut.nr, cached=cut.cached,
                product=dot(cut.mr, cut.nr, g.operand), copy=copy_planes(g.operand),
                unpool=unpool_2x2(g.itemsize) if pooled else 0,
            )
        )  # fmt: skip
        outs, ins, at = (place.ctypes.data for place in self._places)
        self._channels = g.groups * g.out_channels
        self._add = Table(
            Add(
                sums=self._sums.ctypes.data, dweight=0, out_places=outs, in_places=ins, tap_places=at,
                parts=parts, part=g.groups * cut.chunks * chunk, in_channels=g.in_channels,
                taps=g.kernel[0] * g.kernel[1],
            )
        )  # fmt: skip

    def run(self, dy, x, dweight, argmax=None):
        """Sum the parts, then add them to ``dweight`` in a fixed order; ``argmax`` if the plan is pooled."""
        self._table.set(dy=dy.address, x=x.address, argmax=0 if argmax is None else argmax.address)
        launch(_dot_task(), self._tasks, self._table.array)
        self._add.set(dweight=address(dweight))
        launch(_add_task(self._itemsize), self._channels, self._add.array)
