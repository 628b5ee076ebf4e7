"""Softmax along the channel axis."""

import numpy as np


def softmax_forward(x):
    """Return S_i = exp(x_i - max x) / sum over k of exp(x_k - max x), along axis 1."""
    x = np.asarray(x)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward(dy, y):
    """Return dx_j = sum over i of dy_i * S_i * (delta_ij - S_j) = S_j * (dy_j - sum over i of dy_i * S_i)."""
    dy, y = np.asarray(dy), np.asarray(y)
    return y * (dy - (dy * y).sum(axis=1, keepdims=True))
