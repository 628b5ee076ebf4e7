"""Planes made larger or smaller: nearest-neighbour upsampling, zero padding and cropping."""

import numpy as np


def upsample_nearest_forward(x, scale):
    """Return y[n,c,i,j] = x[n, c, i // sh, j // sw] for scale = (sh, sw)."""
    return np.asarray(x).repeat(scale[0], axis=2).repeat(scale[1], axis=3)


def upsample_nearest_backward(dy, scale):
    """Return dx[n,c,a,b] = sum of the sh x sw numbers dy[n,c,i,j] with i // sh = a, j // sw = b."""
    dy, (sh, sw) = np.asarray(dy), scale
    n, c, h, w = dy.shape
    return dy.reshape(n, c, h // sh, sh, w // sw, sw).sum(axis=(3, 5))


def _place(x, top, left, height, width):
    """Return planes of (height, width): x with its corner at (top, left), 0 around it."""
    y = np.zeros((*x.shape[:2], height, width), x.dtype)
    rows = slice(max(top, 0), min(top + x.shape[2], height))
    columns = slice(max(left, 0), min(left + x.shape[3], width))
    y[:, :, rows, columns] = x[
        :, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return y


def pad2d_forward(x, padding):
    """Return y[n,c,i,j] = x[n, c, i - top, j - left], 0 outside; padding = ((top, bottom), (left, right)).

    A negative number cuts off as many rows or columns.
    """
    x, ((top, bottom), (left, right)) = np.asarray(x), padding
    return _place(x, top, left, x.shape[2] + top + bottom, x.shape[3] + left + right)


def pad2d_backward(dy, padding):
    """Return dx[n,c,a,b] = dy[n, c, a + top, b + left], 0 where forward cut off."""
    dy, ((top, bottom), (left, right)) = np.asarray(dy), padding
    return _place(dy, -top, -left, dy.shape[2] - top - bottom, dy.shape[3] - left - right)
