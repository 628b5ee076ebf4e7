"""Pooling: the largest or the mean value of each window."""

import numpy as np

from cnn.reference.conv import windows


def max_pool2d_forward(x, kernel_size, stride, padding, dilation=(1, 1), ceil_mode=False):
    """Return (y, argmax): the largest value of each window and which cell of the window it was.

    Padding counts as -inf; of equal values the first in row-major order wins; a NaN wins over everything. A
    window without any pixel gives -inf, and kh * kw as its cell.
    """
    x = np.asarray(x)
    counts = _counts(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    padding = _reaching(x.shape, counts, kernel_size, stride, padding, dilation)
    view = windows(x, kernel_size, stride, padding, dilation, fill=-np.inf)
    flat = view.reshape(*view.shape[:4], -1)
    largest, winner = flat.max(axis=-1), flat.argmax(axis=-1)
    # in a window of nothing but -inf the first of equals may be padding: the first pixel wins instead
    ones = np.ones((1, 1, *x.shape[2:]), bool)
    pixels = windows(ones, kernel_size, stride, padding, dilation, fill=False)
    pixels = pixels.reshape(1, 1, *view.shape[2:4], -1)
    first_pixel = np.where(pixels.any(axis=-1), pixels.argmax(axis=-1), flat.shape[-1])
    return largest, np.where(largest == -np.inf, first_pixel, winner)


def max_pool2d_backward(dy, argmax, input_shape, kernel_size, stride, padding, dilation=(1, 1)):
    """Return dx: each dy goes to the input that won its window; windows that overlap add up."""
    (n, c), (kh, kw), (sh, sw), (dh, dw) = input_shape[:2], kernel_size, stride, dilation
    (top, _), (left, _) = padding
    dy, argmax = np.asarray(dy), np.asarray(argmax).astype(np.int64)
    row = np.arange(dy.shape[2])[:, None] * sh + argmax // kw * dh - top
    column = np.arange(dy.shape[3]) * sw + argmax % kw * dw - left
    image, channel = np.arange(n)[:, None, None, None], np.arange(c)[:, None, None]
    places = np.broadcast_arrays(image, channel, row, column)
    won = argmax < kh * kw
    dx = np.zeros(input_shape, dy.dtype)
    np.add.at(dx, tuple(place[won] for place in places), dy[won])
    return dx


def _counts(shape, kernel_size, stride, padding, dilation, ceil_mode):
    """Return (H', W'): with ``ceil_mode`` the last window may reach beyond the padded image.

    It must start inside of the image or the padding before it.
    """
    counts = []
    for size, k, s, (before, after), d in zip(shape[2:], kernel_size, stride, padding, dilation, strict=True):
        room = size + before + after - d * (k - 1) - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        counts.append(count - 1 if ceil_mode and (count - 1) * s >= size + before else count)
    return tuple(counts)


def _reaching(shape, counts, kernel_size, stride, padding, dilation=(1, 1)):
    """Return the padding whose end is the end of the last window."""
    return tuple(
        (before, max(0, (count - 1) * s + d * (k - 1) + 1 - size - before))
        for size, count, k, s, (before, _), d in zip(
            shape[2:], counts, kernel_size, stride, padding, dilation, strict=True
        )
    )


def _divisor(shape, counts, kernel_size, stride, padding, count_include_pad):
    """Return (H', W'): how many cells each window divides by; never those beyond the padding."""
    (top, bottom), (left, right) = padding
    height, width = shape[2] + top + bottom, shape[3] + left + right
    counted = np.pad(np.ones(shape[2:]), padding, constant_values=float(count_include_pad))
    ends = [(n - 1) * s + k for n, s, k in zip(counts, stride, kernel_size, strict=True)]
    counted = np.pad(counted, ((0, max(0, ends[0] - height)), (0, max(0, ends[1] - width))))
    cells = windows(counted[None, None], kernel_size, stride, ((0, 0), (0, 0))).sum(axis=(-2, -1))
    return np.maximum(cells[0, 0, : counts[0], : counts[1]], 1)  # a window of nothing has the mean 0


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad, ceil_mode=False):
    """Return the mean of each window; padding counts as zeros, in the divisor only with count_include_pad."""
    x = np.asarray(x)
    counts = _counts(x.shape, kernel_size, stride, padding, (1, 1), ceil_mode)
    whole = _reaching(x.shape, counts, kernel_size, stride, padding)
    total = windows(x, kernel_size, stride, whole).sum(axis=(-2, -1))
    cells = _divisor(x.shape, counts, kernel_size, stride, padding, count_include_pad)
    return (total / cells).astype(x.dtype)


def avg_pool2d_backward(dy, input_shape, kernel_size, stride, padding, count_include_pad):
    """Return dx: each dy, divided as in forward, goes to every cell of its window."""
    dy = np.asarray(dy)
    n, c, h, w = input_shape
    counts = rows, columns = dy.shape[2:]
    cells = _divisor(input_shape, counts, kernel_size, stride, padding, count_include_pad)
    share = (dy / cells).astype(dy.dtype)
    (top, bottom), (left, right) = _reaching(input_shape, counts, kernel_size, stride, padding)
    (kh, kw), (sh, sw) = kernel_size, stride
    padded = np.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
    for u in range(kh):
        for v in range(kw):
            padded[:, :, u : u + sh * (rows - 1) + 1 : sh, v : v + sw * (columns - 1) + 1 : sw] += share
    return padded[:, :, top : top + h, left : left + w]
