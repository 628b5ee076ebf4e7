"""Layers without arithmetic of their own: Flatten and Scale."""

import math

from cnn.backend import operations
from cnn.errors import ConfigError
from cnn.layers.layer import LAYERS, Layer


@LAYERS.register
class Flatten(Layer):
    """Joins all axes but the batch axis into one, in row-major order.

        y[n, (c*H + i)*W + j] = x[n,c,i,j]                   dx is dy in the shape of x

    Shapes
    ------
    x, dx : (N, C, H, W) or (N, F);  y, dy : (N, C*H*W) or (N, F)
    """

    pure = True

    def _build(self, input_shape, rng, dtype):
        return (math.prod(input_shape),)

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().flatten(x), x.shape)

    def backward(self, dy):
        ops, dy, shape = self._saved(dy)
        return ops.unflatten(dy, shape)


@LAYERS.register
class Scale(Layer):
    """Multiplies by a constant, for example to soften the logits of a fast recipe.

        y = factor * x                                       dx = factor * dy

    Parameters
    ----------
    factor : float

    Shapes
    ------
    x, y, dx, dy : any, the same
    """

    pure = True

    def __init__(self, factor: float):
        if not math.isfinite(factor):
            raise ConfigError(f"Scale factor: expected a finite number, found {factor!r}")
        self.factor = float(factor)

    def forward(self, x, training=False):
        return self._keep(operations().scale(self._receive(x), self.factor))

    def backward(self, dy):
        ops, dy = self._saved(dy)
        return ops.scale(dy, self.factor)

    def _describe(self):
        return f"{self.factor:g}"
