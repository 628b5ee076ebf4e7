"""Activations: each function beside its derivative, both on vectors, and one loop that runs them all.

``activate(kind, x, parameter)`` and ``slope(kind, saved, parameter)`` are written once per kind; batch
normalisation fuses with them by the same two names. ``saved`` is what the layer keeps: x, or y for sigmoid
and tanh. ``kind`` is known at compile time, so that each kind has its own kernel without a branch in it.
"""

import functools
import math
from typing import NamedTuple

from numba import types
from numba.extending import overload

from cnn.fast import blocked
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import CHUNK, FLAGS, chunks, jit, launch, table, task
from cnn.fast.machine.special import erf, exp, tanh
from cnn.fast.machine.tables import bits, from_bits, pointer, reader

(
    IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, SILU, GELU, GELU_TANH, ELU, HARDSIGMOID, HARDSWISH, RELU6,
) = range(12)  # fmt: skip

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def _identity(kind, x, parameter):
    return x


def _relu(kind, x, parameter):
    return v.select(v.greater(0.0, x), 0.0, x)  # a NaN is not below 0: it stays


def _leaky_relu(kind, x, parameter):
    return v.select(v.greater(x, 0.0), x, x * parameter)


def _sigmoid(kind, x, parameter):
    return 1.0 / (1.0 + exp(0.0 - x))


def _tanh(kind, x, parameter):
    return tanh(x)


def _silu(kind, x, parameter):
    return x / (1.0 + exp(0.0 - x))


def _gelu(kind, x, parameter):
    return 0.5 * x * (1.0 + erf(x * _SQRT_HALF))


def _gelu_tanh(kind, x, parameter):
    return 0.5 * x * (1.0 + tanh(_SQRT_2_OVER_PI * (x + _CUBIC * x * x * x)))


def _elu(kind, x, parameter):
    t = tanh(0.5 * x)  # exp(x) - 1 = 2 t / (1 - t), without the cancellation
    return v.select(v.greater(x, 0.0), x, parameter * (2.0 * t / (1.0 - t)))


def _hardsigmoid(kind, x, parameter):
    return _between(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)


def _hardswish(kind, x, parameter):
    return x * _between(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)


def _relu6(kind, x, parameter):
    return _between(x, 0.0, 6.0)


@jit
def _between(x, low, high):
    return v.select(v.greater(low, x), low, v.select(v.greater(x, high), high, x))


def _identity_gradient(kind, dy, saved, parameter):
    return dy


def _relu_gradient(kind, dy, saved, parameter):
    return v.select(v.greater(saved, 0.0), dy, 0.0)


def _leaky_relu_gradient(kind, dy, saved, parameter):
    return v.select(v.greater(saved, 0.0), dy, dy * parameter)


def _sigmoid_gradient(kind, dy, saved, parameter):
    return dy * saved * (1.0 - saved)


def _tanh_gradient(kind, dy, saved, parameter):
    return dy * (1.0 - saved * saved)


def _silu_gradient(kind, dy, saved, parameter):
    x = saved
    s = 1.0 / (1.0 + exp(0.0 - x))
    return dy * s * (1.0 + x * (1.0 - s))


def _gelu_gradient(kind, dy, saved, parameter):
    x = saved
    return dy * (0.5 * (1.0 + erf(x * _SQRT_HALF)) + x * (_INV_SQRT_2PI * exp(-0.5 * x * x)))


def _gelu_tanh_gradient(kind, dy, saved, parameter):
    x = saved
    t = tanh(_SQRT_2_OVER_PI * (x + _CUBIC * x * x * x))
    inner = _SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * x * x)
    return dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)


def _elu_gradient(kind, dy, saved, parameter):
    return v.select(v.greater(saved, 0.0), dy, dy * (parameter * exp(saved)))


def _hardsigmoid_gradient(kind, dy, saved, parameter):
    inside = v.both(v.greater(saved, -3.0), v.greater(3.0, saved))
    return v.select(inside, dy * (1.0 / 6.0), 0.0)


def _hardswish_gradient(kind, dy, saved, parameter):
    inside = v.select(v.at_least(saved, 3.0), dy, dy * (saved * (1.0 / 3.0) + 0.5))
    return v.select(v.at_least(-3.0, saved), 0.0, inside)


def _relu6_gradient(kind, dy, saved, parameter):
    inside = v.both(v.greater(saved, 0.0), v.greater(6.0, saved))
    return v.select(inside, dy, 0.0)


_FORWARD = (
    _identity, _relu, _leaky_relu, _sigmoid, _tanh, _silu, _gelu, _gelu_tanh,
    _elu, _hardsigmoid, _hardswish, _relu6,
)  # fmt: skip
_BACKWARD = (
    _identity_gradient, _relu_gradient, _leaky_relu_gradient, _sigmoid_gradient, _tanh_gradient,
    _silu_gradient, _gelu_gradient, _gelu_tanh_gradient, _elu_gradient, _hardsigmoid_gradient,
    _hardswish_gradient, _relu6_gradient,
)  # fmt: skip


def activate(kind, x, parameter):
    """f(x) of a vector."""
    return _FORWARD[kind](kind, x, parameter)


def pull_back(kind, dy, saved, parameter):
    """dy * f'(x) of a vector; ``saved`` is x, for sigmoid and tanh y."""
    return _BACKWARD[kind](kind, dy, saved, parameter)


_OPTIONS = {"jit_options": {"fastmath": FLAGS}, "prefer_literal": True}


@overload(activate, **_OPTIONS)
def _choose_forward(kind, x, parameter):
    return _FORWARD[kind.literal_value] if isinstance(kind, types.IntegerLiteral) else None


@overload(pull_back, **_OPTIONS)
def _choose_backward(kind, dy, saved, parameter):
    return _BACKWARD[kind.literal_value] if isinstance(kind, types.IntegerLiteral) else None


def kind_of(name, parameter=0.0):
    """Return (kind, parameter) of a function by its name, such as "leaky_relu"."""
    return globals()[name.upper()], parameter


class Pointwise(NamedTuple):
    """y = f(x), CHUNK numbers a piece."""

    x: int  # address
    y: int  # address
    size: int  # numbers
    parameter: int  # bits of a float64


class PointwiseGradient(NamedTuple):
    """dx = dy * f'(x), CHUNK numbers a piece."""

    dy: int  # address
    saved: int  # address of x, or of y for sigmoid and tanh
    dx: int  # address
    size: int  # numbers
    parameter: int  # bits of a float64


pointwise_of, gradient_of = reader(Pointwise), reader(PointwiseGradient)


@functools.cache
def forward_task(kind, itemsize):
    """The task that takes a Pointwise."""

    @task
    def forward(index, thread, params):
        p = pointwise_of(params)
        x, y, parameter = pointer(p.x, itemsize), pointer(p.y, itemsize), from_bits(p.parameter)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            v.store(y, i, activate(kind, v.load(x, i), parameter))

    return forward


@functools.cache
def _backward_task(kind, itemsize):
    @task
    def backward(index, thread, params):
        p = gradient_of(params)
        dy, saved, dx = pointer(p.dy, itemsize), pointer(p.saved, itemsize), pointer(p.dx, itemsize)
        parameter = from_bits(p.parameter)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size), 16):
            v.store(dx, i, pull_back(kind, v.load(dy, i), v.load(saved, i), parameter))

    return backward


def forward(kind, x, parameter=0.0):
    """y = f(x) for one of the kinds above."""
    x = blocked.as_stored(x)
    y = blocked.empty_like(x)
    size = y.buffer.size
    values = table(Pointwise(x.address, y.address, size, bits(parameter)))
    launch(forward_task(kind, x.itemsize), chunks(size), values)
    return y


def backward(kind, dy, saved, parameter=0.0):
    """dx = dy * f'(x) for one of the kinds above; ``saved`` is x, for sigmoid and tanh y."""
    saved = blocked.as_stored(saved)
    dy = blocked.as_stored(dy, saved)
    dx = blocked.empty_like(dy)
    size = dx.buffer.size
    values = table(PointwiseGradient(dy.address, saved.address, dx.address, size, bits(parameter)))
    launch(_backward_task(kind, dx.itemsize), chunks(size), values)
    return dx


def relu_forward(x):
    """Return max(x, 0); a NaN stays a NaN."""
    return forward(RELU, x)


def relu_backward(dy, x):
    """Return dy where x > 0, else 0."""
    return backward(RELU, dy, x)


def leaky_relu_forward(x, negative_slope):
    """Return x where x > 0, else negative_slope * x."""
    return forward(LEAKY_RELU, x, float(negative_slope))


def leaky_relu_backward(dy, x, negative_slope):
    """Return dy where x > 0, else negative_slope * dy."""
    return backward(LEAKY_RELU, dy, x, float(negative_slope))


def sigmoid_forward(x):
    """Return 1 / (1 + exp(-x))."""
    return forward(SIGMOID, x)


def sigmoid_backward(dy, y):
    """Return dy * y * (1 - y)."""
    return backward(SIGMOID, dy, y)


def tanh_forward(x):
    """Return tanh(x)."""
    return forward(TANH, x)


def tanh_backward(dy, y):
    """Return dy * (1 - y**2)."""
    return backward(TANH, dy, y)


def silu_forward(x):
    """Return x * sigmoid(x)."""
    return forward(SILU, x)


def silu_backward(dy, x):
    """Return dy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    return backward(SILU, dy, x)


def gelu_forward(x, tanh):
    """Return x * Phi(x), Phi being the normal distribution function or, with ``tanh``, its approximation."""
    return forward(GELU_TANH if tanh else GELU, x)


def gelu_backward(dy, x, tanh):
    """Return dy * (Phi(x) + x * phi(x)), phi being the normal density; likewise for the approximation."""
    return backward(GELU_TANH if tanh else GELU, dy, x)


def elu_forward(x, alpha):
    """Return x where x > 0, else alpha * (exp(x) - 1)."""
    return forward(ELU, x, float(alpha))


def elu_backward(dy, x, alpha):
    """Return dy where x > 0, else dy * alpha * exp(x)."""
    return backward(ELU, dy, x, float(alpha))


def hardsigmoid_forward(x):
    """Return x / 6 + 1/2, not below 0 and not above 1."""
    return forward(HARDSIGMOID, x)


def hardsigmoid_backward(dy, x):
    """Return dy / 6 where -3 < x < 3, else 0."""
    return backward(HARDSIGMOID, dy, x)


def hardswish_forward(x):
    """Return x * hardsigmoid(x)."""
    return forward(HARDSWISH, x)


def hardswish_backward(dy, x):
    """Return 0 where x <= -3, dy where x >= 3, else dy * (x / 3 + 1/2)."""
    return backward(HARDSWISH, dy, x)


def relu6_forward(x):
    """Return min(max(x, 0), 6)."""
    return forward(RELU6, x)


def relu6_backward(dy, x):
    """Return dy where 0 < x < 6, else 0."""
    return backward(RELU6, dy, x)
