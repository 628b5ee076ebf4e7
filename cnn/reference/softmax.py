"""Softmax along the channel axis, and its logarithm."""

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


def log_softmax_forward(x):
    """Return x_i - max x - log(sum over k of exp(x_k - max x)), along axis 1."""
    x = np.asarray(x)
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def log_softmax_backward(dy, y):
    """Return dx_j = dy_j - exp(y_j) * sum over i of dy_i."""
    dy = np.asarray(dy)
    return dy - np.exp(np.asarray(y)) * dy.sum(axis=1, keepdims=True)
