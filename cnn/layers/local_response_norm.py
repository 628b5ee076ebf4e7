"""Local response normalisation."""

from typing import Annotated

from cnn import geometry
from cnn.backend import operations
from cnn.errors import ConfigError
from cnn.layers.layer import LAYERS, Layer
from cnn.registry import Range


@LAYERS.register
class LocalResponseNorm(Layer):
    """Divides each value by the activity of its neighbours among the channels.

        s[c] = k + alpha/size * sum over i in W(c) of x[i]^2,     W(c) = {c - size//2, ..., c + (size-1)//2}
        y[c] = x[c] * s[c]^(-beta)                                at each pixel, W(c) within the channels

    Backward. x[i] is in its own numerator and in s[c] of every window that holds it, where
    ds[c]/dx[i] = 2 alpha/size x[i]:

        dx[i] = dy[i] * s[i]^(-beta)
                - 2 alpha beta/size * x[i] * sum over c with i in W(c) of dy[c] * x[c] * s[c]^(-beta - 1)

    Parameters
    ----------
    size : int
        Channels of a window.
    alpha, beta, k : float
        k > 0 and alpha >= 0, so that s stays positive.

    Shapes
    ------
    x, y, dx, dy : (N, C, H, W) or (N, C)

    References
    ----------
    Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
    NIPS 2012, section 3.3. Dividing alpha by size follows PyTorch.
    """

    pure = True

    def __init__(
        self,
        size: int,
        alpha: Annotated[float, Range(ge=0)] = 1e-4,
        beta: float = 0.75,
        k: Annotated[float, Range(gt=0)] = 1.0,
    ):
        self.size = geometry.count(size, "LocalResponseNorm size")
        if not (alpha >= 0 and k > 0):
            raise ConfigError(f"LocalResponseNorm: expected alpha >= 0 and k > 0, found {alpha!r} and {k!r}")
        self.alpha, self.beta, self.k = float(alpha), float(beta), float(k)

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().local_response_norm_forward(x, *self._arguments()), x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        return ops.local_response_norm_backward(dy, x, *self._arguments())

    def _arguments(self):
        return self.size, self.alpha, self.beta, self.k

    def _describe(self):
        return f"{self.size}, alpha={self.alpha:g}, beta={self.beta:g}, k={self.k:g}"
