"""Batch normalisation, with statistics over the batch and all positions of a channel."""

import numpy as np


def _axes(x):
    """Return every axis but the channel axis."""
    return (0, *range(2, x.ndim))


def _per_channel(values, x):
    """Shape (C,) so that it broadcasts over ``x``."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def values_per_channel(x):
    """Return how many values of a channel batch statistics are taken of: N*H*W."""
    return x.shape[0] * int(np.prod(x.shape[2:]))


def batch_norm_train(x, running_mean, running_var, momentum, eps):
    """Return (mean, rstd) of each channel of this batch; move the running statistics towards it, in place.

        mean = sum of x / M,    var = sum of (x - mean)^2 / M,    rstd = 1 / sqrt(var + eps)
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var  = (1 - momentum) * running_var  + momentum * var * M / (M - 1)

    M = N*H*W values a channel, at least 2.
    """
    x = np.asarray(x)
    mean = x.mean(axis=_axes(x), dtype=np.float64)
    var = x.var(axis=_axes(x), dtype=np.float64)
    count = x.size // x.shape[1]
    running_mean[...] = (1 - momentum) * running_mean.astype(np.float64) + momentum * mean
    unbiased = var * (count / (count - 1))
    running_var[...] = (1 - momentum) * running_var.astype(np.float64) + momentum * unbiased
    return mean.astype(x.dtype), (1 / np.sqrt(var + eps)).astype(x.dtype)


def batch_norm_eval(running_mean, running_var, eps):
    """Return (mean, rstd) of the running statistics, rstd = 1 / sqrt(running_var + eps); both are copies."""
    rstd = 1 / np.sqrt(running_var.astype(np.float64) + eps)  # a rounded 1/sqrt would be most of the error
    return running_mean.copy(), rstd.astype(running_var.dtype)


def batch_norm_forward(x, mean, rstd, weight, bias):
    """Return y = (x - mean) * rstd * weight + bias, each per channel; weight and bias may be None."""
    x = np.asarray(x)
    y = (x - _per_channel(mean, x)) * _per_channel(rstd, x)
    if weight is not None:
        y = y * _per_channel(weight, x)
    return y if bias is None else y + _per_channel(bias, x)


def batch_norm_backward(dy, x, mean, rstd, weight, dweight, dbias, training):
    """Return dx and add to dweight and dbias (either may be None).

    With xhat = (x - mean) * rstd, g = dy * weight and M values a channel:

        dweight = sum of dy * xhat,    dbias = sum of dy
        dx = rstd * (g - sum(g)/M - xhat * sum(g * xhat)/M)    in training: mean and rstd depend on x
        dx = rstd * g                                          otherwise: they are constants
    """
    dy, x = np.asarray(dy), np.asarray(x)
    axes, rstd = _axes(x), _per_channel(rstd, x)
    normalized = (x - _per_channel(mean, x)) * rstd
    if dweight is not None:
        dweight += (dy * normalized).sum(axis=axes)
    if dbias is not None:
        dbias += dy.sum(axis=axes)
    g = dy if weight is None else dy * _per_channel(weight, x)
    if not training:
        return rstd * g
    mean_g = g.mean(axis=axes, keepdims=True)
    mean_g_normalized = (g * normalized).mean(axis=axes, keepdims=True)
    return rstd * (g - mean_g - normalized * mean_g_normalized)
