"""What prepares a batch of uint8 images: normalisation, windows, flips, squares, colours, resampling.

A piece of each task is one image: so they take all threads where the training kernels wait for them, and one
where they run beside those, on a background thread.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import carray

from cnn.fast.machine.jit import address, jit, launch, task
from cnn.fast.machine.jit import table as parameters
from cnn.fast.machine.tables import integers, pointer, reader


class Normalize(NamedTuple):
    """A piece is one image of the batch."""

    images: int  # address of uint8
    indices: int  # address of int64: which image each of the batch is
    table: int  # address of (channels, 256) numbers
    out: int  # address
    channels: int
    pixels: int  # of a plane


class Window(NamedTuple):
    """A piece is one image of the batch."""

    images: int  # address of uint8
    indices: int  # address of int64: which image each of the batch is
    corners: int  # address of int64 (2, count): top and left of each window
    out: int  # address of uint8
    count: int  # of windows
    channels: int
    height: int  # of an image
    width: int
    oh: int  # height of a window
    ow: int
    reflect: int  # whether what lies outside is the image mirrored, or else black


class Flip(NamedTuple):
    """A piece is one image that is flipped."""

    images: int  # address of uint8
    chosen: int  # address of int64: which images
    rows: int  # of all channels of an image
    width: int


class Square(NamedTuple):
    """A piece is one image."""

    images: int  # address of uint8
    corners: int  # address of int64 (2, images): top and left of each square
    count: int  # of images
    channels: int
    height: int
    width: int
    size: int  # of the square


class Resample(NamedTuple):
    """A piece is one image."""

    images: int  # address of uint8
    matrices: int  # address of float64 (images, 2, 3)
    out: int  # address of uint8
    channels: int
    height: int
    width: int
    reflect: int  # whether what lies outside is the image mirrored, or else black


class Recolor(NamedTuple):
    """A piece is one image."""

    images: int  # address of uint8
    matrices: int  # address of float64 (images, channels, channels + 1)
    out: int  # address of uint8
    channels: int
    pixels: int  # of a plane


normalize_of, window_of, flip_of, square_of = map(reader, (Normalize, Window, Flip, Square))
resample_of, recolor_of = reader(Resample), reader(Recolor)


def place(array, dtype):
    """The address of an array for a task, which has no other way to know that it is as it should be."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        found = f"{array.dtype} {array.shape} with strides {array.strides}"
        raise ValueError(f"expected a C-contiguous array of {np.dtype(dtype)}, found {found}")
    return address(array)


def normalize_pixels(images, indices, table, out):
    """Gather and normalise: out[i, c, y, x] = table[c, images[indices[i], c, y, x]].

    ``table`` (C, 256) has the normalised value of every pixel value, worked out once in float64, so
    every pixel is correctly rounded. ``images`` (M, C, H, W) uint8, ``out`` (n, C, H, W) of its dtype.
    """
    arrays = place(images, np.uint8), place(indices, np.int64), place(table, out.dtype), place(out, out.dtype)
    values = parameters(Normalize(*arrays, out.shape[1], out.shape[2] * out.shape[3]))
    launch(_normalize_task(out.itemsize), len(indices), values)


@functools.cache
def _normalize_task(itemsize):
    @task
    def normalize_image(i, thread, params):
        p = normalize_of(params)
        size = p.channels * p.pixels
        image = carray(pointer(p.images + integers(p.indices)[i] * size, 1), (p.channels, p.pixels))
        table = carray(pointer(p.table, itemsize), (p.channels, 256))
        out = carray(pointer(p.out + i * size * itemsize, itemsize), (p.channels, p.pixels))
        for c in range(p.channels):
            source, row, target = image[c], table[c], out[c]
            for k in range(p.pixels):
                target[k] = row[source[k]]

    return normalize_image


def cut_windows(images, indices, tops, lefts, reflect, out):
    """Cut a window from each image: out[i, c, y, x] = images[indices[i], c, y + tops[i], x + lefts[i]].

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, which is not
    repeated (``np.pad`` mode "reflect"); then a window reaches at most H-1 or W-1 pixels outside.
    """
    corners = np.ascontiguousarray([tops, lefts], np.int64)
    arrays = place(images, np.uint8), place(indices, np.int64), place(corners, np.int64), place(out, np.uint8)
    sizes = len(indices), *images.shape[1:], *out.shape[2:]
    whole = images.shape[2:] == out.shape[2:] and not reflect
    make = _shift_task if whole else _window_task
    launch(make(), len(indices), parameters(Window(*arrays, *sizes, reflect)))


@functools.cache
def _window_task():
    @task
    def cut(i, thread, params):
        p = window_of(params)
        channels, h, w, oh, ow, reflect = p.channels, p.height, p.width, p.oh, p.ow, p.reflect
        top, left = integers(p.corners)[i], integers(p.corners)[p.count + i]
        image = carray(pointer(p.images + integers(p.indices)[i] * channels * h * w, 1), (channels, h, w))
        out = carray(pointer(p.out + i * channels * oh * ow, 1), (channels, oh, ow))
        # columns first <= x < last of the output lie inside the image
        first, last = min(max(-left, 0), ow), max(min(w - left, ow), 0)
        for c in range(channels):
            for y in range(oh):
                r, target = y + top, out[c, y]
                if reflect:
                    r = h - 1 - abs(h - 1 - abs(r))
                elif r < 0 or r >= h:
                    for x in range(ow):
                        target[x] = 0
                    continue
                source = image[c, r]
                # sliced first: Numba vectorises the plain copy, and compiles it faster than a[:] = b
                inside, copied = target[first:last], source[first + left :]
                for x in range(len(inside)):
                    inside[x] = copied[x]
                for x in range(first):
                    target[x] = source[-(x + left)] if reflect else 0
                for x in range(max(last, first), ow):
                    target[x] = source[2 * (w - 1) - (x + left)] if reflect else 0

    return cut


@functools.cache
def _shift_task():
    """A window as large as the image, black outside.

    Row after row, the moved image is the old one from number top * w + left on: one long copy, which takes a
    third of the time of many short ones. What a row got from its neighbour is then set to 0.
    """

    @task
    def shift(i, thread, params):
        p = window_of(params)
        channels, h, w = p.channels, p.height, p.width
        top = min(max(integers(p.corners)[i], -h), h)
        left = min(max(integers(p.corners)[p.count + i], -w), w)
        image = carray(pointer(p.images + integers(p.indices)[i] * channels * h * w, 1), (channels, h * w))
        out = carray(pointer(p.out + i * channels * h * w, 1), (channels, h * w))
        move = top * w + left
        start, stop = min(max(-move, 0), h * w), max(min(h * w - move, h * w), 0)
        first, last = max(-left, 0), min(w - left, w)
        for c in range(channels):
            target = out[c]
            for k in range(start):
                target[k] = 0
            for k in range(stop, h * w):
                target[k] = 0
            inside, copied = target[start:stop], image[c, start + move :]
            for k in range(len(inside)):
                inside[k] = copied[k]
            for y in range(h):
                for x in range(first):
                    target[y * w + x] = 0
                for x in range(last, w):
                    target[y * w + x] = 0

    return shift


def flip_images(images, chosen):
    """Mirror the images left to right, in place, where ``chosen`` (n,) is True."""
    which = np.flatnonzero(chosen)
    rows = images.shape[1] * images.shape[2]
    arrays = place(images, np.uint8), place(which, np.int64)
    launch(_flip_task(), len(which), parameters(Flip(*arrays, rows, images.shape[3])))


@functools.cache
def _flip_task():
    @task
    def mirror(i, thread, params):
        p = flip_of(params)
        first = integers(p.chosen)[i] * p.rows * p.width
        image = carray(pointer(p.images + first, 1), (p.rows, p.width))
        for y in range(p.rows):
            row = image[y]
            for x in range(p.width // 2):
                row[x], row[p.width - 1 - x] = row[p.width - 1 - x], row[x]

    return mirror


def blacken_squares(images, tops, lefts, size):
    """Set a square of ``size`` pixels to 0 in each image, in place; what lies outside is clipped."""
    corners = np.ascontiguousarray([tops, lefts], np.int64)
    arrays = place(images, np.uint8), place(corners, np.int64)
    launch(_blacken_task(), len(images), parameters(Square(*arrays, *images.shape, size)))


@functools.cache
def _blacken_task():
    @task
    def cover(i, thread, params):
        p = square_of(params)
        top, left = integers(p.corners)[i], integers(p.corners)[p.count + i]
        shape = (p.channels, p.height, p.width)
        image = carray(pointer(p.images + i * p.channels * p.height * p.width, 1), shape)
        for c in range(p.channels):
            for y in range(max(top, 0), min(top + p.size, p.height)):
                for x in range(max(left, 0), min(left + p.size, p.width)):
                    image[c, y, x] = 0

    return cover


def recolor_images(images, matrices, out):
    """Mix the channels: out[n, c] = sum_k M[n, c, k] images[n, k] + M[n, c, C], rounded and cut to 0..255.

    ``images`` and ``out`` (n, C, H, W) uint8, ``matrices`` (n, C, C + 1) float64.
    """
    n, channels, height, width = images.shape
    arrays = place(images, np.uint8), place(matrices, np.float64), place(out, np.uint8)
    launch(_recolor_task(), n, parameters(Recolor(*arrays, channels, height * width)))


@functools.cache
def _recolor_task():
    @task
    def recolor_image(n, thread, params):
        p = recolor_of(params)
        channels, size = p.channels, p.channels * p.pixels
        image = carray(pointer(p.images + n * size, 1), (channels, p.pixels))
        m = carray(pointer(p.matrices + n * channels * (channels + 1) * 8, 8), (channels, channels + 1))
        out = carray(pointer(p.out + n * size, 1), (channels, p.pixels))
        for c in range(channels):
            target = out[c]
            for k in range(p.pixels):
                value = m[c, channels]
                for d in range(channels):
                    value += m[c, d] * image[d, k]
                target[k] = np.uint8(min(max(value, 0.0), 255.0) + 0.5)

    return recolor_image


def resample_images(images, matrices, reflect, out):
    """Write bilinear samples: out[n, c, i, j] is image n at (u, v) = M[n] (j, i, 1), rounded to nearest.

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, again and again.
    ``images`` and ``out`` (n, C, H, W) uint8, ``matrices`` (n, 2, 3) float64.
    """
    arrays = place(images, np.uint8), place(matrices, np.float64), place(out, np.uint8)
    launch(_resample_task(), len(images), parameters(Resample(*arrays, *images.shape[1:], reflect)))


@functools.cache
def _resample_task():
    @task
    def resample_image(n, thread, params):
        p = resample_of(params)
        channels, h, w, reflect = p.channels, p.height, p.width, p.reflect
        image = carray(pointer(p.images + n * channels * h * w, 1), (channels, h, w))
        m = carray(pointer(p.matrices + n * 48, 8), (2, 3))
        out = carray(pointer(p.out + n * channels * h * w, 1), (channels, h, w))
        for i in range(h):
            for j in range(w):
                u = m[0, 0] * j + m[0, 1] * i + m[0, 2]
                v = m[1, 0] * j + m[1, 1] * i + m[1, 2]
                left, top = math.floor(u), math.floor(v)
                fu, fv = u - left, v - top
                a, b = (1 - fv) * (1 - fu), (1 - fv) * fu
                c, d = fv * (1 - fu), fv * fu
                if 0 <= left < w - 1 and 0 <= top < h - 1:
                    for k in range(channels):
                        x = image[k]
                        value = a * x[top, left] + b * x[top, left + 1]
                        value += c * x[top + 1, left] + d * x[top + 1, left + 1]
                        out[k, i, j] = np.uint8(value + 0.5)
                    continue
                right, bottom = left + 1, top + 1
                if reflect:
                    left, right = _mirrored(left, w), _mirrored(right, w)
                    top, bottom = _mirrored(top, h), _mirrored(bottom, h)
                else:  # weight 0 for what lies outside, and any pixel in its place
                    a, c = (a, c) if 0 <= left < w else (0.0, 0.0)
                    b, d = (b, d) if 0 <= right < w else (0.0, 0.0)
                    a, b = (a, b) if 0 <= top < h else (0.0, 0.0)
                    c, d = (c, d) if 0 <= bottom < h else (0.0, 0.0)
                    left, right = min(max(left, 0), w - 1), min(max(right, 0), w - 1)
                    top, bottom = min(max(top, 0), h - 1), min(max(bottom, 0), h - 1)
                for k in range(channels):
                    x = image[k]
                    value = a * x[top, left] + b * x[top, right] + c * x[bottom, left] + d * x[bottom, right]
                    out[k, i, j] = np.uint8(value + 0.5)

    return resample_image


@jit
def _mirrored(index, size):
    """Fold an index into 0..size-1, mirrored at the first and the last pixel."""
    if size == 1:
        return 0
    index = abs(index) % (2 * (size - 1))
    return min(index, 2 * (size - 1) - index)
