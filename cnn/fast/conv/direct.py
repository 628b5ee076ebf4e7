"""Direct convolution of any geometry on blocked arrays: forward and d-input (d-weight: ``weight.py``).

    forward    y[n, k, i, j]  = bias[k] + sum over c, u, v of w[k, c, u, v] * x[n, c, i*sh - top + u*dh, ...]
    d-input    dx[n, c, p, q] = sum over k, u, v of w[k, c, u, v] * dy[n, k, (p + top - u*dh) / sh, ...]

Both are one kernel, ``gather.py``, or where the window is one pixel ``pointwise.py``.
"""

from cnn.fast.conv.gather import GatherPlan, Problem
from cnn.fast.conv.geometry import UNBOUNDED, Geometry, Planes, planes
from cnn.fast.conv.pack import Strides
from cnn.fast.conv.pairs import MOST_TAPS
from cnn.fast.conv.pointwise import PointwisePlan
from cnn.fast.conv.taps import Axis
from cnn.fast.machine.jit import plans


@plans
def forward_plan(geometry, pooled=False):
    """The plan of a forward pass."""
    g, (stride, *_) = geometry, geometry.window
    source = planes(*g.x_shape[2:], g.sizes[0])
    if g.pointwise and g.channels[0] > 4 and not pooled:
        # without the pixels that the stride passes over
        source = Planes(*g.out_size, source.plane, stride[0] * source.row, stride[1] * source.pixel)
        return PointwisePlan(g, g.channels, source, g.out_size)
    axes = Axis.forward(*g.axis(0)), Axis.forward(*g.axis(1))
    numbers = g.itemsize, *g.sizes, g.pairs, g.ceiling
    problem = Problem(g.blocks, g.window.groups, *g.channels, source, g.out_size, *axes, g.kernel, *numbers)
    return GatherPlan(problem, pooled)


@plans
def input_plan(geometry):
    """The plan of a d-input pass: dy is gathered."""
    g, channels = geometry, geometry.channels[::-1]
    source, in_size, numbers = planes(*g.out_size, g.sizes[0]), g.x_shape[2:], (g.itemsize, *g.sizes, g.pairs)
    if g.pointwise and g.window.stride == (1, 1):
        return PointwisePlan(g, channels, source, in_size)
    axes = Axis.backward(*g.axis(0)), Axis.backward(*g.axis(1))
    problem = Problem(g.blocks, g.window.groups, *channels, source, in_size, *axes, g.kernel, *numbers)
    return GatherPlan(problem, False)


def _strides(weight, groups, transposed=False):
    k, c, kh, kw = weight.shape
    group, out, channel = k // groups * c * kh * kw, c * kh * kw, kh * kw
    return Strides(group, channel, out) if transposed else Strides(group, out, channel)


def suits_pairs(weight_shape, groups, transposed=False):
    """Whether pairs of bfloat16 are multiplied: of two channels, for four output channels at least.

    ``transposed``: for d-input.
    """
    k, c, kh, kw = weight_shape
    out, channels = (c, k // groups) if transposed else (k // groups, c)
    return channels > 1 and out >= 4 and kh * kw <= MOST_TAPS


def forward(x, weight, bias, out, window, bounds=UNBOUNDED, pairs=False, keep=None):
    """out = weight * x + bias, kept between the ``bounds``: blocked arrays of one dtype, a contiguous weight.

    Of float32 x and out may be bfloat16 in memory, each for itself. ``pairs``: products in bfloat16.
    ``keep``: for weights that seldom change; see ``pack.Packed``.
    """
    (floor, ceiling), sizes = bounds, (x.dtype.itemsize, (x.itemsize, out.itemsize))
    geometry = Geometry(x.shape, weight.shape, out.shape[2:], window, *sizes, pairs, ceiling)
    forward_plan(geometry).run(x, weight, _strides(weight, window.groups), bias, out, floor, keep=keep)


def forward_pooled(x, weight, bias, out, argmax, out_size, window, pairs=False):
    """out = max(0, largest of each 2x2 window of weight * x + bias), which is ``out_size`` large.

    ``argmax``: which cell of the window it was, 4 where none is positive, as ``pool.max_pool2d_forward``.
    """
    stored = x.itemsize, out.itemsize
    geometry = Geometry(x.shape, weight.shape, out_size, window, x.dtype.itemsize, stored, pairs)
    plan = forward_plan(geometry, True)
    plan.run(x, weight, _strides(weight, window.groups), bias, out, argmax=argmax)


def backward_input(dy, weight, dx, window, pairs=False):
    """dx = the transpose of ``forward`` applied to dy; in memory both may be bfloat16."""
    stored = dy.itemsize, dx.itemsize
    geometry = Geometry(dx.shape, weight.shape, dy.shape[2:], window, dy.dtype.itemsize, stored, pairs)
    input_plan(geometry).run(dy, weight, _strides(weight, window.groups, True), None, dx)
