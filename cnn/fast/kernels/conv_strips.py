"""Convolution over strips of images (``strips``): as over images, once the rows that windows reach are there.

``geometry`` is the layer's: stride, padding, dilation, groups. Above and below there is no padding left: a
row that no image has is there as zeros.
"""

from cnn.fast.kernels import conv
from cnn.fast.kernels.strips import Sliding, strips_for, strips_of
from cnn.geometry import output_shape


def sliding(x, kernel, stride, padding, dilation, groups=1, halves=False):
    """The Sliding for windows over ``x``, or None: over whole images.

    ``halves``: the result is for 2x2 windows; what these give is then best in strips, half as many rows each.
    """
    source, by = strips_of(x), 2 if halves else 1
    plane = output_shape(source.height, x.shape[3], kernel, stride, padding, dilation)
    target = strips_for(x.dtype, source.images, (plane[0] // by, plane[1] // by))
    return target and Sliding(source, target.times(by), kernel[0], stride[0], padding[0][0], dilation[0])


def inside(geometry, padding=(0, 0)):
    """The geometry with other padding above and below."""
    stride, (_, sides), dilation, groups = geometry
    return stride, (padding, sides), dilation, groups


def forward(slide, x, weight, bias, geometry, measured=False, **options):
    """Return the convolution of what ``slide`` read; see ``conv.conv2d_forward``."""
    measured = measured and slide.target.whole == slide.target.rows  # or rows too many would count
    y = conv.conv2d_forward(x, weight, bias, *inside(geometry), measured=measured, **options)
    y.strips = slide.target
    return y


def backward_input(slide, dy, weight, x_shape, geometry):
    """Return the gradient by the array in strips; ``x_shape``: of what was read of it."""
    dy, rows, padding = slide.gradient(dy)
    shape = x_shape[0], x_shape[1], rows, x_shape[3]
    return slide.give_back(conv.conv2d_backward_input(dy, weight, shape, *inside(geometry, padding)))
