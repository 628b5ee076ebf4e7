"""Prediction: nothing is kept for backward, and a batch normalisation behind a convolution costs nothing.

In evaluation mode a normalisation is a fixed scale and shift of each channel, so it moves into the weights in
front of it:

    ((w * x + b) - mean) * s + beta  =  (s w) * x + (b - mean) s + beta,      s = gamma / sqrt(var + eps)

The folded weights are made again as soon as a parameter or a running statistic differs from when they were
made. Batches run in the blocked layout like training; up to ``FEW`` images with sixteen channels side by side
(``cnn.fast.kernels.few``). Both are replayed where they can be (``cnn.fast.replay``).
"""

import math

import numpy as np

from cnn import backend
from cnn.fast import blocked, lanes
from cnn.fast.conv import few as few_conv
from cnn.fast.conv import few_winograd
from cnn.fast.fused import KINDS, NormActivation
from cnn.fast.kernels import activation, conv, elementwise, few, linear
from cnn.fast.machine.fingerprint import Fingerprint
from cnn.fast.machine.jit import Recording
from cnn.fast.replay import LAUNCH_ONLY, Replay
from cnn.geometry import output_shape
from cnn.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)

FEW = 8  # images; with more, sixteen side by side are faster, though some of them are nobody

_NORMS = (BatchNorm1d, BatchNorm2d)
_KINDS = KINDS | {
    Sigmoid: lambda layer: (activation.SIGMOID, 0.0),
    Tanh: lambda layer: (activation.TANH, 0.0),
}


class Inference:
    """The forward pass of a network in evaluation mode.

    Parameters
    ----------
    body : Sequential, built
    """

    def __init__(self, body):
        self._body, self._folded = body, _Folded(body)
        self._replay, self._few = Replay(self._folded), {}
        self._parameters, self._places, self._changes = body.parameters(), None, None

    def __reduce__(self):  # a copy of a network has its arrays elsewhere
        return Inference, (self._body,)

    def predict(self, x):
        """Return the output for a batch, (N, *output_shape), as a NumPy array of its own."""
        dtype = self._refresh()
        x = np.ascontiguousarray(x, dtype)
        if 0 < len(x) <= FEW and all(step.for_few for step in self._folded.steps):
            return self._predict_few(x)
        y = self._replay.forward(x, False)
        return np.asarray(self._folded.forward(blocked.as_blocked(x))) if y is None else y

    def _predict_few(self, x):
        key = x.shape, backend.get_winograd()
        found = self._few.get(key)
        if found is None:
            source = lanes.array(x.shape, x.dtype)
            with Recording() as recording:
                y = few.enter(source)
                for step in self._folded.steps:
                    y = step.few(y)
                shape, y = y.shape, few.flatten(y)
            features = math.prod(shape[1:])
            result = y.data.reshape(len(x), -1)[:, :features].reshape(shape)
            found = self._few[key] = source, recording, result
        source, recording, y = found
        source[...] = x
        recording.run()
        return y.copy()

    def _refresh(self):
        """Fold again if anything changed; return the dtype of the network."""
        places = [p.buffer for p in self._parameters]
        if places != self._places:  # an optimizer may gather parameters elsewhere
            arrays = [array for norm in _norms(self._body.layers) for array in norm.buffers().values()]
            if places:
                first, last = self._parameters[0], self._parameters[-1]
                arrays.append(first.buffer.data[first.start : last.stop])
            self._places, self._changes = places, Fingerprint(arrays)
            self._dtype = arrays[-1].dtype if arrays else np.float32
        if self._changes.changed():
            for step in self._folded.steps:
                step.refresh()
        return self._dtype


class _Folded:
    """The layers of a network as folded steps: what ``Replay`` asks of a Sequential."""

    _cache = None

    def __init__(self, body):
        self.layers, self.steps, self.parameters = body.layers, _fold(body.layers), body.parameters

    def forward(self, x, training=False):
        for step in self.steps:
            x = step.forward(x)
        return x

    def _forget(self):
        """There is nothing to forget."""


def _norms(layers):
    for layer in layers:
        if isinstance(layer, _NORMS):
            yield layer
        yield from _norms([child for _, child in layer.children()])


def _fold(layers):
    """Return the steps that predict what ``layers`` (a list) do in evaluation mode."""
    steps, rest = [], list(layers)
    while rest:
        layer = rest.pop(0)
        if type(layer) is Sequential:
            rest = layer.layers + rest
        elif type(layer) in (Conv2d, Linear):
            norm = rest.pop(0) if rest and type(rest[0]) in _NORMS else None
            relu = bool(rest) and type(rest[0]) is ReLU and bool(rest.pop(0))
            steps.append(_Weighted(layer, norm, relu))
        elif type(layer) is Residual:
            relu = bool(rest) and type(rest[0]) is ReLU and bool(rest.pop(0))
            steps.append(_Branches(layer, relu))
        elif type(layer) in _NORMS and rest and type(rest[0]) in KINDS:
            steps.append(_Normalise(layer, rest.pop(0)))
        elif type(layer) is not Dropout:  # which does nothing here
            steps.append(_Single(layer))
    return steps


class _Step:
    """One pass: ``forward`` on a blocked array, ``few`` on ``few.Lanes`` if ``for_few``."""

    _cache = None
    launches_only = for_few = True

    def refresh(self):
        """Take over the parameters as they are now."""


class _Weighted(_Step):
    """Conv2d or Linear, with the normalisation and the ReLU behind it."""

    def __init__(self, layer, norm, relu):
        self._layer, self._norm, self._relu = layer, norm, relu
        self._dense = type(layer) is Linear
        self.for_few = self._dense or layer.groups == 1
        self._weight = np.empty_like(layer.weight.data)
        self._bias = np.zeros(len(self._weight), self._weight.dtype)
        self._packed = {}  # what recordings of a few images read, by the function that packs it

    def _pack(self, function, values):
        if function not in self._packed:
            self._packed[function] = function(values), values
        return self._packed[function][0]

    def refresh(self):
        layer, norm = self._layer, self._norm
        weight, bias = layer.weight.data, layer.bias.data if layer.bias else 0.0
        if norm is not None:
            gamma, beta = norm.affine_arrays() if norm.affine else (1.0, 0.0)
            scale = gamma / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
            bias = (bias - norm.running_mean.astype(np.float64)) * scale + beta
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        self._weight[...], self._bias[...] = weight, bias
        for function, (packed, values) in self._packed.items():
            packed[...] = function(values)  # which is, or views, an array that was changed above

    def forward(self, x):
        if self._dense:
            return linear.linear_forward(x, self._weight, self._bias, relu=self._relu)
        return conv.conv2d_forward(x, self._weight, self._bias, *self._layer._geometry(), relu=self._relu)

    def few(self, x):
        bias, k = self._pack(few.channel_vector, self._bias), len(self._weight)
        if self._dense:
            packed = self._pack(few_conv.pack, self._weight[:, :, None, None])
            return few_conv.linear(x, packed, bias, k, self._relu)
        stride, padding, dilation, groups = self._layer._geometry()
        shape = self._weight.shape
        out_size = output_shape(*x.plane, shape[2:], stride, padding, dilation)
        quick = conv.suits_winograd(x.dtype, shape, out_size, stride, dilation, groups)
        if quick and few_winograd.tiles_of(len(x.data), out_size) >= few_winograd.FEWEST:
            packed = self._pack(few_winograd.pack, self._weight)
            return few_winograd.convolve(x, packed, bias, k, out_size, padding, self._relu)
        packed = self._pack(few_conv.pack, self._weight)
        return few_conv.convolve(x, packed, bias, k, stride, padding, dilation, self._relu)


class _Branches(_Step):
    """Residual, and the ReLU behind it."""

    def __init__(self, layer, relu):
        self._parts, self._relu = [_fold(part.layers) for part in (layer.body, layer.shortcut)], relu
        self._steps = [step for part in self._parts for step in part]
        self.for_few = all(step.for_few for step in self._steps)
        self.launches_only = all(step.launches_only for step in self._steps)

    def refresh(self):
        for step in self._steps:
            step.refresh()

    def forward(self, x):
        ends = []
        for part in self._parts:
            y = x
            for step in part:
                y = step.forward(y)
            ends.append(y)
        return elementwise.add(*ends, relu=self._relu)

    def few(self, x):
        ends = []
        for part in self._parts:
            y = x
            for step in part:
                y = step.few(y)
            ends.append(y)
        return few.add(*ends, relu=self._relu)


class _Normalise(_Step):
    """A batch normalisation with nothing in front to fold it into, and the activation behind it."""

    launches_only = False  # the coefficients are worked out in Python

    def __init__(self, layer, following):
        self._layer, self._kind = layer, KINDS[type(following)](following)
        self._step = NormActivation(layer, following)
        self._factor, self._shift = map(few.channel_vector, (layer.running_mean, layer.running_var))

    def refresh(self):
        layer = self._layer
        gamma, beta = layer.affine_arrays() if layer.affine else (1.0, 0.0)
        factor = gamma / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
        c = len(factor)
        self._factor[:c], self._shift[:c] = factor, beta - layer.running_mean * factor

    def forward(self, x):
        y = self._step.forward(x)
        self._step._forget()
        return y

    def few(self, x):
        return few.scale(x, self._factor, self._shift, *self._kind)


class _Single(_Step):
    """Any other layer."""

    def __init__(self, layer):
        self._layer = layer
        self.launches_only = type(layer) in LAUNCH_ONLY
        self.for_few = type(layer) in _FEW or type(layer) in _KINDS

    def forward(self, x):
        y = self._layer.forward(x)
        self._layer._forget()
        return y

    def few(self, x):
        layer = self._layer
        if type(layer) in _KINDS:
            return few.activate(x, *_KINDS[type(layer)](layer))
        return _FEW[type(layer)](layer, x)


def _pool(layer, x):
    largest = type(layer) is MaxPool2d
    include = largest or layer.count_include_pad
    window = layer.kernel_size, layer.stride, layer.padding
    return few.pool(x, largest, *window, include, layer.dilation, layer.ceil_mode)


_FEW = {
    MaxPool2d: _pool,
    AvgPool2d: _pool,
    GlobalAvgPool2d: lambda layer, x: few.pool_all(x, False),
    GlobalMaxPool2d: lambda layer, x: few.pool_all(x, True),
    Flatten: lambda layer, x: few.flatten(x),
}
