"""A few images: lanes run over sixteen channels, because sixteen images there are not.

``Lanes`` holds images as [N][C/16][H][W][16]: each vector is one pixel of sixteen channels, so that pooling,
scaling and activations are vector code whatever the number of images. Lanes past the last channel hold
finite numbers that are never read. Forward only: this serves prediction. Convolutions are in
``cnn.fast.conv.few`` and ``few_winograd``.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.kernels import activation, elementwise, hardtanh, softplus
from cnn.fast.kernels.pool import Window, counted, end_cell, first_cell, window
from cnn.fast.lanes import Lanes, channel_vector, leave_with  # noqa: F401
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import chunks, launch, table, task
from cnn.fast.machine.tables import Table, bits, from_bits, pointer, reader
from cnn.geometry import output_shape


class Reorder(NamedTuple):
    """Between a plain array and Lanes; a piece is one image. A program patches the first two fields."""

    source: int  # address
    target: int  # address
    channels: int
    pixels: int  # of a plane
    step: int  # numbers from one image of the plain array to the next


class Scale(NamedTuple):
    """A piece is one plane of sixteen channels."""

    x: int  # address
    y: int  # address
    factor: int  # address of a number a channel, filled up to whole vectors
    shift: int  # address, likewise
    pixels: int  # of a plane
    blocks: int  # of sixteen channels
    parameter: int  # bits of a float64, of the activation


reorder_of, scale_of = reader(Reorder), reader(Scale)


@cache
def _enter_task(size):
    @task
    def enter(index, thread, params):
        p = reorder_of(params)
        plain, lanes = pointer(p.source, size), pointer(p.target, size)
        for c in range(p.channels):
            a = index * p.step + c * p.pixels
            b = (index * ((p.channels + 15) // 16) + c // 16) * p.pixels * 16 + c % 16
            for i in range(p.pixels):
                lanes[b + i * 16] = plain[a + i]

    return enter


@cache
def _leave_task(size):
    @task
    def leave(index, thread, params):
        p = reorder_of(params)
        lanes, plain = pointer(p.source, size), pointer(p.target, size)
        for c in range(p.channels):
            a = index * p.step + c * p.pixels
            b = (index * ((p.channels + 15) // 16) + c // 16) * p.pixels * 16 + c % 16
            for i in range(p.pixels):
                plain[a + i] = lanes[b + i * 16]

    return leave


def enter(x):
    """A contiguous NumPy array as ``Lanes``."""
    y = Lanes(x.shape, x.dtype)
    values = table(Reorder(x.ctypes.data, y.address, y.shape[1], y.pixels, y.shape[1] * y.pixels))
    launch(_enter_task(x.itemsize), len(x), values)
    return y


def leave(x, plain):
    """Copy ``Lanes`` into a contiguous NumPy array of their shape."""
    values = table(Reorder(x.address, plain.ctypes.data, x.shape[1], x.pixels, x.shape[1] * x.pixels))
    launch(_leave_task(x.dtype.itemsize), len(x), values)


leave_with(leave)


def flatten(x):
    """(N, C, H, W) to (N, F), features in the order C, H, W."""
    if x.ndim == 2:
        return x
    n, c = x.shape[:2]
    y = Lanes((n, c * x.pixels), x.dtype)
    values = table(Reorder(x.address, y.address, c, x.pixels, y.blocks * LANES))
    launch(_leave_task(x.dtype.itemsize), n, values)
    return y


class Pool(NamedTuple):
    """A piece is one row of windows of sixteen channels of an image."""

    x: int  # address
    y: int  # address
    include: int  # whether padding counts in the divisor of a mean
    window: Window


pool_of = reader(Pool)


@cache
def _pool_task(size, largest):
    @task
    def pool(index, thread, params):
        p = pool_of(params)
        x, y, w = pointer(p.x, size), pointer(p.y, size), p.window
        source, top = index // w.oh * w.height * w.width * 16, index % w.oh * w.sh - w.top
        rows = counted(top, w.kh, w.height, w.top, w.bottom, p.include)
        for q in range(w.ow):
            left = q * w.sw - w.left
            first, end = first_cell(left, w.dw), end_cell(left, w.dw, w.kw, w.width)
            best, total = v.zeros(x) - np.inf, v.zeros(x)
            for u in range(first_cell(top, w.dh), end_cell(top, w.dh, w.kh, w.height)):
                row = source + ((top + u * w.dh) * w.width + left) * 16
                for i in range(row + first * w.dw * 16, row + end * w.dw * 16, w.dw * 16):
                    value = v.load(x, i)
                    if largest:
                        # A NaN wins against all, and nothing wins against a NaN.
                        wins = v.either(v.greater(value, best), v.unordered(value, value))
                        best = v.select(wins, value, best)
                    else:
                        total = total + value
            cells = rows * counted(left, w.kw, w.width, w.left, w.right, p.include)
            v.store(y, (index * w.ow + q) * 16, best if largest else total / max(cells, 1))

    return pool


def pool(x, largest, kernel_size, stride, padding, include=True, dilation=(1, 1), ceil_mode=False):
    """The largest value of each window, or its mean (``include``: padding counts in the divisor)."""
    n, c = x.shape[:2]
    out = output_shape(*x.plane, kernel_size, stride, padding, dilation, ceil_mode)
    y = Lanes((n, c, *out), x.dtype)
    shape = window(x.plane, out, kernel_size, stride, padding, dilation)
    values = Table(Pool(x.address, y.address, include, shape))
    launch(_pool_task(x.dtype.itemsize, largest), n * x.blocks * out[0], values.array)
    return y


def pool_all(x, largest):
    """The largest value or the mean of each plane, as features."""
    y = pool(x, largest, x.plane, x.plane, ((0, 0), (0, 0)))
    y.shape = y.shape[:2]
    return y


@cache
def _scale_task(kind, size):
    @task
    def scale(index, thread, params):
        p = scale_of(params)
        x, y = pointer(p.x, size), pointer(p.y, size)
        block, parameter = index % p.blocks, from_bits(p.parameter)
        factor = v.load(pointer(p.factor, size), block * 16)
        shift = v.load(pointer(p.shift, size), block * 16)
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            value = v.fma(v.load(x, i), factor, shift)
            v.store(y, i, activation.activate(kind, value, parameter))

    return scale


def scale_channels(x, factor, shift, kind, parameter):
    """f(x[n,c,...] * factor[c] + shift[c]) for an activation f of ``cnn.fast.kernels.activation``."""
    y = Lanes(x.shape, x.dtype)
    ends = x.address, y.address, factor.ctypes.data, shift.ctypes.data
    values = table(Scale(*ends, x.pixels, x.blocks, bits(parameter)))
    launch(_scale_task(kind, x.dtype.itemsize), len(x.data) * x.blocks, values)
    return y


def activate(x, kind, parameter):
    """An activation of ``cnn.fast.kernels.activation``."""
    y = Lanes(x.shape, x.dtype)
    size = x.data.size
    values = table(activation.Pointwise(x.address, y.address, size, bits(parameter)))
    launch(activation.forward_task(kind, x.dtype.itemsize), chunks(size), values)
    return y


def add(a, b, relu=False):
    """a + b, or max(0, a + b)."""
    y = Lanes(a.shape, a.dtype)
    size = a.data.size
    values = table(elementwise.Sum(a.address, b.address, y.address, size, relu))
    launch(elementwise.add_task(a.dtype.itemsize), chunks(size), values)
    return y


def _activation(name):
    def forward(x, *arguments):
        return activate(x, *activation.kind_of(name, *map(float, arguments)))

    forward.__doc__ = f"``{name}_forward`` on Lanes."
    return forward


relu_forward, sigmoid_forward, tanh_forward = map(_activation, ("relu", "sigmoid", "tanh"))
leaky_relu_forward, silu_forward, elu_forward = map(_activation, ("leaky_relu", "silu", "elu"))
hardsigmoid_forward, hardswish_forward = map(_activation, ("hardsigmoid", "hardswish"))
relu6_forward = _activation("relu6")


def gelu_forward(x, tanh):
    """``gelu_forward`` on Lanes."""
    return activate(x, *activation.kind_of("gelu_tanh" if tanh else "gelu"))


def hardtanh_forward(x, low, high):
    """``hardtanh_forward`` on Lanes."""
    y, size = Lanes(x.shape, x.dtype), x.data.size
    values = table(hardtanh.Hardtanh(x.address, y.address, 0, size, bits(low), bits(high)))
    launch(hardtanh.hardtanh_task(x.dtype.itemsize), chunks(size), values)
    return y


def scale(x, factor):
    """``scale`` on Lanes."""
    y, size = Lanes(x.shape, x.dtype), x.data.size
    values = table(elementwise.Scale(x.address, y.address, size, bits(factor)))
    launch(elementwise.scale_task(x.dtype.itemsize), chunks(size), values)
    return y


def softplus_forward(x, beta, threshold):
    """``softplus_forward`` on Lanes."""
    y, size = Lanes(x.shape, x.dtype), x.data.size
    values = table(softplus.Softplus(x.address, y.address, 0, size, bits(beta), bits(threshold)))
    launch(softplus.softplus_task(x.dtype.itemsize), chunks(size), values)
    return y


def max_pool2d_forward(x, kernel_size, stride, padding, dilation=(1, 1), ceil_mode=False):
    """``max_pool2d_forward`` on Lanes, without the winners."""
    window = kernel_size, stride, padding
    return pool(x, True, *window, dilation=dilation, ceil_mode=ceil_mode), None


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad, ceil_mode=False):
    """``avg_pool2d_forward`` on Lanes."""
    return pool(x, False, kernel_size, stride, padding, count_include_pad, ceil_mode=ceil_mode)


def global_max_pool_forward(x):
    """``global_max_pool_forward`` on Lanes, without the winners."""
    return pool_all(x, True), None


def global_avg_pool_forward(x):
    """``global_avg_pool_forward`` on Lanes."""
    return pool_all(x, False)


#: Operations of ``cnn.fast.kernels`` that take Lanes as well.
OPERATIONS = (
    "relu_forward", "leaky_relu_forward", "sigmoid_forward", "tanh_forward", "silu_forward", "gelu_forward",
    "max_pool2d_forward", "avg_pool2d_forward", "global_max_pool_forward", "global_avg_pool_forward",
    "elu_forward", "hardsigmoid_forward", "hardswish_forward", "flatten",
    "hardtanh_forward", "relu6_forward", "scale", "softplus_forward",
)  # fmt: skip
