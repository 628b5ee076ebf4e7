"""Activations made of straight lines: ReLU6, Hardtanh, Hardsigmoid, Hardswish."""

from cnn.backend import operations
from cnn.errors import ConfigError
from cnn.layers.layer import LAYERS, Layer


@LAYERS.register
class ReLU6(Layer):
    """ReLU that stops at 6, so that the result keeps its digits in few bits.

        y = min(max(x, 0), 6)          dx = dy where 0 < x < 6, else 0

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
    """

    pure, role = True, "activation"

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "relu6", 0.0

    def bounds(self):
        """Return what values are kept between."""
        return 0.0, 6.0

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().relu6_forward(x), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.relu6_backward(dy, x)


@LAYERS.register
class Hardtanh(Layer):
    """Keeps values between two limits.

        y = min(max(x, min_val), max_val)      dx = dy where min_val < x < max_val, else 0

    Parameters
    ----------
    min_val, max_val : float
        min_val < max_val; either may be infinite.

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Collobert, "Large Scale Machine Learning", 2004.
    """

    pure = True

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        if not min_val < max_val:
            raise ConfigError(f"Hardtanh: expected min_val below max_val, found {min_val!r} and {max_val!r}")
        self.min_val, self.max_val = float(min_val), float(max_val)

    def bounds(self):
        """Return what values are kept between."""
        return self.min_val, self.max_val

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().hardtanh_forward(x, self.min_val, self.max_val), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.hardtanh_backward(dy, x, self.min_val, self.max_val)

    def _describe(self):
        return f"{self.min_val:g}, {self.max_val:g}"


@LAYERS.register
class Hardsigmoid(Layer):
    """Sigmoid made of three lines.

        y = min(max(x/6 + 1/2, 0), 1)          dx = dy/6 where -3 < x < 3, else 0

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Howard et al., "Searching for MobileNetV3", arXiv:1905.02244.
    """

    pure, role = True, "activation"

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "hardsigmoid", 0.0

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().hardsigmoid_forward(x), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.hardsigmoid_backward(dy, x)


@LAYERS.register
class Hardswish(Layer):
    """SiLU with a sigmoid made of three lines.

        y = x * min(max(x/6 + 1/2, 0), 1)
        dx = 0 where x <= -3, dy where x >= 3, else dy * (x/3 + 1/2)

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Howard et al., "Searching for MobileNetV3", arXiv:1905.02244.
    """

    pure, role = True, "activation"

    def pointwise(self):
        """Return the function of one number, and its parameter."""
        return "hardswish", 0.0

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().hardswish_forward(x), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.hardswish_backward(dy, x)
