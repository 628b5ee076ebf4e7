"""Pooling: the largest or the mean value of each window."""

import numpy as np

from cnn.reference.conv import windows


def max_pool2d_forward(x, kernel_size, stride, padding):
    """Return (y, argmax): the largest value of each window and which cell of the window it was.

    Padding counts as -inf; of equal values the first in row-major order wins; a NaN wins over everything.
    """
    x = np.asarray(x)
    view = windows(x, kernel_size, stride, padding, fill=-np.inf)
    flat = view.reshape(*view.shape[:4], -1)
    largest, winner = flat.max(axis=-1), flat.argmax(axis=-1)
    # in a window of nothing but -inf the first of equals may be padding: the first pixel wins instead
    pixels = windows(np.ones((1, 1, *x.shape[2:]), bool), kernel_size, stride, padding, fill=False)
    first_pixel = pixels.reshape(1, 1, *view.shape[2:4], -1).argmax(axis=-1)
    return largest, np.where(largest == -np.inf, first_pixel, winner)


def max_pool2d_backward(dy, argmax, input_shape, kernel_size, stride, padding):
    """Return dx: each dy goes to the input that won its window; windows that overlap add up."""
    dy = np.asarray(dy)
    n, c, h, w = input_shape
    (_, kw), (sh, sw), ((top, bottom), (left, right)) = kernel_size, stride, padding
    row = np.arange(dy.shape[2])[:, None] * sh + argmax // kw
    column = np.arange(dy.shape[3]) * sw + argmax % kw
    padded = np.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
    image, channel = np.arange(n)[:, None, None, None], np.arange(c)[:, None, None]
    np.add.at(padded, (image, channel, row, column), dy)
    return padded[:, :, top : top + h, left : left + w]


def _divisor(shape, kernel_size, stride, padding, count_include_pad):
    """Return how many cells each window divides by, as an array that broadcasts to (H', W')."""
    if count_include_pad:
        return kernel_size[0] * kernel_size[1]
    ones = np.ones((1, 1, *shape[2:]))
    return windows(ones, kernel_size, stride, padding).sum(axis=(-2, -1))[0, 0]


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad):
    """Return the mean of each window; padding counts as zeros, in the divisor only with count_include_pad."""
    x = np.asarray(x)
    total = windows(x, kernel_size, stride, padding).sum(axis=(-2, -1))
    return (total / _divisor(x.shape, kernel_size, stride, padding, count_include_pad)).astype(x.dtype)


def avg_pool2d_backward(dy, input_shape, kernel_size, stride, padding, count_include_pad):
    """Return dx: each dy, divided as in forward, goes to every cell of its window."""
    dy = np.asarray(dy)
    share = dy / _divisor(input_shape, kernel_size, stride, padding, count_include_pad)
    n, c, h, w = input_shape
    (kh, kw), (sh, sw), ((top, bottom), (left, right)) = kernel_size, stride, padding
    padded = np.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
    for u in range(kh):
        for v in range(kw):
            rows = slice(u, u + sh * (dy.shape[2] - 1) + 1, sh)
            columns = slice(v, v + sw * (dy.shape[3] - 1) + 1, sw)
            padded[:, :, rows, columns] += share
    return padded[:, :, top : top + h, left : left + w]


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
