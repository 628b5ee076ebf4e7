"""PReLU: the slope for negative numbers is a parameter."""

import numpy as np


def _slopes(weight, x):
    """Shape (C,) or (1,) so that it broadcasts over the channels of ``x``."""
    return weight.reshape(1, -1, *[1] * (x.ndim - 2))


def prelu_forward(x, weight):
    """Return x where x > 0, else weight[c] * x; weight is (C,), or (1,) for all channels."""
    x = np.asarray(x)
    return np.where(x > 0, x, _slopes(weight, x) * x)


def prelu_backward(dy, x, weight, dweight):
    """Return dy where x > 0, else weight[c] * dy; add dweight[c] += sum of dy * x over x <= 0."""
    dy, x = np.asarray(dy), np.asarray(x)
    products = np.where(x > 0, x.dtype.type(0), dy * x)
    sums = products.sum(axis=(0, *range(2, x.ndim)))
    dweight += sums if dweight.shape == sums.shape else sums.sum()
    return np.where(x > 0, dy, _slopes(weight, x) * dy)
