"""A few images: lanes run over output channels, because sixteen images there are not.

Arrays are plain (N, C, H, W). A convolution uses the register tile of ``conv_direct`` with exchanged parts:
sixteen output channels of the weight are the vector, a pixel of the image the number that multiplies it. Each
row of the result is turned into planes while it lies in the cache, where bias and ReLU join it. A matrix
product is a 1x1 convolution of one pixel. Forward only: this serves prediction.
"""

from functools import cache

import numpy as np

from cnn.blocked import LANES, aligned_zeros
from cnn.geometry import output_shape
from cnn.kernels import activation, elementwise
from cnn.kernels import vector as v
from cnn.kernels.conv_direct import row_block
from cnn.kernels.jit import chunks, keep, launch, scratch_threads, table, task
from cnn.kernels.simd import blocks, call, numbers, peek
from cnn.kernels.tiles import outer_run


def array(shape, dtype):
    """A zeroed plain array; its memory is filled up to whole vectors."""
    size = int(np.prod(shape))
    made = aligned_zeros((-(-size // LANES) * LANES,), dtype)[:size].reshape(shape)
    keep(made)
    return made


@cache
def _pad_task(size):
    @task
    def pad(index, thread, p):
        x, y = numbers(peek(p, 0), size), numbers(peek(p, 1), size)
        height, width, top, left = peek(p, 2), peek(p, 3), peek(p, 4), peek(p, 5)
        padded_height, padded_width = peek(p, 6), peek(p, 7)
        for r in range(height):
            source = (index * height + r) * width
            target = (index * padded_height + r + top) * padded_width + left
            for q in range(width):
                y[target + q] = x[source + q]

    return pad


def padded(x, padding):
    """``x`` with zeros around its planes; ((top, bottom), (left, right))."""
    (top, bottom), (left, right) = padding
    n, c, height, width = x.shape
    y = array((n, c, height + top + bottom, width + left + right), x.dtype)
    values = [x.ctypes.data, y.ctypes.data, height, width, top, left, *y.shape[2:]]
    launch(_pad_task(x.itemsize), n * c, table(values))
    return y


@cache
def _convolve_task(size):
    @task
    def convolve(index, thread, p):
        x, out, weight, bias, scratch = peek(p, 0), peek(p, 1), peek(p, 2), peek(p, 3), peek(p, 4)
        tile, pixels, at_once = peek(p, 5), peek(p, 6), peek(p, 7)
        channels, in_plane = peek(p, 8), peek(p, 9)
        out_channels, height, width, kh, kw = peek(p, 10), peek(p, 11), peek(p, 12), peek(p, 13), peek(p, 14)
        row_step, pixel_step, row_tap, pixel_tap = peek(p, 15), peek(p, 16), peek(p, 17), peek(p, 18)
        relu, zeros = peek(p, 19), peek(p, 20)
        vector = 16 * size
        block = channels * kh * kw * vector
        block_count = (out_channels + 15) // 16
        parts = (block_count + at_once - 1) // at_once
        y = index % height
        first = index // height % parts * at_once
        image = index // height // parts
        count = min(at_once, block_count - first)
        source = x + image * channels * in_plane + y * row_step
        row = scratch + thread * at_once * width * vector
        shape = (channels, kh * kw * vector, in_plane, kh, kw * vector, row_tap, kw, vector, pixel_tap)
        done = 0
        while done < width:
            done = min(done, width - pixels)
            ends = (weight + first * block, source + done * pixel_step, zeros, row + done * vector)
            call(tile, (*ends, count, block, vector, width * vector, p + 21 * 8, *shape, pixel_step))
            done += pixels
        sums, shifts, result = numbers(row, size), numbers(bias, size), numbers(out, size)
        for k in range(first * 16, min(out_channels, (first + count) * 16)):
            start = ((image * out_channels + k) * height + y) * width
            column = (k // 16 - first) * width * 16 + k % 16
            for q in range(width):
                value = sums[column + q * 16] + shifts[k]
                result[start + q] = 0 if relu and value < 0 else value

    return convolve


def pack(weight):
    """(K, C, kh, kw) as [K/16][C][kh][kw][16], filled up with zeros."""
    k, c, kh, kw = weight.shape
    full = np.zeros((-(-k // LANES) * LANES, c, kh, kw), weight.dtype)
    full[:k] = weight
    packed = array((len(full) // LANES, c, kh, kw, LANES), weight.dtype)
    packed[...] = np.moveaxis(full.reshape(-1, LANES, c, kh, kw), 1, -1)
    return packed


def convolve(x, packed, bias, out_channels, stride, padding, dilation, relu):
    """Convolution of one group, with the weight in ``pack``'s order; max(0, y) with ``relu``."""
    size = x.itemsize
    if padding != ((0, 0), (0, 0)):
        x = padded(x, padding)
    n, c, h, w = x.shape
    kh, kw = packed.shape[2:4]
    height, width = output_shape(h, w, (kh, kw), stride, ((0, 0), (0, 0)), dilation)
    y = array((n, out_channels, height, width), x.dtype)
    pixels, at_once = row_block(width, blocks(size)[0])
    scratch = array((scratch_threads() * at_once * width * LANES,), x.dtype)
    zeros = array((LANES,), x.dtype)
    values = table(
        [
            x.ctypes.data, y.ctypes.data, packed.ctypes.data, bias.ctypes.data, scratch.ctypes.data,
            outer_run(pixels, at_once, size, True), pixels, at_once, c, h * w * size,
            out_channels, height, width, kh, kw,
            stride[0] * w * size, stride[1] * size, dilation[0] * w * size, dilation[1] * size,
            relu, zeros.ctypes.data, 0,
        ]
    )  # fmt: skip
    values[21:].view(x.dtype)[0] = -np.inf
    launch(_convolve_task(size), n * -(-packed.shape[0] // at_once) * height, values)
    return y


@cache
def _pool_task(size, largest):
    real = np.float32 if size == 4 else np.float64

    @task
    def pool(index, thread, p):
        x, y = numbers(peek(p, 0), size), numbers(peek(p, 1), size)
        height, width, oh, ow, kh, kw = peek(p, 2), peek(p, 3), peek(p, 4), peek(p, 5), peek(p, 6), peek(p, 7)
        sh, sw, ph, pw, include = peek(p, 8), peek(p, 9), peek(p, 10), peek(p, 11), peek(p, 12)
        source, target = index * height * width, index * oh * ow
        for r in range(oh):
            top, bottom = max(r * sh - ph, 0), min(r * sh - ph + kh, height)
            for q in range(ow):
                left, right = max(q * sw - pw, 0), min(q * sw - pw + kw, width)
                best, total = x[source + top * width + left], real(0)
                for u in range(top, bottom):
                    for w in range(left, right):
                        value = x[source + u * width + w]
                        total += value
                        if value > best or value != value:
                            best = value
                cells = kh * kw if include else (bottom - top) * (right - left)
                y[target + r * ow + q] = best if largest else total / cells

    return pool


def pool(x, largest, kernel_size, stride, padding, include=True):
    """The largest value of each window, or its mean (``include``: padding counts in the divisor)."""
    n, c, *plane = x.shape
    y = array((n, c, *output_shape(*plane, kernel_size, stride, padding)), x.dtype)
    sizes = [*plane, *y.shape[2:], *kernel_size, *stride, padding[0][0], padding[1][0], include]
    launch(_pool_task(x.itemsize, largest), n * c, table([x.ctypes.data, y.ctypes.data, *sizes]))
    return y


@cache
def _affine_task(size):
    @task
    def affine(index, thread, p):
        x, y = numbers(peek(p, 0), size), numbers(peek(p, 1), size)
        factors, shifts = numbers(peek(p, 2), size), numbers(peek(p, 3), size)
        pixels, c = peek(p, 4), index % peek(p, 5)
        for i in range(index * pixels, (index + 1) * pixels):
            y[i] = x[i] * factors[c] + shifts[c]

    return affine


def affine(x, factor, shift):
    """y[n,c,...] = x[n,c,...] * factor[c] + shift[c]."""
    y = array(x.shape, x.dtype)
    n, c = x.shape[:2]
    sizes = [x.size // (n * c), c]
    values = [x.ctypes.data, y.ctypes.data, factor.ctypes.data, shift.ctypes.data, *sizes]
    launch(_affine_task(x.itemsize), n * c, table(values))
    return y


def activate(x, kind, parameter):
    """An activation of ``cnn.kernels.activation`` on an array made here."""
    y = array(x.shape, x.dtype)
    size = -(-x.size // LANES) * LANES
    values = table([x.ctypes.data, y.ctypes.data, size, v.bits(parameter)])
    launch(activation.forward_task(kind, x.itemsize), chunks(size), values)
    return y


def add(a, b, relu):
    """a + b of two arrays made here, or max(0, a + b)."""
    y = array(a.shape, a.dtype)
    size = -(-a.size // LANES) * LANES
    values = table([a.ctypes.data, b.ctypes.data, y.ctypes.data, size, relu])
    launch(elementwise.add_task(a.itemsize), chunks(size), values)
    return y
