"""What the plan of a convolution depends on: shapes and the window, but not the numbers."""

import math
from typing import NamedTuple

from cnn.fast.blocked import LANES
from cnn.fast.conv.taps import reach
from cnn.fast.machine import bf16

UNBOUNDED = -math.inf, math.inf  # what results are kept between
RELU = 0.0, math.inf


class Window(NamedTuple):
    """How a window moves over an image; pairs are (down, across)."""

    stride: tuple  # pixels
    padding: tuple  # pixels: ((above, below), (left, right))
    dilation: tuple  # pixels from one tap to the next
    groups: int  # of channels that are convolved apart


class Geometry(NamedTuple):
    """A convolution without its numbers: plans are kept by it."""

    x_shape: tuple  # (N, C, H, W)
    weight_shape: tuple  # (K, C / groups, kh, kw)
    out_size: tuple  # (H', W') before a pool behind it
    window: Window
    itemsize: int  # bytes of a number
    stored: tuple = ()  # the same in the array that is read and in that which is written, if not itemsize
    pairs: bool = False  # whether pairs of bfloat16 are multiplied

    @property
    def sizes(self):
        """Bytes of a number that is read, and of one that is written."""
        return self.stored or (self.itemsize, self.itemsize)

    @property
    def blocks(self):
        """Blocks of sixteen images."""
        return -(-self.x_shape[0] // LANES)

    @property
    def channels(self):
        """(in, out) channels of one group."""
        return self.weight_shape[1], self.weight_shape[0] // self.window.groups

    @property
    def kernel(self):
        """(kh, kw)."""
        return self.weight_shape[2:]

    @property
    def pointwise(self):
        """Whether an output depends on one pixel."""
        return self.kernel == (1, 1) and self.window.padding == ((0, 0), (0, 0))

    def axis(self, number):
        """(size, out size, kernel, stride, padding before, dilation) down (0) or across (1)."""
        stride, padding, dilation, _ = self.window
        size, out_size = self.x_shape[2 + number], self.out_size[number]
        return size, out_size, self.kernel[number], stride[number], padding[number][0], dilation[number]


class Planes(NamedTuple):
    """The planes of an array in memory, as the taps of a window count its pixels."""

    height: int  # pixels
    width: int  # pixels
    plane: int  # bytes from one channel to the next
    row: int  # bytes
    pixel: int  # bytes


def planes(height, width, itemsize):
    """The planes of a BlockedArray."""
    pixel = LANES * itemsize
    return Planes(height, width, height * width * pixel, width * pixel, pixel)


class WeightProblem(NamedTuple):
    """What d-weight sums over; pairs are (down, across)."""

    blocks: int  # of sixteen images
    groups: int
    in_channels: int  # of a group
    out_channels: int  # of a group
    x: Planes
    dy: Planes
    kernel: tuple
    stride: tuple
    dilation: tuple
    reaches: tuple  # what ``taps.reach`` says
    before: tuple  # padding
    itemsize: int  # bytes of a sum
    operand: int  # bytes of a number that is multiplied


def weight_problem(geometry):
    """The sums of a d-weight pass. With a window of one pixel those that the stride skips play no part."""
    g, (stride, padding, dilation, groups) = geometry, geometry.window
    operand = bf16.SIZE if g.pairs else g.itemsize
    x, dy, axes = planes(*g.x_shape[2:], operand), planes(*g.out_size, operand), (g.axis(0), g.axis(1))
    if g.pointwise:
        if stride == (1, 1):  # the image is one long column
            x = x._replace(height=x.height * x.width, width=1, row=x.pixel)
            dy = dy._replace(height=x.height, width=1, row=x.pixel)
        else:
            x = x._replace(height=dy.height, width=dy.width, row=stride[0] * x.row, pixel=stride[1] * x.pixel)
        stride, axes = (1, 1), [(size, size, 1, 1, 0, 1) for size in dy[:2]]
    reaches = tuple(reach(*axis) for axis in axes)
    before = padding[0][0], padding[1][0]
    return WeightProblem(
        g.blocks, groups, *g.channels, x, dy, g.kernel, stride, dilation, reaches, before, g.itemsize, operand
    )
