"""The way back through the end of a residual block, in one pass over memory.

A block ends with y = max(0, n(x) + shortcut), n a normalisation. The gradient of y is itself a sum, of what
the body and the shortcut of the block behind hand back. One pass adds both, applies the derivative of ReLU
and sums what the normalisation needs:

    g = (a + b) where y > 0, else 0        of each channel: sum of g, sum of g * (x - mean)

Passes over memory of a training step of a block u -> convolution -> p -> normalisation, ReLU, convolution ->
x -> n, + u, ReLU -> y, in arrays of its size (ResNet-20's first blocks, 128 images: 8.4 MB in float32, half
of that in bfloat16); dp is the gradient by p, q what ReLU gives, which is not stored:

    convolution, and statistics of what it stores    read u, write p              2     17 MB
    convolution of q, computed while p is read       read p, write x              2     17 MB
    normalisation, sum, ReLU                         read x, u; write y           3     25 MB
    this pass                                        read a, b, y, x; write g     5     42 MB
    normalisation                                    read g, x; write dx          3     25 MB
    convolution, by its weight; q as before          read dx, p                   2     17 MB
    convolution, by its input                        read dx, write dq            2     17 MB
    ReLU and sums of the normalisation               read dq, p                   2     17 MB
    ReLU, normalisation                              read dq, p; write dp         3     25 MB
    convolution, by its weight                       read dp, u                   2     17 MB
    convolution, by its input                        read dp, write a             2     17 MB
                                                                                 28    235 MB

The sums of the fourth pass from the end could be taken where the convolution stores dq. On AVX2 that lost: to
read p tile by tile cost 1.3, 0.7 and 0.4 ms (16, 32, 64 channels of ResNet-20) where the pass takes 0.9, 0.5
and 0.4 ms, whether the next pixels were prefetched or not.
"""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.activation import RELU, pull_back
from cnn.fast.kernels.arguments import parameter
from cnn.fast.kernels.norm import parameter_size
from cnn.fast.kernels.shared import BlockSums
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, launch, table, task
from cnn.fast.machine.tables import pointer, reader


class End(NamedTuple):
    """A piece is one plane of sixteen images."""

    a: int  # address
    b: int  # address
    y: int  # address
    g: int  # address
    x: int  # address
    mean: int  # address
    planes: int  # address of float64 (blocks, channels, 2): sums of g and of g * (x - mean) of each plane
    channels: int
    height: int
    width: int


end_of = reader(End)


@functools.cache
def _backward_task(itemsize, adds, sums):
    """``adds``: the gradient has two parts; ``sums``: there is a normalisation."""
    real = parameter_size(itemsize)

    @task
    def backward(index, thread, params):
        p = end_of(params)
        a, b, y = pointer(p.a, itemsize), pointer(p.b, itemsize), pointer(p.y, itemsize)
        g, x, planes = pointer(p.g, itemsize), pointer(p.x, itemsize), pointer(p.planes, 8)
        first, of_g, of_product = index * p.height * p.width * 16, v.zeros(a), v.zeros(a)
        mean = pointer(p.mean, real)[index % p.channels] if sums else np.float32(0)
        for r in range(p.height):
            row, row_product = v.zeros(a), v.zeros(a)
            for q in range(p.width):
                i = first + (r * p.width + q) * 16
                value = v.load(a, i)
                if adds:
                    value = value + v.load(b, i)
                value = pull_back(RELU, value, v.load(y, i), 0.0)
                v.store(g, i, value)
                if sums:
                    row = row + value
                    row_product = v.fma(value, v.load(x, i) - mean, row_product)
            if sums:
                of_g = of_g + row
                of_product = of_product + row_product
        if sums:
            planes[2 * index] = v.total(of_g)
            planes[2 * index + 1] = v.total(of_product)

    return backward


def residual_backward(parts, y, x=None, mean=None):
    """Return (g, BlockSums for ``norm.batch_norm_backward``, or None without a normalisation).

    ``parts``: one or two arrays whose sum is the gradient of y; ``x`` and ``mean``: of the normalisation.
    """
    y = blocked.as_stored(y)
    a, *others = (blocked.as_stored(part, y) for part in parts)
    g = blocked.empty_like(y)
    blocks, channels, height, width, _ = y.buffer.shape
    ends = a.address, others[0].address if others else 0, y.address, g.address
    planes, sums = None, (0, 0, 0)
    if x is not None:
        x, planes = blocked.as_stored(x, y), BlockSums(x, 2)
        sums = x.address, address(parameter(mean, x.dtype)), planes.own
    values = table(End(*ends, *sums, channels, height, width))
    launch(_backward_task(y.itemsize, bool(others), x is not None), blocks * channels, values)
    return g, planes
