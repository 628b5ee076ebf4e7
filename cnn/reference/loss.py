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
