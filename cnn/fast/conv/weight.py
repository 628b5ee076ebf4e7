"""The weight gradient of a direct convolution: picks the form for a geometry."""

from cnn.fast.conv import direct, dots, panels
from cnn.fast.conv.geometry import Geometry, weight_problem
from cnn.fast.machine.jit import plans


def pools_within(geometry):
    """Whether d-weight can fill in the gradients of 2x2 windows behind the convolution, in the same order."""
    in_channels, out_channels = geometry.channels
    return not geometry.pointwise and not panels.suits(out_channels, in_channels, geometry.itemsize)


@plans
def weight_plan(geometry, pooled=False):
    """The plan of a d-weight pass. ``pooled``: only where ``pools_within``."""
    problem = weight_problem(geometry)
    if panels.suits(problem.out_channels, problem.in_channels, problem.itemsize):
        return panels.PanelPlan(problem)
    return dots.DotPlan(problem, pooled)


def suits_pairs(weight_shape, stride, groups):
    """Whether pairs of bfloat16 may be multiplied: of two images, or of two pixels that are neighbours in x.

    The latter where x is rounded to be multiplied in pairs by the forward pass as well.
    """
    if panels.suits(weight_shape[0] // groups, weight_shape[1], 4):
        return True
    return groups == 1 and stride[1] == 1 and direct.suits_pairs(weight_shape, groups)


def backward_weight(dy, x, dweight, window, pairs=False):
    """dweight[k,c,u,v] += sum of dy[n,k,i,j] * x[n,c,...]; ``dweight`` contiguous.

    ``pairs``: dy and x are bfloat16 in memory and multiplied as such.
    """
    geometry = Geometry(x.shape, dweight.shape, dy.shape[2:], window, x.dtype.itemsize, pairs=pairs)
    weight_plan(geometry).run(dy, x, dweight)


def backward_weight_pooled(dy, argmax, x, dweight, out_size, window):
    """Like ``backward_weight``, dy being that of 2x2 windows behind the convolution, if ``pools_within``.

    ``argmax`` says which cell of a window got the gradient; ``out_size`` is (h, w) before pooling.
    """
    geometry = Geometry(x.shape, dweight.shape, out_size, window, x.dtype.itemsize)
    weight_plan(geometry, True).run(dy, x, dweight, argmax)
