"""Group normalisation; with one group, and a weight for each element, layer normalisation.

Sixteen images lie side by side, so their statistics are vectors: a piece is one group of a block of images.
"""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.arguments import filled, parameter, sums_for
from cnn.fast.kernels.shared import micro_batches
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, launch, table, task
from cnn.fast.machine.tables import bits, from_bits, pointer, reader


class Groups(NamedTuple):
    """A piece is one group of a block of sixteen images."""

    x: int  # address
    dy: int  # address; backward only
    out: int  # address of y, or of dx
    mean: int  # address, (N, G) blocked
    rstd: int  # address, (N, G) blocked
    weight: int  # address
    bias: int  # address; forward only
    step: int  # from the weight of a pixel to that of the next: 1, or 0 where a channel has one weight
    images: int
    channels: int  # of a group
    groups: int
    height: int
    width: int
    eps: int  # bits of a float64


class Sums(NamedTuple):
    """dweight += sum of dy * (x - mean) * rstd, dbias += sum of dy; a piece is one channel."""

    x: int  # address
    dy: int  # address
    mean: int  # address, (N, G) blocked
    rstd: int  # address, (N, G) blocked
    dweight: int  # address, 0 where it is not wanted
    dbias: int  # address, likewise
    blocks: int
    channels: int  # of the whole array
    groups: int
    height: int
    width: int


groups_of, sums_of = reader(Groups), reader(Sums)


@functools.cache
def _forward_task(itemsize):
    @task
    def forward(index, thread, params):
        p = groups_of(params)
        x, y = pointer(p.x, itemsize), pointer(p.out, itemsize)
        weight, bias = pointer(p.weight, itemsize), pointer(p.bias, itemsize)
        pixels, count = p.height * p.width, float(p.channels * p.height * p.width)
        first = index * p.channels * pixels * 16
        whole = v.zeros(x)
        for row in range(p.channels * p.height):
            of_row = v.zeros(x)
            for q in range(p.width):
                of_row = of_row + v.load(x, first + (row * p.width + q) * 16)
            whole = whole + of_row
        mean = whole / count
        rest, squares = v.zeros(x), v.zeros(x)
        for row in range(p.channels * p.height):
            of_row, of_squares = v.zeros(x), v.zeros(x)
            for q in range(p.width):
                centred = v.load(x, first + (row * p.width + q) * 16) - mean
                of_row = of_row + centred
                of_squares = v.fma(centred, centred, of_squares)
            rest = rest + of_row
            squares = squares + of_squares
        correction = rest / count  # what rounding the mean left
        var = squares / count - correction * correction
        rstd = 1.0 / v.root(v.select(v.greater(0.0, var), 0.0, var) + from_bits(p.eps))
        mean = mean + correction
        v.store(pointer(p.mean, itemsize), index * 16, mean)
        v.store(pointer(p.rstd, itemsize), index * 16, rstd)
        for c in range(p.channels):
            channel = index % p.groups * p.channels + c
            for i in range(pixels):
                k = channel * pixels + i if p.step else channel
                o = first + (c * pixels + i) * 16
                v.store(y, o, v.fma((v.load(x, o) - mean) * rstd, weight[k], bias[k]))

    return forward


@functools.cache
def _backward_task(itemsize):
    """dx = rstd * (g - mean of g - xhat * mean of g * xhat) with g = dy * weight, means over the group."""

    @task
    def backward(index, thread, params):
        p = groups_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.out, itemsize)
        weight = pointer(p.weight, itemsize)
        mean, rstd = (
            v.load(pointer(p.mean, itemsize), index * 16),
            v.load(pointer(p.rstd, itemsize), index * 16),
        )
        pixels, count = p.height * p.width, float(p.channels * p.height * p.width)
        first, channel = index * p.channels * pixels * 16, index % p.groups * p.channels
        of_g, of_product = v.zeros(x), v.zeros(x)
        for row in range(p.channels * p.height):
            row_g, row_product = v.zeros(x), v.zeros(x)
            for q in range(p.width):
                i = row * p.width + q
                k = channel * pixels + i if p.step else channel + row // p.height
                g = v.load(dy, first + i * 16) * weight[k]
                row_g = row_g + g
                row_product = v.fma(g, (v.load(x, first + i * 16) - mean) * rstd, row_product)
            of_g = of_g + row_g
            of_product = of_product + row_product
        of_g, of_product = of_g / count, of_product / count
        valid = v.first_lanes(p.images - index // p.groups * 16)
        for i in range(p.channels * pixels):
            k = channel * pixels + i if p.step else channel + i // pixels
            normalized = (v.load(x, first + i * 16) - mean) * rstd
            value = rstd * (v.load(dy, first + i * 16) * weight[k] - of_g - normalized * of_product)
            v.store(dx, first + i * 16, v.select(valid, value, 0.0))

    return backward


@functools.cache
def _channel_sums_task(itemsize):
    """For one weight and one bias a channel."""
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def total(c, thread, params):
        p = sums_of(params)
        x, dy = pointer(p.x, itemsize), pointer(p.dy, itemsize)
        mean, rstd = pointer(p.mean, itemsize), pointer(p.rstd, itemsize)
        of_dy, of_product = 0.0, 0.0
        for block in range(p.blocks):
            first = (block * p.channels + c) * p.height * p.width * 16
            group = (block * p.groups + c // (p.channels // p.groups)) * 16
            center, scale = v.load(mean, group), v.load(rstd, group)
            plane, products = v.zeros(x), v.zeros(x)
            for r in range(p.height):
                row, row_products = v.zeros(x), v.zeros(x)
                for q in range(p.width):
                    i = first + (r * p.width + q) * 16
                    row = row + v.load(dy, i)
                    row_products = v.fma(v.load(dy, i), (v.load(x, i) - center) * scale, row_products)
                plane = plane + row
                products = products + row_products
            of_dy += float(v.total(plane))
            of_product += float(v.total(products))
        if p.dweight != 0:
            pointer(p.dweight, itemsize)[c] += real(of_product)
        if p.dbias != 0:
            pointer(p.dbias, itemsize)[c] += real(of_dy)

    return total


@functools.cache
def _element_sums_task(itemsize):
    """For one weight and one bias an element."""
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def total(c, thread, params):
        p = sums_of(params)
        x, dy = pointer(p.x, itemsize), pointer(p.dy, itemsize)
        mean, rstd, pixels = pointer(p.mean, itemsize), pointer(p.rstd, itemsize), p.height * p.width
        for k in range(c * pixels, (c + 1) * pixels):
            of_dy, of_product = v.zeros(x), v.zeros(x)
            for block in range(p.blocks):
                i = (block * p.channels * pixels + k) * 16
                group = (block * p.groups + c // (p.channels // p.groups)) * 16
                normalized = (v.load(x, i) - v.load(mean, group)) * v.load(rstd, group)
                of_dy = of_dy + v.load(dy, i)
                of_product = v.fma(v.load(dy, i), normalized, of_product)
            if p.dweight != 0:
                pointer(p.dweight, itemsize)[k] += real(v.total(of_product))
            if p.dbias != 0:
                pointer(p.dbias, itemsize)[k] += real(v.total(of_dy))

    return total


def _affine(x, weight, bias):
    """(weight, bias, step) as tasks read them; weight None is 1 and bias None is 0."""
    given = weight if weight is not None else bias
    shape = x.shape[1:2] if given is None else given.shape
    weight = filled(shape, x.dtype, 1) if weight is None else parameter(weight, x.dtype)
    bias = filled(shape, x.dtype, 0) if bias is None else parameter(bias, x.dtype)
    return weight, bias, int(len(shape) > 1)


def group_norm_forward(x, num_groups, weight, bias, eps):
    """Return (y, mean, rstd): each group of C / num_groups channels of an image gets mean 0 and variance 1.

        mean[n,g] = sum of x / M,    rstd[n,g] = 1 / sqrt(sum of (x - mean)^2 / M + eps)
        y = (x - mean) * rstd * weight + bias

    x (N, C, H, W) or (N, F); M values a group. weight and bias are (C,), or of the shape of one image (which
    with one group is layer normalisation), or None.
    """
    x = blocked.as_blocked(x)
    y, (n, c) = blocked.empty(x.shape, x.dtype), x.shape[:2]
    mean, rstd = blocked.empty((n, num_groups), x.dtype), blocked.empty((n, num_groups), x.dtype)
    weight, bias, step = _affine(x, weight, bias)
    ends = x.address, 0, y.address, mean.address, rstd.address, address(weight), address(bias)
    sizes = step, n, c // num_groups, num_groups, *x.buffer.shape[2:4]
    values = table(Groups(*ends, *sizes, bits(eps)))
    launch(_forward_task(x.dtype.itemsize), len(x.buffer) * num_groups, values)
    return y, mean, rstd


def group_norm_backward(dy, x, mean, rstd, num_groups, weight, dweight, dbias):
    """Return dx and add to dweight and dbias (either may be None, or of weight's shape).

    With xhat = (x - mean) * rstd, g = dy * weight and M values a group:

        dweight = sum of dy * xhat,    dbias = sum of dy       over n, and i, j where weight is (C,)
        dx = rstd * (g - sum(g)/M - xhat * sum(g * xhat)/M)    sums over the group
    """
    x, mean, rstd = blocked.as_blocked(x), blocked.as_blocked(mean), blocked.as_blocked(rstd)
    dy, dx = blocked.as_blocked(dy, x.dtype), blocked.empty(x.shape, x.dtype)
    (n, c), blocks, plane = x.shape[:2], len(x.buffer), x.buffer.shape[2:4]
    _add_affine_gradients(dy, x, mean, rstd, num_groups, dweight, dbias)
    weight, _, step = _affine(x, weight, None)
    ends = x.address, dy.address, dx.address, mean.address, rstd.address, address(weight), 0
    values = table(Groups(*ends, step, n, c // num_groups, num_groups, *plane, 0))
    launch(_backward_task(x.dtype.itemsize), blocks * num_groups, values)
    return dx


def _add_affine_gradients(dy, x, mean, rstd, num_groups, dweight, dbias):
    if dweight is None and dbias is None:
        return
    elements = (dbias if dweight is None else dweight).ndim > 1
    make = _element_sums_task if elements else _channel_sums_task
    both = micro_batches(dweight), micro_batches(dbias)
    for (part, of_weight), (_, of_bias) in zip(*both, strict=True):
        arrays = [part(array) for array in (x, dy, mean, rstd)]
        with sums_for(of_weight, x.dtype) as to_weight, sums_for(of_bias, x.dtype) as to_bias:
            sums = (0 if total is None else address(total) for total in (to_weight, to_bias))
            sizes = len(arrays[0].buffer), x.shape[1], num_groups, *x.buffer.shape[2:4]
            values = table(Sums(*(array.address for array in arrays), *sums, *sizes))
            launch(make(x.dtype.itemsize), x.shape[1], values)
