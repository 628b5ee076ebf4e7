"""Activations: smooth functions of one number at a time, and ReLU."""

import math

from cnn.backend import operations
from cnn.errors import ConfigError
from cnn.layers.layer import LAYERS, Layer


@LAYERS.register
class ReLU(Layer):
    """Lets positive values pass.

        y = max(x, 0)                  dx = dy where x > 0, else 0

    At x = 0, where the derivative does not exist, 0 is used, as in PyTorch.

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Nair, Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
    """

    pure, role = True, "activation"

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "relu", 0.0

    def bounds(self):
        """Return what values are kept between."""
        return 0.0, math.inf

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().relu_forward(x), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.relu_backward(dy, x)


@LAYERS.register
class LeakyReLU(Layer):
    """Lets positive values pass and a fraction of the negative ones.

        y = x where x > 0, else negative_slope * x
        dx = dy where x > 0, else negative_slope * dy

    Parameters
    ----------
    negative_slope : float

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic models", ICML 2013.
    """

    pure, role = True, "activation"

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = float(negative_slope)

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().leaky_relu_forward(x, self.negative_slope), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.leaky_relu_backward(dy, x, self.negative_slope)

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "leaky_relu", self.negative_slope

    def _describe(self):
        return f"{self.negative_slope:g}"


@LAYERS.register
class Sigmoid(Layer):
    """Squeezes values into (0, 1).

        y = 1 / (1 + exp(-x))
        dy/dx = exp(-x) / (1 + exp(-x))^2 = y (1 - y),          dx = dy * y * (1 - y)

    Shapes
    ------
    x, y, dx, dy : any, the same
    """

    pure = True

    def forward(self, x, training=False):
        y = operations().sigmoid_forward(self._receive(x))
        return self._keep(y, y)

    def backward(self, dy):
        ops, dy, y = self._saved(dy)
        return ops.sigmoid_backward(dy, y)


@LAYERS.register
class Tanh(Layer):
    """Squeezes values into (-1, 1).

        y = tanh(x)                    dx = dy * (1 - y^2)

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    LeCun, Bottou, Orr, Mueller, "Efficient BackProp", 1998, section 4.4.
    """

    pure = True

    def forward(self, x, training=False):
        y = operations().tanh_forward(self._receive(x))
        return self._keep(y, y)

    def backward(self, dy):
        ops, dy, y = self._saved(dy)
        return ops.tanh_backward(dy, y)


@LAYERS.register
class SiLU(Layer):
    """A smooth ReLU (also called swish): the value times its sigmoid.

        y = x * s,  s = 1 / (1 + exp(-x))
        dx = dy * (s + x * s * (1 - s)) = dy * s * (1 + x * (1 - s))

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Hendrycks, Gimpel, arXiv:1606.08415; Ramachandran, Zoph, Le, arXiv:1710.05941.
    """

    pure, role = True, "activation"

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "silu", 0.0

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().silu_forward(x), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.silu_backward(dy, x)


@LAYERS.register
class GELU(Layer):
    """A smooth ReLU: the value times the probability that a normal variable lies below it.

        y = x * Phi(x),   Phi(x) = (1 + erf(x / sqrt 2)) / 2
        dx = dy * (Phi(x) + x * phi(x)),   phi(x) = exp(-x^2 / 2) / sqrt(2 pi)

    With ``approximate="tanh"``, Phi(x) = (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, and its derivative.

    Parameters
    ----------
    approximate : "none" or "tanh"

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Hendrycks, Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415.
    """

    pure, role = True, "activation"

    def __init__(self, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ConfigError(f'GELU approximate: expected "none" or "tanh", found {approximate!r}')
        self.approximate = approximate

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().gelu_forward(x, self.approximate == "tanh"), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.gelu_backward(dy, x, self.approximate == "tanh")

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "gelu_tanh" if self.approximate == "tanh" else "gelu", 0.0


@LAYERS.register
class ELU(Layer):
    """Lets positive values pass and bends negative ones towards -alpha.

        y = x where x > 0, else alpha * (exp(x) - 1)
        dx = dy where x > 0, else dy * alpha * exp(x)

    exp(x) - 1 is computed as expm1, which keeps its digits near 0.

    Parameters
    ----------
    alpha : float

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Clevert, Unterthiner, Hochreiter, "Fast and Accurate Deep Network Learning by Exponential Linear Units",
    arXiv:1511.07289.
    """

    pure, role = True, "activation"

    def __init__(self, alpha: float = 1.0):
        self.alpha = float(alpha)

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().elu_forward(x, self.alpha), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.elu_backward(dy, x, self.alpha)

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "elu", self.alpha

    def _describe(self):
        return f"{self.alpha:g}"


@LAYERS.register
class Softplus(Layer):
    """A smooth ReLU, always positive.

        y = log(1 + exp(beta * x)) / beta,  or x where beta * x > threshold
        dx = dy * sigmoid(beta * x),        or dy where beta * x > threshold

    The logarithm is computed as max(z, 0) + log1p(exp(-|z|)) with z = beta * x, which never overflows.

    Parameters
    ----------
    beta : float, not 0
        How sharply it bends; as beta grows it approaches ReLU.
    threshold : float
        In units of beta * x: from there on it counts as the identity, as in PyTorch.

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Dugas, Bengio, Bélisle, Nadeau, Garcia, "Incorporating Second-Order Functional Knowledge for Better Option
    Pricing", NIPS 2000.
    """

    pure = True

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        if not math.isfinite(beta) or beta == 0:
            raise ConfigError(f"Softplus beta: expected a finite number other than 0, found {beta!r}")
        self.beta, self.threshold = float(beta), float(threshold)

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().softplus_forward(x, self.beta, self.threshold), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.softplus_backward(dy, x, self.beta, self.threshold)

    def _describe(self):
        return f"beta={self.beta:g}"
