"""Batch normalisation."""

import numpy as np

from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.layer import LAYERS, Layer
from cnn.layers.parameter import Parameter


class _BatchNorm(Layer):
    """Both batch normalisations: they differ in the axes of their input."""

    needs_build = True
    inferred = ("num_features", 0)

    def __init__(self, eps=1e-5, momentum=0.1, affine=True):
        kind = type(self).__name__
        if not eps > 0:
            raise ConfigError(f"{kind} eps: expected a number above 0, found {eps!r}")
        if not 0 <= momentum <= 1:
            raise ConfigError(f"{kind} momentum: expected a number from 0 to 1, found {momentum!r}")
        self.eps, self.momentum, self.affine = float(eps), float(momentum), affine
        self.frozen = False
        self.weight = self.bias = self.running_mean = self.running_var = None

    def _build(self, input_shape, rng, dtype):
        channels = input_shape[0]
        self.running_mean, self.running_var = np.zeros(channels, dtype), np.ones(channels, dtype)
        if self.affine:
            self.weight = Parameter("weight", np.ones(channels, dtype), decay=False)
            self.bias = Parameter("bias", np.zeros(channels, dtype), decay=False)
        return input_shape

    def forward(self, x, training=False):
        x, training = self._receive(x), self.in_training(training)
        mean, rstd = self.statistics(x, training)
        y = operations().batch_norm_forward(x, mean, rstd, *self.affine_arrays())
        return self._keep(y, x, mean, rstd, training)

    def in_training(self, training):
        """Whether a pass takes the statistics of its batch: in training, unless ``frozen``."""
        return training and not self.frozen

    def statistics(self, x, training):
        """Return (mean, rstd) to normalise ``x`` with; in training also move the running statistics."""
        if training:
            if operations().values_per_channel(x) < 2:
                raise ShapeError(
                    f"{self.label}: expected more than one value per channel in training, "
                    f"found shape {x.shape}"
                )
            return operations().batch_norm_train(
                x, self.running_mean, self.running_var, self.momentum, self.eps
            )
        return operations().batch_norm_eval(self.running_mean, self.running_var, self.eps)

    def affine_arrays(self):
        """Return (weight, bias), or (None, None)."""
        return (self.weight.data, self.bias.data) if self.affine else (None, None)

    def affine_gradients(self):
        """Return the arrays that gradients of weight and bias are added to, or (None, None)."""
        return (self.weight.grad, self.bias.grad) if self.affine else (None, None)

    def backward(self, dy):
        ops, dy, x, mean, rstd, training = self._saved(dy)
        gradients = self.affine_gradients()
        return ops.batch_norm_backward(dy, x, mean, rstd, self.affine_arrays()[0], *gradients, training)

    def parameters(self):
        return [self.weight, self.bias] if self.affine and self.weight else []

    def buffers(self):
        return {"running_mean": self.running_mean, "running_var": self.running_var} if self.built else {}

    def _describe(self):
        return f"eps={self.eps:g}, momentum={self.momentum:g}"


@LAYERS.register
class BatchNorm2d(_BatchNorm):
    """Gives each channel mean 0 and variance 1 over the batch, then a learned scale and shift.

        xhat[n,c,i,j] = (x[n,c,i,j] - mean[c]) * rstd[c],     rstd[c] = 1 / sqrt(var[c] + eps)
        y[n,c,i,j]    = weight[c] * xhat[n,c,i,j] + bias[c]

    In training, mean and var are those of the M = N*H*W values of channel c in this batch (var divides by
    M), and the running statistics move by ``momentum`` towards them, var there divided by M - 1, as in
    PyTorch. In evaluation the running statistics take their place.

    Backward, for one channel, with g = dy * weight. x acts on y in three ways: directly, through the mean,
    and through the variance:

        dL/dxhat_k = g_k
        dL/dvar    = sum_k g_k (x_k - mean) * (-1/2) rstd^3
        dL/dmean   = -rstd * sum_k g_k                    (d var/d mean = 0, as sum_k (x_k - mean) = 0)
        dx_k = g_k rstd + dL/dmean / M + dL/dvar * 2 (x_k - mean) / M
             = rstd * (g_k - 1/M sum_m g_m - xhat_k * 1/M sum_m g_m xhat_m)

        dweight[c] += sum over n,i,j of dy * xhat,        dbias[c] += sum over n,i,j of dy

    In evaluation mean and var are constants, and dx = rstd * g. So they are in training as well while the
    attribute ``frozen`` is True: the running statistics then stay, as a frozen trunk needs it.

    Parameters
    ----------
    eps : float
        Added to the variance; in units of x squared.
    momentum : float, 0 to 1
        Weight of the new batch in the running statistics.
    affine : bool
        Whether weight and bias exist. They start at 1 and 0; weight decay leaves them alone by default.

    Shapes
    ------
    x, y, dx, dy : (N, C, H, W);  weight, bias, running_mean, running_var : (C,)

    Errors
    ------
    ShapeError : in training, a batch with only one value per channel.

    References
    ----------
    Ioffe, Szegedy, "Batch Normalization", arXiv:1502.03167.
    """

    pure, role = True, "normalisation"
    axes = "NCHW"

    def __init__(self, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        super().__init__(eps, momentum, affine)


@LAYERS.register
class BatchNorm1d(_BatchNorm):
    """BatchNorm2d for features: each feature gets mean 0 and variance 1 over the batch.

        y[n,f] = weight[f] * (x[n,f] - mean[f]) / sqrt(var[f] + eps) + bias[f]
        dx[n,f] = rstd[f] * (g[n,f] - 1/N sum_m g[m,f] - xhat[n,f] * 1/N sum_m g[m,f] xhat[m,f])

    with g = dy * weight; the derivation is BatchNorm2d's with M = N.

    Parameters
    ----------
    eps, momentum, affine
        As in BatchNorm2d.

    Shapes
    ------
    x, y, dx, dy : (N, F);  weight, bias, running_mean, running_var : (F,)

    References
    ----------
    Ioffe, Szegedy, "Batch Normalization", arXiv:1502.03167.
    """

    pure, role = True, "normalisation"
    axes = "NF"

    def __init__(self, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        super().__init__(eps, momentum, affine)
