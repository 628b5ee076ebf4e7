"""Convolutions."""

import numpy as np

from cnn import geometry
from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.initializers import check_whitening, initialize
from cnn.layers.layer import LAYERS, Layer
from cnn.layers.parameter import Parameter


@LAYERS.register
class Conv2d(Layer):
    """Slides learned filters over an image.

        y[n,k,i,j] = bias[k] + sum over c < C/groups, u < kh, v < kw of
                     weight[k,c,u,v] * x[n, g(k)*C/groups + c, i*sh - top + u*dh, j*sw - left + v*dw]

    x outside of the image counts as 0; g(k) = k // (K/groups) is the group of filter k. This is a
    cross-correlation, as in every framework: the filter is not flipped.

    Backward. y depends on weight[k,c,u,v] through every position (n,i,j), each time with the factor
    x[n,c,i*sh-top+u*dh,j*sw-left+v*dw]; by the chain rule the contributions add up:

        dweight[k,c,u,v] += sum over n,i,j of dy[n,k,i,j] * x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]
        dbias[k]         += sum over n,i,j of dy[n,k,i,j]

    A pixel x[n,c,a,b] enters y[n,k,i,j] once for each (u,v) with i*sh - top + u*dh = a and
    j*sw - left + v*dw = b, each time with the factor weight[k,c,u,v]:

        dx[n,c,a,b] = sum over those k,u,v,i,j of weight[k,c,u,v] * dy[n,k,i,j]

    At stride 1 that is a convolution of dy with the filters rotated by 180 degrees.

    Parameters
    ----------
    out_channels : int
        K, the number of filters.
    kernel_size, stride, dilation : int or (int, int)
        (height, width) in pixels.
    padding : int, (int, int), ((top, bottom), (left, right)), "same" or "valid"
        Pixels of zeros on each side. "same" (stride 1 only) keeps the size; an odd pixel goes below
        and to the right.
    groups : int
        Splits the channels into groups that do not see each other; groups = C is depthwise.
    bias : bool
        Whether to add bias[k].
    weight_init, bias_init : str
        Names from ``cnn.layers.initializers``; the default is PyTorch's. "dirac" starts as the identity;
        "whitening" is for filters that see the images, see ``cnn.training.whitening``.
    whitening_eps : float
        Added to the variances before whitening divides by their roots, in units of the images squared: what
        varies less than that stays small. JPEG files hold hardly any fine colour; noise would take its place.

    Shapes
    ------
    x, dx : (N, C, H, W)
    y, dy : (N, K, H', W') with H' = (H + top + bottom - dh*(kh - 1) - 1) // sh + 1, and W' likewise
    weight : (K, C/groups, kh, kw);  bias : (K,)

    Errors
    ------
    ConfigError : an argument out of range.  ShapeError : groups do not divide, the kernel does not fit.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    Dumoulin, Visin, "A guide to convolution arithmetic", arXiv:1603.07285.
    """

    pure, role = True, "convolution"
    axes = "NCHW"
    needs_build = True
    inferred = ("in_channels", 0)

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: str = "pytorch_uniform",
        bias_init: str = "pytorch_uniform",
        whitening_eps: float = 5e-4,
    ):
        self.out_channels = geometry.count(out_channels, "Conv2d out_channels")
        self.weight_init = weight_init
        if not 0 < whitening_eps < np.inf:
            raise ConfigError(
                f"Conv2d whitening_eps: expected a finite number above 0, found {whitening_eps!r}"
            )
        self.whitening_eps = float(whitening_eps)
        self.kernel_size = geometry.pair(kernel_size, "Conv2d kernel_size")
        self.stride = geometry.pair(stride, "Conv2d stride")
        self.dilation = geometry.pair(dilation, "Conv2d dilation")
        self.groups = geometry.count(groups, "Conv2d groups")
        self.padding = _padding(padding, self.kernel_size, self.stride, self.dilation)
        if self.out_channels % self.groups:
            raise ConfigError(
                f"Conv2d: groups={self.groups} does not divide out_channels={self.out_channels}"
            )
        self._inits = weight_init, bias_init
        self._with_bias = bias
        self.weight = self.bias = None

    def _build(self, input_shape, rng, dtype):
        c, h, w = input_shape
        if c % self.groups:
            raise ShapeError(f"{self.label}: groups={self.groups} does not divide the {c} input channels")
        plane = geometry.output_shape(h, w, self.kernel_size, self.stride, self.padding, self.dilation)
        shape = (self.out_channels, c // self.groups, *self.kernel_size)
        if self.weight_init == "whitening":
            check_whitening(shape, self.groups)
        self.weight, self.bias = _create(
            shape, self.out_channels, self.groups, self._inits, self._with_bias, rng, dtype
        )
        return (self.out_channels, *plane)

    def forward(self, x, training=False):
        x = self._receive(x)
        geometry.output_shape(*x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation)
        bias = self.bias.data if self.bias else None
        y = operations().conv2d_forward(x, self.weight.data, bias, *self._geometry())
        return self._keep(y, x)

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only."""
        ops, dy, x = self._saved(dy)
        if self.weight.trainable:
            ops.conv2d_backward_weight(dy, x, self.weight.grad, *self._geometry())
        if self.bias and self.bias.trainable:
            ops.channel_sum(dy, self.bias.grad)

    def backward(self, dy):
        self.backward_parameters(dy)
        ops, dy, x = self._saved(dy)
        return ops.conv2d_backward_input(dy, self.weight.data, x.shape, *self._geometry())

    def _geometry(self):
        return self.stride, self.padding, self.dilation, self.groups

    def parameters(self):
        return [p for p in (self.weight, self.bias) if p]

    def macs(self):
        return self.weight.size * self.output_shape[1] * self.output_shape[2]

    def _describe(self):
        return (
            f"{self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )


@LAYERS.register
class ConvTranspose2d(Layer):
    """The adjoint of Conv2d as a layer of its own: it spreads each input pixel over a window of the output.

        y[n,k,a,b] = bias[k] + sum over c,u,v,i,j of weight[c,k,u,v] * x[n,c,i,j],
        over those with i*sh - ph + u*dh = a and j*sw - pw + v*dw = b

    That is Conv2d's dx with x in the place of dy. Hence its backward is Conv2d's forward:

        dx[n,c,i,j]       = sum over k,u,v of weight[c,k,u,v] * dy[n,k,i*sh - ph + u*dh,j*sw - pw + v*dw]
        dweight[c,k,u,v] += sum over n,i,j of x[n,c,i,j] * dy[n,k,i*sh - ph + u*dh,j*sw - pw + v*dw]
        dbias[k]         += sum over n,a,b of dy[n,k,a,b]

    Parameters
    ----------
    out_channels, kernel_size, stride, padding, dilation, groups, bias, weight_init, bias_init
        As in Conv2d; ``padding`` removes pixels from each side of the output.
    output_padding : int or (int, int)
        Extra rows and columns below and to the right; less than stride.

    Shapes
    ------
    x, dx : (N, C, H, W)
    y, dy : (N, K, H', W') with H' = (H - 1)*sh - 2*ph + dh*(kh - 1) + 1 + output_padding, and W' likewise
    weight : (C, K/groups, kh, kw);  bias : (K,)

    References
    ----------
    Zeiler, Krishnan, Taylor, Fergus, "Deconvolutional networks", CVPR 2010. arXiv:1603.07285, chapter 4.
    """

    pure = True
    axes = "NCHW"
    needs_build = True
    inferred = ("in_channels", 0)

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        weight_init: str = "pytorch_uniform",
        bias_init: str = "pytorch_uniform",
    ):
        self.out_channels = geometry.count(out_channels, "ConvTranspose2d out_channels")
        if weight_init == "whitening":
            raise ConfigError('ConvTranspose2d: weight_init="whitening" is for Conv2d only')
        self.kernel_size = geometry.pair(kernel_size, "ConvTranspose2d kernel_size")
        self.stride = geometry.pair(stride, "ConvTranspose2d stride")
        self.dilation = geometry.pair(dilation, "ConvTranspose2d dilation")
        self.groups = geometry.count(groups, "ConvTranspose2d groups")
        ph, pw = geometry.pair(padding, "ConvTranspose2d padding", minimum=0)
        self.padding = ((ph, ph), (pw, pw))
        self.output_padding = geometry.pair(output_padding, "ConvTranspose2d output_padding", minimum=0)
        if any(p >= s for p, s in zip(self.output_padding, self.stride, strict=True)):
            raise ConfigError(
                f"ConvTranspose2d: expected output_padding less than stride {self.stride}, "
                f"found {self.output_padding}"
            )
        if self.out_channels % self.groups:
            raise ConfigError(
                f"ConvTranspose2d: groups={self.groups} does not divide out_channels={self.out_channels}"
            )
        self._inits = weight_init, bias_init
        self._with_bias = bias
        self.weight = self.bias = None

    def _plane(self, height, width):
        """Return (H', W')."""
        sizes = tuple(
            (size - 1) * s - sum(p) + d * (k - 1) + 1 + extra
            for size, k, s, p, d, extra in zip(
                (height, width),
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.output_padding,
                strict=True,
            )
        )
        if min(sizes) < 1:
            raise ShapeError(f"{self.label}: padding removes the whole output, {sizes} would remain")
        return sizes

    def _build(self, input_shape, rng, dtype):
        c, h, w = input_shape
        if c % self.groups:
            raise ShapeError(f"{self.label}: groups={self.groups} does not divide the {c} input channels")
        shape = (c, self.out_channels // self.groups, *self.kernel_size)
        self.weight, self.bias = _create(
            shape, self.out_channels, self.groups, self._inits, self._with_bias, rng, dtype
        )
        return (self.out_channels, *self._plane(h, w))

    def _geometry(self):
        return self.stride, self.padding, self.dilation, self.groups

    def forward(self, x, training=False):
        x = self._receive(x)
        ops, shape = operations(), (x.shape[0], self.out_channels, *self._plane(*x.shape[2:]))
        y = ops.conv2d_backward_input(x, self.weight.data, shape, *self._geometry())
        if self.bias:
            y = ops.add_channel(y, self.bias.data)
        return self._keep(y, x)

    def backward(self, dy):
        ops, dy, x = self._saved(dy)
        if self.weight.trainable:
            ops.conv2d_backward_weight(x, dy, self.weight.grad, *self._geometry())
        if self.bias and self.bias.trainable:
            ops.channel_sum(dy, self.bias.grad)
        return ops.conv2d_forward(dy, self.weight.data, None, *self._geometry())

    def parameters(self):
        return [p for p in (self.weight, self.bias) if p]

    def macs(self):
        return self.weight.size * self.input_shape[1] * self.input_shape[2]

    def _describe(self):
        return (
            f"{self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
        )


def _create(shape, out_channels, groups, inits, with_bias, rng, dtype):
    """Return the (weight, bias) parameters of a convolution; bias is None without one."""
    weight = Parameter("weight", initialize(inits[0], shape, rng, dtype, groups=groups))
    fan_in = int(np.prod(shape[1:]))
    values = initialize(inits[1], (out_channels,), rng, dtype, fan_in=fan_in) if with_bias else None
    return weight, Parameter("bias", values, decay=False) if with_bias else None


def _padding(padding, kernel_size, stride, dilation):
    """Return padding as ((top, bottom), (left, right))."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        if stride != (1, 1):
            raise ConfigError(f'Conv2d: padding="same" needs stride 1, found stride={stride}')
        return geometry.same_padding(kernel_size, dilation)
    if isinstance(padding, str):
        raise ConfigError(f'Conv2d padding: expected pixels, "same" or "valid", found "{padding}"')
    return geometry.padding(padding, "Conv2d padding")
