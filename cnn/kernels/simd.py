"""Vector instructions for Numba kernels: what the compiler cannot find by itself, said explicitly.

An ``@intrinsic`` is a function that Numba does not compile but asks to *write* machine-independent LLVM code.
That is done here with ``Vectors``, whose methods read like arithmetic: ``v.load(address)`` puts, for float32
on AVX2, eight neighbouring numbers into one register, ``v.fma(a, b, c)`` gives a*b + c in all eight lanes.
Python loops inside an intrinsic run while code is written: they unroll. ``v.loop(n)`` writes a loop.

Addresses are plain integers in bytes. Nothing here checks a bound: the plans that call it do.

Two tiles do the arithmetic of every convolution and matrix product; their docstrings say in Python what they
compute. Each keeps its sums in registers, so block sizes must fit the host: see ``blocks``.
"""

from contextlib import contextmanager
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from cnn.blocked import LANES

INT64 = ir.IntType(64)
INT32 = ir.IntType(32)

# CPU names that NUMBA_CPU_NAME may hold, by a part of the name: (bytes of a register, registers).
_NAMED = {
    (64, 32): (
        "avx512",
        "icelake",
        "sapphire",
        "emerald",
        "granite",
        "cascadelake",
        "cooperlake",
        "znver4",
        "znver5",
    ),
    (32, 16): (
        "haswell",
        "broadwell",
        "skylake",
        "znver",
        "alderlake",
        "raptorlake",
        "x86-64-v3",
        "core-avx2",
    ),
    (16, 32): ("cortex", "neoverse", "apple", "ampere"),
}


@cache
def vector_registers():
    """(bytes of a vector register, how many there are) of the processor that Numba compiles for."""
    name = (config.CPU_NAME or "host").lower()
    arm = llvm.get_default_triple().startswith(("aarch64", "arm64"))
    if name == "host":
        features = llvm.get_host_cpu_features()
        if features.get("avx512f"):
            return 64, 32
        if features.get("avx2") and features.get("fma"):
            return 32, 16
    for registers, parts in _NAMED.items():
        if any(part in name for part in parts):
            return registers
    return (16, 32) if arm else (16, 16)


def width(itemsize):
    """Numbers in one vector: what a register holds, at most one pixel of sixteen images."""
    return min(LANES, vector_registers()[0] // itemsize)


def blocks(itemsize):
    """Register blocks (outer rows by row count, dot) for numbers of ``itemsize`` bytes.

    ``outer_tile`` holds ``rows`` x ``pixels`` pixels of sixteen lanes as sums, and needs a few registers more
    for its operands: three quarters of all registers are sums. Returns a list of (rows, pixels), most rows
    first, and (rows, columns) of ``dot_tile``.
    """
    count = vector_registers()[1]
    parts = LANES // width(itemsize)
    sums = count * 3 // 4
    outer = []
    for rows in (8, 6, 3, 2, 1):
        pixels = min(6, sums // (rows * parts))
        if pixels:
            outer.append((rows, pixels))
    if not outer:
        outer = [(1, 1)]
    return outer, (sums // 4, 4)


class Vectors:
    """Writes LLVM code on vectors of ``lanes`` numbers of one type; every address is an int64 value."""

    def __init__(self, builder, dtype, lanes=None):
        self.builder = builder
        self.number = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.itemsize = 4 if dtype == types.float32 else 8
        self.lanes = lanes or width(self.itemsize)
        self.bytes = self.lanes * self.itemsize
        self.type = ir.VectorType(self.number, self.lanes)

    def const(self, value):
        """The vector of ``value`` in every lane."""
        return ir.Constant(self.type, [float(value)] * self.lanes)

    def at(self, address, *offsets):
        """address + offsets; offsets are integers or int64 values."""
        for offset in offsets:
            if not isinstance(offset, int):
                address = self.builder.add(address, offset)
            elif offset:
                address = self.builder.add(address, ir.Constant(INT64, offset))
        return address

    def times(self, value, factor):
        """int64 value * integer"""
        return self.builder.mul(value, ir.Constant(INT64, factor))

    def load(self, address):
        """``lanes`` neighbouring numbers."""
        pointer = self.builder.inttoptr(address, self.type.as_pointer())
        return self.builder.load(pointer, align=self.itemsize)

    def store(self, value, address):
        """Write a vector to neighbouring numbers."""
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=self.itemsize)

    def scalar(self, address):
        """One number."""
        return self.builder.load(self.builder.inttoptr(address, self.number.as_pointer()))

    def splat(self, number):
        """One number in every lane."""
        one = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), number, ir.Constant(INT32, 0))
        return self.shuffle(one, one, [0] * self.lanes)

    def broadcast(self, address):
        """The number at an address in every lane."""
        return self.splat(self.scalar(address))

    def fma(self, a, b, c):
        """a * b + c, rounded once where the processor can (else twice: there a true fma would be a call)."""
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.itemsize}"
        kind = ir.FunctionType(self.type, [self.type] * 3)
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def add(self, a, b):
        """a + b"""
        return self.builder.fadd(a, b)

    def sub(self, a, b):
        """a - b"""
        return self.builder.fsub(a, b)

    def mul(self, a, b):
        """a * b"""
        return self.builder.fmul(a, b)

    def fence(self, value):
        """``value``, finished: sums before it are not regrouped with sums behind it."""
        name = f"llvm.arithmetic.fence.v{value.type.count}f{8 * self.itemsize}"
        kind = ir.FunctionType(value.type, [value.type])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [value])

    def max(self, a, floor):
        """The larger one; a NaN in ``a`` stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, floor), floor, a)

    def shuffle(self, a, b, lanes):
        """Lanes picked from ``a`` followed by ``b``."""
        mask = ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes))
        return self.builder.shuffle_vector(a, b, mask)

    def sum_lanes(self, vectors):
        """The sums over lanes of up to ``lanes`` vectors (a power of two), as one short vector.

        Each round adds halves of neighbouring pairs, [a a a a] [b b b b] -> [a a b b], so that eight vectors
        cost no more than seven additions.
        """
        size = self.lanes
        while size > 1:
            half = size // 2
            chunks = self.lanes // size if len(vectors) > 1 else vectors[0].type.count // size
            low = [chunk * size + i for chunk in range(chunks) for i in range(half)]
            if len(vectors) > 1:
                low += [i + self.lanes for i in low]
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
            else:
                pairs = [(vectors[0], vectors[0])]
            high = [i + half for i in low]
            vectors = [self.add(self.shuffle(a, b, low), self.shuffle(a, b, high)) for a, b in pairs]
            size = half
        return vectors[0]

    def variables(self, count):
        """Registers that keep their value from one turn of a loop to the next."""
        return [cgutils.alloca_once(self.builder, self.type) for _ in range(count)]

    @contextmanager
    def loop(self, count, *steps):
        """Repeat ``count`` times; ``steps``: (start address, bytes a turn); yields this turn's addresses."""
        builder = self.builder
        slots = []
        for start, _ in steps:
            slot = cgutils.alloca_once(builder, INT64)
            builder.store(start, slot)
            slots.append(slot)
        with cgutils.for_range(builder, count):
            now = [builder.load(slot) for slot in slots]
            yield now
            for slot, value, (_, step) in zip(slots, now, steps, strict=True):
                builder.store(self.at(value, step), slot)


def multiply_all(v, left, right, sums):
    """sums[i][j] += left[i] * right[j]; left and right are functions that write the load of an operand."""
    if len(left) > len(right):
        left, right, sums = right, left, list(zip(*sums, strict=True))
    held = [load() for load in left]
    for j, load in enumerate(right):
        streaming = load()
        for value, row in zip(held, sums, strict=True):
            v.builder.store(v.fma(value, streaming, v.builder.load(row[j])), row[j])


def literals(*values):
    """The Python values of literal types, or None while Numba still tries them as variables."""
    if all(isinstance(value, types.Literal) for value in values):
        return [value.literal_value for value in values]
    return None


@intrinsic
def peek(typing_context, address, index):
    """The int64 numbered ``index`` of the table at ``address``."""

    def generate(context, builder, signature, arguments):
        table = builder.inttoptr(arguments[0], INT64.as_pointer())
        return builder.load(builder.gep(table, [arguments[1]]))

    return types.int64(types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def numbers(typing_context, address, itemsize):
    """The numbers at an address, to be indexed like an array: float32 for itemsize 4, float64 for 8."""
    sizes = literals(itemsize)
    if sizes is None:
        return None
    kind = types.CPointer(types.float32 if sizes[0] == 4 else types.float64)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64, itemsize), generate


@intrinsic
def call(typing_context, function, arguments):
    """Call the compiled function at an address with a tuple of int64."""
    count = len(arguments)

    def generate(context, builder, signature, values):
        function, packed = values
        kind = ir.FunctionType(ir.VoidType(), [INT64] * count)
        builder.call(
            builder.inttoptr(function, kind.as_pointer()), cgutils.unpack_tuple(builder, packed, count)
        )
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generate


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


@intrinsic(prefer_literal=True)
def outer_tile(
    typing_context, x, w, bias, out, loops, w_row, x_step, out_row, out_step, floor, rows, pixels, dtype_size
):  # fmt: skip
    """Sums of (weight times pixel), ``rows`` by ``pixels`` pixels of sixteen lanes.

        out[k, j] = max(floor, bias[k] + sum over a, b, c of w[a, b, c, k] * x[a, b, c, j])

    for k < rows, j < pixels. ``loops`` is ((count, x bytes, w bytes), ...) for a, b and c; ``x_step``,
    ``out_step`` are the bytes between pixels, ``w_row``, ``out_row`` between rows.
    Per turn: one broadcast a row, one load a pixel, rows * pixels multiply-adds.
    """
    sizes = literals(rows, pixels, dtype_size)
    if sizes is None:
        return None
    rows_, pixels_, size = sizes
    dtype = types.float32 if size == 4 else types.float64

    def generate(context, builder, signature, arguments):
        x, w, bias, out, loops, w_row, x_step, out_row, out_step, floor = arguments[:10]
        v = Vectors(builder, dtype)
        parts = LANES // v.lanes
        sums = [v.variables(pixels_ * parts) for _ in range(rows_)]
        for k in range(rows_):
            start = v.broadcast(v.at(bias, k * size))
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
                v.store(v.max(builder.load(register), lowest), pixel)
        return context.get_dummy_value()

    i = types.int64
    result = types.void(i, i, i, i, types.UniTuple(i, 9), i, i, i, i, dtype, rows, pixels, dtype_size)
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
        padded = 1 << (columns_ - 1).bit_length()
        for k in range(rows_):
            row = []
            for c in range(columns_):
                total = builder.load(sums[0][k][c])
                for group in sums[1:]:
                    total = v.add(total, builder.load(group[k][c]))
                row.append(total)
            totals = v.sum_lanes(row + [v.const(0)] * (padded - columns_))
            if columns_ != padded:
                totals = v.shuffle(totals, totals, range(columns_))
            cells = builder.inttoptr(v.at(out, v.times(out_row, k)), totals.type.as_pointer())
            # One addition for each call: a gradient of two passes is to be exactly the sum of both.
            builder.store(v.add(builder.load(cells, align=size), v.fence(totals)), cells, align=size)
        return context.get_dummy_value()

    i = types.int64
    result = types.void(i, i, i, i, types.UniTuple(i, 6), i, i, rows, columns, dtype_size)
    return result, generate
