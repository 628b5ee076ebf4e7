"""Stencils: the code of depthwise convolutions, written for the taps that each output meets.

A depthwise convolution multiplies each number by few weights, so that loads and stores bound it. Here some
neighbouring outputs wait in registers, each vector of the source is loaded (and widened from bfloat16) once
for all of them, and it goes into every output whose window it lies in. Which these are is known when the code
is written:

    forward    output o reads source o*s - before + u        for each tap u
    d-input    output o reads source (o + before - u) / s    for each tap u that makes it a whole number

What d-input reads depends on o mod s: outputs are taken in cells of s, so that a stride costs neither tests
nor products with zeros. Columns whose windows are clipped have code of their own; rows outside of the source
are read from a row of zeros.
"""

from contextlib import nullcontext
from itertools import product
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.machine import bf16
from cnn.fast.machine.simd import INT64, Vectors, vector_registers


class Links(NamedTuple):
    """What the outputs of an axis read: output cell * period + r reads source cell * step + offset."""

    period: int  # outputs of a cell
    step: int  # sources from one cell to the next
    taps: tuple  # for each r: ((offset, tap), ...)

    @classmethod
    def forward(cls, kernel, stride, before):
        """Links of a convolution's outputs to its inputs; ``before``: padding."""
        return cls(1, stride, (tuple((u - before, u) for u in range(kernel)),))

    @classmethod
    def backward(cls, kernel, stride, before):
        """Links of its inputs to the outputs that they went into."""
        ends = [
            [((r + before - u) // stride, u) for u in range(kernel) if (r + before - u) % stride == 0]
            for r in range(stride)
        ]
        return cls(stride, 1, tuple(tuple(sorted(end)) for end in ends))

    @property
    def reach(self):
        """(lowest, highest) offset."""
        offsets = [offset for taps in self.taps for offset, _ in taps]
        return min(offsets), max(offsets)

    def of(self, cells, edge=None):
        """{source: [(output, tap), ...]} of neighbouring cells, both counted from the first cell's."""
        met = {}
        for cell in range(cells):
            for r, taps in enumerate(self.taps):
                for offset, tap in taps:
                    source, output = cell * self.step + offset, cell * self.period + r
                    if edge is None or (edge.low <= source < edge.high and output < edge.outputs):
                        met.setdefault(source, []).append((output, tap))
        return dict(sorted(met.items()))

    def cut(self, outputs, sources):
        """Cut an axis into (Edges in front, cells that are whole, Edges behind)."""
        (low, high), cells = self.reach, -(-outputs // self.period)

        def edge(cell):
            at = cell * self.step
            return Edge(
                max(low, -at), min(high + 1, sources - at), min(self.period, outputs - cell * self.period)
            )

        edges = [edge(cell) for cell in range(cells)]
        whole = [cell for cell in range(cells) if edges[cell] == (low, high + 1, self.period)]
        first, last = (whole[0], whole[-1] + 1) if whole else (cells, cells)
        return tuple(edges[:first]), last - first, tuple(edges[last:])


class Edge(NamedTuple):
    """A cell of which only a part is there."""

    low: int  # lowest offset of a source that is there
    high: int  # one past the highest
    outputs: int


class Form(NamedTuple):
    """What the code of a stencil depends on."""

    down: Links
    across: Links
    left: tuple  # Edges in front of the whole cells of a row
    right: tuple  # Edges behind them
    columns: int  # whole cells at once; 0: a row has none
    kernel: tuple  # (kh, kw)
    itemsize: int  # bytes of a number that is computed
    read: int  # the same in the source
    written: int  # the same in the output; of a gradient, in dy
    weights: int = 1  # that lie side by side for a tap: LANES if each lane has a weight of its own
    streams: bool = False  # whether the output goes to memory past the caches


class Ends(NamedTuple):
    """Addresses of a plane."""

    x: int
    y: int
    weight: int  # [kh][kw]; of a gradient, of the sums [kh][kw][lane] that it adds to
    bias: int


class Plane(NamedTuple):
    """Sizes that all planes share."""

    zeros: int  # address of a row of zeros as long as one of the source
    height: int  # rows of the source
    out_height: int  # rows of the output
    whole: int  # cells of a row that are whole
    x_row: int  # bytes
    y_row: int  # bytes
    floor: int  # bits of the lower bound of the output
    ceiling: int  # bits of the upper bound


def columns_at_once(cells, outputs, taps, streams):
    """Cells of a row to compute at once, shared out evenly; ``outputs``: of a cell, across.

    Beside the sums the weights should stay in registers. Where they do not fit, more sums wait for each that
    is read from memory. Stores past the caches are slow if many lines are begun before one is full.
    """
    size, registers = vector_registers()
    most = 6 if registers == 32 or taps > 16 else 5
    if outputs > 1:
        most = 1 if streams and size < 64 else 2
    return -(-cells // -(-cells // most)) if cells else 0


def _int(number):
    return ir.Constant(INT64, number)


class _Writer:
    """Writes what the code of all forms has in common."""

    def __init__(self, builder, form, plane):
        self.builder, self.form, self.plane = builder, form, Plane(*_unpacked(builder, plane, Plane))
        if bf16.SIZE in (form.read, form.written):
            self.v = bf16.Narrow(builder)
        else:
            self.v = Vectors(builder, types.float64 if form.itemsize == 8 else types.float32)
        self.parts = range(LANES // self.v.lanes)

    def load(self, size, address, *offsets):
        """Numbers of ``size`` bytes at an address, widened."""
        place = self.v.at(address, *offsets)
        return self.v.load_wide(place) if size == bf16.SIZE else self.v.load(place)

    def limit(self, bits):
        """The bits of a float64 as a vector of what is computed."""
        number = self.builder.bitcast(bits, ir.DoubleType())
        return self.v.splat(number if self.v.itemsize == 8 else self.builder.fptrunc(number, self.v.number))

    def rows_of(self, x, cell):
        """{offset: address of the row of the source} for a cell down."""
        v, rows, first = self.v, {}, self.v.times(cell, self.form.down.step)
        for offset in self.form.down.of(1):
            row = v.at(first, offset)
            inside = self.builder.icmp_unsigned("<", row, self.plane.height)
            place = v.at(x, self.builder.mul(row, self.plane.x_row))
            rows[offset] = self.builder.select(inside, place, self.plane.zeros)
        return rows

    def along_row(self, visit, overlap):
        """``visit(x_at, y_at, links, outputs)`` for the cells of a row, ``form.columns`` of them at once.

        The last of these blocks is moved back to end with the row: a few outputs are computed twice, to the
        same bits. Without ``overlap`` cells of their own follow instead.
        """
        v, form, whole, before = self.v, self.form, self.plane.whole, len(self.form.left)

        def cells(first, count, edge=None):
            x_at = v.times(first, form.across.step * LANES * form.read)
            y_at = v.times(first, form.across.period * LANES * form.written)
            outputs = edge.outputs if edge else count * form.across.period
            visit(x_at, y_at, form.across.of(count, edge), outputs)

        for number, edge in enumerate(form.left):
            cells(_int(number), 1, edge)
        if form.columns:
            width = _int(form.columns)
            more = v.at(whole, form.columns - 1) if overlap else whole
            blocks = self.builder.sdiv(more, width)
            with cgutils.for_range(self.builder, blocks) as loop:
                first = self.builder.mul(loop.index, width)
                if overlap:
                    last = self.builder.sub(whole, width)
                    first = self.builder.select(self.builder.icmp_signed("<", first, last), first, last)
                cells(v.at(first, before), form.columns)
            if not overlap and form.columns > 1:
                done = self.builder.mul(blocks, width)
                with cgutils.for_range(self.builder, self.builder.sub(whole, done)) as loop:
                    cells(v.at(loop.index, done, before), 1)
        for number, edge in enumerate(form.right):
            cells(v.at(whole, before + number), 1, edge)


def _unpacked(builder, value, kind):
    return cgutils.unpack_tuple(builder, value, len(kind._fields))


def stencil(form):
    """The intrinsic that computes outputs of a plane: ``run(ends, plane, first, last)``, cells down.

        y[o] = min(ceiling, max(floor, bias + sum over taps of weight[tap] * x[source of o and tap]))
    """

    def write(w, ends, first, last):
        v, builder, plane = w.v, w.builder, w.plane

        def operands(address, tap):
            if form.weights == 1:
                return [v.broadcast(v.at(address, tap * v.itemsize))] * len(w.parts)
            return [v.load(v.at(address, tap * LANES * v.itemsize, part * v.bytes)) for part in w.parts]

        weights = [operands(ends.weight, tap) for tap in range(form.kernel[0] * form.kernel[1])]
        bias, floor, ceiling = operands(ends.bias, 0), w.limit(plane.floor), w.limit(plane.ceiling)
        down = form.down.of(1)

        def put(total, place):
            total = v.min(v.max(total, floor), ceiling)
            if form.written == bf16.SIZE:
                v.store_narrow(total, place)
            else:
                (v.store_nontemporal if form.streams else v.store)(total, place)

        with cgutils.for_range(builder, builder.sub(last, first)) as loop:
            cell = v.at(loop.index, first)
            rows, outs = w.rows_of(ends.x, cell), []
            for i in range(form.down.period):
                row = v.at(v.times(cell, form.down.period), i)
                outs.append((row, v.at(ends.y, builder.mul(row, plane.y_row))))

            def visit(x_at, y_at, links, outputs):
                for part in w.parts:
                    sums = {(i, j): bias[part] for i in range(len(outs)) for j in range(outputs)}
                    for (row, above), (column, beside) in product(down.items(), links.items()):
                        at = column * LANES + part * v.lanes
                        value = w.load(form.read, rows[row], x_at, at * form.read)
                        for (i, u), (j, t) in product(above, beside):
                            sums[i, j] = v.fma(value, weights[u * form.kernel[1] + t][part], sums[i, j])
                    for i, (row, out) in enumerate(outs):
                        with nullcontext() if i == 0 else builder.if_then(
                            builder.icmp_signed("<", row, plane.out_height)
                        ):
                            for j in range(outputs):
                                at = (j * LANES + part * v.lanes) * form.written
                                put(sums[i, j], v.at(out, y_at, at))

            w.along_row(visit, overlap=True)

    @intrinsic
    def run(typing_context, ends, plane, first, last):
        def generate(context, builder, signature, arguments):
            ends, plane, first, last = arguments
            write(_Writer(builder, form, plane), Ends(*_unpacked(builder, ends, Ends)), first, last)
            return context.get_dummy_value()

        return types.void(ends, plane, types.int64, types.int64), generate

    return run


def gradient(form):
    """The intrinsic that adds up the products of two planes: ``run(ends, plane, first, last)``.

        sums[tap][lane] += sum over outputs o of y[o] * x[source of o and tap]

    Here y is the gradient of the loss by the outputs. The sums of a few rows of taps stay in registers.
    """
    kh, kw = form.kernel

    def write(w, ends, first, last, rows_of_taps):
        v, builder = w.v, w.builder
        down = {row: above for row, above in form.down.of(1).items() if above[0][1] in rows_of_taps}
        sums = {(u, t): v.variables(1)[0] for u in rows_of_taps for t in range(kw)}
        for register in sums.values():
            builder.store(v.const(0), register)
        with cgutils.for_range(builder, builder.sub(last, first)) as loop:
            cell = v.at(loop.index, first)
            rows, dy = w.rows_of(ends.x, cell), v.at(ends.y, builder.mul(cell, w.plane.y_row))

            def visit(x_at, y_at, links, outputs):
                there = [w.load(form.written, dy, y_at, j * LANES * form.written) for j in range(outputs)]
                for (column, beside), (row, above) in product(links.items(), down.items()):
                    value = w.load(form.read, rows[row], x_at, column * LANES * form.read)
                    for (_, u), (j, t) in product(above, beside):
                        total = v.fma(value, there[j], builder.load(sums[u, t]))
                        builder.store(total, sums[u, t])

            w.along_row(visit, overlap=False)
        for (u, t), register in sums.items():
            place = v.at(ends.weight, (u * kw + t) * LANES * v.itemsize)
            v.store(v.add(v.load(place), builder.load(register)), place)

    @intrinsic
    def run(typing_context, ends, plane, first, last):
        def generate(context, builder, signature, arguments):
            ends, plane, first, last = arguments
            w, ends = _Writer(builder, form, plane), Ends(*_unpacked(builder, ends, Ends))
            v = w.v
            steps = [(ends.x, v.lanes * form.read), (ends.y, v.lanes * form.written), (ends.weight, v.bytes)]
            at_once = max(1, vector_registers()[1] * 5 // 6 // kw)
            for top in range(0, kh, at_once):
                with v.loop(_int(len(w.parts)), *steps) as (x, y, weight):
                    taps = range(top, min(top + at_once, kh))
                    write(w, Ends(x, y, weight, ends.bias), first, last, taps)
            return context.get_dummy_value()

        return types.void(ends, plane, types.int64, types.int64), generate

    return run
