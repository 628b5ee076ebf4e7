"""Runs of layers computed in one pass over memory, under the numba backend.

``plan(layers)`` returns what to execute instead of a list of layers: the same layers, except where neighbours
are better done together. A step behaves as the layers it holds one after the other, owns no parameters and
keeps less: what lies between its layers is never stored.

    ConvReLU, LinearReLU    ReLU when the sums are stored; only the result is kept
    ConvReLUPool            max(0, largest of the window); only the winners are kept. Of 2x2 windows each
                            strip of rows is pooled while it is in the cache, forth and (first layer) back
    NormActivation          batch normalisation and the activation behind it; its input is computed again
    ResidualReLU            body + shortcut and ReLU, with a batch normalisation that ends the body

A network attaches a plan to each of its Sequentials; a layer used on its own never sees one.
"""

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels import activation, conv, elementwise, linear, norm, pool
from cnn.layers import (
    GELU,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SiLU,
)


def plan(layers):
    """Return the steps that stand for ``layers`` (a list), longest runs first."""
    steps, position = [], 0
    while position < len(layers):
        for step in _STEPS:
            run = layers[position : position + len(step.pattern)]
            if len(run) == len(step.pattern) and step.fits(run):
                steps.append(step(*run))
                break
        else:
            run = layers[position : position + 1]
            steps.append(run[0])
        position += len(run)
    return steps


def attach(layer):
    """Give every Sequential in ``layer`` its plan."""
    if isinstance(layer, Sequential):
        layer.steps = plan(layer.layers)
    for _, child in layer.children():
        attach(child)


def enter(array):
    """``array`` in the blocked layout, so that no step converts it again; as it is where that cannot be."""
    if getattr(array, "ndim", 0) in (2, 4) and array.dtype in (np.float32, np.float64):
        return blocked.as_blocked(array)
    return array


class _Step:
    """Neighbouring layers done together; ``pattern`` is what they must be."""

    pattern = ()

    def __init__(self, *layers):
        self.layers = layers
        self.first = layers[0]
        self._cache = None

    @classmethod
    def fits(cls, run):
        # exact types: a subclass may compute something else
        return all(type(layer) in types for layer, types in zip(run, cls.pattern, strict=True))

    @property
    def trainable(self):
        """Whether any parameter in here is to be trained now."""
        return any(layer.trainable for layer in self.layers)

    def _forget(self):
        self._cache = None

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters; the gradient of the input is not needed."""
        self.backward(dy)


class _ConvStep(_Step):
    """A convolution and what follows it; ``_sums_gradient`` takes dy back to the convolution's output."""

    def backward_parameters(self, dy):
        self._gradients(dy, self._sums_gradient(dy))

    def backward(self, dy):
        layer, x, g = self.first, self._cache[0], self._sums_gradient(dy)
        self._gradients(dy, g)
        return conv.conv2d_backward_input(g, layer.weight.data, x.shape, *layer._geometry())

    def _gradients(self, dy, g):
        """Add to the gradients of the parameters; g: of the convolution's output."""
        layer, x = self.first, self._cache[0]
        if layer.weight.trainable:
            conv.conv2d_backward_weight(g, x, layer.weight.grad, *layer._geometry())
        self._bias_gradient(dy, g)

    def _bias_gradient(self, dy, g):
        if self.first.bias and self.first.bias.trainable:
            elementwise.channel_sum(g, self.first.bias.grad)


class ConvReLU(_ConvStep):
    """Conv2d, ReLU."""

    pattern = ((Conv2d,), (ReLU,))

    def forward(self, x, training=False):
        layer = self.first
        x = layer._receive(x)
        bias = layer.bias.data if layer.bias else None
        y = conv.conv2d_forward(x, layer.weight.data, bias, *layer._geometry(), relu=True)
        self._cache = x, y
        return y

    def _sums_gradient(self, dy):
        return activation.relu_backward(dy, self._cache[1])


class LinearReLU(_Step):
    """Linear, ReLU."""

    pattern = ((Linear,), (ReLU,))

    def forward(self, x, training=False):
        layer = self.first
        x = layer._receive(x)
        y = linear.linear_forward(x, layer.weight.data, layer.bias.data if layer.bias else None, relu=True)
        self._cache = x, y
        return y

    def backward_parameters(self, dy):
        layer, (x, y) = self.first, self._cache
        g = activation.relu_backward(dy, y)
        if layer.weight.trainable:
            linear.linear_backward_weight(g, x, layer.weight.grad)
        if layer.bias and layer.bias.trainable:
            elementwise.channel_sum(g, layer.bias.grad)
        return g

    def backward(self, dy):
        return linear.linear_backward_input(self.backward_parameters(dy), self.first.weight.data)


class ConvReLUPool(_ConvStep):
    """Conv2d, ReLU, MaxPool2d: the largest of what is positive; the winners say as well where nothing was."""

    pattern = ((Conv2d,), (ReLU,), (MaxPool2d,))

    def forward(self, x, training=False):
        layer, window = self.first, self.layers[2]
        x = layer._receive(x)
        arguments = x, layer.weight.data, layer.bias.data if layer.bias else None, *layer._geometry()
        done = conv.conv2d_relu_pool_forward(*arguments) if _is_2x2(window) else None
        if done is None:
            sums = conv.conv2d_forward(*arguments)
            done = *pool.max_pool2d_forward(sums, *_window(window), window.ceil_mode, relu=True), sums.shape
        y, argmax, shape = done
        self._cache = x, argmax, shape
        return y

    def never_whole(self, itemsize):
        """Whether neither the convolution's output nor its gradient is stored, if nobody asks for dx."""
        layer = self.first
        dtype = np.dtype(f"f{itemsize}")
        return _is_2x2(self.layers[2]) and conv.pools_within(
            dtype, layer.weight.shape, layer.output_shape[1:], *layer._geometry()
        )

    def _sums_gradient(self, dy):
        _, argmax, shape = self._cache
        return pool.max_pool2d_backward(dy, argmax, shape, *_window(self.layers[2]))

    def backward_parameters(self, dy):
        layer, (x, argmax, shape) = self.first, self._cache
        arguments = dy, argmax, x, layer.weight.grad, shape, *layer._geometry()
        two = layer.weight.trainable and _is_2x2(self.layers[2])
        if two and conv.conv2d_relu_pool_backward_weight(*arguments):
            self._bias_gradient(dy, None)
        else:
            super().backward_parameters(dy)

    def _bias_gradient(self, dy, g):
        if self.first.bias and self.first.bias.trainable:
            _, argmax, _ = self._cache
            pool.winners_channel_sum(dy, argmax, self.layers[2].kernel_size, self.first.bias.grad)


def _window(layer):
    return layer.kernel_size, layer.stride, layer.padding, layer.dilation


def _is_2x2(layer):
    """Whether windows are 2x2, side by side, and none reaches beyond the plane."""
    return pool.is_2x2(*_window(layer)) and not layer.ceil_mode


KINDS = {
    ReLU: lambda layer: (activation.RELU, 0.0),
    LeakyReLU: lambda layer: (activation.LEAKY_RELU, layer.negative_slope),
    SiLU: lambda layer: (activation.SILU, 0.0),
    GELU: lambda layer: (activation.GELU_TANH if layer.approximate == "tanh" else activation.GELU, 0.0),
}


class NormActivation(_Step):
    """BatchNorm1d or BatchNorm2d, activation."""

    pattern = ((BatchNorm1d, BatchNorm2d), tuple(KINDS))

    def __init__(self, first, second):
        super().__init__(first, second)
        self._kind = KINDS[type(second)](second)

    def forward(self, x, training=False):
        layer = self.first
        x = layer._receive(x)
        mean, rstd = layer.statistics(x, training)
        self._cache = x, mean, rstd, training
        return norm.batch_norm_forward(x, mean, rstd, *layer.affine_arrays(), *self._kind)

    def backward(self, dy, over=False):
        layer, (x, mean, rstd, training) = self.first, self._cache
        weight, bias = layer.affine_arrays()
        gradients = layer.affine_gradients()
        return norm.batch_norm_backward(
            dy, x, mean, rstd, weight, *gradients, training, bias, *self._kind, over=over
        )

    def backward_over(self, dy):
        """Like ``backward``, where nobody needs dy any more: dx takes its place in memory."""
        return self.backward(dy, over=True)


class ResidualReLU(_Step):
    """Residual, ReLU; a batch normalisation at the end of the body adds the shortcut in its own pass."""

    pattern = ((Residual,), (ReLU,))

    def __init__(self, first, second):
        super().__init__(first, second)
        steps = plan(first.body.layers)
        self._norm = steps.pop() if steps and type(steps[-1]) in (BatchNorm1d, BatchNorm2d) else None
        self._steps = steps

    def forward(self, x, training=False):
        x = self.first._receive(x)
        other = self.first.shortcut.forward(x, training)
        for step in self._steps:
            x = step.forward(x, training)
        if self._norm is None:
            y = elementwise.add(x, other, relu=True)
            self._cache = y, None
            return y
        layer = self._norm
        x = layer._receive(x)
        mean, rstd = layer.statistics(x, training)
        y = norm.batch_norm_forward(x, mean, rstd, *layer.affine_arrays(), activation.RELU, 0.0, other)
        self._cache = y, (x, mean, rstd, training)
        return y

    def backward(self, dy):
        y, saved = self._cache
        g = activation.relu_backward(dy, y)
        dx = g
        if saved is not None:
            x, mean, rstd, training = saved
            weight, _ = self._norm.affine_arrays()
            dx = norm.batch_norm_backward(g, x, mean, rstd, weight, *self._norm.affine_gradients(), training)
        for step in reversed(self._steps):
            dx = step.backward(dx)
        return elementwise.add(dx, self.first.shortcut.backward(g))

    def _forget(self):
        self._cache = None
        for step in (*self._steps, self.first):
            step._forget()


_STEPS = (ResidualReLU, NormActivation, ConvReLUPool, ConvReLU, LinearReLU)
