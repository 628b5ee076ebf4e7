"""Convolution: every thread owns whole output planes, rows are the vectorised inner loop."""

import numpy as np
from numba import prange

from cnn.kernels.jit import contiguous, jit


def _pad(x, padding):
    """Return ``x`` inside a border of zeros."""
    (top, bottom), (left, right) = padding
    n, c, h, w = x.shape
    padded = np.zeros((n, c, h + top + bottom, w + left + right), x.dtype)
    padded[:, :, top : top + h, left : left + w] = x
    return padded


@jit(parallel=True)
def _forward(x, weight, bias, y, stride, dilation, groups):
    (sh, sw), (dh, dw) = stride, dilation
    n, k, oh, ow = y.shape
    _, group_channels, kh, kw = weight.shape
    for plane in prange(n * k):
        image, channel = plane // k, plane % k
        first = channel // (k // groups) * group_channels
        for i in range(oh):
            out = y[image, channel, i]
            out[:] = bias[channel]
            for c in range(group_channels):
                for u in range(kh):
                    row = x[image, first + c, i * sh + u * dh]
                    for v in range(kw):
                        factor = weight[channel, c, u, v]
                        source = row[v * dw :]
                        for j in range(ow):
                            out[j] += factor * source[j * sw]


@jit(parallel=True)
def _backward_input(dy, weight, dx, stride, dilation, groups):
    (sh, sw), (dh, dw) = stride, dilation
    n, k, oh, ow = dy.shape
    _, group_channels, kh, kw = weight.shape
    channels, group_outputs = dx.shape[1], k // groups
    for plane in prange(n * channels):
        image, channel = plane // channels, plane % channels
        first = channel // group_channels * group_outputs
        c = channel % group_channels
        for output in range(first, first + group_outputs):
            for i in range(oh):
                source = dy[image, output, i]
                for u in range(kh):
                    row = dx[image, channel, i * sh + u * dh]
                    for v in range(kw):
                        factor = weight[output, c, u, v]
                        target = row[v * dw :]
                        for j in range(ow):
                            target[j * sw] += factor * source[j]


@jit(parallel=True)
def _backward_weight(dy, x, dweight, stride, dilation, groups):
    (sh, sw), (dh, dw) = stride, dilation
    n, k, oh, ow = dy.shape
    _, group_channels, kh, kw = dweight.shape
    for pair in prange(k * group_channels):
        output, c = pair // group_channels, pair % group_channels
        channel = output // (k // groups) * group_channels + c
        for u in range(kh):
            for v in range(kw):
                total = dweight.dtype.type(0)
                for image in range(n):
                    for i in range(oh):
                        source = x[image, channel, i * sh + u * dh][v * dw :]
                        gradient = dy[image, output, i]
                        part = dweight.dtype.type(0)
                        for j in range(ow):
                            part += gradient[j] * source[j * sw]
                        total += part
                dweight[output, c, u, v] += total


def conv2d_forward(x, weight, bias, stride, padding, dilation, groups):
    """Twin of ``cnn.reference.conv2d_forward``."""
    x = _pad(contiguous(x), padding)
    k, _, kh, kw = weight.shape
    oh = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.empty((x.shape[0], k, oh, ow), x.dtype)
    bias = np.zeros(k, x.dtype) if bias is None else bias
    _forward(x, contiguous(weight), contiguous(bias), y, stride, dilation, groups)
    return y


def conv2d_backward_input(dy, weight, input_shape, stride, padding, dilation, groups):
    """Twin of ``cnn.reference.conv2d_backward_input``."""
    dy = contiguous(dy)
    (top, bottom), (left, right) = padding
    n, c, h, w = input_shape
    dx = np.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
    _backward_input(dy, contiguous(weight), dx, stride, dilation, groups)
    return dx[:, :, top : top + h, left : left + w]


def conv2d_backward_weight(dy, x, dweight, stride, padding, dilation, groups):
    """Twin of ``cnn.reference.conv2d_backward_weight``."""
    _backward_weight(contiguous(dy), _pad(contiguous(x), padding), dweight, stride, dilation, groups)


@jit(parallel=True)
def _channel_sum(dy, dbias):
    for channel in prange(dy.shape[1]):
        total = 0.0
        for image in range(dy.shape[0]):
            row = dy[image, channel]
            for j in range(row.size):
                total += row[j]
        dbias[channel] += total


def channel_sum(dy, dbias):
    """Twin of ``cnn.reference.channel_sum``."""
    dy = contiguous(dy)
    _channel_sum(dy.reshape(*dy.shape[:2], -1), dbias)


@jit(parallel=True)
def _add_channel(x, bias, y):
    for plane in prange(x.shape[0] * x.shape[1]):
        image, channel = plane // x.shape[1], plane % x.shape[1]
        source, target = x[image, channel], y[image, channel]
        for j in range(source.size):
            target[j] = source[j] + bias[channel]


def add_channel(x, bias):
    """Twin of ``cnn.reference.add_channel``."""
    x = contiguous(x)
    y = np.empty_like(x)
    flat = (*x.shape[:2], -1)
    _add_channel(x.reshape(flat), contiguous(bias), y.reshape(flat))
    return y
