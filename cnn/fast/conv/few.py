"""Direct convolution of a few images, and matrix products: sixteen output channels times one number.

This is the register tile of ``conv_direct`` with exchanged parts: the weight is the vector, a number of the
image what multiplies it. The image is first copied to [N][H][W][C] with its border of zeros: then all numbers
that a row of the window meets are neighbours, and the loop over them is long. A matrix product is a 1x1
convolution whose pixels are the images.
"""

from functools import cache

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.tiles import outer_run
from cnn.fast.lanes import Lanes, in_blocks
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, scratch, table, task
from cnn.fast.machine.simd import vector_registers, width
from cnn.fast.machine.tables import call, integers, pointer
from cnn.geometry import output_shape


def pack(weight):
    """(K, C, kh, kw) as [K/16][kh][kw][C][16], filled up with zeros."""
    k, c, kh, kw = weight.shape
    packed = scratch((in_blocks(k), kh, kw, c, LANES), weight.dtype)
    for block in range(in_blocks(k)):
        part = weight[block * LANES : (block + 1) * LANES]
        packed[block, ..., : len(part)] = part.transpose(2, 3, 1, 0)
    return packed


@cache
def _gather_task(size):
    @task
    def gather(index, thread, params):
        p = integers(params)
        x, y = pointer(p[0], size), pointer(p[1], size)
        channels, height, width, top, left = p[2], p[3], p[4], p[5], p[6]
        out_height, out_width = p[7], p[8]
        image, row = index // height, index % height
        target = ((image * out_height + row + top) * out_width + left) * channels
        for block in range((channels + 15) // 16):
            source = ((image * ((channels + 15) // 16) + block) * height + row) * width * 16
            to, count = target + block * 16, channels - block * 16
            if count >= 16:
                for q in range(width):
                    v.store(y, to + q * channels, v.load(x, source + q * 16))
            else:
                for q in range(width):
                    for c in range(count):
                        y[to + q * channels + c] = x[source + q * 16 + c]

    return gather


def _gathered(x, padding):
    """[N][H][W][C] with a border of zeros; ((top, bottom), (left, right))."""
    (top, bottom), (left, right) = padding
    n, c, height, width = x.shape
    y = scratch((n, height + top + bottom, width + left + right, c), x.dtype)
    values = [x.address, y.ctypes.data, c, height, width, top, left, *y.shape[1:3]]
    launch(_gather_task(x.dtype.itemsize), n * height, table(values))
    return y


def tile(count, row_blocks, size):
    """The register block (pixels, blocks of channels) that covers ``count`` pixels in the fewest cycles."""
    parts, sums = LANES // width(size), vector_registers()[1] * 3 // 4

    def blocks(pixels):
        return max(1, min(6, row_blocks, sums // (pixels * parts)))

    def cycles(pixels):
        products, loads = pixels * blocks(pixels) * parts, pixels + blocks(pixels) * parts
        # Two products or loads a cycle; a sum waits four cycles for the one before.
        return -(-count // pixels) * max(products, loads, 8) / blocks(pixels)

    pixels = min(range(min(count, max(1, sums // parts), 8), 0, -1), key=cycles)
    return pixels, blocks(pixels)


@cache
def _convolve_task(size):
    @task
    def convolve(index, thread, params):
        p = integers(params)
        x, weight, bias, out, zeros = p[0], p[1], p[2], p[3], p[4]
        pixels, at_once, channels, height, width = p[6], p[7], p[8], p[9], p[10]
        image_step, row_step, pixel_step = p[11], p[12], p[13]
        out_image, out_block, out_row, out_pixel = p[14], p[15], p[16], p[17]
        na, wa, xa, nb, wb, xb, nc, wc, xc = p[18], p[19], p[20], p[21], p[22], p[23], p[24], p[25], p[26]
        block_bytes, relu = p[27], p[28]
        blocks = (channels + 15) // 16
        parts = (blocks + at_once - 1) // at_once
        row, first, image = index % height, index // height % parts * at_once, index // height // parts
        count = min(at_once, blocks - first)
        source = x + image * image_step + row * row_step
        target = out + image * out_image + first * out_block + row * out_row
        done = 0
        while done < width:  # the last tile is moved back to end with the row
            done = min(done, width - pixels)
            call(p[5], (
                weight + first * block_bytes, source + done * pixel_step, zeros, target + done * out_pixel,
                count, block_bytes, out_pixel, out_block, params + 29 * 8, na, wa, xa, nb, wb, xb, nc, wc, xc,
                pixel_step, 1, 0, 0,
            ))  # fmt: skip
            done += pixels
        for block in range(first, first + count):  # while the row lies in the cache
            y = pointer(target + (block - first) * out_block, size)
            shift, used = v.load(pointer(bias, size), block * 16), v.first_lanes(channels - block * 16)
            for i in range(0, width * (out_pixel // size), out_pixel // size):
                value = v.load(y, i) + shift
                if relu:
                    value = v.select(v.greater(0.0, value), 0.0, value)
                v.store(y, i, v.select(used, value, 0.0))  # 0 * infinity would be read as a channel

    return convolve


def _launch(x, packed, bias, out, channels, steps, out_steps, shape, loops, relu):
    """All rows of all images; steps: bytes to the next image, row and pixel of ``x``."""
    size = packed.itemsize
    images, height, width = shape
    blocks = len(packed)
    pixels, at_once = tile(width, blocks, size)
    zeros = scratch((LANES,), packed.dtype)
    values = table(
        [
            x, packed.ctypes.data, bias.ctypes.data, out, zeros.ctypes.data,
            outer_run(pixels, at_once, size, True), pixels, at_once, channels, height, width,
            *steps, *out_steps, *loops, packed[0].nbytes, relu, 0,
        ]
    )  # fmt: skip
    values[29:].view(packed.dtype)[0] = -np.inf
    launch(_convolve_task(size), images * -(-blocks // at_once) * height, values)


def linear(x, packed, bias, features, relu):
    """y[n,k] = sum over c of weight[k,c] * x[n,c] + bias[k]; max(0, y) with ``relu``."""
    n, c = x.shape
    y = Lanes((n, features), x.dtype)
    size, pixel = x.dtype.itemsize, LANES * x.dtype.itemsize
    loops = [1, 0, 0, 1, 0, 0, c, pixel, size]
    steps, out_steps = [0, 0, x.blocks * pixel], [0, pixel, 0, y.blocks * pixel]
    _launch(x.address, packed, bias, y.address, features, steps, out_steps, (1, 1, n), loops, relu)
    return y


def convolve(x, packed, bias, out_channels, stride, padding, dilation, relu):
    """Convolution of one group with the weight in ``pack``'s order; max(0, y) with ``relu``."""
    n, c, h, w = x.shape
    kh, kw = packed.shape[1:3]
    size, pixel = x.dtype.itemsize, LANES * x.dtype.itemsize
    height, width = output_shape(h, w, (kh, kw), stride, padding, dilation)
    y = Lanes((n, out_channels, height, width), x.dtype)
    if kh * kw == 1 and c % LANES == 0 and padding == ((0, 0), (0, 0)):
        address, image, row, near = x.address, x.blocks * h * w * pixel, w * pixel, pixel
        loops = [1, 0, 0, x.blocks, LANES * pixel, h * w * pixel, LANES, pixel, size]
    else:
        wide = _gathered(x, padding)
        address, image, row, near = wide.ctypes.data, wide[0].nbytes, wide[0, 0].nbytes, c * size
        loops = [kh, kw * c * pixel, dilation[0] * row, kw, c * pixel, dilation[1] * near, c, pixel, size]
        if dilation[1] == 1 or kw == 1:
            loops = [1, 0, 0, *loops[:3], kw * c, pixel, size]
    steps = [image, stride[0] * row, stride[1] * near]
    out_steps = [y.blocks * height * width * pixel, height * width * pixel, width * pixel, pixel]
    shape = (n, height, width)
    _launch(address, packed, bias, y.address, out_channels, steps, out_steps, shape, loops, relu)
    return y
