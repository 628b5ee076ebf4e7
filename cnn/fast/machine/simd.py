"""Vector instructions for Numba kernels: what the compiler cannot find by itself, said explicitly.

An ``@intrinsic`` is a function that Numba does not compile but asks to *write* machine-independent LLVM code.
That is done here with ``Vectors``, whose methods read like arithmetic: ``v.load(address)`` puts, for float32
on AVX2, eight neighbouring numbers into one register, ``v.fma(a, b, c)`` gives a*b + c in all eight lanes.
Python loops inside an intrinsic run while code is written: they unroll. ``v.loop(n)`` writes a loop.

Addresses are plain integers in bytes. Nothing here checks a bound: the plans that call it do.

The micro-kernels of ``conv/microkernels.py``, which do the arithmetic of every convolution and matrix
product, are written with it; their docstrings say in Python what they compute.
"""

from contextlib import contextmanager
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config

LANES = 16  # images whose numbers lie side by side: see ``cnn.fast.blocked``
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
    """Register blocks (mr, nr) of the micro-kernels for numbers of ``itemsize`` bytes.

    ``outer_product`` holds mr x nr vectors of sixteen lanes as sums, and needs a few registers more for its
    operands: three quarters of all registers are sums. Returns a list of (mr, nr) for it, largest mr first,
    and (mr, nr) of ``dot_product``.
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
    """Writes LLVM code on vectors of ``lanes`` numbers of one type; every address is an int64 value.

    ``ordered``: sums are added up as written, the same in every function that has them.
    """

    def __init__(self, builder, dtype, lanes=None, ordered=False):
        self.builder = builder
        self._flags = ("nsz",) if ordered else ()  # Numba gives its own flags to what has none
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

    def store_nontemporal(self, value, address):
        """Write a vector without a place in the caches; its address is a multiple of its size.

        What was there need not be fetched first. ``microkernels.memory_fence`` makes it visible to other
        threads.
        """
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        store = self.builder.store(value, pointer, align=self.bytes)
        store.set_metadata("nontemporal", self.builder.module.add_metadata([ir.Constant(INT32, 1)]))

    def prefetch(self, address, level=1, write=False):
        """Ask for a cache line that will be read soon, into the cache of a level, without waiting for it.

        ``write``: one that will be written.
        """
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[INT32] * 3])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        hints = [ir.Constant(INT32, hint) for hint in (int(write), 4 - level, 1)]  # to write, near, data
        self.builder.call(function, [self.builder.inttoptr(address, ir.IntType(8).as_pointer()), *hints])

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
        return self.builder.fadd(a, b, flags=self._flags)

    def sub(self, a, b):
        """a - b"""
        return self.builder.fsub(a, b, flags=self._flags)

    def mul(self, a, b):
        """a * b"""
        return self.builder.fmul(a, b, flags=self._flags)

    def fence(self, value):
        """``value``, finished: sums before it are not regrouped with sums behind it."""
        name = f"llvm.arithmetic.fence.v{value.type.count}f{8 * self.itemsize}"
        kind = ir.FunctionType(value.type, [value.type])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [value])

    def max(self, a, floor):
        """The larger one; a NaN in ``a`` stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, floor), floor, a)

    def min(self, a, ceiling):
        """The smaller one; a NaN in ``a`` stays."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, ceiling), ceiling, a)

    def mask(self, condition):
        """All bits of a vector, or none: what ``masked`` takes."""
        kind = ir.VectorType(INT32, self.bytes // 4)
        lane = self.builder.sext(condition, INT32)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), lane, ir.Constant(INT32, 0))
        return self.shuffle(one, one, [0] * kind.count)

    def masked(self, value, mask):
        """``value``, or 0."""
        kind = mask.type
        return self.builder.bitcast(self.builder.and_(self.builder.bitcast(value, kind), mask), self.type)

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

    def transpose(self, rows):
        """``lanes`` vectors: number i of vector j becomes number j of vector i.

        Blocks of half the lanes change places with their mirror image, then blocks of a quarter in these ...
        """
        rows, size = list(rows), self.lanes // 2
        while size:
            for i in range(self.lanes):
                if not i & size:
                    a, b = rows[i], rows[i + size]
                    low = [k if not k & size else k - size + self.lanes for k in range(self.lanes)]
                    rows[i] = self.shuffle(a, b, low)
                    rows[i + size] = self.shuffle(a, b, [k + size for k in low])
            size //= 2
        return rows

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

    @contextmanager
    def loops(self, loops, *starts):
        """Nested loops, the outermost first; each is (count, bytes a turn of each address)."""
        if not loops:
            yield starts
            return
        (count, *steps), *inner = loops
        with self.loop(count, *zip(starts, steps, strict=True)) as now, self.loops(inner, *now) as innermost:
            yield innermost


def literals(*values):
    """The Python values of literal types, or None while Numba still tries them as variables."""
    if all(isinstance(value, types.Literal) for value in values):
        return [value.literal_value for value in values]
    return None
