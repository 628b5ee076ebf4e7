"""Rounding to bfloat16, and convolutions with what they multiply rounded, in NumPy.

The kernels for ``precision="bf16"`` round at these points and nowhere else. The direct form rounds its
operands; Winograd's rounds what its transforms give. Here these transforms are made from
their points by Toom and Cook's interpolation: with p over the points, N(x) = product of (x - p), and
N_p(x) = N(x) / (x - p),

    A^T[i, p] = p^i        G[p, j] = p^j / N_p(p)        B^T[p] = coefficients of N_p

and for infinity the last unit vector, the last unit vector and the coefficients of N.
"""

import numpy as np
from numpy.polynomial import polynomial

from cnn.reference import conv

POINTS = (0.0, np.sqrt(0.5), -np.sqrt(0.5), np.sqrt(2.0), -np.sqrt(2.0))


def rounded(x):
    """Return float32 numbers rounded to bfloat16: to nearest, ties to even, subnormals to 0; NaN stays."""
    x = np.asarray(x, np.float32)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = np.ldexp(np.rint(mantissa * 256), exponent - 8).astype(np.float32)
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), nearest)


def conv2d_forward(x, weight, bias, *geometry):
    """Return ``conv.conv2d_forward`` of operands that are rounded, in float64."""
    bias = None if bias is None else bias.astype(np.float64)
    return conv.conv2d_forward(_wide(x), _wide(weight), bias, *geometry)


def conv2d_backward(dy, x, weight, *geometry):
    """Return (dx, dweight) of operands that are rounded, in float64."""
    dweight = np.zeros(weight.shape)
    conv.conv2d_backward_weight(_wide(dy), _wide(x), dweight, *geometry)
    return conv.conv2d_backward_input(_wide(dy), _wide(weight), x.shape, *geometry), dweight


def _wide(x):
    return rounded(x).astype(np.float64)


def matrices(taps, points=POINTS):
    """Return (A^T (7 - taps, 6), G (6, taps), B^T (6, 6)) for five points and infinity, in float64."""
    outputs, inputs, weights = np.zeros((7 - taps, 6)), np.zeros((6, 6)), np.zeros((6, taps))
    for row, p in enumerate(points):
        others = polynomial.polyfromroots([q for q in points if q != p])
        outputs[:, row] = p ** np.arange(7.0 - taps)
        weights[row] = p ** np.arange(float(taps)) / polynomial.polyval(p, others)
        inputs[row, :5] = others
    outputs[-1, 5] = weights[5, -1] = 1
    inputs[5] = polynomial.polyfromroots(points)
    return outputs, weights, inputs


def _windows(x, rows, columns, above, left, size):
    """Return (tile rows, tile columns, N, C, size, size): the windows of x at the starts of tiles."""
    n, c, height, width = x.shape
    padded = np.zeros((n, c, height + 2 * size + above, width + 2 * size + left))
    padded[:, :, above : above + height, left : left + width] = x
    return np.array([[padded[:, :, r : r + size, q : q + size] for q, _ in columns] for r, _ in rows])


def winograd_forward(x, weight, rows, columns, above, left):
    """Return the convolution (N, K, H, W) of x (N, C, ., .) with weight (K, C, taps, taps), stride 1.

    ``rows`` and ``columns`` are the tiles of the output along each axis, (start, outputs), and ``above`` and
    ``left`` the padding before x.
    """
    a, g, b = matrices(weight.shape[-1])
    share = np.array([1, *np.abs(POINTS[1:]), 1])  # moved from A to G, as in the kernels' matrices
    a, g = a / share, share[:, None] * g
    v = rounded(b @ _windows(x, rows, columns, above, left, 6) @ b.T).astype(np.float64)
    u = rounded(g @ weight.astype(np.float64) @ g.T).astype(np.float64)
    tiles = a @ np.einsum("kcij,tsncij->tsnkij", u, v) @ a.T
    y = np.zeros((len(x), len(weight), sum(rows[-1]), sum(columns[-1])))
    for (top, height), line in zip(rows, tiles, strict=True):
        for (left_, width), tile in zip(columns, line, strict=True):
            y[:, :, top : top + height, left_ : left_ + width] = tile[..., :height, :width]
    return y


def winograd_backward_weight(dy, x, taps, rows, columns, above, left):
    """Return the gradient (K, C, taps, taps) by the weight; arguments as in ``winograd_forward``."""
    a, g, b = matrices(taps)
    v = rounded(b @ _windows(x, rows, columns, above, left, 6) @ b.T).astype(np.float64)
    windows = _windows(dy, rows, columns, 0, 0, 7 - taps)
    for line, (_, height) in zip(windows, rows, strict=True):
        line[..., height:, :] = 0
        for tile, (_, width) in zip(line, columns, strict=True):
            tile[..., width:] = 0
    h = rounded(a.T @ windows @ a).astype(np.float64)
    return g.T @ np.einsum("tsnkij,tsncij->kcij", h, v) @ g
