"""Batch normalisation, alone or in one pass with the activation that follows it.

Statistics: each plane (sixteen images of a channel) is summed row by row in its own dtype, then centred on
its own mean and summed again while it lies in the cache, with a correction for what rounding left in that
mean; planes are combined in float64 with the parallel formula of Chan, Golub and LeVeque (1979), which does
not cancel. Lanes past the batch are left out.

    mean = sum n_p mean_p / sum n_p
    var * sum n_p = sum M2_p + sum n_p (mean_p - mean)^2
"""

import functools

import numpy as np

from cnn.fast import blocked
from cnn.fast.kernels.activation import IDENTITY, LEAKY_RELU, RELU, activate, pull_back
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import bits, from_bits, integers, pointer


@functools.cache
def _statistics_task(itemsize):
    @task
    def statistics(index, thread, params):
        a = integers(params)
        x, out, images, channels, height, width = (
            pointer(a[0], itemsize),
            pointer(a[1], 8),
            a[2],
            a[3],
            a[4],
            a[5],
        )
        lanes = min(16, images - index // channels * 16)
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


@functools.cache
def _forward_task(kind, itemsize, adds):
    """y = f((x - mean) * scale + shift), with ``adds`` f((x - mean) * scale + shift + other)."""

    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y, other, coefficients = (
            pointer(a[0], itemsize), pointer(a[1], itemsize),
            pointer(a[2], itemsize), pointer(a[3], itemsize),
        )  # fmt: skip
        channels, pixels, parameter = a[4], a[5], from_bits(a[6])
        c = index % channels
        mean, scale, shift = coefficients[c], coefficients[channels + c], coefficients[2 * channels + c]
        for i in range(index * pixels * 16, (index + 1) * pixels * 16, 16):
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
    keep = kind not in _CHEAP

    @task
    def sums(index, thread, params):
        a = integers(params)
        x, dy, out, coefficients, partial = (
            pointer(a[0], itemsize), pointer(a[1], itemsize),
            pointer(a[2], itemsize), pointer(a[3], itemsize),
            pointer(a[4], 8),
        )  # fmt: skip
        channels, height, width, parameter = a[5], a[6], a[7], from_bits(a[8])
        c = index % channels
        mean, scale, shift = coefficients[c], coefficients[channels + c], coefficients[2 * channels + c]
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
        partial[2 * index] = v.total(of_g)
        partial[2 * index + 1] = v.total(of_product)

    return sums


@functools.cache
def _gradient_task(kind, itemsize):
    """dx = g * scale + (x - mean) * slope + constant, zero in lanes past the batch; g = dy * f' as above."""

    @task
    def gradient(index, thread, params):
        a = integers(params)
        x, dy, dx, coefficients = (
            pointer(a[0], itemsize), pointer(a[1], itemsize),
            pointer(a[2], itemsize), pointer(a[3], itemsize),
        )  # fmt: skip
        images, channels, pixels, parameter = a[4], a[5], a[6], from_bits(a[7])
        c = index % channels
        mean, scale, shift = coefficients[c], coefficients[channels + c], coefficients[2 * channels + c]
        slope, constant = coefficients[3 * channels + c], coefficients[4 * channels + c]
        valid = v.first_lanes(images - index // channels * 16)
        for i in range(index * pixels * 16, (index + 1) * pixels * 16, 16):
            centred = v.load(x, i) - mean
            g = pull_back(kind, v.load(dy, i), v.fma(centred, scale, shift), parameter)
            value = v.fma(g, scale, v.fma(centred, slope, constant))
            v.store(dx, i, v.select(valid, value, 0.0))

    return gradient


def batch_norm_statistics(x):
    """Return (mean, var) of each channel; var divides by the number of values (biased)."""
    x = blocked.as_blocked(x)
    blocks, channels, height, width, lanes = x.buffer.shape
    planes = np.empty((blocks, channels, 2))
    values = table([x.address, planes.ctypes.data, x.shape[0], channels, height, width])
    launch(_statistics_task(x.dtype.itemsize), blocks * channels, values)
    images = np.full((blocks, 1), float(lanes))
    images[-1] -= blocks * lanes - x.shape[0]
    share = images / x.shape[0]
    mean = (planes[..., 0] * share).sum(axis=0)
    spread = planes[..., 1].sum(axis=0) / (x.shape[0] * height * width)
    var = spread + ((planes[..., 0] - mean) ** 2 * share).sum(axis=0)
    return mean.astype(x.dtype), var.astype(x.dtype)


def _coefficients(x, mean, rstd, weight, bias):
    """Rows mean, scale = rstd * weight, shift = bias; two more for the backward pass."""
    rows = np.zeros((5, x.shape[1]), x.dtype)
    rows[0], rows[1] = mean, rstd
    if weight is not None:
        rows[1] *= weight
    if bias is not None:
        rows[2] = bias
    return rows


def batch_norm_forward(x, mean, rstd, weight, bias, kind=IDENTITY, parameter=0.0, other=None):
    """Return y = (x - mean) * rstd * weight + bias, each per channel; weight and bias may be None.

    ``kind`` and ``parameter`` name an activation on top in the same pass, ``other`` an array added before.
    """
    x = blocked.as_blocked(x)
    y = blocked.empty(x.shape, x.dtype)
    blocks, channels, height, width, _ = x.buffer.shape
    rows = _coefficients(x, mean, rstd, weight, bias)
    if other is not None:
        other = blocked.as_blocked(other, x.dtype)
    memory = [x.address, y.address, 0 if other is None else other.address, rows.ctypes.data]
    values = table([*memory, channels, height * width, bits(parameter)])
    launch(_forward_task(kind, x.dtype.itemsize, other is not None), blocks * channels, values)
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
    rows = _coefficients(x, mean, rstd, weight, bias)
    planes = np.empty((blocks, channels, 2))
    # where g is kept, it goes to where dx will stand, and is read from there
    memory = [x.address, dy.address, dx.address, rows.ctypes.data]
    values = table([*memory, planes.ctypes.data, channels, height, width, bits(parameter)])
    launch(_sums_task(kind, x.dtype.itemsize), blocks * channels, values)
    sum_g, sum_product = planes.sum(axis=0).T
    if dweight is not None:
        dweight += (sum_product * rstd).astype(dweight.dtype)
    if dbias is not None:
        dbias += sum_g.astype(dbias.dtype)
    if training:
        count = x.shape[0] * height * width
        scale = rows[1].astype(np.float64)
        rows[3] = -scale * sum_product / count * np.asarray(rstd, np.float64) ** 2
        rows[4] = -scale * sum_g / count
    g, kind = (dy, kind) if kind in _CHEAP else (dx, IDENTITY)
    memory = [x.address, g.address, dx.address, rows.ctypes.data]
    values = table([*memory, x.shape[0], channels, height * width, bits(parameter)])
    launch(_gradient_task(kind, x.dtype.itemsize), blocks * channels, values)
    return dx
