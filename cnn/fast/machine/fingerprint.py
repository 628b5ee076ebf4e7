"""Whether numbers in memory changed: fingerprints to compare, since a copy would have to be read as well."""

from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from cnn.fast.machine.jit import launch, task
from cnn.fast.machine.simd import INT64, Vectors
from cnn.fast.machine.tables import integers, pointer, reader, records, size_of

PIECE = 1 << 17  # bytes
CHAINS = 16  # eight bytes each, side by side: one alone would wait for itself


@register_jitable
def _mix(state, word):
    """One to one in ``state`` and in ``word``: a change of one word never goes unnoticed."""
    state ^= word
    state += state << 21
    return state ^ ((state >> 29) & 0x7FFFFFFFF)


@intrinsic
def _mix_all(typing_context, address, count, out):
    """``_mix`` on sixteen chains: word i of each of ``count`` groups joins chain i."""

    def generate(context, builder, signature, arguments):
        address, count, out = arguments
        v, kind = Vectors(builder, types.float64), ir.VectorType(INT64, CHAINS)
        state = cgutils.alloca_once(builder, kind)
        builder.store(ir.Constant(kind, list(range(1, CHAINS + 1))), state)
        with v.loop(count, (address, CHAINS * 8)) as (here,):
            words = builder.load(builder.inttoptr(here, kind.as_pointer()), align=4)
            mixed = builder.xor(builder.load(state), words)
            mixed = builder.add(mixed, builder.shl(mixed, ir.Constant(kind, [21] * CHAINS)))
            mixed = builder.xor(mixed, builder.lshr(mixed, ir.Constant(kind, [29] * CHAINS)))
            builder.store(mixed, state)
        builder.store(builder.load(state), builder.inttoptr(out, kind.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


class Piece(NamedTuple):
    """Some bytes of an array."""

    start: int  # address
    size: int  # bytes
    out: int  # address of CHAINS + 1 int64


piece_of = reader(Piece)
_PIECE_RECORD = 8 * size_of(Piece)


@cache
def _fingerprint_task():
    @task
    def fingerprint(index, thread, params):
        p = piece_of(params + index * _PIECE_RECORD)
        groups, words = p.size // 128, p.size // 8
        _mix_all(p.start, groups, p.out)
        state = 0
        for i in range(groups * 16, words):
            state = _mix(state, integers(p.start)[i])
        halves = pointer(p.start, 2)
        for i in range(words * 4, p.size // 2):
            state = _mix(state, types.int64(halves[i]))
        integers(p.out)[CHAINS] = state

    return fingerprint


class Fingerprint:
    """Tells whether any of some contiguous float arrays holds other bits than the last time it was asked."""

    def __init__(self, arrays):
        self._arrays = arrays  # stay alive
        pieces = []
        for array in arrays:
            for first in range(0, array.nbytes, PIECE):
                pieces.append((array.ctypes.data + first, min(PIECE, array.nbytes - first)))
        self._now, self._last = np.zeros((len(pieces), CHAINS + 1), np.int64), None
        rows = [Piece(*piece, out.ctypes.data) for piece, out in zip(pieces, self._now, strict=True)]
        self._pieces, self._table = len(rows), records(rows).ravel()

    def changed(self):
        """Whether something changed; the first time it did."""
        if not self._pieces and self._last is not None:
            return False
        if self._pieces:
            launch(_fingerprint_task(), self._pieces, self._table)
        now = self._now.tobytes()
        same, self._last = now == self._last, now
        return not same
