"""Pools by themselves: over strips of images where their input is in strips."""

import math

from cnn.fast.kernels import conv_strips, pool
from cnn.fast.step import Normalised, Single, array, computed


class _Pool(Single):
    """Windows at the edge of a strip read rows of the next one as well."""

    _outside = 0.0  # what stands for rows that no image has

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        self._dilation = getattr(self._layer, "dilation", (1, 1))

    def forward(self, x, training):
        slide = self._sliding(x)
        if slide is None:
            y = super().forward(x, training)
            self.kept = None, self.kept
            return y
        normalisation = (x.numbers, *x.kind) if type(x) is Normalised else None
        x = slide.windows.read(x.x if normalisation else computed(x), self._outside, normalisation)
        y, more = self._pool(x)
        y.strips = slide.target
        self.kept = slide, (x.shape, more)
        return y

    def backward(self, dy, input_gradient, over):
        slide, self.kept = self.kept
        if slide is None:
            return super().backward(dy, input_gradient, over)
        return slide.windows.give_back(self._spread(array(dy, slide.target), *self.kept))

    def _sliding(self, x):
        """Return the Sliding, or None for whole images: so where a window could have no row of an image."""
        layer = self._layer
        if x.strips is None or not self._fits():
            return None
        slide = conv_strips.sliding(x, layer.kernel_size, layer.stride, layer.padding, self._dilation)
        return slide if slide and slide.target.whole == slide.target.rows else None

    def _window(self):
        """The window on what was read, where padding above and below is there."""
        return self._layer.kernel_size, self._layer.stride, ((0, 0), self._layer.padding[1])


class MaxPool(_Pool):
    """Maxima."""

    _outside = -math.inf

    def _fits(self):
        return not getattr(self._layer, "ceil_mode", False)

    def _pool(self, x):
        return pool.max_pool2d_forward(x, *self._window(), self._dilation)

    def _spread(self, dy, shape, argmax):
        return pool.max_pool2d_backward(dy, argmax, shape, *self._window(), self._dilation)


class AveragePool(_Pool):
    """Means, where rows of padding count like others."""

    def _fits(self):
        layer = self._layer
        return not layer.ceil_mode and (layer.count_include_pad or layer.padding[0] == (0, 0))

    def _pool(self, x):
        return pool.avg_pool2d_forward(x, *self._window(), self._layer.count_include_pad), None

    def _spread(self, dy, shape, _):
        return pool.avg_pool2d_backward(dy, shape, *self._window(), self._layer.count_include_pad)
