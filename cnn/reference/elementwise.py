"""Sums, copies and masks: what branches, Flatten and Dropout are made of."""

import numpy as np


def add(a, b):
    """Return a + b."""
    return np.asarray(a) + np.asarray(b)


def multiply(a, b):
    """Return a * b; an axis of size 1 is repeated."""
    return np.asarray(a) * np.asarray(b)


def multiply_backward(dy, other, shape):
    """Return the gradient of the factor of ``shape``: dy * other, summed over the axes that were repeated."""
    product = np.asarray(dy) * np.asarray(other)
    axes = tuple(k for k, size in enumerate(shape) if size == 1 and product.shape[k] > 1 and k > 0)
    return product.sum(axis=axes, keepdims=True) if axes else product


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


def dropout_forward(x, p, state):
    """Return (y, key): y = x / (1 - p) where a hash of (key, position) is kept, else 0.

    ``state``, int64 (seed, how many masks were drawn), gives the key (seed, count modulo 2^32) and then
    counts one more, in place.
    """
    key = np.array([state[0], state[1] % 2**32], np.int64)
    state[1] += 1
    return dropout_backward(x, p, key), key


def dropout_backward(dy, p, key):
    """Return dx = dy / (1 - p) where a hash of (key, position) is kept, else 0.

    ``key`` is two 32-bit integers. The mask is a function of the key and of the position in the flattened
    (N, F) array alone, so forward and backward agree, and so do both backends and any thread count.
    """
    dy = np.asarray(dy)
    first, second = (np.uint32(k) for k in key)
    position = np.arange(dy.size, dtype=np.uint64).astype(np.uint32).reshape(dy.shape)
    keep = _mix(_mix(position ^ first) + second) >= np.uint32(min(int(p * 2**32), 2**32 - 1))
    survivor = dy.dtype.type(1 / (1 - p) if p < 1 else 0)
    return np.where(keep, dy * survivor, dy.dtype.type(0))


def channel_sum(dy, dbias):
    """Add dbias[k] += sum of dy over the batch and all positions."""
    dy = np.asarray(dy)
    dbias += dy.sum(axis=(0, *range(2, dy.ndim)))


def add_channel(x, bias):
    """Return y[n,c,...] = x[n,c,...] + bias[c]."""
    x = np.asarray(x)
    return x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
