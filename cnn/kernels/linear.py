"""The fully connected layer as plain loops: no BLAS, whose threads would fight Numba's."""

import numpy as np
from numba import prange

from cnn.kernels.jit import contiguous, jit


@jit(parallel=True)
def _forward(x, weight, bias, y):
    for n in prange(x.shape[0]):
        row = x[n]
        for o in range(weight.shape[0]):
            w = weight[o]
            total = bias[o]
            for i in range(row.size):
                total += row[i] * w[i]
            y[n, o] = total


@jit(parallel=True)
def _backward_input(dy, weight, dx):
    for n in prange(dy.shape[0]):
        target = dx[n]
        for o in range(weight.shape[0]):
            w, factor = weight[o], dy[n, o]
            for i in range(target.size):
                target[i] += factor * w[i]


@jit(parallel=True)
def _backward_weight(dy, x, dweight):
    for o in prange(dweight.shape[0]):
        sums = np.zeros(x.shape[1], x.dtype)
        for n in range(x.shape[0]):
            row, factor = x[n], dy[n, o]
            for i in range(row.size):
                sums[i] += factor * row[i]
        target = dweight[o]
        for i in range(sums.size):
            target[i] += sums[i]


def linear_forward(x, weight, bias):
    """Twin of ``cnn.reference.linear_forward``."""
    x = contiguous(x)
    y = np.empty((x.shape[0], weight.shape[0]), x.dtype)
    bias = np.zeros(weight.shape[0], x.dtype) if bias is None else bias
    _forward(x, contiguous(weight), contiguous(bias), y)
    return y


def linear_backward_input(dy, weight):
    """Twin of ``cnn.reference.linear_backward_input``."""
    dy = contiguous(dy)
    dx = np.zeros((dy.shape[0], weight.shape[1]), dy.dtype)
    _backward_input(dy, contiguous(weight), dx)
    return dx


def linear_backward_weight(dy, x, dweight):
    """Twin of ``cnn.reference.linear_backward_weight``."""
    _backward_weight(contiguous(dy), contiguous(x), dweight)
