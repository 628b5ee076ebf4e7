"""Every layer and loss, one family a file."""
# ruff: noqa: F401 -- the layers' names in __all__ come from the registry

from cnn.layers.activation import ELU, GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Tanh
from cnn.layers.containers import Concat, Residual, Sequential
from cnn.layers.conv import Conv2d, ConvTranspose2d
from cnn.layers.dropout import Dropout
from cnn.layers.graph import Graph
from cnn.layers.group_norm import GroupNorm, LayerNorm
from cnn.layers.hard import Hardsigmoid, Hardswish, Hardtanh, ReLU6
from cnn.layers.layer import LAYERS, Layer
from cnn.layers.linear import Linear
from cnn.layers.local_response_norm import LocalResponseNorm
from cnn.layers.loss import LOSSES, CrossEntropy, Loss, SoftmaxCrossEntropy
from cnn.layers.norm import BatchNorm1d, BatchNorm2d
from cnn.layers.number_loss import BCEWithLogitsLoss, L1Loss, MSELoss
from cnn.layers.parameter import FlatBuffer, Parameter, flatten
from cnn.layers.pool import AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d
from cnn.layers.prelu import PReLU
from cnn.layers.resize import Upsample, ZeroPad2d
from cnn.layers.shape import Flatten, Scale, Unflatten
from cnn.layers.softmax import LogSoftmax, Softmax

__all__ = [
    *LAYERS.types(),
    "LAYERS",
    *LOSSES.types(),
    "LOSSES",
    "CrossEntropy",
    "FlatBuffer",
    "Layer",
    "Loss",
    "Parameter",
    "flatten",
    "from_config",
    "layer_types",
]


def layer_types():
    """Return every layer class by the name that a config uses."""
    return LAYERS.types()


def from_config(specs):
    """Return the layers that a config describes, a list of ``{"type": "Conv2d", "out_channels": 6, ...}``.

    Containers hold lists of such descriptions; a layer of one's own is "package.module:Class". Raises
    ConfigError on an unknown type or argument.
    """
    return [LAYERS.make(spec) for spec in specs]
