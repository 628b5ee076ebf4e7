"""Batch normalisation, alone or in one pass with the activation that follows it.

Statistics: each plane (sixteen images of a channel) is centred on the mean of its first row and summed row by
row in its own dtype; the squares are corrected to those about the plane's mean. Of h rows they are at most
h + 1 times as large, so they do not cancel. Planes are combined in float64 with the parallel formula of Chan,
Golub and LeVeque (1979). Lanes past the batch are left out, and rows that a last strip has too many
(``strips``): behind the first ``whole`` rows of a plane there are ``fewer`` lanes less. A convolution may
have taken the statistics of planes already, when it stored them (``tile_sums``).

    mean = sum n_p mean_p / sum n_p
    var * sum n_p = sum M2_p + sum n_p (mean_p - mean)^2
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.activation import IDENTITY, LEAKY_RELU, RELU, activate, pull_back
from cnn.fast.kernels.arguments import filled, parameter, sums_for
from cnn.fast.kernels.shared import BlockSums
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, jit, launch, scratch, table, task
from cnn.fast.machine.tables import Table, bits, from_bits, pointer, reader


class Statistics(NamedTuple):
    """A piece is one plane of sixteen images; then, of those that combine planes, one channel."""

    x: int  # address
    planes: int  # address of float64 (blocks, channels, 2): mean and sum of squares about it of each plane
    images: int
    channels: int
    height: int
    width: int
    whole: int  # rows of all lanes
    fewer: int  # lanes of the other rows
    mean: int  # address
    rstd: int  # address
    running_mean: int  # address
    running_var: int  # address
    momentum: int  # bits of a float64
    eps: int  # bits of a float64


class Forward(NamedTuple):
    """A piece is one plane of sixteen images."""

    x: int  # address
    y: int  # address
    other: int  # address of what is added before the activation
    mean: int  # address
    rstd: int  # address
    weight: int  # address
    bias: int  # address
    channels: int
    pixels: int  # of a plane
    parameter: int  # bits of a float64, of the activation


class Backward(NamedTuple):
    """A piece is one plane of sixteen images; then, of those that combine planes, one channel."""

    x: int  # address
    dy: int  # address, or of the gradient of what 2x2 windows are pooled to
    argmax: int  # address of the cells of windows that won, where there are windows
    dx: int  # address
    mean: int  # address
    rstd: int  # address
    weight: int  # address
    bias: int  # address
    dweight: int  # address, 0 where it is not wanted
    dbias: int  # address, likewise
    planes: int  # address of float64 (blocks, channels, 2): sums of g and of g * (x - mean) of each plane
    slope: int  # address: dx = g * rstd * weight + (x - mean) * slope + constant, all per channel
    constant: int  # address
    images: int
    channels: int
    height: int
    width: int
    whole: int  # rows of all lanes
    fewer: int  # lanes of the other rows
    training: int  # whether mean and rstd depend on x
    parameter: int  # bits of a float64, of the activation


statistics_of, forward_of, backward_of = reader(Statistics), reader(Forward), reader(Backward)


@jit
def values_of(p, lanes):
    """How many numbers ``lanes`` images have in a plane."""
    return (lanes * p.height - p.fewer * (p.height - p.whole)) * p.width


def rows_of(x):
    """(rows of a plane that all images have, how many images do not have the others)."""
    return (x.buffer.shape[2], 0) if x.strips is None else (x.strips.whole, x.strips.images)


def parameter_size(itemsize):
    """Bytes of a parameter or a sum of arrays whose numbers have ``itemsize`` bytes: of bfloat16 float32."""
    return max(4, itemsize)


@functools.cache
def _statistics_task(itemsize):
    @task
    def statistics(index, thread, params):
        p = statistics_of(params)
        x, out = pointer(p.x, itemsize), pointer(p.planes, 8)
        lanes = min(16, p.images - index // p.channels * 16)
        valid, first = v.first_lanes(lanes), index * p.height * p.width * 16
        row = v.zeros(x)
        for q in range(p.width):  # reading all of it once more to begin with took half as long again
            row = row + v.load(x, first + q * 16)
        values = values_of(p, lanes)
        mean = v.total(v.select(valid, row, 0.0)) / (lanes * p.width)
        rest, squares = v.zeros(x), v.zeros(x)
        for r in range(p.height):
            row, row_squares = v.zeros(x), v.zeros(x)
            for q in range(p.width):
                centred = v.load(x, first + (r * p.width + q) * 16) - mean
                row = row + centred
                row_squares = v.fma(centred, centred, row_squares)
            if r >= p.whole:
                there = v.first_lanes(lanes - p.fewer)
                row, row_squares = v.select(there, row, 0.0), v.select(there, row_squares, 0.0)
            rest = rest + row
            squares = squares + row_squares
        correction = v.total(v.select(valid, rest, 0.0)) / values
        out[2 * index] = float(mean) + correction
        out[2 * index + 1] = v.total(v.select(valid, squares, 0.0)) - values * correction * correction

    return statistics


@functools.cache
def _combine_task(itemsize):
    """mean and rstd of a channel from its planes; the running statistics move towards them."""
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def combine(c, thread, params):
        p = statistics_of(params)
        planes, momentum = pointer(p.planes, 8), from_bits(p.momentum)
        blocks, count = (p.images + 15) // 16, values_of(p, p.images)
        mean, squares = 0.0, 0.0
        for block in range(blocks):
            lanes = min(16, p.images - block * 16)
            mean += planes[2 * (block * p.channels + c)] * (lanes / p.images)
        for block in range(blocks):
            lanes = min(16, p.images - block * 16)
            i = 2 * (block * p.channels + c)
            squares += planes[i + 1] + (planes[i] - mean) ** 2 * values_of(p, lanes)
        running_mean, running_var = pointer(p.running_mean, itemsize), pointer(p.running_var, itemsize)
        running_mean[c] = real((1 - momentum) * running_mean[c] + momentum * mean)
        running_var[c] = real((1 - momentum) * running_var[c] + momentum * (squares / (count - 1)))
        pointer(p.mean, itemsize)[c] = real(mean)
        pointer(p.rstd, itemsize)[c] = real(1 / math.sqrt(squares / count + from_bits(p.eps)))

    return combine


@functools.cache
def _running_task(itemsize):
    """mean and rstd from the running statistics of all channels."""
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def running(index, thread, params):
        p = statistics_of(params)
        running_mean, running_var = pointer(p.running_mean, itemsize), pointer(p.running_var, itemsize)
        mean, rstd, eps = pointer(p.mean, itemsize), pointer(p.rstd, itemsize), from_bits(p.eps)
        for c in range(p.channels):
            mean[c] = running_mean[c]
            rstd[c] = real(1 / math.sqrt(running_var[c] + eps))

    return running


@functools.cache
def _forward_task(kind, itemsize, adds):
    """y = f((x - mean) * scale + shift), with ``adds`` f((x - mean) * scale + shift + other)."""
    real = parameter_size(itemsize)

    @task
    def forward(index, thread, params):
        p = forward_of(params)
        x, y, other = pointer(p.x, itemsize), pointer(p.y, itemsize), pointer(p.other, itemsize)
        c, parameter = index % p.channels, from_bits(p.parameter)
        mean, shift = pointer(p.mean, real)[c], pointer(p.bias, real)[c]
        scale = pointer(p.rstd, real)[c] * pointer(p.weight, real)[c]
        for i in range(index * p.pixels * 16, (index + 1) * p.pixels * 16, 16):
            value = v.fma(v.load(x, i) - mean, scale, shift)
            if adds:
                value = value + v.load(other, i)
            v.store(y, i, activate(kind, value, parameter))

    return forward


#: Activations whose derivative is computed twice rather than g stored and read again.
_CHEAP = (IDENTITY, RELU, LEAKY_RELU)


@functools.cache
def _sums_task(kind, itemsize):
    """Of g = dy * f'(normalised x): per plane the sums of g and of g * (x - mean); g itself unless cheap."""
    keep, real = kind not in _CHEAP, parameter_size(itemsize)

    @task
    def sums(index, thread, params):
        p = backward_of(params)
        x, dy, out = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.dx, itemsize)
        c, partial, parameter = index % p.channels, pointer(p.planes, 8), from_bits(p.parameter)
        mean, shift = pointer(p.mean, real)[c], pointer(p.bias, real)[c]
        scale = pointer(p.rstd, real)[c] * pointer(p.weight, real)[c]
        first = index * p.height * p.width * 16
        of_g, of_product = v.zeros(x), v.zeros(x)
        for r in range(p.height):
            row_g, row_product = v.zeros(x), v.zeros(x)
            for q in range(p.width):
                i = first + (r * p.width + q) * 16
                centred = v.load(x, i) - mean
                g = pull_back(kind, v.load(dy, i), v.fma(centred, scale, shift), parameter)
                if keep:
                    v.store(out, i, g)
                row_g = row_g + g
                row_product = v.fma(g, centred, row_product)
            of_g = of_g + row_g
            of_product = of_product + row_product
        partial[2 * index] = v.total(of_g)
        partial[2 * index + 1] = v.total(of_product)

    return sums


@functools.cache
def _combine_gradients_task(itemsize):
    """dweight += rstd * sum of g * (x - mean), dbias += sum of g; slope and constant. Sums in float64."""
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def combine(c, thread, params):
        p = backward_of(params)
        planes, of_g, of_product = pointer(p.planes, 8), 0.0, 0.0
        for block in range((p.images + 15) // 16):
            of_g += planes[2 * (block * p.channels + c)]
            of_product += planes[2 * (block * p.channels + c) + 1]
        rstd = pointer(p.rstd, itemsize)[c]
        share = 0.0
        if p.training:
            share = float(rstd * pointer(p.weight, itemsize)[c]) / values_of(p, p.images)
        pointer(p.slope, itemsize)[c] = real(-share * of_product * (float(rstd) * float(rstd)))
        pointer(p.constant, itemsize)[c] = real(-share * of_g)
        if p.dweight != 0:
            pointer(p.dweight, itemsize)[c] += real(of_product * float(rstd))
        if p.dbias != 0:
            pointer(p.dbias, itemsize)[c] += real(of_g)

    return combine


@functools.cache
def _gradient_task(kind, itemsize):
    """dx = g * scale + (x - mean) * slope + constant, zero in lanes past the batch; g = dy * f' as above."""
    real = parameter_size(itemsize)

    @task
    def gradient(index, thread, params):
        p = backward_of(params)
        x, dy, dx = pointer(p.x, itemsize), pointer(p.dy, itemsize), pointer(p.dx, itemsize)
        c, parameter = index % p.channels, from_bits(p.parameter)
        mean, shift = pointer(p.mean, real)[c], pointer(p.bias, real)[c]
        scale = pointer(p.rstd, real)[c] * pointer(p.weight, real)[c]
        slope, constant = pointer(p.slope, real)[c], pointer(p.constant, real)[c]
        lanes, start = p.images - index // p.channels * 16, index * p.height
        for first, end, less in ((0, p.whole, 0), (p.whole, p.height, p.fewer)):
            valid = v.first_lanes(lanes - less)
            for i in range((start + first) * p.width * 16, (start + end) * p.width * 16, 16):
                centred = v.load(x, i) - mean
                g = pull_back(kind, v.load(dy, i), v.fma(centred, scale, shift), parameter)
                value = v.fma(g, scale, v.fma(centred, slope, constant))
                v.store(dx, i, v.select(valid, value, 0.0))

    return gradient


def batch_norm_train(x, running_mean, running_var, momentum, eps):
    """Return (mean, rstd) of each channel of this batch; move the running statistics towards it, in place.

        mean = sum of x / M,    var = sum of (x - mean)^2 / M,    rstd = 1 / sqrt(var + eps)
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var  = (1 - momentum) * running_var  + momentum * var * M / (M - 1)

    M = N*H*W values a channel, at least 2. The running statistics are contiguous, in the dtype of x. Where a
    convolution took the moments of x when it stored it, x is not read.
    """
    x = blocked.as_stored(x)
    for running in (running_mean, running_var):  # written by address
        if running.dtype != x.dtype or not running.flags.c_contiguous:
            raise ValueError(f"running statistics: expected contiguous {x.dtype}, found {running.dtype}")
    blocks, channels, height, width, _ = x.buffer.shape
    planes, known = x.moments or BlockSums(x, 2), x.moments is not None
    mean, rstd = scratch((channels,), x.dtype), scratch((channels,), x.dtype)
    sizes = x.shape[0], channels, height, width, *rows_of(x)
    results = map(address, (mean, rstd, running_mean, running_var))
    values = Table(Statistics(x.address, planes.own, *sizes, *results, bits(momentum), bits(eps)))
    if not known:
        launch(_statistics_task(x.itemsize), blocks * channels, values.array)
    planes.gather()
    values.set(planes=planes.all, images=planes.images)
    launch(_combine_task(x.dtype.itemsize), channels, values.array)
    return mean, rstd


def batch_norm_eval(running_mean, running_var, eps):
    """Return (mean, rstd) of the running statistics, rstd = 1 / sqrt(running_var + eps); both are copies."""
    channels, dtype = len(running_mean), running_mean.dtype
    mean, rstd = scratch((channels,), dtype), scratch((channels,), dtype)
    running = (parameter(values, dtype) for values in (running_mean, running_var))
    results = map(address, (mean, rstd, *running))
    values = table(Statistics(0, 0, 0, channels, 0, 0, 0, 0, *results, 0, bits(eps)))
    launch(_running_task(dtype.itemsize), 1, values)
    return mean, rstd


def channel_parameters(x, mean, rstd, weight, bias):
    """These four arrays as tasks read them; weight None is 1 and bias None is 0."""
    channels, dtype = x.shape[1], x.dtype
    weight = filled((channels,), dtype, 1) if weight is None else weight
    bias = filled((channels,), dtype, 0) if bias is None else bias
    return [parameter(values, dtype) for values in (mean, rstd, weight, bias)]


def batch_norm_forward(x, mean, rstd, weight, bias, kind=IDENTITY, parameter=0.0, other=None):
    """Return y = (x - mean) * rstd * weight + bias, each per channel; weight and bias may be None.

    ``kind`` and ``parameter`` name an activation on top in the same pass, ``other`` an array added before.
    """
    x = blocked.as_stored(x)
    y = blocked.empty_like(x)
    blocks, channels, height, width, _ = x.buffer.shape
    arrays = channel_parameters(x, mean, rstd, weight, bias)
    if other is not None:
        other = blocked.as_stored(other, x)
    ends = x.address, y.address, 0 if other is None else other.address
    values = table(Forward(*ends, *map(address, arrays), channels, height * width, bits(parameter)))
    launch(_forward_task(kind, x.itemsize, other is not None), blocks * channels, values)
    return y


def batch_norm_backward(
    dy,
    x,
    mean,
    rstd,
    weight,
    dweight,
    dbias,
    training,
    bias=None,
    kind=IDENTITY,
    parameter=0.0,
    over=False,
    planes=None,
    windows=(),
):
    """Return dx and add to dweight and dbias (either may be None).

    With c = x - mean, g = dy * f'(y before the activation) and M values a channel:

        dweight = rstd * sum of g * c,    dbias = sum of g
        dx = rstd * weight * (g - sum(g) / M - c * rstd^2 * sum(g * c) / M)   in training
        dx = rstd * weight * g                                                otherwise

    ``bias``, ``kind`` and ``parameter`` are those of the forward pass when it had the activation on top. With
    ``over`` dx takes the place of dy, which must be blocked. ``planes``: the BlockSums of g and g * c,
    where they are known (``residual.residual_backward``). ``windows``: the argmax of windows that dy is the
    gradient of, and the tasks that read both in the place of g (``norm_pool``).
    """
    x = blocked.as_stored(x)
    dy = blocked.as_stored(dy, x)
    dx = dy if over else blocked.empty_like(x)
    blocks, channels, height, width, _ = x.buffer.shape
    size, known, argmax = x.itemsize, planes is not None, 0
    of_sums, of_gradient = _sums_task(kind, size), _gradient_task(kind if kind in _CHEAP else IDENTITY, size)
    if windows:
        winners, of_sums, of_gradient = windows
        argmax = winners.address
    planes = planes if known else BlockSums(x, 2)
    dweight, dbias = planes.adds(dweight), planes.adds(dbias)
    arrays = channel_parameters(x, mean, rstd, weight, bias)
    slope, constant = scratch((channels,), x.dtype), scratch((channels,), x.dtype)
    sizes = x.shape[0], channels, height, width, *rows_of(x)
    with sums_for(dweight, x.dtype) as of_weight, sums_for(dbias, x.dtype) as of_bias:
        sums = (0 if total is None else address(total) for total in (of_weight, of_bias))
        ends = x.address, dy.address, argmax, dx.address, *map(address, arrays), *sums
        coefficients = planes.own, address(slope), address(constant)
        values = Table(Backward(*ends, *coefficients, *sizes, training, bits(parameter)))
        # where g is kept, it goes to where dx will stand, and is read from there
        if not known:
            launch(of_sums, blocks * channels, values.array)
        planes.gather()
        values.set(planes=planes.all, images=planes.images)
        launch(_combine_gradients_task(x.dtype.itemsize), channels, values.array)
    values.set(images=x.shape[0])
    if kind not in _CHEAP:
        values.set(dy=dx.address)
    launch(of_gradient, blocks * channels, values.array)
    return dx
