"""Softmax over the channels, and its logarithm."""

from cnn.backend import operations
from cnn.layers.layer import LAYERS, Layer


@LAYERS.register
class Softmax(Layer):
    """Turns scores into probabilities over the channels (axis 1).

        S_i = exp(x_i - m) / sum over k of exp(x_k - m),     m = max over k of x_k (it cancels)

    Backward, with the Jacobian of softmax. For i = j the quotient rule gives S_i - S_i^2, for i != j it
    gives -S_i S_j; together dS_i/dx_j = S_i (delta_ij - S_j), hence

        dx_j = sum over i of dy_i S_i (delta_ij - S_j) = S_j * (dy_j - sum over i of dy_i S_i)

    Feeding it the gradient of the cross-entropy, dy_i = -t_i / S_i, gives dx_j = S_j * sum(t) - t_j: that
    is p - y, which SoftmaxCrossEntropy computes in one step.

    Shapes
    ------
    x, y, dx, dy : (N, C) or (N, C, H, W)

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """

    pure = True

    def forward(self, x, training=False):
        y = operations().softmax_forward(self._receive(x))
        return self._keep(y, y)

    def backward(self, dy):
        ops, dy, y = self._saved(dy)
        return ops.softmax_backward(dy, y)


@LAYERS.register
class LogSoftmax(Layer):
    """The logarithm of softmax over the channels (axis 1).

        y_i = x_i - m - log(sum over k of exp(x_k - m)),     m = max over k of x_k

    Backward. dy_i/dx_j = delta_ij - S_j with S = exp(y), hence

        dx_j = dy_j - exp(y_j) * sum over i of dy_i

    Shapes
    ------
    x, y, dx, dy : (N, C) or (N, C, H, W)

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """

    pure = True

    def forward(self, x, training=False):
        y = operations().log_softmax_forward(self._receive(x))
        return self._keep(y, y)

    def backward(self, dy):
        ops, dy, y = self._saved(dy)
        return ops.log_softmax_backward(dy, y)
