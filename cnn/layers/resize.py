"""Planes made larger or smaller without arithmetic: Upsample and ZeroPad2d."""

from typing import Literal

from cnn import geometry
from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.layer import LAYERS, Layer


@LAYERS.register
class Upsample(Layer):
    """Repeats each pixel: nearest-neighbour upsampling by whole factors.

        y[n,c,i,j] = x[n, c, i // sh, j // sw]

    Backward. A pixel is copied into a block of sh x sw outputs, and collects what comes back from all:

        dx[n,c,a,b] = sum over u < sh, v < sw of dy[n, c, a*sh + u, b*sw + v]

    Parameters
    ----------
    scale_factor : int or (int, int)
        (sh, sw), for height and width.
    mode : "nearest"

    Shapes
    ------
    x, dx : (N, C, H, W);  y, dy : (N, C, sh*H, sw*W)

    References
    ----------
    Odena, Dumoulin, Olah, "Deconvolution and Checkerboard Artifacts", distill.pub, 2016.
    """

    pure = True
    axes = "NCHW"

    def __init__(self, *, scale_factor: int | tuple[int, int], mode: Literal["nearest"] = "nearest"):
        self.scale_factor = geometry.pair(scale_factor, "Upsample scale_factor")
        if mode != "nearest":
            raise ConfigError(f'Upsample mode: expected "nearest", found {mode!r}')
        self.mode = mode

    def _build(self, input_shape, rng, dtype):
        (c, h, w), (sh, sw) = input_shape, self.scale_factor
        return (c, h * sh, w * sw)

    def forward(self, x, training=False):
        return self._keep(operations().upsample_nearest_forward(self._receive(x), self.scale_factor))

    def backward(self, dy):
        ops, dy = self._saved(dy)
        return ops.upsample_nearest_backward(dy, self.scale_factor)

    def _describe(self):
        return f"scale_factor={self.scale_factor}"


@LAYERS.register
class ZeroPad2d(Layer):
    """Puts zeros around each plane; a negative number cuts off as many rows or columns instead.

        y[n,c,i,j] = x[n, c, i - top, j - left], 0 outside of x

    Backward. Each pixel that is still there was copied once; the others have no influence:

        dx[n,c,a,b] = dy[n, c, a + top, b + left], 0 where the pixel was cut off

    Parameters
    ----------
    padding : int or (int, int, int, int)
        Pixels: one number for all sides, or (left, right, top, bottom), in PyTorch's order.

    Shapes
    ------
    x, dx : (N, C, H, W);  y, dy : (N, C, H + top + bottom, W + left + right)

    Errors
    ------
    ShapeError : nothing would be left of the plane.

    References
    ----------
    Dumoulin, Visin, "A guide to convolution arithmetic", arXiv:1603.07285.
    """

    pure = True
    axes = "NCHW"

    def __init__(self, padding: int | tuple[int, int, int, int]):
        sides = padding if isinstance(padding, (list, tuple)) else (padding,) * 4
        if len(sides) != 4 or any(isinstance(s, bool) or not isinstance(s, int) for s in sides):
            raise ConfigError(
                "ZeroPad2d padding: expected an integer or 4 of them (left, right, top, bottom), "
                f"found {padding!r}"
            )
        left, right, top, bottom = sides
        self.padding = ((top, bottom), (left, right))

    def _build(self, input_shape, rng, dtype):
        return (input_shape[0], *self._plane(*input_shape[1:]))

    def _plane(self, height, width):
        """Return (H', W')."""
        plane = height + sum(self.padding[0]), width + sum(self.padding[1])
        if min(plane) < 1:
            raise ShapeError(f"{self.label}: padding {self.padding} leaves a plane of {plane} pixels")
        return plane

    def forward(self, x, training=False):
        x = self._receive(x)
        self._plane(*x.shape[2:])
        return self._keep(operations().pad2d_forward(x, self.padding))

    def backward(self, dy):
        ops, dy = self._saved(dy)
        return ops.pad2d_backward(dy, self.padding)

    def _describe(self):
        return f"{self.padding}"
