"""PReLU."""

import numpy as np

from cnn import geometry
from cnn.backend import operations
from cnn.errors import ShapeError
from cnn.layers.layer import LAYERS, Layer
from cnn.layers.parameter import Parameter


@LAYERS.register
class PReLU(Layer):
    """LeakyReLU whose slope is learned: one for all channels, or one for each.

        y[n,c,...] = x where x > 0, else weight[c] * x

    Backward. y depends on x with slope 1 or weight[c], and on weight[c] through every negative x of the
    channel, each time with the factor x:

        dx = dy where x > 0, else weight[c] * dy
        dweight[c] += sum of dy * x over n, i, j where x <= 0

    Parameters
    ----------
    num_parameters : int
        1, or the number of channels.
    init : float
        The first slope. Weight decay leaves it alone by default: it would push PReLU towards ReLU.

    Shapes
    ------
    x, y, dx, dy : (N, C, H, W) or (N, C);  weight : (num_parameters,)

    Errors
    ------
    ShapeError : num_parameters is neither 1 nor the number of channels.

    References
    ----------
    He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", arXiv:1502.01852.
    """

    pure = True
    needs_build = True

    def __init__(self, num_parameters: int = 1, *, init: float = 0.25):
        self.num_parameters = geometry.count(num_parameters, "PReLU num_parameters")
        self.init = float(init)
        self.weight = None

    def _build(self, input_shape, rng, dtype):
        if self.num_parameters not in (1, input_shape[0]):
            raise ShapeError(
                f"{self.label}: expected num_parameters 1 or {input_shape[0]}, the number of channels, "
                f"found {self.num_parameters}"
            )
        self.weight = Parameter("weight", np.full(self.num_parameters, self.init, dtype), decay=False)
        return input_shape

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().prelu_forward(x, self.weight.data), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.prelu_backward(dy, x, self.weight.data, self.weight.grad)

    def parameters(self):
        return [self.weight] if self.weight else []

    def _describe(self):
        return f"{self.num_parameters}"
