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


def elu_forward(x, alpha):
    """Return x where x > 0, else alpha * (exp(x) - 1)."""
    x = np.asarray(x)
    return np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)))


def elu_backward(dy, x, alpha):
    """Return dy where x > 0, else dy * alpha * exp(x)."""
    dy, x = np.asarray(dy), np.asarray(x)
    return np.where(x > 0, dy, dy * dy.dtype.type(alpha) * np.exp(np.minimum(x, 0)))


def hardtanh_forward(x, low, high):
    """Return min(max(x, low), high); a NaN stays a NaN."""
    x = np.asarray(x)
    return np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high))


def hardtanh_backward(dy, x, low, high):
    """Return 0 where x <= low or x >= high, else dy."""
    dy, x = np.asarray(dy), np.asarray(x)
    low, high = x.dtype.type(low), x.dtype.type(high)
    return np.where((x <= low) | (x >= high), dy.dtype.type(0), dy)


def relu6_forward(x):
    """Return min(max(x, 0), 6)."""
    return hardtanh_forward(x, 0, 6)


def relu6_backward(dy, x):
    """Return dy where 0 < x < 6, else 0."""
    return hardtanh_backward(dy, x, 0, 6)


def hardsigmoid_forward(x):
    """Return x / 6 + 1/2, not below 0 and not above 1."""
    x = np.asarray(x)
    return np.minimum(np.maximum(x / 6 + x.dtype.type(0.5), 0), 1)


def hardsigmoid_backward(dy, x):
    """Return dy / 6 where -3 < x < 3, else 0."""
    dy, x = np.asarray(dy), np.asarray(x)
    return np.where((x > -3) & (x < 3), dy / 6, dy.dtype.type(0))


def hardswish_forward(x):
    """Return x * hardsigmoid(x)."""
    return np.asarray(x) * hardsigmoid_forward(x)


def hardswish_backward(dy, x):
    """Return 0 where x <= -3, dy where x >= 3, else dy * (x / 3 + 1/2)."""
    dy, x = np.asarray(dy), np.asarray(x)
    inside = np.where(x < 3, dy * (x / 3 + x.dtype.type(0.5)), dy)
    return np.where(x <= -3, dy.dtype.type(0), inside)
