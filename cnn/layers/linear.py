"""The fully connected layer."""

from cnn import geometry
from cnn.backend import operations
from cnn.layers.initializers import initialize
from cnn.layers.layer import LAYERS, Layer
from cnn.layers.parameter import Parameter


@LAYERS.register
class Linear(Layer):
    """Connects every input feature with every output feature.

        y[n,o] = bias[o] + sum over i of weight[o,i] * x[n,i]                y = x W^T + b

    Backward. weight[o,i] acts on y[n,o] of every image n, with the factor x[n,i]; x[n,i] acts on every
    output o, with the factor weight[o,i]:

        dweight[o,i] += sum over n of dy[n,o] * x[n,i]                       dW += dy^T x
        dbias[o]     += sum over n of dy[n,o]
        dx[n,i]       = sum over o of dy[n,o] * weight[o,i]                  dx  = dy W

    Parameters
    ----------
    out_features : int
    bias : bool
        Whether to add bias[o].
    weight_init, bias_init : str
        Names from ``cnn.layers.initializers``; the default is PyTorch's.

    Shapes
    ------
    x, dx : (N, in_features);  y, dy : (N, out_features)
    weight : (out_features, in_features);  bias : (out_features,)

    References
    ----------
    Rumelhart, Hinton, Williams, "Learning representations by back-propagating errors", Nature 1986.
    """

    pure, role = True, "linear"
    axes = "NF"
    needs_build = True
    inferred = ("in_features", 0)

    def __init__(
        self,
        out_features: int,
        *,
        bias: bool = True,
        weight_init: str = "pytorch_uniform",
        bias_init: str = "pytorch_uniform",
    ):
        self.out_features = geometry.count(out_features, "Linear out_features")
        self._inits = weight_init, bias_init
        self._with_bias = bias
        self.weight = self.bias = None

    def _build(self, input_shape, rng, dtype):
        (features,) = input_shape
        weight = initialize(self._inits[0], (self.out_features, features), rng, dtype)
        self.weight, self.bias = Parameter("weight", weight), None
        if self._with_bias:
            bias = initialize(self._inits[1], (self.out_features,), rng, dtype, fan_in=features)
            self.bias = Parameter("bias", bias, decay=False)
        return (self.out_features,)

    def forward(self, x, training=False):
        x = self._receive(x)
        bias = self.bias.data if self.bias else None
        return self._keep(operations().linear_forward(x, self.weight.data, bias), x)

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only."""
        ops, dy, x = self._saved(dy)
        if self.weight.trainable:
            ops.linear_backward_weight(dy, x, self.weight.grad)
        if self.bias and self.bias.trainable:
            ops.channel_sum(dy, self.bias.grad)

    def backward(self, dy):
        self.backward_parameters(dy)
        ops, dy, _ = self._saved(dy)
        return ops.linear_backward_input(dy, self.weight.data)

    def parameters(self):
        return [p for p in (self.weight, self.bias) if p]

    def macs(self):
        return self.weight.size

    def _describe(self):
        return f"{self.out_features}"
