"""Pooling: the largest or the mean value of each window, or of each plane."""

from cnn import geometry
from cnn.backend import operations
from cnn.errors import ConfigError
from cnn.layers.layer import LAYERS, Layer


class _Pool2d(Layer):
    """What both pools share: the window and the output shape."""

    axes = "NCHW"

    def __init__(self, kernel_size, stride, padding, dilation, ceil_mode):
        kind = type(self).__name__
        self.kernel_size = geometry.pair(kernel_size, f"{kind} kernel_size")
        self.stride = geometry.pair(kernel_size if stride is None else stride, f"{kind} stride")
        self.padding = geometry.padding(padding, f"{kind} padding")
        self.dilation = geometry.pair(dilation, f"{kind} dilation")
        self.ceil_mode = bool(ceil_mode)
        reach = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        if any(2 * p > size for sides, size in zip(self.padding, reach, strict=True) for p in sides):
            what = "kernel_size" if self.dilation == (1, 1) else "the dilated window,"
            raise ConfigError(f"{kind}: padding {padding} exceeds half of {what} {reach}")

    def _build(self, input_shape, rng, dtype):
        c, h, w = input_shape
        return (c, *self._plane(h, w))

    def _plane(self, height, width):
        """Return (H', W'); ShapeError where the window does not fit."""
        window = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return geometry.output_shape(height, width, *window)

    def _receive(self, x):
        x = super()._receive(x)
        self._plane(*x.shape[2:])
        return x

    def _describe(self):
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


@LAYERS.register
class MaxPool2d(_Pool2d):
    """Keeps the largest value of each window.

        y[n,c,i,j] = max over u < kh, v < kw of x[n, c, i*sh - top + u*dh, j*sw - left + v*dw]

    Padding counts as -inf, so it never beats a value. A NaN beats everything, so it stays visible.

    Backward. A small change of x moves y only if x is the winner of its window; then dy/dx = 1:

        dx[n,c,a,b] = sum of dy[n,c,i,j] over the windows (i,j) that x[n,c,a,b] won

    Of equal values the first in row-major order wins: the maximum has no derivative at a tie, and this
    choice is one of its subgradients.

    Parameters
    ----------
    kernel_size, stride, dilation : int or (int, int)
        (height, width) in pixels. ``stride=None`` means ``stride=kernel_size``; ``dilation`` is the distance
        between the pixels of a window.
    padding : int, (int, int) or ((top, bottom), (left, right))
        Each side at most half of the window, so that no window is all padding.
    ceil_mode : bool
        Whether a last window that reaches beyond the image counts: the size below is then rounded up. Such a
        window must start inside of the image or the padding before it.

    Shapes
    ------
    x, dx : (N, C, H, W)
    y, dy : (N, C, H', W') with H' = (H + top + bottom - dh*(kh - 1) - 1) // sh + 1, and W' likewise

    References
    ----------
    Scherer, Mueller, Behnke, "Evaluation of Pooling Operations", ICANN 2010.
    """

    pure, role = True, "max_pool"

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 0,
        *,
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
    ):
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x, training=False):
        x = self._receive(x)
        y, argmax = operations().max_pool2d_forward(x, *self._window(), self.dilation, self.ceil_mode)
        return self._keep(y, argmax, x.shape)

    def backward(self, dy):
        ops, dy, argmax, shape = self._saved(dy)
        return ops.max_pool2d_backward(dy, argmax, shape, *self._window(), self.dilation)

    def _window(self):
        return self.kernel_size, self.stride, self.padding


@LAYERS.register
class AvgPool2d(_Pool2d):
    """Takes the mean of each window.

        y[n,c,i,j] = 1/m * sum over u < kh, v < kw of x[n, c, i*sh - top + u, j*sw - left + v]

    x outside of the image counts as 0. m = kh*kw, less what ``ceil_mode`` lets reach beyond the padding; with
    ``count_include_pad=False`` m counts only the pixels of the window that lie inside the image.

    Backward. Each pixel of a window has the weight 1/m in y:

        dx[n,c,a,b] = sum of dy[n,c,i,j] / m over the windows (i,j) that contain (a,b)

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode
        As in MaxPool2d.
    count_include_pad : bool
        Whether padding counts in the divisor.

    Shapes
    ------
    x, dx : (N, C, H, W)
    y, dy : (N, C, H', W') with H' = (H + top + bottom - kh) // sh + 1, and W' likewise

    References
    ----------
    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    """

    pure, role = True, "average_pool"

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad

    def _window(self):
        return self.kernel_size, self.stride, self.padding, self.count_include_pad

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().avg_pool2d_forward(x, *self._window(), self.ceil_mode), x.shape)

    def backward(self, dy):
        ops, dy, shape = self._saved(dy)
        return ops.avg_pool2d_backward(dy, shape, *self._window())


@LAYERS.register
class GlobalAvgPool2d(Layer):
    """Takes the mean of each plane and drops the plane: (N, C, H, W) becomes (N, C).

        y[n,c] = 1/(H*W) * sum over i,j of x[n,c,i,j]          dx[n,c,i,j] = dy[n,c] / (H*W)

    Shapes
    ------
    x, dx : (N, C, H, W);  y, dy : (N, C)

    References
    ----------
    Lin, Chen, Yan, "Network In Network", arXiv:1312.4400, section 3.2.
    """

    pure = True
    axes = "NCHW"

    def _build(self, input_shape, rng, dtype):
        return input_shape[:1]

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().global_avg_pool_forward(x), x.shape)

    def backward(self, dy):
        ops, dy, shape = self._saved(dy)
        return ops.global_avg_pool_backward(dy, shape)


@LAYERS.register
class GlobalMaxPool2d(Layer):
    """Keeps the largest value of each plane and drops the plane: (N, C, H, W) becomes (N, C).

        y[n,c] = max over i,j of x[n,c,i,j]        dx[n,c,i,j] = dy[n,c] at the winner, 0 elsewhere

    The first of equal values in row-major order wins.

    Shapes
    ------
    x, dx : (N, C, H, W);  y, dy : (N, C)

    References
    ----------
    Oquab, Bottou, Laptev, Sivic, "Is object localization for free?", CVPR 2015.
    """

    pure = True
    axes = "NCHW"

    def _build(self, input_shape, rng, dtype):
        return input_shape[:1]

    def forward(self, x, training=False):
        x = self._receive(x)
        y, argmax = operations().global_max_pool_forward(x)
        return self._keep(y, argmax, x.shape)

    def backward(self, dy):
        ops, dy, argmax, shape = self._saved(dy)
        return ops.global_max_pool_backward(dy, argmax, shape)
