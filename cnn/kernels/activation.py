"""Activations: scalar formulas, applied by one loop over rows."""

import math

import numpy as np
from numba import prange

from cnn.kernels.jit import contiguous, jit

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715
_CHUNK = 4096


def _forward_of(formula):
    """Compile y = formula(x, a) for whole arrays."""
    formula = jit()(formula)

    @jit(parallel=True)
    def loop(x, a, y):
        for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
            source, target = x[chunk * _CHUNK :][:_CHUNK], y[chunk * _CHUNK :][:_CHUNK]
            for j in range(source.size):
                target[j] = formula(source[j], a)

    def apply(x, a=0.0):
        x = contiguous(x)
        y = np.empty_like(x)
        loop(x.reshape(-1), x.dtype.type(a), y.reshape(-1))
        return y

    return apply


def _backward_of(formula):
    """Compile dx = formula(dy, x, a) for whole arrays."""
    formula = jit()(formula)

    @jit(parallel=True)
    def loop(dy, x, a, dx):
        for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
            start = chunk * _CHUNK
            gradient, source, target = dy[start:][:_CHUNK], x[start:][:_CHUNK], dx[start:][:_CHUNK]
            for j in range(source.size):
                target[j] = formula(gradient[j], source[j], a)

    def apply(dy, x, a=0.0):
        dy, x = contiguous(dy), contiguous(x)
        dx = np.empty_like(dy)
        loop(dy.reshape(-1), x.reshape(-1), x.dtype.type(a), dx.reshape(-1))
        return dx

    return apply


@jit()
def _sigmoid(x):
    e = math.exp(-abs(x))  # never overflows, whichever the sign
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


def _relu(x, a):
    return a if x <= 0 else x  # a is 0 in the dtype of x; a NaN stays


def _relu_slope(dy, x, a):
    return a if x <= 0 else dy


def _leaky_relu(x, a):
    return x if x > 0 else x * a


def _leaky_relu_slope(dy, x, a):
    return dy if x > 0 else dy * a


def _sigmoid_value(x, a):
    return _sigmoid(x)


def _sigmoid_slope(dy, y, a):
    return dy * y * (1 - y)


def _tanh(x, a):
    return math.tanh(x)


def _tanh_slope(dy, y, a):
    return dy * (1 - y * y)


def _silu(x, a):
    return x * _sigmoid(x)


def _silu_slope(dy, x, a):
    s = _sigmoid(x)
    return dy * s * (1 + x * (1 - s))


def _gelu(x, a):
    return 0.5 * x * (1 + math.erf(x * _SQRT_HALF))


def _gelu_slope(dy, x, a):
    return dy * (0.5 * (1 + math.erf(x * _SQRT_HALF)) + x * _INV_SQRT_2PI * math.exp(-0.5 * x * x))


def _gelu_tanh(x, a):
    return 0.5 * x * (1 + math.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x * x * x)))


def _gelu_tanh_slope(dy, x, a):
    t = math.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x * x * x))
    slope = _SQRT_2_OVER_PI * (1 + 3 * _GELU_CUBIC * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


relu_forward, relu_backward = _forward_of(_relu), _backward_of(_relu_slope)
leaky_relu_forward, leaky_relu_backward = _forward_of(_leaky_relu), _backward_of(_leaky_relu_slope)
sigmoid_forward, sigmoid_backward = _forward_of(_sigmoid_value), _backward_of(_sigmoid_slope)
tanh_forward, tanh_backward = _forward_of(_tanh), _backward_of(_tanh_slope)
silu_forward, silu_backward = _forward_of(_silu), _backward_of(_silu_slope)
_gelu_exact = _forward_of(_gelu), _backward_of(_gelu_slope)
_gelu_approximate = _forward_of(_gelu_tanh), _backward_of(_gelu_tanh_slope)


def gelu_forward(x, tanh):
    """Twin of ``cnn.reference.gelu_forward``."""
    return (_gelu_approximate if tanh else _gelu_exact)[0](x)


def gelu_backward(dy, x, tanh):
    """Twin of ``cnn.reference.gelu_backward``."""
    return (_gelu_approximate if tanh else _gelu_exact)[1](dy, x)


@jit(parallel=True)
def _softmax_forward(x, y):
    for n in prange(x.shape[0]):
        for j in range(x.shape[2]):
            top = x[n, 0, j]
            for c in range(1, x.shape[1]):
                top = max(top, x[n, c, j])
            total = x.dtype.type(0)
            for c in range(x.shape[1]):
                y[n, c, j] = math.exp(x[n, c, j] - top)
                total += y[n, c, j]
            for c in range(x.shape[1]):
                y[n, c, j] /= total


@jit(parallel=True)
def _softmax_backward(dy, y, dx):
    for n in prange(y.shape[0]):
        for j in range(y.shape[2]):
            total = y.dtype.type(0)
            for c in range(y.shape[1]):
                total += dy[n, c, j] * y[n, c, j]
            for c in range(y.shape[1]):
                dx[n, c, j] = y[n, c, j] * (dy[n, c, j] - total)


def softmax_forward(x):
    """Twin of ``cnn.reference.softmax_forward``."""
    x = contiguous(x)
    y = np.empty_like(x)
    flat = (*x.shape[:2], -1)
    _softmax_forward(x.reshape(flat), y.reshape(flat))
    return y


def softmax_backward(dy, y):
    """Twin of ``cnn.reference.softmax_backward``."""
    dy, y = contiguous(dy), contiguous(y)
    dx = np.empty_like(y)
    flat = (*y.shape[:2], -1)
    _softmax_backward(dy.reshape(flat), y.reshape(flat), dx.reshape(flat))
    return dx
