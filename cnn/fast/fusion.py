"""Neighbouring layers computed in one pass over memory; ``cnn.fast.steps`` says which."""

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv import few as few_conv
from cnn.fast.conv import few_pool, few_winograd, few_winograd_pairs
from cnn.fast.conv.geometry import RELU, UNBOUNDED
from cnn.fast.kernels import (
    activation,
    conv,
    conv_strips,
    elementwise,
    few,
    few_joins,
    hardtanh,
    linear,
    norm,
    pool,
    residual,
)
from cnn.fast.lanes import Lanes, channel_vector
from cnn.fast.step import Normalised, Single, Step, Sum, array, computed, fact, in_strips, walk_back
from cnn.geometry import output_shape


def _bias(layer):
    return layer.bias.data if layer.bias else None


def _trains_bias(layer):
    return bool(layer.bias) and layer.bias.trainable


class Convolution(Step):
    """Convolution; for a normalisation behind it, it takes the moments of its result when that is stored."""

    roles = ("convolution",)
    normalisation = None  # the layer that reads the result, if it is one

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._conv = layers[0]

    def forward(self, x, training):
        measured = self.normalisation is not None and self.normalisation.in_training(training)
        y, *read = self._convolve(x, measured=measured)
        self.kept = (tuple(read),)
        return y

    def _convolve(self, x, **options):
        """Return (y, what was read, the normalisation that was applied on the way, Sliding or None)."""
        layer, normalisation = self._conv, ()
        slide = self._sliding(x)
        if slide is not None:
            normalisation = (x.numbers, *x.kind) if type(x) is Normalised else None
            x = layer._receive(x.x if normalisation else computed(x))
            x = slide.windows.read(x, normalisation=normalisation)
            arguments = layer.weight.data, _bias(layer), layer._geometry()
            return conv_strips.forward(slide, x, *arguments, **options), x, (), slide
        if x.strips is not None:
            x = array(x)
        reads = type(x) is Normalised and x.with_relu
        if reads and conv.normalises(x, layer.weight.data, *layer._geometry()):
            x, normalisation = x.x, tuple(x.numbers)
        x, options["normalisation"] = layer._receive(array(x)), normalisation
        y = conv.conv2d_forward(x, layer.weight.data, _bias(layer), *layer._geometry(), **options)
        return y, x, normalisation, None

    def _sliding(self, x):
        """Return the Sliding over the strips of images, or None: over whole images."""
        return conv_strips.sliding(x, self._conv.kernel_size, *self._conv._geometry())

    def backward(self, dy, input_gradient, over):
        (x, normalisation, slide), layer = self.kept[0], self._conv
        geometry = layer._geometry()
        dy = array(dy, self._strips(slide))
        g = self._sums_gradient(dy)
        if layer.weight.trainable:
            inside = geometry if slide is None else conv_strips.inside(geometry)
            gradient = layer.weight.grad
            conv.conv2d_backward_weight(g, x, gradient, *inside, normalisation=normalisation)
        if _trains_bias(layer):
            self._add_bias_gradient(dy, g)
        if not input_gradient:
            return None
        if slide is not None:
            return conv_strips.backward_input(slide, g, layer.weight.data, x.shape, geometry)
        return conv.conv2d_backward_input(g, layer.weight.data, x.shape, *geometry)

    def _strips(self, slide):
        """Return the Strips of the result."""
        return slide and slide.target

    def _sums_gradient(self, dy):
        """Take dy back to the output of the convolution."""
        return dy

    def _add_bias_gradient(self, dy, g):
        elementwise.channel_sum(g, self._conv.bias.grad)


class ConvReLU(Convolution):
    """Convolution, ReLU: only the result is stored."""

    roles = ("convolution", "relu")

    def forward(self, x, training):
        y, *read = self._convolve(x, relu=True)
        self.kept = tuple(read), y
        return y

    def _sums_gradient(self, dy):
        return activation.relu_backward(dy, self.kept[1])


class ConvReLUPool(ConvReLU):
    """Convolution, ReLU, max pool: only the largest of each window is stored, and which one it was.

    Of 2x2 windows each strip of rows is pooled while it is in the cache; on the way back, where dx is not
    needed, the gradient of the convolution's output is never stored either.
    """

    roles = ("convolution", "relu", "max_pool")

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        pooling = layers[2]
        self._window = pooling.kernel_size, pooling.stride, pooling.padding

    @classmethod
    def fits(cls, layers):
        """Whether the pool is one that the fused kernels know."""
        pooling = layers[2]
        return getattr(pooling, "dilation", (1, 1)) == (1, 1) and not getattr(pooling, "ceil_mode", False)

    def forward(self, x, training):
        layer, slide = self._conv, self._sliding(x)
        x, geometry = layer._receive(array(x) if slide is None else computed(x)), layer._geometry()
        if slide is not None:
            x, geometry = slide.windows.read(x), conv_strips.inside(geometry)
        arguments = x, layer.weight.data, _bias(layer), *geometry
        done = conv.conv2d_relu_pool_forward(*arguments) if pool.is_2x2(*self._window) else None
        if done is None:
            sums = conv.conv2d_forward(*arguments)
            done = *pool.max_pool2d_forward(sums, *self._window, relu=True), sums.shape
        y, argmax, shape = done
        self.kept = (x, (), slide), argmax, shape
        return in_strips(y, self._strips(slide))

    def _sliding(self, x):
        if not pool.is_2x2(*self._window):
            return None
        return conv_strips.sliding(x, self._conv.kernel_size, *self._conv._geometry(), halves=True)

    def _strips(self, slide):
        return slide and slide.target.halved

    def backward(self, dy, input_gradient, over):
        layer, ((x, _, slide), argmax, shape) = self._conv, self.kept
        dy = array(dy, self._strips(slide))
        if not input_gradient and layer.weight.trainable and pool.is_2x2(*self._window):
            geometry = layer._geometry() if slide is None else conv_strips.inside(layer._geometry())
            if conv.conv2d_relu_pool_backward_weight(dy, argmax, x, layer.weight.grad, shape, *geometry):
                if _trains_bias(layer):
                    self._add_bias_gradient(dy, None)
                return None
        return super().backward(dy, input_gradient, over)

    def _sums_gradient(self, dy):
        return pool.max_pool2d_backward(dy, *self.kept[1:], *self._window)

    def _add_bias_gradient(self, dy, g):
        pool.winners_channel_sum(dy, self.kept[1], self._window[0], self._conv.bias.grad)


class LinearReLU(Step):
    """Linear, ReLU: only the result is stored."""

    roles = ("linear", "relu")

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._linear = layers[0]

    def forward(self, x, training):
        layer, x = self._linear, self._linear._receive(array(x))
        y = linear.linear_forward(x, layer.weight.data, _bias(layer), relu=True)
        self.kept = x, y
        return y

    def backward(self, dy, input_gradient, over):
        layer, (x, y) = self._linear, self.kept
        g = activation.relu_backward(array(dy), y)
        if layer.weight.trainable:
            linear.linear_backward_weight(g, x, layer.weight.grad)
        if _trains_bias(layer):
            elementwise.channel_sum(g, layer.bias.grad)
        return linear.linear_backward_input(g, layer.weight.data) if input_gradient else None


class SumReLU(Step):
    """Residual, ReLU: a normalisation at the end of the body adds the shortcut in its own pass.

    On the way back the sum of what body and shortcut return is left to who reads it: to the block in front,
    which adds in the pass that goes back through its own ReLU. ``kernels.residual`` lists all passes over
    memory of a block.
    """

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._sum, (self._body, self._shortcut) = layers[0], parts
        last = self._body[-1] if self._body else None
        self._norm = None
        if type(last) is Single and last.layers[0].role == "normalisation":
            self._norm = self._body.pop().layers[0]
        self.parts = [self._body, self._shortcut]

    def forward(self, x, training):
        other = x = self._sum._receive(computed(x))
        for step in self._shortcut:
            other = step.forward(other, training)
        for step in self._body:
            x = step.forward(x, training)
        x = computed(x)
        other = array(other, x.strips)
        if self._norm is None:
            y = elementwise.add(x, other, relu=True)
            self.kept = y, None
            return y
        layer, x = self._norm, self._norm._receive(x)
        training = layer.in_training(training)
        mean, rstd = layer.statistics(x, training)
        y = norm.batch_norm_forward(x, mean, rstd, *layer.affine_arrays(), activation.RELU, 0.0, other)
        self.kept = y, (x, mean, rstd, training)
        return y

    def backward(self, dy, input_gradient, over):
        y, saved = self.kept
        parts = dy.take() if type(dy) is Sum and dy.strips == y.strips else [array(dy, y.strips)]
        g, planes = residual.residual_backward(parts, y, *(saved or ())[:2])
        del parts
        dx = g
        if saved is not None:
            x, mean, rstd, training = saved
            weight, gradients = self._norm.affine_arrays()[0], self._norm.affine_gradients()
            dx = norm.batch_norm_backward(g, x, mean, rstd, weight, *gradients, training, planes=planes)
        if self.consume:
            self.kept = y = saved = None
        dx = walk_back(self._body, dx, input_gradient, self.consume, over=dx is not g)
        other = walk_back(self._shortcut, g, input_gradient, self.consume)
        if not input_gradient:
            return None
        dx = computed(dx)
        return Sum(dx, array(other, dx.strips))


# -- predictions: nothing is kept, and weights are folded --------------------------------------------------


class FoldedWeights:
    """The weight and bias of a convolution or Linear, with the normalisation behind it moved in."""

    def __init__(self, layer, normalisation=None):
        self._layer, self._norm = layer, normalisation
        self.weight = np.empty_like(layer.weight.data)
        self.bias = np.zeros(layer.weight.shape[0], self.weight.dtype)
        self._packed = {}  # in other orders, by the function that makes them

    def packed(self, function, values):
        """Return ``function(values)``, to be made again with the weights; values view weight or bias."""
        if function not in self._packed:
            self._packed[function] = function(values), values
        return self._packed[function][0]

    def refresh(self):
        """Take over the parameters and statistics as they are now."""
        layer, normalisation = self._layer, self._norm
        weight, bias = layer.weight.data, layer.bias.data if layer.bias else 0.0
        if normalisation is not None:
            scale, shift = scale_and_shift(normalisation)
            bias = bias * scale + shift
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        self.weight[...], self.bias[...] = weight, bias
        for function, (packed, values) in self._packed.items():
            packed[...] = function(values)


def scale_and_shift(layer):
    """Return what a normalisation does to each channel in evaluation, in float64: scale * x + shift."""
    gamma, beta = layer.affine_arrays() if layer.affine else (1.0, 0.0)
    scale = gamma / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
    return scale, beta - layer.running_mean.astype(np.float64) * scale


class Weighted(Step):
    """Convolution or Linear, the normalisation behind it and what bounds its result, in predictions."""

    def __init__(self, layers, context, parts=()):
        roles = [layer.role for layer in layers]
        super().__init__(layers, context, parts)
        self._layer, self._dense = layers[0], roles[0] == "linear"
        bounds = fact(layers[-1], "bounds")
        self._bounds = bounds(layers[-1]) if bounds else UNBOUNDED
        self._folded = context.folding.entry(FoldedWeights, *layers[: 2 if "normalisation" in roles else 1])

    def forward(self, x, training):
        folded, x = self._folded, array(x)
        if type(x) is Lanes and self._fits_few(x):
            return self._few(x)
        if self._dense:
            low, high = self._bounds
            y = linear.linear_forward(x, folded.weight, folded.bias, relu=low == 0)
            return y if self._bounds in (UNBOUNDED, RELU) else hardtanh.hardtanh_forward(y, low, high)
        geometry = self._layer._geometry()
        options = {"bounds": self._bounds, "keep": folded.packed}
        return conv.conv2d_forward(x, folded.weight, folded.bias, *geometry, **options)

    def _pooled_few(self, x):
        """``_few`` and the maxima of 2x2 windows in one pass, of one group."""
        folded, k = self._folded, len(self._folded.weight)
        bias, geometry = folded.packed(channel_vector, folded.bias), self._layer._geometry()[:3]
        kernel, (stride, _, dilation) = folded.weight.shape[2:], geometry
        two = k <= few_pool.HALF and stride == dilation == (1, 1)
        packed = folded.packed(few_pool.pack_two if two else few_conv.pack, folded.weight)
        return few_pool.convolve(x, packed, bias, k, kernel, *geometry)

    def _fits_few(self, x):
        """Whether there is a form for sixteen channels: one group, or a filter for each channel."""
        if self._dense or self._layer.groups == 1:
            return True
        return self._layer.groups == len(self._folded.weight) == x.shape[1]

    def _winograd(self, x):
        """Whether Winograd's form is faster for a few images."""
        stride, padding, dilation, groups = self._layer._geometry()
        shape = self._folded.weight.shape
        out_size = output_shape(*x.plane, shape[2:], stride, padding, dilation)
        quick = shape[2:] == (3, 3) and conv.suits_winograd(
            x.dtype, shape, out_size, stride, dilation, groups
        )
        return quick and few_winograd.tiles_of(len(x.data), out_size) >= few_winograd.FEWEST

    def _few(self, x):
        folded, bounds = self._folded, self._bounds
        bias, k = folded.packed(channel_vector, folded.bias), len(folded.weight)
        if self._dense:
            packed = folded.packed(few_conv.pack, folded.weight[:, :, None, None])
            return few_conv.linear(x, packed, bias, k, bounds)
        stride, padding, dilation, groups = self._layer._geometry()
        shape = folded.weight.shape
        if groups > 1:
            packed = folded.packed(few_joins.pack_depthwise, folded.weight)
            return few_joins.depthwise(x, packed, bias, stride, padding, dilation, bounds)
        if self._winograd(x):
            out_size = output_shape(*x.plane, shape[2:], stride, padding, dilation)
            pairs = conv.winograd_of_pairs(x.dtype, shape, out_size, stride, dilation, groups)
            form = few_winograd_pairs if pairs else few_winograd
            packed = folded.packed(form.pack, folded.weight)
            y = form.convolve(x, packed, bias, k, out_size, padding, bounds[0] == 0)
            return y if bounds in (UNBOUNDED, RELU) else few.hardtanh_forward(y, *bounds)
        packed = folded.packed(few_conv.pack, folded.weight)
        return few_conv.convolve(x, packed, bias, k, stride, padding, dilation, bounds)


class WeightedPool(Weighted):
    """Convolution, the normalisation behind it, ReLU and maxima of 2x2 windows, in predictions."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers[:-1], context, parts)
        self._pool = Single(layers[-1:], context)

    @classmethod
    def fits(cls, layers):
        """Whether the pool takes 2x2 windows side by side."""
        pooling = layers[-1]
        plain = ConvReLUPool.fits([None, None, pooling])
        return plain and pool.is_2x2(pooling.kernel_size, pooling.stride, pooling.padding)

    def forward(self, x, training):
        x, folded, geometry = array(x), self._folded, self._layer._geometry()
        if type(x) is not Lanes:
            done = conv.conv2d_relu_pool_forward(x, folded.weight, folded.bias, *geometry)
            if done is not None:
                return done[0]
        elif self._layer.groups == 1 and not self._winograd(x):  # noqa: SIM102
            if min(output_shape(*x.plane, folded.weight.shape[2:], *geometry[:3])) >= 2:
                return self._pooled_few(x)
        y = self._pool.forward(super().forward(x, training), training)
        self._pool.forget()
        return y


class ScaleAndShift:
    """What a normalisation without weights in front of it does to each channel."""

    def __init__(self, layer):
        self._layer = layer
        channels, dtype = len(layer.running_mean), layer.running_mean.dtype
        padded = -(-channels // LANES) * LANES
        self.mean, self.rstd = np.zeros(channels, dtype), np.ones(channels, dtype)
        self.scale, self.shift = np.zeros(padded, dtype), np.zeros(padded, dtype)

    def refresh(self):
        """Take over the parameters and statistics as they are now."""
        layer, c = self._layer, len(self.mean)
        self.mean[...] = layer.running_mean
        self.rstd[...] = 1 / np.sqrt(layer.running_var.astype(np.float64) + layer.eps)
        self.scale[:c], self.shift[:c] = scale_and_shift(layer)


class Normalise(Step):
    """A normalisation with nothing in front to move it into, and the activation behind it, in predictions."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._norm, following = layers[0], layers[1:]
        self._kind = activation.kind_of(*following[0].pointwise() if following else ("identity",))
        self._folded = context.folding.entry(ScaleAndShift, layers[0])

    def forward(self, x, training):
        folded, x = self._folded, array(x)
        if type(x) is Lanes:
            return few.scale_channels(x, folded.scale, folded.shift, *self._kind)
        return norm.batch_norm_forward(x, folded.mean, folded.rstd, *self._norm.affine_arrays(), *self._kind)


class Add(Step):
    """Residual and the ReLU behind it, in predictions."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._relu = len(layers) > 1

    def forward(self, x, training):
        ends = []
        for part in self.parts:
            y = x
            for step in part:
                y = step.forward(y, training)
            ends.append(array(y))
        add = few.add if all(type(end) is Lanes for end in ends) else elementwise.add
        return add(*ends, relu=self._relu)
