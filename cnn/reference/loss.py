"""Softmax and cross-entropy in one, the way that stays finite."""

import numpy as np


def softmax_cross_entropy_forward(logits, rows):
    """Return (losses, probabilities) of logits (N, C) against target rows (N, C).

        losses[n] = - sum over k of rows[n,k] * log p[n,k],    log p = z - max z - log(sum exp(z - max z))

    The logarithm is never taken of p itself, which may be 0 in floating point.
    """
    z = np.asarray(logits)
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(rows * log_p).sum(axis=1), np.exp(log_p)


def softmax_cross_entropy_backward(probabilities, rows, factor):
    """Return factor * (p * sum(rows) - rows): p - y when the targets sum to one."""
    return (probabilities * rows.sum(axis=1, keepdims=True) - rows) * probabilities.dtype.type(factor)


def squared_error(z, y):
    """Return (z - y)^2 of each number."""
    return (z - y) ** 2


def squared_error_slope(z, y):
    """Return 2 (z - y), the derivative by z."""
    return 2 * (z - y)


def absolute_error(z, y):
    """Return |z - y| of each number."""
    return np.abs(z - y)


def absolute_error_slope(z, y):
    """Return sign(z - y), the derivative by z; 0 where both are equal."""
    return np.sign(z - y)


def sigmoid_of(z):
    """Return p = 1 / (1 + exp(-z)); no exponential is above 1."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)


def binary_cross_entropy(z, y, w):
    """Return -(w y log p + (1 - y) log(1 - p)) of each number, p being the sigmoid of z.

        log p = -softplus(-z),   log(1 - p) = -softplus(z),   softplus(u) = max(u, 0) + log(1 + exp(-|u|))
    """
    tail = np.log1p(np.exp(-np.abs(z)))
    return w * y * (np.maximum(-z, 0) + tail) + (1 - y) * (np.maximum(z, 0) + tail)


def binary_cross_entropy_slope(z, y, w):
    """Return (1 - y) p - w y (1 - p), the derivative by z: p - y for w = 1."""
    p = sigmoid_of(z)
    return (1 - y) * p - w * y * (1 - p)
