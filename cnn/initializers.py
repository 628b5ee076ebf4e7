"""Starting values of weights and biases, by name.

    fan_in  = weight.shape[1] * kh * kw        fan_out = weight.shape[0] * kh * kw

(Linear: kh = kw = 1), as PyTorch counts them. With U(a) uniform on [-a, a) and N(s) normal with standard
deviation s:

    he_uniform      U(sqrt(6 / fan_in))               he_normal      N(sqrt(2 / fan_in))
    xavier_uniform  U(sqrt(6 / (fan_in + fan_out)))   xavier_normal  N(sqrt(2 / (fan_in + fan_out)))
    pytorch_uniform U(1 / sqrt(fan_in)), what PyTorch itself gives Conv2d and Linear, weight and bias

References
----------
He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, equation 10.
Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
"""

import math

import numpy as np

from cnn.errors import ConfigError, did_you_mean


def _uniform(bound):
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


def _normal(deviation):
    return lambda rng, shape: deviation * rng.standard_normal(shape)


# each takes (fan_in, fan_out) and returns a function that draws
_RANDOM = {
    "he_normal": lambda fan_in, fan_out: _normal(math.sqrt(2 / fan_in)),
    "he_uniform": lambda fan_in, fan_out: _uniform(math.sqrt(6 / fan_in)),
    "xavier_normal": lambda fan_in, fan_out: _normal(math.sqrt(2 / (fan_in + fan_out))),
    "xavier_uniform": lambda fan_in, fan_out: _uniform(math.sqrt(6 / (fan_in + fan_out))),
    "pytorch_uniform": lambda fan_in, fan_out: _uniform(1 / math.sqrt(fan_in)),
}
_CONSTANT = {"zeros": 0.0, "ones": 1.0}

INITIALIZERS = (*_CONSTANT, *_RANDOM)


def fans(shape):
    """Return (fan_in, fan_out) of a weight of ``shape`` (out, in) or (K, C/groups, kh, kw)."""
    if len(shape) < 2:
        raise ConfigError(f"an array of shape {tuple(shape)} has no fan_in: give the fan_in of its weight")
    pixels = math.prod(shape[2:])
    return shape[1] * pixels, shape[0] * pixels


def initialize(name, shape, rng, dtype=np.float32, fan_in=None):
    """Return a new array of ``shape`` and ``dtype`` with the starting values called ``name``.

    The numbers are drawn in float64 and then rounded, so one seed gives a float32 and a float64 network
    the same weights.

    Parameters
    ----------
    name : str
        One of ``INITIALIZERS``.
    shape : tuple of int
    rng : numpy.random.Generator
        Not touched by ``zeros`` and ``ones``.
    fan_in : int, optional
        Inputs of one output. Taken from ``shape`` unless given; a bias needs its weight's.

    Raises
    ------
    ConfigError
        For an unknown name, or for a bias with a random start and no ``fan_in``.
    """
    if name in _CONSTANT:
        return np.full(shape, _CONSTANT[name], dtype)
    if name not in _RANDOM:
        hint = did_you_mean(name, INITIALIZERS)
        raise ConfigError(f"initializer: expected one of {', '.join(INITIALIZERS)}; found {name!r}.{hint}")
    if fan_in is None:
        fan_in, fan_out = fans(shape)
    else:
        fan_out = shape[0] * math.prod(shape[2:])
    return _RANDOM[name](fan_in, fan_out)(rng, shape).astype(dtype)
