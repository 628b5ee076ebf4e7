"""Starting values of weights and biases, by name.

    fan_in  = weight.shape[1] * kh * kw        fan_out = weight.shape[0] * kh * kw

(Linear: kh = kw = 1), as PyTorch counts them. With U(a) uniform on [-a, a) and N(s) normal with standard
deviation s:

    he_uniform      U(sqrt(6 / fan_in))               he_normal      N(sqrt(2 / fan_in))
    xavier_uniform  U(sqrt(6 / (fan_in + fan_out)))   xavier_normal  N(sqrt(2 / (fan_in + fan_out)))
    pytorch_uniform U(1 / sqrt(fan_in)), what PyTorch itself gives Conv2d and Linear, weight and bias

    dirac           the first C/groups filters of each group pass their own channel on unchanged:
                    weight[k, c, u, v] = 1 where c = k and (u, v) = (kh // 2, kw // 2), else 0;
                    filters beyond that start as pytorch_uniform
    whitening       pytorch_uniform, until ``cnn.training.whitening`` has seen the images

References
----------
He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, equation 10.
Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
Zagoruyko, Komodakis, "DiracNets", arXiv:1706.00388; Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single
GPU", arXiv:2404.00498 (dirac on part of the filters; whitening).
"""

import math

import numpy as np

from cnn.errors import ConfigError, ShapeError, did_you_mean
from cnn.layers.parameter import MOST_NUMBERS


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
_FILTERS = ("dirac", "whitening")  # for the weights of convolutions

INITIALIZERS = (*_CONSTANT, *_RANDOM, *_FILTERS)


def fans(shape):
    """Return (fan_in, fan_out) of a weight of ``shape`` (out, in) or (K, C/groups, kh, kw)."""
    if len(shape) < 2:
        raise ConfigError(f"an array of shape {tuple(shape)} has no fan_in: give the fan_in of its weight")
    pixels = math.prod(shape[2:])
    return shape[1] * pixels, shape[0] * pixels


def initialize(name, shape, rng, dtype=np.float32, fan_in=None, groups=1):
    """Return a new array of ``shape`` and ``dtype`` with the starting values called ``name``.

    The numbers are drawn in float64 and then rounded, so one seed gives a float32 and a float64 network
    the same weights.

    Parameters
    ----------
    name : str
        One of ``INITIALIZERS``.
    shape : tuple of int
    rng : numpy.random.Generator, or an object with ``starting_values(shape, dtype)``
        Not touched by ``zeros`` and ``ones``. The second gives the whole array, whatever the ``name``: a
        checkpoint, which is about to replace it.
    fan_in : int, optional
        Inputs of one output. Taken from ``shape`` unless given; a bias needs its weight's.
    groups : int
        Of the convolution; "dirac" gives each group its own identity.

    Raises
    ------
    ConfigError
        For an unknown name, for a bias with a random start and no ``fan_in``, and for "dirac" or "whitening"
        where there are no filters (K, C/groups, kh, kw).
    """
    if math.prod(shape) > MOST_NUMBERS:
        raise ShapeError(f"needs a parameter of shape {shape}, more than {MOST_NUMBERS:,} numbers")
    if hasattr(rng, "starting_values"):
        return rng.starting_values(shape, dtype)
    if name in _CONSTANT:
        return np.full(shape, _CONSTANT[name], dtype)
    if name in _FILTERS:
        if len(shape) != 4:
            raise ConfigError(f'initializer "{name}": expected the weight of a convolution, found {shape}')
        values = initialize("pytorch_uniform", shape, rng, dtype)
        return _identity(values, groups) if name == "dirac" else values
    if name not in _RANDOM:
        hint = did_you_mean(name, INITIALIZERS)
        raise ConfigError(f"initializer: expected one of {', '.join(INITIALIZERS)}; found {name!r}.{hint}")
    if fan_in is None:
        fan_in, fan_out = fans(shape)
    else:
        fan_out = shape[0] * math.prod(shape[2:])
    return _RANDOM[name](fan_in, fan_out)(rng, shape).astype(dtype)


def _identity(weight, groups):
    """Overwrite the first filters of each group with the identity, as many as there are input channels."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    count = min(grouped.shape[1:3])
    filters = np.arange(count)
    grouped[:, :count] = 0
    grouped[:, filters, filters, weight.shape[2] // 2, weight.shape[3] // 2] = 1
    return weight


def check_whitening(shape, groups=1):
    """Raise ShapeError unless a weight of ``shape`` holds each principal patch with both signs."""
    expected = 2 * math.prod(shape[1:])
    if groups != 1 or shape[0] != expected:
        found = f"groups={groups}" if groups != 1 else f"out_channels={shape[0]}"
        raise ShapeError(
            f'weight_init="whitening": found {found}, expected out_channels={expected} '
            f"(2 * {shape[1]} channels * {shape[2]} * {shape[3]} pixels) and groups=1"
        )
