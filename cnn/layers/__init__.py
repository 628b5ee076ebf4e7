"""Every layer and loss, one family a file."""

from cnn.errors import ConfigError, did_you_mean
from cnn.layers.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from cnn.layers.containers import Concat, Residual, Sequential
from cnn.layers.conv import Conv2d, ConvTranspose2d
from cnn.layers.dropout import Dropout
from cnn.layers.layer import Layer
from cnn.layers.linear import Linear
from cnn.layers.loss import CrossEntropy, SoftmaxCrossEntropy
from cnn.layers.norm import BatchNorm1d, BatchNorm2d
from cnn.layers.parameter import FlatBuffer, Parameter, flatten
from cnn.layers.pool import AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d
from cnn.layers.shape import Flatten, Scale

__all__ = [
    "GELU",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropy",
    "Dropout",
    "FlatBuffer",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Parameter",
    "ReLU",
    "Residual",
    "Scale",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Tanh",
    "flatten",
    "from_config",
    "layer_types",
]

_TYPES = {
    kind.__name__: kind
    for kind in (
        Conv2d,
        ConvTranspose2d,
        MaxPool2d,
        AvgPool2d,
        GlobalAvgPool2d,
        GlobalMaxPool2d,
        Linear,
        Flatten,
        ReLU,
        LeakyReLU,
        GELU,
        SiLU,
        Sigmoid,
        Tanh,
        Softmax,
        BatchNorm2d,
        BatchNorm1d,
        Dropout,
        Scale,
        Sequential,
        Residual,
        Concat,
    )
}


def layer_types():
    """Return every layer class by the name that a config uses."""
    return dict(_TYPES)


def from_config(specs):
    """Return the layers that a config describes, a list of ``{"type": "Conv2d", "out_channels": 6, ...}``.

    Containers hold lists of such descriptions. Raises ConfigError on an unknown type or argument.
    """
    return [_layer(spec) for spec in specs]


def _layer(spec):
    arguments = dict(spec)
    kind = arguments.pop("type", None)
    if kind not in _TYPES:
        raise ConfigError(f'layer type: found "{kind}", which does not exist.{did_you_mean(kind, _TYPES)}')
    for name in ("layers", "body", "shortcut"):
        if kind in ("Sequential", "Residual") and arguments.get(name) is not None:
            arguments[name] = from_config(arguments[name])
    if kind == "Concat" and "branches" in arguments:
        arguments["branches"] = [from_config(branch) for branch in arguments["branches"]]
    arguments = {key: tuple(value) if _is_pair(value) else value for key, value in arguments.items()}
    return _TYPES[kind](**arguments)


def _is_pair(value):
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value)
