"""The fully connected layer: one matrix product forward, two backward."""

import numpy as np


def linear_forward(x, weight, bias):
    """Return y[n,o] = bias[o] + sum over i of x[n,i] * weight[o,i]."""
    y = np.asarray(x) @ weight.T
    return y if bias is None else y + bias


def linear_backward_input(dy, weight):
    """Return dx[n,i] = sum over o of dy[n,o] * weight[o,i]."""
    return np.asarray(dy) @ weight


def linear_backward_weight(dy, x, dweight):
    """Add dweight[o,i] += sum over n of dy[n,o] * x[n,i]."""
    dweight += np.asarray(dy).T @ np.asarray(x)
