"""Whether numbers in memory changed: fingerprints to compare, since a copy would have to be read as well."""

from functools import cache

import numpy as np
from numba.extending import register_jitable

from cnn.kernels import vector as v
from cnn.kernels.jit import launch, table, task
from cnn.kernels.simd import peek

PIECE = 1 << 17  # bytes


@register_jitable
def _mix(state, word):
    """One to one in ``state`` and in ``word``: a change of one word never goes unnoticed."""
    state = (state ^ word) * 0x1E3779B97F4A7C15
    return state ^ ((state >> 32) & 0xFFFFFFFF)


@cache
def _fingerprint_task():
    @task
    def fingerprint(index, thread, p):
        start, count, out = peek(p, index * 3), peek(p, index * 3 + 1), v.integers(peek(p, index * 3 + 2))
        h0, h1, h2, h3, h4, h5, h6, h7 = 1, 2, 3, 4, 5, 6, 7, 8
        words = count // 64 * 8
        for i in range(0, words, 8):  # eight chains: a multiplication takes three cycles
            h0, h1 = _mix(h0, peek(start, i)), _mix(h1, peek(start, i + 1))
            h2, h3 = _mix(h2, peek(start, i + 2)), _mix(h3, peek(start, i + 3))
            h4, h5 = _mix(h4, peek(start, i + 4)), _mix(h5, peek(start, i + 5))
            h6, h7 = _mix(h6, peek(start, i + 6)), _mix(h7, peek(start, i + 7))
        halves = v.pointer(start, 2)
        for i in range(words * 4, count // 2):
            h0 = _mix(h0, halves[i])
        out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7] = h0, h1, h2, h3, h4, h5, h6, h7

    return fingerprint


class Fingerprint:
    """Tells whether any of some contiguous float arrays holds other bits than the last time it was asked."""

    def __init__(self, arrays):
        self._arrays = arrays  # stay alive
        pieces = []
        for array in arrays:
            for first in range(0, array.nbytes, PIECE):
                pieces.append((array.ctypes.data + first, min(PIECE, array.nbytes - first)))
        self._now, self._last = np.zeros((2, len(pieces), 8), np.int64)
        self._table = table([[*piece, out.ctypes.data] for piece, out in zip(pieces, self._now, strict=True)])
        self._known = False

    def changed(self):
        """Whether something changed; the first time it did."""
        if len(self._table):
            launch(_fingerprint_task(), len(self._table), self._table)
        same = self._known and np.array_equal(self._now, self._last)
        self._last[...], self._known = self._now, True
        return not same
