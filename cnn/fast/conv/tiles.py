"""The register tiles that do the arithmetic of all convolutions and matrix products, and who calls them.

The intrinsics come first; each keeps its sums in registers, so block sizes must fit the host: see
``simd.blocks``. Below are compiled functions around them, shared by address.
"""

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.machine.jit import task
from cnn.fast.machine.simd import INT32, INT64, Vectors, literals, vector_registers, width
from cnn.fast.machine.tables import pointer


@intrinsic
def finish_streams(typing_context):
    """Wait until all that this thread streamed has arrived, so that any other thread reads it.

    A full fence: x86 has a locked instruction for it, which no write passes, nor does a streamed one.
    """

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


STORE, ADD, STREAM = range(3)  # what ``outer_tile`` does with its sums


def multiply_all(v, left, right, sums):
    """sums[i][j] += left[i] * right[j]; left and right are functions that write the load of an operand."""
    if len(left) > len(right):
        left, right, sums = right, left, list(zip(*sums, strict=True))
    held = [load() for load in left]
    for j, load in enumerate(right):
        streaming = load()
        for value, row in zip(held, sums, strict=True):
            v.builder.store(v.fma(value, streaming, v.builder.load(row[j])), row[j])


@intrinsic(prefer_literal=True)
def copy_lanes(typing_context, source, target, count, source_step, target_step, itemsize):
    """Copy ``count`` pixels of sixteen lanes: target[i * target_step] = source[i * source_step]."""
    sizes = literals(itemsize)
    if sizes is None:
        return None
    dtype = types.float32 if sizes[0] == 4 else types.float64

    def generate(context, builder, signature, arguments):
        source, target, count, source_step, target_step = arguments[:5]
        v = Vectors(builder, dtype)
        with v.loop(count, (source, source_step), (target, target_step)) as (s, t):
            for part in range(LANES // v.lanes):
                v.store(v.load(v.at(s, part * v.bytes)), v.at(t, part * v.bytes))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, itemsize), generate


@intrinsic
def prefetch(typing_context, address, count):
    """Ask for ``count`` cache lines that will be read soon, without waiting for them."""

    def generate(context, builder, signature, arguments):
        address, count = arguments
        v = Vectors(builder, types.float32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[INT32] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        hints = [ir.Constant(INT32, hint) for hint in (0, 3, 1)]  # to read, soon again, data
        with v.loop(count, (address, 64)) as (line,):
            builder.call(function, [builder.inttoptr(line, ir.IntType(8).as_pointer()), *hints])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def outer_tile(
    typing_context, x, w, bias, out, loops, w_row, x_step, out_row, out_step, floor, how, rows, pixels,
    dtype_size,
):  # fmt: skip
    """Sums of (weight times pixel), ``rows`` by ``pixels`` pixels of sixteen lanes.

        out[k, j] = max(floor, bias[k] + sum over a, b, c of w[a, b, c, k] * x[a, b, c, j])

    for k < rows, j < pixels. ``loops`` is ((count, x bytes, w bytes), ...) for a, b and c; ``x_step``,
    ``out_step`` are the bytes between pixels, ``w_row``, ``out_row`` between rows. ``how``: STORE the result,
    STREAM it past the caches (to addresses that are multiples of a vector), or ADD the sums, without bias and
    floor, to ``out``.
    Per turn: one broadcast a row, one load a pixel, rows * pixels multiply-adds.
    """
    sizes = literals(how, rows, pixels, dtype_size)
    if sizes is None:
        return None
    how_, rows_, pixels_, size = sizes
    dtype = types.float32 if size == 4 else types.float64

    def generate(context, builder, signature, arguments):
        x, w, bias, out, loops, w_row, x_step, out_row, out_step, floor = arguments[:10]
        v = Vectors(builder, dtype)
        parts = LANES // v.lanes
        sums = [v.variables(pixels_ * parts) for _ in range(rows_)]
        for k in range(rows_):
            start = v.const(0) if how_ == ADD else v.broadcast(v.at(bias, k * size))
            for register in sums[k]:
                builder.store(start, register)
        na, xa, wa, nb, xb, wb, nc, xc, wc = cgutils.unpack_tuple(builder, loops, 9)
        with v.loop(na, (x, xa), (w, wa)) as (x1, w1), v.loop(nb, (x1, xb), (w1, wb)) as (x2, w2):  # noqa: SIM117
            with v.loop(nc, (x2, xc), (w2, wc)) as (x3, w3):
                # The smaller operand waits in registers while the other streams by: sums, operands and one
                # register to load into must not exceed the file, or every turn spills to memory.
                pixel = [v.at(x3, v.times(x_step, j)) if j else x3 for j in range(pixels_)]
                load = [
                    lambda i=i: v.load(v.at(pixel[i // parts], i % parts * v.bytes))
                    for i in range(pixels_ * parts)
                ]
                weigh = [lambda k=k: v.broadcast(v.at(w3, v.times(w_row, k))) for k in range(rows_)]
                multiply_all(v, weigh, load, sums)
        lowest = v.splat(floor)
        for k in range(rows_):
            row = v.at(out, v.times(out_row, k)) if k else out
            for i, register in enumerate(sums[k]):
                pixel = v.at(row, v.times(out_step, i // parts), (i % parts) * v.bytes)
                total = builder.load(register)
                # One addition for each call: a gradient of two passes is to be exactly the sum of both.
                total = v.add(v.load(pixel), v.fence(total)) if how_ == ADD else v.max(total, lowest)
                put = v.stream if how_ == STREAM else v.store
                put(total, pixel)
        return context.get_dummy_value()

    i = types.int64
    result = types.void(i, i, i, i, types.UniTuple(i, 9), i, i, i, i, dtype, how, rows, pixels, dtype_size)
    return result, generate


@intrinsic(prefer_literal=True)
def dot_tile(typing_context, g, g_row, x, x_column, loops, out, out_row, rows, columns, dtype_size):
    """Sums over pixels and lanes of ``rows`` gradients times ``columns`` inputs, added to ``out``.

        out[k, c] += sum over a, b and lanes of g[a, b, k] * x[a, b, c]

    ``loops`` is ((count, g bytes, x bytes), ...) for a and b; ``g_row``, ``x_column``, ``out_row`` are the
    bytes from one k, c, k to the next; the columns of ``out`` are neighbours.
    """
    sizes = literals(rows, columns, dtype_size)
    if sizes is None:
        return None
    rows_, columns_, size = sizes
    dtype = types.float32 if size == 4 else types.float64

    def generate(context, builder, signature, arguments):
        g, g_row, x, x_column, loops, out, out_row = arguments[:7]
        v = Vectors(builder, dtype)
        parts = LANES // v.lanes
        # Few products leave the multipliers waiting for the sum before: then each part has its own sums.
        sets = 1 if rows_ * columns_ >= 8 else min(parts, 2)
        sums = [[v.variables(columns_) for _ in range(rows_)] for _ in range(sets)]
        for group in sums:
            for row in group:
                for register in row:
                    builder.store(v.const(0), register)
        na, ga, xa, nb, gb, xb = cgutils.unpack_tuple(builder, loops, 6)
        with v.loop(na, (g, ga), (x, xa)) as (g1, x1), v.loop(nb, (g1, gb), (x1, xb)) as (g2, x2):
            for part in range(parts):
                group = sums[part % sets]
                offset = part * v.bytes
                gradient = [
                    lambda k=k, o=offset: v.load(v.at(g2, v.times(g_row, k), o)) for k in range(rows_)
                ]
                value = [
                    lambda c=c, o=offset: v.load(v.at(x2, v.times(x_column, c), o)) for c in range(columns_)
                ]
                multiply_all(v, gradient, value, group)
        for k in range(rows_):
            for start in range(0, columns_, v.lanes):  # so many sums fit one vector
                count = min(v.lanes, columns_ - start)
                padded = 1 << (count - 1).bit_length()
                row = []
                for c in range(start, start + count):
                    total = builder.load(sums[0][k][c])
                    for group in sums[1:]:
                        total = v.add(total, builder.load(group[k][c]))
                    row.append(total)
                totals = v.sum_lanes(row + [v.const(0)] * (padded - count))
                if count != padded:
                    totals = v.shuffle(totals, totals, range(count))
                place = v.at(out, v.times(out_row, k), start * size)
                cells = builder.inttoptr(place, totals.type.as_pointer())
                # One addition for each call: a gradient of two passes is to be exactly the sum of both.
                builder.store(v.add(builder.load(cells, align=size), v.fence(totals)), cells, align=size)
        return context.get_dummy_value()

    i = types.int64
    result = types.void(i, i, i, i, types.UniTuple(i, 6), i, i, rows, columns, dtype_size)
    return result, generate


@intrinsic(prefer_literal=True)
def transpose(typing_context, source, channel_step, count, pixel_step, out, itemsize):
    """out[i][lane][channel] = source[channel][i][lane] for ``count`` pixels of sixteen channels."""
    sizes = literals(itemsize)
    if sizes is None:
        return None
    dtype = types.float32 if sizes[0] == 4 else types.float64

    def generate(context, builder, signature, arguments):
        source, channel_step, count, pixel_step, out = arguments[:5]
        v = Vectors(builder, dtype)
        pixel = LANES * v.itemsize
        parts = ir.Constant(INT64, LANES // v.lanes)
        with v.loop(count, (source, pixel_step), (out, LANES * pixel)) as (s, t):  # noqa: SIM117
            with v.loop(parts, (s, v.times(channel_step, v.lanes)), (t, v.bytes)) as (block, column):
                for part in range(LANES // v.lanes):
                    rows = [
                        v.load(v.at(block, v.times(channel_step, c), part * v.bytes)) for c in range(v.lanes)
                    ]
                    for lane, value in enumerate(v.transpose(rows)):
                        v.store(value, v.at(column, (part * v.lanes + lane) * pixel))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, itemsize), generate


@cache
def outer_run(rows, pixels, size, spread=False, how=STORE):
    """Address of ``outer_tile`` along ``lines`` of ``count`` pixels, ``pixels`` at a time.

    ``floor`` is an address here; ``x_line``, ``out_line`` are the bytes from one line to the next.

    The weights of a tile's rows are neighbours, or with ``spread`` ``w_row`` bytes apart. The last tile of a
    run is moved back to end with it: a few pixels are computed twice, to the same bits.
    """

    @task
    def run(
        x, w, bias, out, count, x_step, out_row, out_step, floor, na, xa, wa, nb, xb, wb, nc, xc, wc, w_row,
        lines, x_line, out_line,
    ):  # fmt: skip
        lowest = pointer(floor, size)[0]
        loops = (na, xa, wa, nb, xb, wb, nc, xc, wc)
        row = w_row if spread else size
        whole = pixels if pixels > 1 and count >= pixels else 1
        for line in range(lines):
            source, target = x + line * x_line, out + line * out_line
            done = 0
            while done < count:
                done = min(done, count - whole)
                here, to = source + done * x_step, target + done * out_step
                if whole == pixels:
                    outer_tile(
                        here, w, bias, to, loops, row, x_step, out_row, out_step, lowest, how, rows, pixels,
                        size,
                    )  # fmt: skip
                elif pixels > 1:
                    outer_tile(
                        here, w, bias, to, loops, row, x_step, out_row, out_step, lowest, how, rows, 1, size
                    )
                done += whole

    return run.address


@cache
def dot(rows, columns, size):
    """Address of ``dot_tile``."""

    @task
    def tile(g, g_row, x, x_column, out, out_row, na, ga, xa, nb, gb, xb):
        dot_tile(g, g_row, x, x_column, (na, ga, xa, nb, gb, xb), out, out_row, rows, columns, size)

    return tile.address


@cache
def copy_box(size):
    """Address of a copy of planes x rows x pixels from one spacing to another (each in bytes)."""

    @task
    def box(
        source, target, planes, from_plane, to_plane, rows, from_row, to_row, count, from_pixel, to_pixel
    ):  # fmt: skip
        for plane in range(planes):
            for row in range(rows):
                copy_lanes(
                    source + plane * from_plane + row * from_row, target + plane * to_plane + row * to_row,
                    count, from_pixel, to_pixel, size,
                )  # fmt: skip

    return box.address


def _number(size):
    return np.float32 if size == 4 else np.float64


@cache
def product(rows, pixels, size, how=STORE):
    """Address of ``outer_tile`` for ``blocks`` blocks of rows and ``count`` pixels; ``floor`` is an address.

        out[k, j] = max(floor, bias[k] + sum over c of w[k / rows, c, k % rows] * x[j, c])

    All rows pass by one pixel after the other: its channels stay in the L1 cache, the weights in L2.
    The last block of rows is moved up to ``last``.
    """

    @task
    def panels(x, w, bias, out, floor, count, blocks, last, channels, x_step, w_block, out_row, out_step):
        lowest = pointer(floor, size)[0]
        j = 0
        while j < count:
            wide = count >= pixels
            if wide:
                j = min(j, count - pixels)
            for block in range(blocks):
                loops = (1, 0, 0, 1, 0, 0, channels, 16 * size, rows * size)
                source, weights = x + j * x_step, w + block * w_block
                row = min(block * rows, last)
                to, shift = out + j * out_step + row * out_row, bias + row * size
                if wide:
                    outer_tile(
                        source, weights, shift, to, loops, size, x_step, out_row, out_step, lowest, how,
                        rows, pixels, size,
                    )  # fmt: skip
                elif pixels > 1:
                    outer_tile(
                        source, weights, shift, to, loops, size, x_step, out_row, out_step, lowest, how,
                        rows, 1, size,
                    )  # fmt: skip
            j += pixels if wide else 1

    return panels.address


def sum_rows(size, left, padded=True):
    """Rows of the tile of ``outer_sum`` for ``left`` of them; it has sixteen columns.

    As many as leave room for operands, or fewer where that pads ``left`` less; if what does not fill a tile
    is not padded but done otherwise, where that leaves less.
    """
    count = vector_registers()[1]
    most = max(1, min(16, count * 3 // 4 * width(size) // LANES))
    choices = [rows for rows in (16, 12, 8, 6) if rows <= most] or [most]
    return min(choices, key=lambda rows: (-left % rows if padded else left % rows, -rows))


@cache
def outer_sum(rows, size):
    """Address of a matrix product over pixels and lanes, which is what weight gradients are.

        out[k, c] += sum over a, b and lanes of g[k, a, b, lane] * panel[a, b, lane, c]

    for sixteen c and ``blocks`` blocks of rows k. The panel is transposed, so the sums of sixteen c lie side
    by side; were lanes summed in registers instead, adding them up would cost a third of the time.
    """
    number = _number(size)

    @task
    def sums(panel, g, g_row, out, out_row, blocks, na, xa, ga, nb, xb, gb):
        for _ in range(blocks):
            outer_tile(
                panel, g, 0, out, (na, xa, ga, nb, xb, gb, 16, 16 * size, size),
                g_row, 0, out_row, 0, number(0), ADD, rows, 1, size,
            )  # fmt: skip
            g += rows * g_row
            out += rows * out_row

    return sums.address


@cache
def transpose_run(size):
    """Address of ``transpose``."""

    @task
    def run(source, channel_step, count, pixel_step, out):
        transpose(source, channel_step, count, pixel_step, out, size)

    return run.address
