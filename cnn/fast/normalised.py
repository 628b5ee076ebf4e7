"""A normalisation and ReLU whose result is never stored: what follows normalises while it reads.

In arrays of the normalisation's size, forward and backward together:

    apart      read x, write a; read a (convolution), read a (d-weight)     a lies there from forward on
    together   read x (convolution), read x (d-weight)                      x does so anyway
"""

from cnn.fast.kernels import activation, conv, elementwise, norm
from cnn.fast.step import Step, array


class NormConvolution(Step):
    """Normalisation, ReLU, convolution: forward and d-weight read max(0, normalised x) from x.

    Where the convolution has no form that does so, the activation is stored and kept.
    """

    roles = ("normalisation", "relu", "convolution")

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._norm, _, self._conv = layers

    def forward(self, x, training):
        layer, following, x = self._norm, self._conv, self._norm._receive(array(x))
        training = layer.in_training(training)
        mean, rstd = layer.statistics(x, training)
        numbers = tuple(norm.channel_parameters(x, mean, rstd, *layer.affine_arrays()))
        weight, bias = following.weight.data, following.bias.data if following.bias else None
        geometry, read = following._geometry(), x
        if not conv.normalises(x, weight, *geometry):
            read, numbers = norm.batch_norm_forward(x, *numbers, activation.RELU), ()
        self.kept = x, mean, rstd, training, read, numbers
        return conv.conv2d_forward(read, weight, bias, *geometry, normalisation=numbers)

    def backward(self, dy, input_gradient, over):
        layer, following, dy = self._norm, self._conv, array(dy)
        x, mean, rstd, training, read, numbers = self.kept
        geometry = following._geometry()
        if following.weight.trainable:
            gradient = following.weight.grad
            conv.conv2d_backward_weight(dy, read, gradient, *geometry, normalisation=numbers)
        if following.bias and following.bias.trainable:
            elementwise.channel_sum(dy, following.bias.grad)
        if not (input_gradient or layer.trainable):
            return None
        da = conv.conv2d_backward_input(dy, following.weight.data, x.shape, *geometry)
        weight, bias = layer.affine_arrays()
        forward = x, mean, rstd, weight, *layer.affine_gradients(), training, bias, activation.RELU
        return norm.batch_norm_backward(da, *forward, over=True)
