"""Pooling: the largest or the mean value of each window, sixteen images at a time.

A maximum remembers which cell of its window won, as a small unsigned integer (row-major within the window).
The number after the last cell says that ReLU, fused in front, let nothing through.
"""

import functools

import numpy as np

from cnn.fast import blocked
from cnn.fast.conv.pool_2x2 import Maxima, MaximaGradient, beats, max_2x2, unpool_2x2
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import call_with, integers, pointer
from cnn.geometry import output_shape


@functools.cache
def _max_2x2_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        plane, row, oh, ow = a[3] * a[4] * 16 * itemsize, a[4] * 16 * itemsize, a[5], a[6]
        target = index * oh * ow * 16
        ends = (a[0] + index * plane, a[1] + target * itemsize, a[2] + target)
        call_with(a[8], Maxima(*ends, 1, plane, row, 0, oh, ow, a[7]))

    return forward


@functools.cache
def _unpool_2x2_task(itemsize):
    @task
    def backward(index, thread, params):
        a = integers(params)
        height, width, oh, ow = a[3], a[4], a[5], a[6]
        source, plane = index * oh * ow * 16, height * width * 16 * itemsize
        ends = (a[0] + source * itemsize, a[1] + source, a[2] + index * plane)
        call_with(a[7], MaximaGradient(*ends, 1, 0, plane, height, width, ow))

    return backward


@functools.cache
def _max_task(itemsize, small):
    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y, argmax = pointer(a[0], itemsize), pointer(a[1], itemsize), pointer(a[2], small)
        height, width, oh, ow, kh, kw, sh, sw = a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
        ph, pw, relu = a[11], a[12], a[13]
        source, target = index * height * width * 16, index * oh * ow * 16
        for r in range(oh):
            top, bottom = max(r * sh - ph, 0), min(r * sh - ph + kh, height)
            for q in range(ow):
                left, right = max(q * sw - pw, 0), min(q * sw - pw + kw, width)
                best = v.load(x, source + (top * width + left) * 16)
                cell = v.zeros(x) + ((top - r * sh + ph) * kw + left - q * sw + pw)
                for u in range(top, bottom):
                    for w in range(left, right):
                        value = v.load(x, source + (u * width + w) * 16)
                        wins = beats(value, best)
                        best = v.select(wins, value, best)
                        cell = v.select(wins, (u - r * sh + ph) * kw + w - q * sw + pw, cell)
                if relu:
                    dead = v.at_least(0.0, best)
                    best, cell = v.select(dead, 0.0, best), v.select(dead, kh * kw, cell)
                o = target + (r * ow + q) * 16
                v.store(y, o, best)
                v.store_integers(argmax, o, cell)

    return forward


@functools.cache
def _unpool_task(itemsize, small):
    @task
    def backward(index, thread, params):
        a = integers(params)
        dy, argmax, dx = pointer(a[0], itemsize), pointer(a[1], small), pointer(a[2], itemsize)
        height, width, oh, ow, kh, kw, sh, sw = a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
        ph, pw = a[11], a[12]
        source, target = index * oh * ow * 16, index * height * width * 16
        for i in range(target, target + height * width * 16, 16):
            v.store(dx, i, v.zeros(dx))
        for r in range(oh):
            for q in range(ow):
                i = source + (r * ow + q) * 16
                for lane in range(16):
                    cell = int(argmax[i + lane])
                    if cell < kh * kw:
                        u, w = r * sh - ph + cell // kw, q * sw - pw + cell % kw
                        dx[target + (u * width + w) * 16 + lane] += dy[i + lane]

    return backward


def max_pool2d_forward(x, kernel_size, stride, padding, relu=False):
    """Return (y, argmax): the largest value of each window and which cell of the window it was.

    Padding counts as -inf; of equal values the first in row-major order wins; a NaN wins over everything.
    ``relu`` puts max(y, 0) in the same pass, with no gradient where y is not positive.
    """
    x = blocked.as_blocked(x)
    n, c, height, width = x.shape
    oh, ow = output_shape(height, width, kernel_size, stride, padding)
    y = blocked.empty((n, c, oh, ow), x.dtype)
    argmax = blocked.empty(y.shape, np.uint8 if kernel_size[0] * kernel_size[1] < 255 else np.uint16)
    planes, size = y.buffer.shape[0] * c, x.dtype.itemsize
    memory = [x.address, y.address, argmax.address, height, width, oh, ow]
    if is_2x2(kernel_size, stride, padding):
        launch(_max_2x2_task(size), planes, table([*memory, relu, max_2x2(size)]))
    else:
        values = table([*memory, *kernel_size, *stride, padding[0][0], padding[1][0], relu])
        launch(_max_task(size, argmax.dtype.itemsize), planes, values)
    return y, argmax


def is_2x2(kernel_size, stride, padding):
    """Whether windows are 2x2, side by side and without padding."""
    return kernel_size == stride == (2, 2) and padding == ((0, 0), (0, 0))


def max_pool2d_backward(dy, argmax, input_shape, kernel_size, stride, padding):
    """Return dx: each dy goes to the input that won its window; windows that overlap add up."""
    dy = blocked.as_blocked(dy)
    dx = blocked.empty(input_shape, dy.dtype)
    memory = [dy.address, argmax.address, dx.address, *input_shape[2:], *dy.shape[2:]]
    planes, size = dx.buffer.shape[0] * dx.shape[1], dx.dtype.itemsize
    if is_2x2(kernel_size, stride, padding):
        launch(_unpool_2x2_task(size), planes, table([*memory, unpool_2x2(size)]))
    else:
        values = table([*memory, *kernel_size, *stride, padding[0][0], padding[1][0]])
        launch(_unpool_task(size, argmax.dtype.itemsize), planes, values)
    return dx


@functools.cache
def _winners_sum_task(itemsize, small):
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def total(index, thread, params):
        a = integers(params)
        dy, argmax, out = pointer(a[0], itemsize), pointer(a[1], small), pointer(a[2], itemsize)
        channels, height, width, blocks, nobody = a[3], a[4], a[5], a[6], a[7]
        everything = 0.0
        for block in range(blocks):
            first = (block * channels + index) * height * width * 16
            plane = v.zeros(dy)
            for r in range(height):
                row = v.zeros(dy)
                for q in range(width):
                    i = first + (r * width + q) * 16
                    row = row + v.select(v.load_equal(argmax, i, nobody), 0.0, v.load(dy, i))
                plane = plane + row
            everything += float(v.total(plane))
        out[index] += real(everything)  # rounded first, as in channel_sum

    return total


def winners_channel_sum(dy, argmax, kernel_size, dbias):
    """Add dbias[k] += sum of dy over n and the windows that ReLU let through; ``argmax`` with relu=True.

    That is the sum over all positions of what ``max_pool2d_backward`` returns, of a fraction of the numbers.
    """
    dy = blocked.as_blocked(dy)
    blocks, channels, height, width, _ = dy.buffer.shape
    fits = dbias.dtype == dy.dtype and dbias.flags.c_contiguous
    sums = dbias if fits else np.zeros(channels, dy.dtype)
    nobody = kernel_size[0] * kernel_size[1]
    memory = [dy.address, argmax.address, sums.ctypes.data]
    values = table([*memory, channels, height, width, blocks, nobody])
    launch(_winners_sum_task(dy.dtype.itemsize, argmax.dtype.itemsize), channels, values)
    if sums is not dbias:
        dbias += sums


@functools.cache
def _average_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        x, y = pointer(a[0], itemsize), pointer(a[1], itemsize)
        height, width, oh, ow, kh, kw, sh, sw = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]
        ph, pw, include = a[10], a[11], a[12]
        source, target = index * height * width * 16, index * oh * ow * 16
        for r in range(oh):
            top, bottom = max(r * sh - ph, 0), min(r * sh - ph + kh, height)
            for q in range(ow):
                left, right = max(q * sw - pw, 0), min(q * sw - pw + kw, width)
                mean = v.zeros(x)
                for u in range(top, bottom):
                    for w in range(left, right):
                        mean = mean + v.load(x, source + (u * width + w) * 16)
                cells = kh * kw if include else (bottom - top) * (right - left)
                v.store(y, target + (r * ow + q) * 16, mean / cells)

    return forward


@functools.cache
def _average_gradient_task(itemsize):
    @task
    def backward(index, thread, params):
        a = integers(params)
        dx, dy = pointer(a[0], itemsize), pointer(a[1], itemsize)
        height, width, oh, ow, kh, kw, sh, sw = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]
        ph, pw, include = a[10], a[11], a[12]
        target, source = index * height * width * 16, index * oh * ow * 16
        for i in range(target, target + height * width * 16, 16):
            v.store(dx, i, v.zeros(dx))
        for r in range(oh):
            top, bottom = max(r * sh - ph, 0), min(r * sh - ph + kh, height)
            for q in range(ow):
                left, right = max(q * sw - pw, 0), min(q * sw - pw + kw, width)
                cells = kh * kw if include else (bottom - top) * (right - left)
                share = v.load(dy, source + (r * ow + q) * 16) / cells
                for u in range(top, bottom):
                    for w in range(left, right):
                        i = target + (u * width + w) * 16
                        v.store(dx, i, v.load(dx, i) + share)

    return backward


def _average(kernel, image, pooled, kernel_size, stride, padding, count_include_pad):
    sizes = [*image.shape[2:], *pooled.shape[2:], *kernel_size, *stride, padding[0][0], padding[1][0]]
    values = table([image.address, pooled.address, *sizes, count_include_pad])
    launch(kernel(image.dtype.itemsize), image.buffer.shape[0] * image.shape[1], values)


def avg_pool2d_forward(x, kernel_size, stride, padding, count_include_pad):
    """Return the mean of each window; padding counts as zeros, in the divisor only with count_include_pad."""
    x = blocked.as_blocked(x)
    y = blocked.empty((*x.shape[:2], *output_shape(*x.shape[2:], kernel_size, stride, padding)), x.dtype)
    _average(_average_task, x, y, kernel_size, stride, padding, count_include_pad)
    return y


def avg_pool2d_backward(dy, input_shape, kernel_size, stride, padding, count_include_pad):
    """Return dx: each dy, divided as in forward, goes to every cell of its window."""
    dy = blocked.as_blocked(dy)
    dx = blocked.empty(input_shape, dy.dtype)
    _average(_average_gradient_task, dx, dy, kernel_size, stride, padding, count_include_pad)
    return dx
