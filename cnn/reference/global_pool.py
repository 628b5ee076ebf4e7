"""Pooling over whole planes: their mean or their largest value."""

import numpy as np


def global_avg_pool_forward(x):
    """Return y[n,c] = mean of x[n,c] over all positions."""
    return np.asarray(x).mean(axis=(2, 3))


def global_avg_pool_backward(dy, input_shape):
    """Return dx[n,c,i,j] = dy[n,c] / (H * W)."""
    dy = np.asarray(dy)
    positions = input_shape[2] * input_shape[3]
    return np.broadcast_to((dy / dy.dtype.type(positions))[:, :, None, None], input_shape).copy()


def global_max_pool_forward(x):
    """Return (y, argmax): the largest value of each plane and its flat position; the first of equals wins."""
    x = np.asarray(x)
    flat = x.reshape(*x.shape[:2], -1)
    return flat.max(axis=-1), flat.argmax(axis=-1)


def global_max_pool_backward(dy, argmax, input_shape):
    """Return dx: dy[n,c] at the position that won, zero elsewhere."""
    dy = np.asarray(dy)
    dx = np.zeros((*input_shape[:2], input_shape[2] * input_shape[3]), dy.dtype)
    np.put_along_axis(dx, argmax[..., None], dy[..., None], axis=-1)
    return dx.reshape(input_shape)
