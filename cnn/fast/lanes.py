"""Lanes: a few images with sixteen channels side by side, because sixteen images there are not.

``Lanes`` holds images as [N][C/16][H][W][16]: each vector is one pixel of sixteen channels. Lanes past the
last channel hold finite numbers that are never read. Forward only: this serves prediction.
"""

import numpy as np

from cnn.fast import blocked
from cnn.fast.blocked import LANES
from cnn.fast.machine.jit import scratch


class NotForFew(Exception):
    """An operation has no form for sixteen channels side by side: predict with sixteen images instead."""


def in_blocks(channels):
    """How many blocks of sixteen hold so many channels."""
    return -(-channels // LANES)


class Lanes:
    """Images (N, C, H, W) or features (N, F; H = W = 1), kept as ``data`` [N][C/16][H][W][16]."""

    strips = None  # images are whole

    def __init__(self, shape, dtype):
        n, c, *plane = shape
        self.shape, self.plane = tuple(shape), tuple(plane or (1, 1))
        self.blocks, self.pixels = in_blocks(c), int(np.prod(self.plane))
        self.data = scratch((n, self.blocks, *self.plane, LANES), dtype)
        self.dtype, self.address = self.data.dtype, self.data.ctypes.data

    @property
    def ndim(self):
        """4 or 2."""
        return len(self.shape)

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        raise NotForFew

    def to_blocked(self, dtype=None):
        """Return the same images side by side, for an operation that knows no other order."""
        if dtype is not None and dtype != self.dtype:
            raise NotForFew
        plain = scratch(self.shape, self.dtype)
        _leave(self, plain)
        return blocked.pack(plain)


_leave = None


def leave_with(leave):
    """Let a compiled function copy Lanes into a plain array; see ``cnn.fast.kernels.few``."""
    global _leave
    _leave = leave


def channel_vector(values):
    """One number a channel, filled up with zeros to whole vectors."""
    filled = scratch((in_blocks(len(values)) * LANES,), values.dtype)
    filled[: len(values)] = values
    return filled
