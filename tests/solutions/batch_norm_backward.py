import numpy as np


def batch_norm_backward(dy, x, gamma, eps):
    axes = (0, 2, 3)
    rstd = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    xhat = (x - x.mean(axis=axes, keepdims=True)) * rstd
    g = dy * gamma.reshape(1, -1, 1, 1)
    through_mean = g.mean(axis=axes, keepdims=True)
    through_variance = xhat * (g * xhat).mean(axis=axes, keepdims=True)
    dx = rstd * (g - through_mean - through_variance)
    return dx, (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
