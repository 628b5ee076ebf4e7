"""Layers without arithmetic of their own: Flatten, Unflatten and Scale."""

import math

from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
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
class Unflatten(Layer):
    """Makes images of features, in row-major order: the inverse of Flatten.

        y[n,c,i,j] = x[n, (c*H + i)*W + j]                   dx is dy in the shape of x

    Parameters
    ----------
    unflattened_size : (int, int, int)
        (C, H, W), with C*H*W features.

    Shapes
    ------
    x, dx : (N, C*H*W);  y, dy : (N, C, H, W)

    Errors
    ------
    ShapeError : another number of features.
    """

    pure, axes = True, "NF"

    def __init__(self, unflattened_size: tuple[int, int, int]):
        sizes = tuple(unflattened_size) if isinstance(unflattened_size, (list, tuple)) else ()
        if len(sizes) != 3 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sizes):
            raise ConfigError(
                f"Unflatten unflattened_size: expected (C, H, W) of at least 1, found {unflattened_size!r}"
            )
        self.unflattened_size = sizes

    def _build(self, input_shape, rng, dtype):
        self._check(input_shape[0])
        return self.unflattened_size

    def _check(self, features):
        if features != math.prod(self.unflattened_size):
            raise ShapeError(
                f"{self.label}: expected {math.prod(self.unflattened_size)} features, found {features}"
            )

    def forward(self, x, training=False):
        x = self._receive(x)
        self._check(x.shape[1])
        return self._keep(operations().unflatten(x, (x.shape[0], *self.unflattened_size)))

    def backward(self, dy):
        ops, dy = self._saved(dy)
        return ops.flatten(dy)

    def _describe(self):
        return f"{self.unflattened_size}"


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
