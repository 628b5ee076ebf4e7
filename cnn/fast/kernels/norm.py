"""Batch normalisation, alone or in one pass with the activation that follows it.

Statistics: each plane (sixteen images of a channel) is summed row by row in its own dtype, then centred on
its own mean and summed again while it lies in the cache, with a correction for what rounding left in that
mean; planes are combined in float64 with the parallel formula of Chan, Golub and LeVeque (1979), which does
not cancel. Lanes past the batch are left out.

    mean = sum n_p mean_p / sum n_p
    var * sum n_p = sum M2_p + sum n_p (mean_p - mean)^2
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.activation import IDENTITY, LEAKY_RELU, RELU, activate, pull_back
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, jit, launch, scratch, task
from cnn.fast.machine.tables import Table, bits, from_bits, pointer, reader


class _Image(NamedTuple):
    """The array that is normalised: its planes are the pieces of the work."""

    images: int
    channels: int
    height: int
    width: int


class _Channels(NamedTuple):
    """Addresses of one number a channel; 0 where there is none."""

    mean: int
    rstd: int
    weight: int
    bias: int


class _Statistics(NamedTuple):
    """Of each plane of sixteen images: its mean and its sum of squared distances from that."""

    x: int  # address
    planes: int  # address of float64 pairs
    image: _Image


_statistics_of = reader(_Statistics)


@functools.cache
def _statistics_task(itemsize):
    @task
    def statistics(index, thread, params):
        p = _statistics_of(params)
        x, out, height, width = pointer(p.x, itemsize), pointer(p.planes, 8), p.image.height, p.image.width
        lanes = min(16, p.image.images - index // p.image.channels * 16)
        valid, first = v.first_lanes(lanes), index * height * width * 16
        whole = v.zeros(x)
        for r in range(height):
            row = v.zeros(x)
            for q in range(width):
                row = row + v.load(x, first + (r * width + q) * 16)
            whole = whole + row
        values = lanes * height * width
        mean = v.total(v.select(valid, whole, 0.0)) / values
        rest, squares = v.zeros(x), v.zeros(x)
        for r in range(height):
            row, row_squares = v.zeros(x), v.zeros(x)
            for q in range(width):
                centred = v.load(x, first + (r * width + q) * 16) - mean
                row = row + centred
                row_squares = v.fma(centred, centred, row_squares)
            rest = rest + row
            squares = squares + row_squares
        correction = v.total(v.select(valid, rest, 0.0)) / values  # what rounding the mean left
        out[2 * index] = float(mean) + correction
        out[2 * index + 1] = v.total(v.select(valid, squares, 0.0)) - values * correction * correction

    return statistics


class _Combine(NamedTuple):
    """From planes to channels, and on to the running statistics."""

    planes: int  # address of float64 pairs
    mean: int  # address of the result
    rstd: int  # address of the result
    running_mean: int  # address
    running_var: int  # address
    momentum: int  # bits
    eps: int  # bits
    image: _Image


_combine_of = reader(_Combine)


@functools.cache
def _combine_task(itemsize):
    """mean, rstd of one channel; running <- (1 - momentum) running + momentum (mean or var M / (M - 1))."""

    @task
    def combine(index, thread, params):
        p = _combine_of(params)
        planes, channels, images = pointer(p.planes, 8), p.image.channels, p.image.images
        mean = 0.0
        for block in range((images + 15) // 16):
            mean += planes[2 * (block * channels + index)] * min(16, images - block * 16) / images
        spread, squares = 0.0, 0.0
        for block in range((images + 15) // 16):
            at = 2 * (block * channels + index)
            spread += planes[at + 1]
            squares += (planes[at] - mean) ** 2 * min(16, images - block * 16) / images
        values = images * p.image.height * p.image.width
        var, momentum = spread / values + squares, from_bits(p.momentum)
        running_mean, running_var = pointer(p.running_mean, itemsize), pointer(p.running_var, itemsize)
        running_mean[index] = (1 - momentum) * running_mean[index] + momentum * mean
        running_var[index] = (1 - momentum) * running_var[index] + momentum * var * values / (values - 1)
        pointer(p.mean, itemsize)[index] = mean
        # in float64: a rounded 1/sqrt would be a third of the whole layer's float32 error
        pointer(p.rstd, itemsize)[index] = 1.0 / math.sqrt(var + from_bits(p.eps))

    return combine


class _Evaluate(NamedTuple):
    """Running statistics as they are now."""

    running_mean: int  # address
    running_var: int  # address
    mean: int  # address of the result
    rstd: int  # address of the result
    channels: int
    eps: int  # bits


_evaluate_of = reader(_Evaluate)


@functools.cache
def _evaluate_task(itemsize):
    """mean = running_mean, rstd = 1 / sqrt(running_var + eps)."""

    @task
    def evaluate(index, thread, params):
        p = _evaluate_of(params)
        running_mean, running_var = pointer(p.running_mean, itemsize), pointer(p.running_var, itemsize)
        mean, rstd = pointer(p.mean, itemsize), pointer(p.rstd, itemsize)
        for c in range(p.channels):
            mean[c] = running_mean[c]
            rstd[c] = 1.0 / math.sqrt(float(running_var[c]) + from_bits(p.eps))

    return evaluate


@functools.cache
def _coefficients(itemsize):
    """Return a function of (_Channels, c): mean, scale = rstd * weight, shift = bias of channel c."""

    @jit
    def coefficients(by, c):
        scale = pointer(by.rstd, itemsize)[c] * pointer(by.weight, itemsize)[c]
        return pointer(by.mean, itemsize)[c], scale, pointer(by.bias, itemsize)[c]

    return coefficients


class _Forward(NamedTuple):
    """y = f((x - mean) * rstd * weight + bias [+ other])."""

    x: int  # address
    y: int  # address
    other: int  # address, or 0
    by: _Channels
    channels: int
    pixels: int  # of a plane
    parameter: int  # bits: of the activation f


_forward_of = reader(_Forward)


@functools.cache
def _forward_task(kind, itemsize, adds):
    coefficients = _coefficients(itemsize)

    @task
    def forward(index, thread, params):
        p = _forward_of(params)
        x, y, other = pointer(p.x, itemsize), pointer(p.y, itemsize), pointer(p.other, itemsize)
        parameter = from_bits(p.parameter)
        mean, scale, shift = coefficients(p.by, index % p.channels)
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            value = v.fma(v.load(x, i) - mean, scale, shift)
            if adds:
                value = value + v.load(other, i)
            v.store(y, i, activate(kind, value, parameter))

    return forward


#: Activations whose derivative is computed twice rather than g stored and read again.
_CHEAP = (IDENTITY, RELU, LEAKY_RELU)


class _Sums(NamedTuple):
    """Of each plane: the sums of g and of g * (x - mean), with g = dy * f'(normalised x)."""

    x: int  # address
    dy: int  # address
    g: int  # address where g is kept, unless it is cheap
    planes: int  # address of float64 pairs
    by: _Channels
    image: _Image
    parameter: int  # bits: of the activation f


_sums_of = reader(_Sums)


@functools.cache
def _sums_task(kind, itemsize):
    keep, coefficients = kind not in _CHEAP, _coefficients(itemsize)

    @task
    def sums(index, thread, params):
        p = _sums_of(params)
        x, dy, out, planes = (
            pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.g, itemsize), pointer(p.planes, 8),
        )  # fmt: skip
        height, width, parameter = p.image.height, p.image.width, from_bits(p.parameter)
        mean, scale, shift = coefficients(p.by, index % p.image.channels)
        first = index * height * width * 16
        of_g, of_product = v.zeros(x), v.zeros(x)
        for r in range(height):
            row_g, row_product = v.zeros(x), v.zeros(x)
            for q in range(width):
                i = first + (r * width + q) * 16
                centred = v.load(x, i) - mean
                g = pull_back(kind, v.load(dy, i), v.fma(centred, scale, shift), parameter)
                if keep:
                    v.store(out, i, g)
                row_g = row_g + g
                row_product = v.fma(g, centred, row_product)
            of_g = of_g + row_g
            of_product = of_product + row_product
        planes[2 * index] = v.total(of_g)
        planes[2 * index + 1] = v.total(of_product)

    return sums


class _Gradients(NamedTuple):
    """From planes to the gradients of weight and bias, and to what dx is made of."""

    planes: int  # address of float64 pairs: the sums of g and of g * (x - mean)
    dweight: int  # address
    dbias: int  # address
    slope: int  # address of the result: what (x - mean) is multiplied with in dx
    constant: int  # address of the result: what is added
    training: int
    by: _Channels
    image: _Image


_gradients_of = reader(_Gradients)


@functools.cache
def _gradients_task(itemsize):
    """The sums of one channel, with c = x - mean and M values:

        dweight += rstd sum(g c)                     dbias   += sum(g)
        slope    = -scale rstd^2 sum(g c) / M        constant = -scale sum(g) / M       in training, else 0
    """
    coefficients, real = _coefficients(itemsize), np.float32 if itemsize == 4 else np.float64

    @task
    def gradients(index, thread, params):
        p = _gradients_of(params)
        planes, channels = pointer(p.planes, 8), p.image.channels
        sum_g, sum_product = 0.0, 0.0
        for block in range((p.image.images + 15) // 16):
            sum_g += planes[2 * (block * channels + index)]
            sum_product += planes[2 * (block * channels + index) + 1]
        _, scale, _ = coefficients(p.by, index)
        rstd = float(pointer(p.by.rstd, itemsize)[index])
        # rounded first: two passes are to add exactly twice as much
        pointer(p.dweight, itemsize)[index] += real(sum_product * rstd)
        pointer(p.dbias, itemsize)[index] += real(sum_g)
        values = p.image.images * p.image.height * p.image.width
        slope, constant = pointer(p.slope, itemsize), pointer(p.constant, itemsize)
        slope[index] = -scale * sum_product / values * rstd * rstd if p.training else 0.0
        constant[index] = -scale * sum_g / values if p.training else 0.0

    return gradients


class _InputGradient(NamedTuple):
    """dx = g * scale + (x - mean) * slope + constant, zero in lanes past the batch."""

    x: int  # address
    dy: int  # address; of g where that was kept
    dx: int  # address
    slope: int  # address of one number a channel
    constant: int  # address of one number a channel
    by: _Channels
    images: int
    channels: int
    pixels: int  # of a plane
    parameter: int  # bits: of the activation f


_input_gradient_of = reader(_InputGradient)


@functools.cache
def _input_gradient_task(kind, itemsize):
    coefficients = _coefficients(itemsize)

    @task
    def gradient(index, thread, params):
        p = _input_gradient_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.dx, itemsize)
        parameter, c = from_bits(p.parameter), index % p.channels
        mean, scale, shift = coefficients(p.by, c)
        slope, constant = pointer(p.slope, itemsize)[c], pointer(p.constant, itemsize)[c]
        valid = v.first_lanes(p.images - index // p.channels * 16)
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            centred = v.load(x, i) - mean
            g = pull_back(kind, v.load(dy, i), v.fma(centred, scale, shift), parameter)
            value = v.fma(g, scale, v.fma(centred, slope, constant))
            v.store(dx, i, v.select(valid, value, 0.0))

    return gradient


def batch_norm_train(x, running_mean, running_var, momentum, eps):
    """Return (mean, rstd) of each channel of ``x``; move the running statistics towards this batch's.

    Twin of ``cnn.reference.batch_norm_train``; the running statistics have the dtype of ``x``.
    """
    x = blocked.as_blocked(x)
    blocks, channels, height, width, _ = x.buffer.shape
    image, size = _Image(x.shape[0], channels, height, width), x.dtype.itemsize
    planes = scratch((blocks, channels, 2), np.float64)
    record = _Statistics(x.address, address(planes), image)
    launch(_statistics_task(size), blocks * channels, Table(record).array)
    mean, rstd = scratch((channels,), x.dtype), scratch((channels,), x.dtype)
    results = address(mean), address(rstd), address(running_mean), address(running_var)
    record = _Combine(address(planes), *results, bits(momentum), bits(eps), image)
    launch(_combine_task(size), channels, Table(record).array)
    return mean, rstd


def batch_norm_eval(running_mean, running_var, eps):
    """Return (mean, rstd) of the running statistics: copies, which a later training does not change."""
    channels, dtype = len(running_mean), running_mean.dtype
    mean, rstd = scratch((channels,), dtype), scratch((channels,), dtype)
    ends = address(running_mean), address(running_var), address(mean), address(rstd)
    launch(_evaluate_task(dtype.itemsize), 1, Table(_Evaluate(*ends, channels, bits(eps))).array)
    return mean, rstd


def _vector(values, like, otherwise=0):
    """Return one number a channel as a contiguous array of x's dtype; ``otherwise`` of them for None."""
    if values is None:
        values = scratch((like.shape[1],), like.dtype)
        if otherwise:
            values[...] = otherwise
    return np.ascontiguousarray(values, like.dtype)


def _channels(mean, rstd, weight, bias, x):
    """Return (_Channels, the arrays whose addresses it holds)."""
    kept = _vector(mean, x), _vector(rstd, x), _vector(weight, x, 1), _vector(bias, x)
    return _Channels(*map(address, kept)), kept


def batch_norm_forward(x, mean, rstd, weight, bias, kind=IDENTITY, parameter=0.0, other=None):
    """Return y = (x - mean) * rstd * weight + bias, each per channel; weight and bias may be None.

    ``kind`` and ``parameter`` name an activation on top in the same pass, ``other`` an array added before.
    """
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    if other is not None:
        other = blocked.as_blocked(other, x.dtype)
    by, kept = _channels(mean, rstd, weight, bias, x)  # kept: until the launch is made
    ends = x.address, y.address, 0 if other is None else other.address
    record = _Forward(*ends, by, channels, height * width, bits(parameter))
    launch(_forward_task(kind, x.dtype.itemsize, other is not None), blocks * channels, Table(record).array)
    del kept
    return y


def batch_norm_backward(
    dy, x, mean, rstd, weight, dweight, dbias, training, bias=None, kind=IDENTITY, parameter=0.0, over=False
):
    """Return dx and add to dweight and dbias (either may be None).

    With c = x - mean, g = dy * f'(y before the activation) and M values a channel:

        dweight = rstd * sum of g * c,    dbias = sum of g
        dx = rstd * weight * (g - sum(g) / M - c * rstd^2 * sum(g * c) / M)   in training
        dx = rstd * weight * g                                                otherwise

    ``bias``, ``kind`` and ``parameter`` are those of the forward pass when it had the activation on top. With
    ``over`` dx takes the place of dy, which must be blocked.
    """
    x = blocked.as_blocked(x)
    dy = blocked.as_blocked(dy, x.dtype)
    dx = dy if over else blocked.empty(x.shape, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    image, size = _Image(x.shape[0], channels, height, width), x.dtype.itemsize
    by, kept = _channels(mean, rstd, weight, bias, x)
    planes = scratch((blocks, channels, 2), np.float64)
    # where g is kept, it goes to where dx will stand, and is read from there
    ends = x.address, dy.address, dx.address, address(planes)
    launch(_sums_task(kind, size), blocks * channels, Table(_Sums(*ends, by, image, bits(parameter))).array)
    totals = _vector(dweight, x), _vector(dbias, x)
    slope, constant = scratch((channels,), x.dtype), scratch((channels,), x.dtype)
    ends = address(planes), *map(address, totals), address(slope), address(constant)
    launch(_gradients_task(size), channels, Table(_Gradients(*ends, bool(training), by, image)).array)
    g, kind = (dy, kind) if kind in _CHEAP else (dx, IDENTITY)
    ends = x.address, g.address, dx.address, address(slope), address(constant)
    sizes = x.shape[0], channels, height * width
    record = _InputGradient(*ends, by, *sizes, bits(parameter))
    launch(_input_gradient_task(kind, size), blocks * channels, Table(record).array)
    for total, target in zip(totals, (dweight, dbias), strict=True):
        if target is not None and total is not target:  # it had another dtype or was not contiguous
            target[...] = total
    del kept
    return dx
