import numpy as np


def dropout_forward(x, p, training, rng):
    if not training:
        return x, np.ones(x.shape)
    kept = (rng.random(x.shape) >= p) / (1 - p)
    return x * kept, kept


def dropout_backward(dy, kept):
    return dy * kept
