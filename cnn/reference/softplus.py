"""Softplus: a smooth ReLU."""

import numpy as np

from cnn.reference.activation import sigmoid_forward


def softplus_forward(x, beta, threshold):
    """Return log(1 + exp(beta * x)) / beta, or x where beta * x > threshold."""
    x = np.asarray(x)
    z = x * x.dtype.type(beta)
    smooth = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))  # does not overflow, and keeps its digits
    return np.where(z > threshold, x, smooth / x.dtype.type(beta))


def softplus_backward(dy, x, beta, threshold):
    """Return dy * sigmoid(beta * x), or dy where beta * x > threshold."""
    dy, x = np.asarray(dy), np.asarray(x)
    z = x * x.dtype.type(beta)
    return np.where(z > threshold, dy, dy * sigmoid_forward(z))
