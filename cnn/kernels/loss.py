"""Softmax and cross-entropy in one: a row of logits a step, sums in float64."""

import math

import numpy as np

from cnn.kernels.jit import contiguous, jit


@jit()
def _forward(z, rows, losses, probabilities):
    for n in range(z.shape[0]):
        top = z[n, 0]
        for k in range(1, z.shape[1]):
            top = max(top, z[n, k])
        total = 0.0
        for k in range(z.shape[1]):
            power = math.exp(z[n, k] - top)
            probabilities[n, k] = power
            total += power
        log_total, scale = math.log(total), 1.0 / total
        loss = 0.0
        for k in range(z.shape[1]):
            probabilities[n, k] *= scale
            loss -= rows[n, k] * (z[n, k] - top - log_total)
        losses[n] = loss


@jit()
def _backward(probabilities, rows, factor, dlogits):
    for n in range(rows.shape[0]):
        total = rows.dtype.type(0)
        for k in range(rows.shape[1]):
            total += rows[n, k]
        for k in range(rows.shape[1]):
            dlogits[n, k] = (probabilities[n, k] * total - rows[n, k]) * factor


def softmax_cross_entropy_forward(logits, rows):
    """Twin of ``cnn.reference.softmax_cross_entropy_forward``."""
    z = contiguous(logits)
    losses, probabilities = np.empty(z.shape[0], z.dtype), np.empty_like(z)
    _forward(z, contiguous(rows), losses, probabilities)
    return losses, probabilities


def softmax_cross_entropy_backward(probabilities, rows, factor):
    """Twin of ``cnn.reference.softmax_cross_entropy_backward``."""
    dlogits = np.empty_like(probabilities)
    _backward(probabilities, contiguous(rows), rows.dtype.type(factor), dlogits)
    return dlogits
