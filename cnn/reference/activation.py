"""Activations: each function beside its derivative."""

import math

import numpy as np

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715
_erf = np.vectorize(math.erf, otypes=[np.float64])


def relu_forward(x):
    """Return max(x, 0); a NaN stays a NaN."""
    return np.maximum(np.asarray(x), 0)


def relu_backward(dy, x):
    """Return 0 where x <= 0, else dy."""
    dy = np.asarray(dy)
    return np.where(np.asarray(x) <= 0, dy.dtype.type(0), dy)


def leaky_relu_forward(x, negative_slope):
    """Return x where x > 0, else negative_slope * x."""
    x = np.asarray(x)
    return np.where(x > 0, x, x * x.dtype.type(negative_slope))


def leaky_relu_backward(dy, x, negative_slope):
    """Return dy where x > 0, else negative_slope * dy."""
    dy = np.asarray(dy)
    return np.where(np.asarray(x) > 0, dy, dy * dy.dtype.type(negative_slope))


def sigmoid_forward(x):
    """Return 1 / (1 + exp(-x)), written so that neither sign overflows."""
    x = np.asarray(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid_backward(dy, y):
    """Return dy * y * (1 - y)."""
    y = np.asarray(y)
    return np.asarray(dy) * y * (1 - y)


def tanh_forward(x):
    """Return tanh(x)."""
    return np.tanh(np.asarray(x))


def tanh_backward(dy, y):
    """Return dy * (1 - y**2)."""
    return np.asarray(dy) * (1 - np.asarray(y) ** 2)


def silu_forward(x):
    """Return x * sigmoid(x)."""
    x = np.asarray(x)
    return x * sigmoid_forward(x)


def silu_backward(dy, x):
    """Return dy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    x = np.asarray(x)
    s = sigmoid_forward(x)
    return np.asarray(dy) * s * (1 + x * (1 - s))


def gelu_forward(x, tanh):
    """Return x * Phi(x), Phi being the normal distribution function or, with ``tanh``, its approximation."""
    x = np.asarray(x)
    if tanh:
        return 0.5 * x * (1 + np.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x**3)))
    return (0.5 * x * (1 + _erf(x * _SQRT_HALF))).astype(x.dtype)


def gelu_backward(dy, x, tanh):
    """Return dy * (Phi(x) + x * phi(x)), phi being the normal density; likewise for the approximation."""
    dy, x = np.asarray(dy), np.asarray(x)
    if tanh:
        t = np.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x**3))
        slope = _SQRT_2_OVER_PI * (1 + 3 * _GELU_CUBIC * x**2)
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * slope)
    distribution = 0.5 * (1 + _erf(x * _SQRT_HALF))
    density = _INV_SQRT_2PI * np.exp(-0.5 * x**2)
    return (dy * (distribution + x * density)).astype(x.dtype)


def softmax_forward(x):
    """Return S_i = exp(x_i - max x) / sum over k of exp(x_k - max x), along axis 1."""
    x = np.asarray(x)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward(dy, y):
    """Return dx_j = sum over i of dy_i * S_i * (delta_ij - S_j) = S_j * (dy_j - sum over i of dy_i * S_i)."""
    dy, y = np.asarray(dy), np.asarray(y)
    return y * (dy - (dy * y).sum(axis=1, keepdims=True))
