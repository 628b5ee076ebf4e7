"""bfloat16: the upper half of a float32, in arrays and in the instructions of AVX512-BF16.

A bfloat16 number has the sign, the eight exponent bits and the first seven fraction bits of a float32, so it
has the same range and a precision of 2^-8. Widening appends sixteen zero bits; narrowing rounds to nearest,
ties to even, keeps infinities and NaN, and reads and writes subnormal numbers as zero. One instruction,
``vdpbf16ps``, multiplies 32 numbers pair by pair and adds both products of a pair to a float32 sum:

    c[l] += a[2l] * b[2l] + a[2l+1] * b[2l+1]         l = 0 ... 15

twice the rate of float32's multiply-add. Only what kernels multiply and what lies in memory is bfloat16; sums
are float32.

Intel, "BFLOAT16 - Hardware Numerics Definition", 2018.
"""

import os
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config

from cnn.fast.machine.simd import Vectors

#: The dtype of buffers of bfloat16: NumPy has none, and uint16 would read as whole numbers.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])

SIZE = BFLOAT16.itemsize

_F32 = ir.VectorType(ir.FloatType(), 16)
_I32 = ir.VectorType(ir.IntType(32), 16)
_I16 = ir.VectorType(ir.IntType(16), 16)
_I16_TWICE = ir.VectorType(ir.IntType(16), 32)
_PAIRED = [i // 2 + 16 * (i % 2) for i in range(32)]


@cache
def has_instructions():
    """Whether kernels are compiled for a processor that has the instructions; else others do the same."""
    if config.CPU_NAME or config.CPU_FEATURES:  # compiled for another processor than this one
        return False
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512f") and features.get("avx512bf16"))


def has_bf16():
    """Whether networks compute in bfloat16 where asked to; others if CNN_EMULATE_BF16 is set, slowly."""
    return has_instructions() or os.environ.get("CNN_EMULATE_BF16", "") not in ("", "0")


# llvmlite.ir has no bfloat type. LLVM reads these signatures of earlier versions, with integers, as well.


def _call(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512bf16.{name}.512")
    return builder.call(function, arguments)


def load_wide(builder, pointer):
    """Write the load of sixteen bfloat16 as float32."""
    numbers = builder.load(builder.bitcast(pointer, _I16.as_pointer()), align=SIZE)
    return builder.bitcast(builder.shl(builder.zext(numbers, _I32), ir.Constant(_I32, [16] * 16)), _F32)


def narrow(builder, value):
    """Write the rounding of sixteen float32 to bfloat16."""
    if has_instructions():
        return _call(builder, "cvtneps2bf16", _I16, value)

    def const(number):
        return ir.Constant(_I32, [number] * 16)

    bits = builder.bitcast(value, _I32)
    upper = builder.lshr(bits, const(16))
    half = builder.add(const(0x7FFF), builder.and_(upper, const(1)))
    rounded = builder.lshr(builder.add(bits, half), const(16))
    size = builder.and_(bits, const(0x7FFFFFFF))
    nan = builder.icmp_unsigned(">", size, const(0x7F800000))
    subnormal = builder.icmp_unsigned("<", size, const(0x00800000))
    rounded = builder.select(nan, builder.or_(upper, const(0x40)), rounded)
    rounded = builder.select(subnormal, builder.and_(upper, const(0x8000)), rounded)
    return builder.trunc(rounded, _I16)


def dot_pairs(builder, a, b, c):
    """Write c + the sum of the two products of each pair of sixteen pairs of bfloat16."""
    a, b = builder.bitcast(a, _I32), builder.bitcast(b, _I32)
    if has_instructions():
        return _call(builder, "dpbf16ps", _F32, c, a, b)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_F32, [_F32] * 3), "llvm.fmuladd.v16f32"
    )
    for shift in (False, True):  # the odd numbers first, as the instruction does
        half = ir.Constant(_I32, [16 if shift else 0xFFFF0000] * 16)
        parts = [(builder.shl if shift else builder.and_)(pairs, half) for pairs in (a, b)]
        c = builder.call(fma, [*(builder.bitcast(part, _F32) for part in parts), c])
    return c


class Narrow(Vectors):
    """Arithmetic on sixteen float32 that are loaded from bfloat16 and stored as such."""

    def __init__(self, builder):
        super().__init__(builder, types.float32, 16)

    def load_wide(self, address):
        """Sixteen neighbouring bfloat16 as float32."""
        return load_wide(self.builder, self.builder.inttoptr(address, _I16.as_pointer()))

    def store_narrow(self, value, address):
        """Write sixteen neighbouring bfloat16."""
        pointer = self.builder.inttoptr(address, _I16.as_pointer())
        self.builder.store(narrow(self.builder, value), pointer, align=SIZE)

    def side_by_side(self, first, second):
        """Sixteen bfloat16 of the first vector, then of the second: 64 bytes."""
        if has_instructions():
            both = _call(self.builder, "cvtne2ps2bf16", _I16_TWICE, second, first)
        else:
            both = self.shuffle(narrow(self.builder, first), narrow(self.builder, second), range(32))
        # LLVM has no non-temporal store of bfloat: the fence keeps the vector one of float32.
        return self.fence(self.builder.bitcast(both, _F32))

    def paired(self, even, odd):
        """Sixteen pairs of bfloat16: 64 bytes."""
        both = self.builder.bitcast(self.side_by_side(even, odd), _I16_TWICE)
        return self.builder.bitcast(self.shuffle(both, both, _PAIRED), _F32)

    def halves_paired(self, value):
        """Eight pairs of bfloat16, number i of a vector with number i + 8: 32 bytes."""
        numbers = narrow(self.builder, value)
        return self.shuffle(numbers, numbers, [i // 2 + 8 * (i % 2) for i in range(16)])


class Pairs(Narrow):
    """Sixteen float32 sums and their operands, 32 bfloat16 in pairs; what is broadcast is one pair."""

    def load_half(self, address):
        """Sixteen neighbouring bfloat16, and sixteen zeros behind them."""
        numbers = self.builder.load(self.builder.inttoptr(address, _I16.as_pointer()), align=SIZE)
        both = self.shuffle(numbers, ir.Constant(_I16, [0] * 16), range(32))
        return self.builder.bitcast(both, _F32)

    def fma(self, a, b, c):
        """c + a * b, the two products of each pair added."""
        return dot_pairs(self.builder, a, b, c)


# -- the same in NumPy ------------------------------------------------------------------------------------


def widened(numbers):
    """Return the float32 numbers of an array of BFLOAT16."""
    return (numbers["bfloat16"].astype(np.uint32) << 16).view(np.float32)


def narrowed(numbers):
    """Return an array of BFLOAT16: float32 numbers to nearest, ties to even; NaN stays, subnormals are 0."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16
    upper = np.where(np.isnan(numbers), bits >> 16 | np.uint32(0x40), upper)
    upper = np.where(bits & np.uint32(0x7F800000) == 0, bits >> 16 & np.uint32(0x8000), upper)
    return upper.astype(np.uint16).view(BFLOAT16)
