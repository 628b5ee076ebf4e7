"""A normalisation computed together with what stands behind it; ``cnn.fast.steps`` says when."""

from cnn.fast.kernels import activation, norm, norm_pool, pool, strips
from cnn.fast.step import Normalised, Step, array, computed, in_strips


class NormActivation(Step):
    """Normalisation, activation: the activation's input is computed again on the way back.

    On the way there both are left to who reads the result: a convolution may do so while it reads.
    """

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._norm = layers[0]
        self._kind = activation.kind_of(*layers[1].pointwise())

    def forward(self, x, training):
        return Normalised(*self._normalise(x, training), self._kind)

    def _normalise(self, x, training):
        """Take the statistics; return the array and ``norm.channel_parameters``."""
        layer, x = self._norm, self._norm._receive(computed(x))
        training = layer.in_training(training)
        mean, rstd = layer.statistics(x, training)
        self.kept = x, mean, rstd, training
        return x, norm.channel_parameters(x, mean, rstd, *layer.affine_arrays())

    def backward(self, dy, input_gradient, over):
        layer, (x, mean, rstd, training) = self._norm, self.kept
        weight, bias = layer.affine_arrays()
        forward = x, mean, rstd, weight, *layer.affine_gradients(), training, bias, *self._kind
        return norm.batch_norm_backward(array(dy, x.strips), *forward, over=over)


class NormReLUPool(NormActivation):
    """Normalisation, ReLU, maxima of 2x2 windows: only these are stored, and which cells they were."""

    @classmethod
    def fits(cls, layers):
        """Whether windows are 2x2 side by side."""
        pooling = layers[2]
        window = pooling.kernel_size, pooling.stride, pooling.padding, pooling.dilation
        return not pooling.ceil_mode and pool.is_2x2(*window)

    def forward(self, x, training):
        laid, halved = strips.halves(computed(x))
        x, numbers = self._normalise(array(x, laid), training)
        y, argmax = norm_pool.norm_relu_pool_forward(x, *numbers)
        self.kept = *self.kept, argmax, halved
        return in_strips(y, halved)

    def backward(self, dy, input_gradient, over):
        layer, (x, mean, rstd, training, argmax, halved) = self._norm, self.kept
        forward = x, mean, rstd, layer.affine_arrays()[0], *layer.affine_gradients(), training
        return norm_pool.norm_relu_pool_backward(array(dy, halved), argmax, *forward)
