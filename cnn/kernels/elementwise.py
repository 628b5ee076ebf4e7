"""Sums, copies and masks. NumPy copies as fast as a loop would, so only the mask is compiled."""

import numpy as np
from numba import prange

from cnn.kernels.jit import contiguous, jit

_CHUNK = 4096


def add(a, b):
    """Twin of ``cnn.reference.add``."""
    return np.add(a, b)


def scale(x, factor):
    """Twin of ``cnn.reference.scale``."""
    return np.multiply(x, x.dtype.type(factor))


def concat(arrays):
    """Twin of ``cnn.reference.concat``."""
    joined = np.empty(
        (arrays[0].shape[0], sum(a.shape[1] for a in arrays), *arrays[0].shape[2:]), arrays[0].dtype
    )
    start = 0
    for array in arrays:
        joined[:, start : start + array.shape[1]] = array
        start += array.shape[1]
    return joined


def split(dy, sizes):
    """Twin of ``cnn.reference.split``."""
    dy, stops = contiguous(dy), np.cumsum(sizes)
    return [contiguous(dy[:, stop - size : stop]) for size, stop in zip(sizes, stops, strict=True)]


def flatten(x):
    """Twin of ``cnn.reference.flatten``."""
    return contiguous(x).reshape(x.shape[0], -1)


def unflatten(dy, shape):
    """Twin of ``cnn.reference.unflatten``."""
    return contiguous(dy).reshape(shape)


@jit()
def _mix(h):
    # Numba multiplies and adds 32-bit integers in 64 bits, so each result is cut back
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@jit(parallel=True)
def _dropout(x, threshold, survivor, first, second, y):
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        source, target = x[start:][:_CHUNK], y[start:][:_CHUNK]
        for j in range(source.size):
            h = _mix(np.uint32(start + j) ^ first)
            h = _mix(np.uint32(h + second))
            target[j] = source[j] * survivor if h >= threshold else source.dtype.type(0)


def dropout(x, p, key):
    """Twin of ``cnn.reference.dropout``."""
    x = contiguous(x)
    y = np.empty_like(x)
    threshold, survivor = np.uint32(min(int(p * 2**32), 2**32 - 1)), 1 / (1 - p) if p < 1 else 0.0
    first, second = np.uint32(key[0]), np.uint32(key[1])
    _dropout(x.reshape(-1), threshold, x.dtype.type(survivor), first, second, y.reshape(-1))
    return y
