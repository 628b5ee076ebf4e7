"""Local response normalisation: windows along the channel axis."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def local_response_norm_forward(x, size, alpha, beta, k):
    """Return y = x * s^(-beta) with s = k + alpha/size * sum of x^2 over a window of channels."""
    x = np.asarray(x)
    return (x * _scale(x, size, alpha, k) ** -beta).astype(x.dtype)


def local_response_norm_backward(dy, x, size, alpha, beta, k):
    """Return dx = dy * s^(-beta) - 2 alpha beta/size * x * sum of dy * x * s^(-beta - 1) over the windows.

    The windows that hold channel i are those of the channels i - (size-1)//2 to i + size//2.
    """
    dy, x = np.asarray(dy), np.asarray(x)
    s = _scale(x, size, alpha, k)
    sums = _window_sums(dy * x * s ** (-beta - 1), (size - 1) // 2, size // 2)
    return (dy * s**-beta - 2 * alpha * beta / size * x * sums).astype(x.dtype)


def _scale(x, size, alpha, k):
    return k + alpha / size * _window_sums(x.astype(np.float64) ** 2, size // 2, (size - 1) // 2)


def _window_sums(values, before, after):
    """Return, for each channel c, the sum over the channels c - before to c + after."""
    border = [(0, 0), (before, after)] + [(0, 0)] * (values.ndim - 2)
    return sliding_window_view(np.pad(values, border), before + after + 1, axis=1).sum(axis=-1)
