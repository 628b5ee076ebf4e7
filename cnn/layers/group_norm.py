"""Normalisation of each image on its own: by groups of channels, or as a whole."""

import numpy as np

from cnn import geometry
from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.layer import LAYERS, Layer
from cnn.layers.parameter import Parameter


class _GroupNorm(Layer):
    """What both share: the mean and variance of a group of values of one image."""

    needs_build = True

    def __init__(self, num_groups, eps, affine, bias):
        kind = type(self).__name__
        self._groups = geometry.count(num_groups, f"{kind} num_groups")
        if not 0 < eps < np.inf:
            raise ConfigError(f"{kind} eps: expected a finite number above 0, found {eps!r}")
        self.eps = float(eps)
        self._affine, self._with_bias = bool(affine), bool(affine and bias)
        self.weight = self.bias = None

    def _create(self, shape, dtype):
        self.weight = Parameter("weight", np.ones(shape, dtype), decay=False) if self._affine else None
        self.bias = Parameter("bias", np.zeros(shape, dtype), decay=False) if self._with_bias else None

    def forward(self, x, training=False):
        x = self._receive(x)
        weight, bias = (p.data if p else None for p in (self.weight, self.bias))
        y, mean, rstd = operations().group_norm_forward(x, self._groups, weight, bias, self.eps)
        return self._keep(y, x, mean, rstd)

    def backward(self, dy):
        ops, dy, x, mean, rstd = self._saved(dy)
        weight = self.weight.data if self.weight else None
        dweight, dbias = (p.grad if p else None for p in (self.weight, self.bias))
        return ops.group_norm_backward(dy, x, mean, rstd, self._groups, weight, dweight, dbias)

    def parameters(self):
        return [p for p in (self.weight, self.bias) if p]


@LAYERS.register
class GroupNorm(_GroupNorm):
    """Gives each group of channels of each image mean 0 and variance 1, then a learned scale and shift.

        xhat[n,c,i,j] = (x[n,c,i,j] - mean[n,g]) * rstd[n,g],     rstd[n,g] = 1 / sqrt(var[n,g] + eps)
        y[n,c,i,j]    = weight[c] * xhat[n,c,i,j] + bias[c],      g = c // (C / num_groups)

    mean and var are those of the M = C/num_groups * H*W values of group g in image n; var divides by M. The
    batch plays no part, so training and evaluation are one.

    Backward. The derivation is BatchNorm2d's, with the group of one image in the place of the channel of a
    batch. With u = dy * weight, and sums over the group,

        dx = rstd * (u - 1/M sum u - xhat * 1/M sum (u * xhat))
        dweight[c] += sum over n,i,j of dy * xhat,        dbias[c] += sum over n,i,j of dy

    Parameters
    ----------
    num_groups : int
        Divides the number of channels; 1 normalises each image as a whole, C is instance normalisation.
    eps : float
        Added to the variance; in units of x squared.
    affine : bool
        Whether weight and bias exist. They start at 1 and 0; weight decay leaves them alone by default.

    Shapes
    ------
    x, y, dx, dy : (N, C, H, W) or (N, C);  weight, bias : (C,)

    Errors
    ------
    ConfigError : an argument out of range.  ShapeError : num_groups does not divide the channels.

    References
    ----------
    Wu, He, "Group Normalization", arXiv:1803.08494.
    """

    pure = True
    inferred = ("num_channels", 1)

    def __init__(self, num_groups: int, *, eps: float = 1e-5, affine: bool = True):
        super().__init__(num_groups, eps, affine, bias=True)
        self.num_groups, self.affine = self._groups, bool(affine)

    def _build(self, input_shape, rng, dtype):
        if input_shape[0] % self.num_groups:
            raise ShapeError(
                f"{self.label}: num_groups={self.num_groups} does not divide the {input_shape[0]} channels"
            )
        self._create(input_shape[0], dtype)
        return input_shape

    def _describe(self):
        return f"{self.num_groups}, eps={self.eps:g}"


@LAYERS.register
class LayerNorm(_GroupNorm):
    """Gives each image mean 0 and variance 1, then a learned scale and shift of each of its values.

        xhat[n,k] = (x[n,k] - mean[n]) * rstd[n],     rstd[n] = 1 / sqrt(var[n] + eps)
        y[n,k]    = weight[k] * xhat[n,k] + bias[k],  k runs over all M values of an image

    mean and var are those of the M = C*H*W (or F) values of image n; var divides by M.

    Backward. GroupNorm's with one group, and with u = dy * weight:

        dx = rstd * (u - 1/M sum over k of u - xhat * 1/M sum over k of (u * xhat))
        dweight[k] += sum over n of dy * xhat,        dbias[k] += sum over n of dy

    Parameters
    ----------
    eps : float
        Added to the variance; in units of x squared.
    elementwise_affine : bool
        Whether weight and bias exist. They start at 1 and 0; weight decay leaves them alone by default.
    bias : bool
        Whether bias exists beside weight.

    Shapes
    ------
    x, y, dx, dy : (N, C, H, W) or (N, F);  weight, bias : (C, H, W) or (F,)

    References
    ----------
    Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450.
    """

    pure = True
    inferred = ("normalized_shape", 0)

    def __init__(self, *, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True):
        super().__init__(1, eps, elementwise_affine, bias)
        self.elementwise_affine = bool(elementwise_affine)

    def _build(self, input_shape, rng, dtype):
        self._create(input_shape, dtype)
        return input_shape

    def _receive(self, x):
        x = super()._receive(x)
        if tuple(x.shape[1:]) != self.input_shape:
            raise ShapeError(f"{self.label}: built for shape {self.input_shape}, found {tuple(x.shape[1:])}")
        return x

    def _describe(self):
        return f"eps={self.eps:g}"
