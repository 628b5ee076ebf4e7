"""Pooling: one plane a thread, so no two threads write one cell."""

import numpy as np
from numba import prange

from cnn.kernels.jit import contiguous, jit


@jit(parallel=True)
def _max_forward(x, y, argmax, kernel_size, stride, top, left):
    (kh, kw), (sh, sw) = kernel_size, stride
    n, c, h, w = x.shape
    _, _, oh, ow = y.shape
    for plane in prange(n * c):
        image, channel = plane // c, plane % c
        for i in range(oh):
            for j in range(ow):
                r0, q0 = i * sh - top, j * sw - left
                best, where = x.dtype.type(-np.inf), -1
                for r in range(max(r0, 0), min(r0 + kh, h)):
                    for q in range(max(q0, 0), min(q0 + kw, w)):
                        value = x[image, channel, r, q]
                        # a NaN wins, as in NumPy, so that a broken batch stays visible
                        if where < 0 or value > best or (np.isnan(value) and not np.isnan(best)):
                            best, where = value, (r - r0) * kw + q - q0
                y[image, channel, i, j] = best
                argmax[image, channel, i, j] = where


@jit(parallel=True)
def _max_backward(dy, argmax, dx, kernel_size, stride, top, left):
    kw, (sh, sw) = kernel_size[1], stride
    n, c, oh, ow = dy.shape
    for plane in prange(n * c):
        image, channel = plane // c, plane % c
        for i in range(oh):
            for j in range(ow):
                where = argmax[image, channel, i, j]
                row, column = i * sh - top + where // kw, j * sw - left + where % kw
                dx[image, channel, row, column] += dy[image, channel, i, j]


def max_pool2d_forward(x, kernel_size, stride, padding):
    """Twin of ``cnn.reference.max_pool2d_forward``."""
    x = contiguous(x)
    shape = _output_shape(x.shape, kernel_size, stride, padding)
    y, argmax = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    _max_forward(x, y, argmax, kernel_size, stride, padding[0][0], padding[1][0])
    return y, argmax


def max_pool2d_backward(dy, argmax, input_shape, kernel_size, stride, padding):
    """Twin of ``cnn.reference.max_pool2d_backward``."""
    dy = contiguous(dy)
    dx = np.zeros(input_shape, dy.dtype)
    _max_backward(dy, argmax, dx, kernel_size, stride, padding[0][0], padding[1][0])
    return dx


def _output_shape(shape, kernel_size, stride, padding):
    n, c, h, w = shape
    oh = (h + sum(padding[0]) - kernel_size[0]) // stride[0] + 1
    ow = (w + sum(padding[1]) - kernel_size[1]) // stride[1] + 1
    return n, c, oh, ow


@jit(parallel=True)
def _avg_forward(x, y, kernel_size, stride, top, left, count_include_pad):
    (kh, kw), (sh, sw) = kernel_size, stride
    n, c, h, w = x.shape
    _, _, oh, ow = y.shape
    for plane in prange(n * c):
        image, channel = plane // c, plane % c
        for i in range(oh):
            for j in range(ow):
                r0, q0 = max(i * sh - top, 0), max(j * sw - left, 0)
                r1, q1 = min(i * sh - top + kh, h), min(j * sw - left + kw, w)
                total = x.dtype.type(0)
                for r in range(r0, r1):
                    for q in range(q0, q1):
                        total += x[image, channel, r, q]
                count = kh * kw if count_include_pad else (r1 - r0) * (q1 - q0)
                y[image, channel, i, j] = total / x.dtype.type(count)


@jit(parallel=True)
def _avg_backward(dy, dx, kernel_size, stride, top, left, count_include_pad):
    (kh, kw), (sh, sw) = kernel_size, stride
    n, c, h, w = dx.shape
    _, _, oh, ow = dy.shape
    for plane in prange(n * c):
        image, channel = plane // c, plane % c
        for i in range(oh):
            for j in range(ow):
                r0, q0 = max(i * sh - top, 0), max(j * sw - left, 0)
                r1, q1 = min(i * sh - top + kh, h), min(j * sw - left + kw, w)
                count = kh * kw if count_include_pad else (r1 - r0) * (q1 - q0)
                share = dy[image, channel, i, j] / dy.dtype.type(count)
                for r in range(r0, r1):
                    for q in range(q0, q1):
                        dx[image, channel, r, q] += share


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad):
    """Twin of ``cnn.reference.avg_pool2d_forward``."""
    x = contiguous(x)
    y = np.empty(_output_shape(x.shape, kernel_size, stride, padding), x.dtype)
    _avg_forward(x, y, kernel_size, stride, padding[0][0], padding[1][0], count_include_pad)
    return y


def avg_pool2d_backward(dy, input_shape, kernel_size, stride, padding, count_include_pad):
    """Twin of ``cnn.reference.avg_pool2d_backward``."""
    dy = contiguous(dy)
    dx = np.zeros(input_shape, dy.dtype)
    _avg_backward(dy, dx, kernel_size, stride, padding[0][0], padding[1][0], count_include_pad)
    return dx


# A global pool is a pool whose one window is the whole plane.


def global_avg_pool_forward(x):
    """Twin of ``cnn.reference.global_avg_pool_forward``."""
    return avg_pool2d_forward(x, x.shape[2:], (1, 1), ((0, 0), (0, 0)), True)[:, :, 0, 0]


def global_avg_pool_backward(dy, input_shape):
    """Twin of ``cnn.reference.global_avg_pool_backward``."""
    dy = np.asarray(dy)[:, :, None, None]
    return avg_pool2d_backward(dy, input_shape, input_shape[2:], (1, 1), ((0, 0), (0, 0)), True)


def global_max_pool_forward(x):
    """Twin of ``cnn.reference.global_max_pool_forward``."""
    y, argmax = max_pool2d_forward(x, x.shape[2:], (1, 1), ((0, 0), (0, 0)))
    return y[:, :, 0, 0], argmax


def global_max_pool_backward(dy, argmax, input_shape):
    """Twin of ``cnn.reference.global_max_pool_backward``."""
    dy = np.asarray(dy)[:, :, None, None]
    return max_pool2d_backward(dy, argmax, input_shape, input_shape[2:], (1, 1), ((0, 0), (0, 0)))
