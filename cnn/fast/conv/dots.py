"""The weight gradient of a direct convolution with few channels: dots of dy with x over pixels and images.

    dweight[k, c, u, v] += sum over n, i, j of dy[n, k, i, j] * x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]

A register tile sums ``rows`` channels of dy against ``columns`` neighbours at once: input channels of one tap
where there are several (the rows and columns of dy that meet the padding are then left out), taps of one row
of the window where there are not (first layers, depthwise; x is then copied with its padding). Both operands
are copied, a strip of rows at a time, to where they neither leave the cache nor collide in it; if 2x2 maxima
are taken behind the convolution, the copy of dy is filled in from their gradient, and dy itself is never
stored. With many channels, ``conv_panels`` is faster.
"""

from functools import cache

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv import panels as conv_panels
from cnn.fast.conv.pool_2x2 import unpool_2x2
from cnn.fast.conv.taps import forward_taps
from cnn.fast.conv.tiles import copy_box, dot
from cnn.fast.machine.jit import launch, plans, scratch_threads, table, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.simd import blocks
from cnn.fast.machine.simd import width as width_of
from cnn.fast.machine.tables import call, integers, pointer

L1_BYTES = 24 * 1024  # what a tile's loop should touch, of the 32 KiB that nearly every core has
CHUNK_ROWS = 48  # output channels of one piece of work, at most


@cache
def _dot_task(size):
    """The compiled d-weight; ``tile`` is the address of ``tiles.dot`` for its register block."""

    @task
    def dots(index, thread, params):
        p = integers(params)
        dy, x, partial, scratch, scratch_bytes = p[0], p[1], p[2], p[3], p[4]
        images, parts, groups, chunks = p[5], p[6], p[7], p[8]
        out_channels, in_channels, chunk_rows = p[9], p[10], p[11]
        tap_rows, tap_columns = integers(p[12]), integers(p[14])
        tap_row_count, tap_column_count = p[13], p[15]
        height, width, in_height = p[16], p[17], p[18]
        in_plane, in_row, in_pixel = p[20], p[21], p[22]
        down, right_step, column_step = p[23], p[24], p[25]
        strip_rows, column_chunk, copied = p[26], p[27], p[28]
        x_plane, x_row, x_start, g_copied, x_at_scratch, g_at_scratch = (
            p[29], p[30], p[31], p[32], p[33], p[34]
        )  # fmt: skip
        taps_across, tile, rows, columns = p[35], p[36], p[37], p[38]
        copy, store, unpool, argmax = p[39], p[40], p[41], p[42]
        pixel = 16 * size
        chunk = index % chunks
        group = index // chunks % groups
        part = index // chunks // groups
        k0 = min(chunk * chunk_rows, out_channels)
        k1 = min(k0 + chunk_rows, out_channels)
        row_blocks = (k1 - k0 + rows - 1) // rows
        # sums[row block][column block][tap][row][column]; a tile across taps has one of each row of taps
        column_blocks = in_channels if taps_across else (in_channels + columns - 1) // columns
        turns = 1 if taps_across else tap_column_count
        cells = rows * columns
        start = scratch + thread * scratch_bytes
        sums = pointer(start, size)
        for i in range(row_blocks * column_blocks * tap_row_count * turns * cells):
            sums[i] = 0
        xs, gs = start + x_at_scratch, start + g_at_scratch
        channel_step = 1 if taps_across else columns
        x_column = column_step if taps_across else x_plane
        last_channel = in_channels - channel_step
        dy_row = width * pixel
        for block in range(images * part // parts, images * (part + 1) // parts):
            x_block = x + (block * groups + group) * in_channels * in_plane
            for top in range(0, height, strip_rows):
                bottom = min(top + strip_rows, height)
                low = min(in_height, max(0, top * down + tap_rows[2]))
                high = min(in_height, (bottom - 1) * down + tap_rows[3 * tap_row_count - 1] + 1)
                source = x_block + low * in_row
                planes, strip = (in_channels, in_plane, x_plane), (high - low, in_row, x_row)
                call(copy, (source, xs + x_start, *planes, *strip, copied, in_pixel, pixel))
                g_plane, first_plane = height * dy_row, (block * groups + group) * out_channels + k0
                g_start = dy + first_plane * g_plane + top * dy_row
                strip_plane = ((strip_rows * width) | 1) * pixel
                if unpool:
                    # dy is that of a pool behind: the cells of its windows are filled in here
                    oh, ow = height // 2, width // 2
                    at = (first_plane * oh + top // 2) * ow * 16
                    ends = (dy + at * size, argmax + at, gs, k1 - k0, oh * ow * 16, strip_plane)
                    call(unpool, (*ends, bottom - top, width, ow))
                    g_start, g_plane = gs, strip_plane
                elif g_copied:
                    count = (bottom - top) * width
                    call(copy, (g_start, gs, k1 - k0, g_plane, strip_plane, 1, 0, 0, count, pixel, pixel))
                    g_start, g_plane = gs, strip_plane
                for c0 in range(0, in_channels, column_chunk):
                    c1 = min(c0 + column_chunk, in_channels)
                    for j in range(row_blocks):
                        g_block = g_start + min(j * rows, k1 - k0 - rows) * g_plane - top * dy_row
                        for c in range(c0, c1, channel_step):
                            x_channel = xs + min(c, last_channel) * x_plane
                            column_block = j * column_blocks + c // channel_step
                            out = start + column_block * tap_row_count * turns * cells * size
                            for u in range(tap_row_count):
                                # rows of dy that meet the image through this tap, and the image row of row 0
                                first, last = max(top, tap_rows[3 * u]), min(bottom, tap_rows[3 * u + 1])
                                x_tap = x_channel + (tap_rows[3 * u + 2] - low + first * down) * x_row
                                for v in range(turns):
                                    left, right = tap_columns[3 * v], tap_columns[3 * v + 1]
                                    if first < last and left < right:
                                        g_at = g_block + first * dy_row + left * pixel
                                        x_at = x_tap + (tap_columns[3 * v + 2] + left * right_step) * pixel
                                        ends = (g_at, g_plane, x_at, x_column, out, columns * size)
                                        steps = (last - first, dy_row, down * x_row)
                                        if right - left == 1:
                                            call(tile, (*ends, 1, 0, 0, *steps))
                                        else:
                                            call(
                                                tile, (*ends, *steps, right - left, pixel, right_step * pixel)
                                            )
                                    out += cells * size
        ends = (start, partial, rows, columns, row_blocks, column_blocks, tap_row_count * turns, channel_step)
        first = part * groups * out_channels + group * out_channels + k0
        taps = tap_row_count * tap_column_count
        steps = (columns, 1) if taps_across else (1, taps)
        call(store, (*ends, first, k1 - k0, in_channels, taps, *steps))

    return dots


@cache
def _store(size):
    """Address of the copy of a piece's sums into its place among the partial weight gradients."""

    @task
    def store(
        sums, partial, rows, columns, row_blocks, column_blocks, turns, channel_step,
        first, count, in_channels, taps, turn_step, column_step,
    ):  # fmt: skip
        sums, result = pointer(sums, size), pointer(partial, size)
        at = 0
        for j in range(row_blocks):
            k = first + min(j * rows, count - rows)
            for b in range(column_blocks):
                c = min(b * channel_step, in_channels - channel_step)
                for t in range(turns):
                    for r in range(rows):
                        base = ((k + r) * in_channels + c) * taps + t * turn_step
                        for q in range(columns):
                            result[base + q * column_step] = sums[at]
                            at += 1

    return store.address


@cache
def _add_task(size):
    """target[i] += sum over parts of partial[part, i], in chunks of 1024."""

    @task
    def add(index, thread, params):
        p = integers(params)
        partial, target, parts, count = pointer(p[0], size), pointer(p[1], size), p[2], p[3]
        first, last = index * 1024, min(count, index * 1024 + 1024)
        for part in range(1, parts):
            for i in range(first, last):
                partial[i] += partial[part * count + i]
        # In a loop of its own: the gradient of two passes is to be exactly the sum of both.
        for i in range(first, last):
            target[i] += partial[i]

    return add


def dot_block(out_channels, in_channels, sums):
    """The register block (rows, columns) that covers all pairs of channels in the least time."""

    def cost(block):
        rows, columns = block
        turn = max(rows * columns / 2, (rows + columns) / 2, 4 if rows * columns >= 8 else 2)
        return -(-out_channels // rows) * -(-in_channels // columns) * turn

    choices = [(sums // 4, 4), (sums // 3, 3), (sums // 2, 2), (sums // 2, 1), (1, 4), (1, 1)]
    choices = [block for block in choices if block[0] <= out_channels and block[1] <= in_channels]
    return min(choices, key=cost)


class DotPlan:
    """Everything about one geometry that the compiled dots need; ``run`` fills in the addresses."""

    def __init__(
        self,
        images,
        groups,
        in_channels,
        out_channels,
        source,
        dy_shape,
        kernel,
        stride,
        before,
        dilation,
        size,
        pooled=False,
    ):
        """images: blocks of sixteen; channels: of one group; dy_shape: (h, w); kernel ...: (down, across).

        ``source`` is (h, w, bytes of a plane, of a row step, of a pixel step): the input as taps count it.
        """
        pixel = LANES * size
        self.size = size
        height, width, in_plane, in_row, in_pixel = source
        sums = blocks(size)[1][0] * blocks(size)[1][1]
        across = in_channels <= 2 and 2 <= kernel[1] <= width_of(size)
        if across:
            columns = kernel[1]
            rows = min(out_channels, max(1, sums // columns))
            rows = -(-out_channels // -(-out_channels // rows))  # shared out evenly
        else:
            rows, columns = dot_block(out_channels, in_channels, sums)
        spans = []
        for axis in (0, 1):
            met = forward_taps(
                source[axis], dy_shape[axis], kernel[axis], stride[axis], before[axis], dilation[axis]
            )
            span = []
            for u in range(kernel[axis]):
                inside = [i for i, pairs in enumerate(met) if any(tap == u for tap, _ in pairs)]
                first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
                span.append((first, last, u * dilation[axis] - before[axis]))
            spans.append(span)
        padded, x_start, copied = width, 0, width
        if across:
            padded = max((dy_shape[1] - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1, before[1] + 1)
            x_start, copied = before[1], min(width, padded - before[1])
            spans[1] = [(0, dy_shape[1], 0)]
        self.tap_rows, self.tap_columns = table(spans[0]), table(spans[1])

        def strip_bytes(strip, channels):
            in_rows = min((strip - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1, height)
            return channels * in_rows * padded * pixel, in_rows

        strip = 1
        while strip < dy_shape[0] and (
            rows * (strip + 1) * dy_shape[1] * pixel + strip_bytes(strip + 1, 1 if across else columns)[0]
            <= L1_BYTES // 2
        ):
            strip += 1
        # An even number, so that strips hold whole windows of a pool behind, whether there is one or not:
        # sums in another order would be other bits.
        strip = max(2, strip // 2 * 2) if dy_shape[0] > 1 else 1
        one, in_rows = strip_bytes(strip, 1)
        column_chunk = max(1, (L1_BYTES - rows * strip * dy_shape[1] * pixel) // one // columns) * columns
        if across:
            column_chunk = in_channels
        # Enough pieces for many threads; few enough that adding them up costs nothing.
        chunks = -(-out_channels // CHUNK_ROWS)
        chunk_rows = -(-out_channels // chunks // rows) * rows
        chunks = -(-out_channels // chunk_rows)
        if out_channels - (chunks - 1) * chunk_rows < rows:  # a tile must fit the last chunk
            chunk_rows, chunks = out_channels, 1
        parts = min(images, max(1, -(-16 // (chunks * groups))))
        self.tasks = parts * groups * chunks
        taps = kernel[0] * kernel[1]
        self.count = groups * out_channels * in_channels * taps
        self.partial = aligned_zeros((parts * self.count * size,), np.uint8)
        row_blocks, column_blocks = (
            -(-chunk_rows // rows),
            in_channels if across else -(-in_channels // columns),
        )
        sum_count = row_blocks * column_blocks * (kernel[0] if across else taps) * rows * columns
        sum_bytes = -(-sum_count * size // 64) * 64
        x_plane = (in_rows * padded | 1) * pixel
        g_copied = in_channels > 4 or pooled
        g_bytes = chunk_rows * (strip * dy_shape[1] | 1) * pixel if g_copied else 0
        scratch_bytes = sum_bytes + in_channels * x_plane + g_bytes + 64
        self.scratch = aligned_zeros((scratch_threads() * scratch_bytes,), np.uint8)
        self.params = table(
            [
                0, 0, self.partial.ctypes.data, self.scratch.ctypes.data, scratch_bytes,
                images, parts, groups, chunks, out_channels, in_channels, chunk_rows,
                self.tap_rows.ctypes.data, kernel[0], self.tap_columns.ctypes.data, kernel[1],
                *dy_shape, height, width, in_plane, in_row, in_pixel,
                stride[0], stride[1], dilation[1] * pixel, strip, column_chunk, copied,
                x_plane, padded * pixel, x_start * pixel, int(g_copied),
                sum_bytes, sum_bytes + in_channels * x_plane,
                int(across), dot(rows, columns, size), rows, columns,
                copy_box(size), _store(size), unpool_2x2(size) if pooled else 0, 0,
            ]
        )  # fmt: skip
        self.add_params = table([self.partial.ctypes.data, 0, parts, self.count])

    def run(self, dy, x, dweight, argmax=None):
        """Sum the pieces, then add them to ``dweight`` in a fixed order; ``argmax`` if the plan is pooled."""
        self.params[0], self.params[1] = dy.address, x.address
        self.params[42] = 0 if argmax is None else argmax.address
        launch(_dot_task(self.size), self.tasks, self.params)
        self.add_params[1] = dweight.ctypes.data
        launch(_add_task(self.size), -(-self.count // 1024), self.add_params)


def _pointwise(weight_shape, padding):
    return weight_shape[2:] == (1, 1) and padding == ((0, 0), (0, 0))


def pools_within(weight_shape, padding, groups, size):
    """Whether dots can fill in the gradients of 2x2 windows behind the convolution, in the same order."""
    k, c = weight_shape[:2]
    return not _pointwise(weight_shape, padding) and not conv_panels.suits(k // groups, c, size)


@plans
def weight_plan(x_shape, weight_shape, out_shape, stride, padding, dilation, groups, size, pooled=False):
    """The plan of a d-weight pass; ``size``: bytes of a number. ``pooled``: only where ``pools_within``."""
    n, c, h, w = x_shape
    k, _, kh, kw = weight_shape
    pixel = LANES * size
    in_plane, in_row, in_pixel = h * w * pixel, w * pixel, pixel
    if _pointwise(weight_shape, padding):
        # The pixels that the stride passes over play no part; without stride the image is one long column.
        h, w = out_shape
        in_row, in_pixel = stride[0] * in_row, stride[1] * pixel
        if stride == (1, 1):
            h, w, in_row = h * w, 1, pixel
        out_shape, stride = (h, w), (1, 1)
    before = padding[0][0], padding[1][0]
    source = h, w, in_plane, in_row, in_pixel
    channels = k // groups, c // groups
    shared = source, out_shape, (kh, kw), stride, before, dilation, size
    if conv_panels.suits(*channels, size):
        return conv_panels.PanelPlan(-(-n // LANES), groups, channels, *shared)
    return DotPlan(-(-n // LANES), groups, channels[1], channels[0], *shared, pooled)


def backward_weight(dy, x, dweight, stride, padding, dilation, groups):
    """dweight[k,c,u,v] += sum of dy[n,k,i,j] * x[n,c,...]; ``dweight`` contiguous."""
    size = x.dtype.itemsize
    weight_plan(x.shape, dweight.shape, dy.shape[2:], stride, padding, dilation, groups, size).run(
        dy, x, dweight
    )


def backward_weight_pooled(dy, argmax, x, dweight, out_shape, stride, padding, dilation, groups):
    """Like ``backward_weight``, dy being that of 2x2 windows behind the convolution, if ``pools_within``.

    ``argmax`` says which cell of a window got the gradient; ``out_shape`` is (h, w) before pooling.
    """
    size = x.dtype.itemsize
    plan = weight_plan(x.shape, dweight.shape, out_shape, stride, padding, dilation, groups, size, True)
    plan.run(dy, x, dweight, argmax)
