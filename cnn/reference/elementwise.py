"""Sums, copies and masks: what branches, Flatten and Dropout are made of."""

import numpy as np


def add(a, b):
    """Return a + b."""
    return np.asarray(a) + np.asarray(b)


def scale(x, factor):
    """Return factor * x in the dtype of x."""
    x = np.asarray(x)
    return x * x.dtype.type(factor)


def concat(arrays):
    """Join along the channel axis."""
    return np.concatenate([np.asarray(a) for a in arrays], axis=1)


def split(dy, sizes):
    """Cut along the channel axis into parts of the given sizes: the inverse of concat."""
    return np.split(np.asarray(dy), np.cumsum(sizes)[:-1], axis=1)


def flatten(x):
    """Return (N, C*H*W), row-major."""
    x = np.asarray(x)
    return x.reshape(x.shape[0], -1)


def unflatten(dy, shape):
    """Return ``dy`` as ``shape``: the inverse of flatten."""
    return np.asarray(dy).reshape(shape)


def _mix(h):
    """Scramble 32-bit integers (the finaliser of MurmurHash3, Appleby 2011, public domain)."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def dropout_key(state):
    """Return the key of the next mask, and count it: ``state`` is (seed, masks so far), int64."""
    key = np.array([state[0] % 2**32, state[1] % 2**32], np.int64)
    state[1] += 1
    return key


def dropout(x, p, key):
    """Return x / (1 - p) where a hash of (key, position) is kept, else 0.

    ``key`` is two 32-bit integers. The mask is a function of the key and of the position in the flattened
    (N, F) array alone, so forward and backward agree, and so do both backends and any thread count.
    """
    x = np.asarray(x)
    first, second = (np.uint32(k) for k in key)
    position = np.arange(x.size, dtype=np.uint64).astype(np.uint32).reshape(x.shape)
    keep = _mix(_mix(position ^ first) + second) >= np.uint32(min(int(p * 2**32), 2**32 - 1))
    survivor = x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return np.where(keep, x * survivor, x.dtype.type(0))
