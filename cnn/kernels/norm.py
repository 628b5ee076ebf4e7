"""Batch normalisation: one channel a thread, sums in float64."""

import numpy as np
from numba import prange

from cnn.kernels.jit import contiguous, jit


def _planes(x):
    """View ``x`` as (N, C, positions)."""
    x = contiguous(x)
    return x.reshape(*x.shape[:2], -1)


@jit(parallel=True)
def _statistics(x, mean, var):
    count = x.shape[0] * x.shape[2]
    for c in prange(x.shape[1]):
        total = 0.0
        for n in range(x.shape[0]):
            row = x[n, c]
            for j in range(row.size):
                total += row[j]
        center = total / count
        total = 0.0
        for n in range(x.shape[0]):  # a second pass: E[x^2] - E[x]^2 would cancel
            row = x[n, c]
            for j in range(row.size):
                total += (row[j] - center) ** 2
        mean[c], var[c] = center, total / count


@jit(parallel=True)
def _affine(x, center, slope, bias, y):
    for plane in prange(x.shape[0] * x.shape[1]):
        n, c = plane // x.shape[1], plane % x.shape[1]
        source, target = x[n, c], y[n, c]
        for j in range(source.size):
            target[j] = (source[j] - center[c]) * slope[c] + bias[c]


@jit(parallel=True)
def _backward_sums(dy, x, mean, rstd, sum_dy, sum_dy_normalized):
    for c in prange(x.shape[1]):
        total, weighted = 0.0, 0.0
        for n in range(x.shape[0]):
            gradient, row = dy[n, c], x[n, c]
            for j in range(row.size):
                total += gradient[j]
                weighted += gradient[j] * (row[j] - mean[c])
        sum_dy[c], sum_dy_normalized[c] = total, weighted * rstd[c]


@jit(parallel=True)
def _backward_input(dy, x, mean, rstd, slope, mean_dy, mean_dy_normalized, dx):
    for plane in prange(x.shape[0] * x.shape[1]):
        n, c = plane // x.shape[1], plane % x.shape[1]
        gradient, row, target = dy[n, c], x[n, c], dx[n, c]
        pull = rstd[c] * mean_dy_normalized[c]
        for j in range(row.size):
            target[j] = slope[c] * (gradient[j] - mean_dy[c] - (row[j] - mean[c]) * pull)


def batch_norm_statistics(x):
    """Twin of ``cnn.reference.batch_norm_statistics``."""
    mean, var = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    _statistics(_planes(x), mean, var)
    return mean, var


def batch_norm_forward(x, mean, rstd, weight, bias):
    """Twin of ``cnn.reference.batch_norm_forward``."""
    slope = rstd if weight is None else rstd * weight
    bias = np.zeros_like(mean) if bias is None else bias
    y = np.empty(x.shape, x.dtype)
    _affine(_planes(x), contiguous(mean), slope, contiguous(bias), _planes(y))
    return y


def batch_norm_backward(dy, x, mean, rstd, weight, dweight, dbias, training):
    """Twin of ``cnn.reference.batch_norm_backward``."""
    shape, dy, x = x.shape, _planes(dy), _planes(x)
    mean, rstd = contiguous(mean), contiguous(rstd)
    sum_dy, sum_dy_normalized = np.empty(shape[1], x.dtype), np.empty(shape[1], x.dtype)
    _backward_sums(dy, x, mean, rstd, sum_dy, sum_dy_normalized)
    if dweight is not None:
        dweight += sum_dy_normalized
    if dbias is not None:
        dbias += sum_dy
    slope = rstd if weight is None else rstd * weight
    count = x.dtype.type(x.shape[0] * x.shape[2] if training else np.inf)  # in evaluation both means vanish
    dx = np.empty_like(x)
    _backward_input(dy, x, mean, rstd, slope, sum_dy / count, sum_dy_normalized / count, dx)
    return dx.reshape(shape)
