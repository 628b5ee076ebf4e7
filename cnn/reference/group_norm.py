"""Group normalisation; with one group, and a weight for each element, layer normalisation."""

import numpy as np


def _grouped(x, num_groups):
    """View x (N, C, ...) as (N, num_groups, values of a group)."""
    return x.reshape(x.shape[0], num_groups, -1)


def _per_element(values, x):
    """Shape weight or bias, (C,) or one number for each element of an image, to broadcast over ``x``."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2)) if values.ndim == 1 else values[None]


def group_norm_forward(x, num_groups, weight, bias, eps):
    """Return (y, mean, rstd): each group of C / num_groups channels of an image gets mean 0 and variance 1.

        mean[n,g] = sum of x / M,    rstd[n,g] = 1 / sqrt(sum of (x - mean)^2 / M + eps)
        y = (x - mean) * rstd * weight + bias

    x (N, C, H, W) or (N, F); M values a group. weight and bias are (C,), or of the shape of one image (which
    with one group is layer normalisation), or None.
    """
    x = np.asarray(x)
    values = _grouped(x, num_groups).astype(np.float64)
    mean = values.mean(axis=2, keepdims=True)
    rstd = 1 / np.sqrt(values.var(axis=2, keepdims=True) + eps)
    y = ((values - mean) * rstd).reshape(x.shape)
    if weight is not None:
        y = y * _per_element(weight, x)
    if bias is not None:
        y = y + _per_element(bias, x)
    return y.astype(x.dtype), mean[..., 0].astype(x.dtype), rstd[..., 0].astype(x.dtype)


def group_norm_backward(dy, x, mean, rstd, num_groups, weight, dweight, dbias):
    """Return dx and add to dweight and dbias (either may be None, or of weight's shape).

    With xhat = (x - mean) * rstd, g = dy * weight and M values a group:

        dweight = sum of dy * xhat,    dbias = sum of dy       over n, and i, j where weight is (C,)
        dx = rstd * (g - sum(g)/M - xhat * sum(g * xhat)/M)    sums over the group
    """
    dy, x = np.asarray(dy), np.asarray(x)
    mean, rstd = np.asarray(mean)[..., None], np.asarray(rstd)[..., None]
    normalized = ((_grouped(x, num_groups) - mean) * rstd).reshape(x.shape)
    for target, product in ((dweight, dy * normalized), (dbias, dy)):
        if target is not None:
            target += product.sum(axis=(0, *range(2, x.ndim)) if target.ndim == 1 else 0)
    g = _grouped(dy if weight is None else dy * _per_element(weight, x), num_groups)
    normalized = _grouped(normalized, num_groups)
    mean_g = g.mean(axis=2, keepdims=True)
    mean_g_normalized = (g * normalized).mean(axis=2, keepdims=True)
    return (rstd * (g - mean_g - normalized * mean_g_normalized)).reshape(x.shape)
