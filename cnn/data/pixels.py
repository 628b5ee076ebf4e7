"""The loops over pixels that prepare a batch: tasks, one image a piece.

So they take all threads where the training kernels wait for them, and one where they run beside those, on
a background thread.
"""

import functools

import numpy as np
from numba import carray

from cnn.fast.machine.jit import address, launch, task
from cnn.fast.machine.jit import table as parameters
from cnn.fast.machine.tables import integers, pointer


def normalize(images, indices, table, out):
    """Gather and normalise: out[i, c, y, x] = table[c, images[indices[i], c, y, x]].

    ``table`` (C, 256) has the normalised value of every pixel value, worked out once in float64, so
    every pixel is correctly rounded. ``images`` (M, C, H, W) uint8, ``out`` (n, C, H, W) of its dtype.
    """
    arrays = place(images, np.uint8), place(indices, np.int64), place(table, out.dtype), place(out, out.dtype)
    launch(_normalize_task(out.itemsize), len(indices), parameters([*arrays, *out.shape[1:]]))


@functools.cache
def _normalize_task(itemsize):
    @task
    def normalize_image(i, thread, params):
        a = integers(params)
        channels, pixels = a[4], a[5] * a[6]
        size = channels * pixels
        image = carray(pointer(a[0] + integers(a[1])[i] * size, 1), (channels, pixels))
        table = carray(pointer(a[2], itemsize), (channels, 256))
        out = carray(pointer(a[3] + i * size * itemsize, itemsize), (channels, pixels))
        for c in range(channels):
            source, row, target = image[c], table[c], out[c]
            for p in range(pixels):
                target[p] = row[source[p]]

    return normalize_image


def window(images, indices, tops, lefts, reflect, out):
    """Cut a window from each image: out[i, c, y, x] = images[indices[i], c, y + tops[i], x + lefts[i]].

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, which is not
    repeated (``np.pad`` mode "reflect"); then a window reaches at most H-1 or W-1 pixels outside.
    """
    corners = np.ascontiguousarray([tops, lefts], np.int64)
    arrays = place(images, np.uint8), place(indices, np.int64), place(corners, np.int64), place(out, np.uint8)
    sizes = len(indices), *images.shape[1:], *out.shape[2:]
    whole = images.shape[2:] == out.shape[2:] and not reflect
    launch((_shift_task if whole else _window_task)(), len(indices), parameters([*arrays, *sizes, reflect]))


@functools.cache
def _window_task():
    @task
    def cut(i, thread, params):
        a = integers(params)
        n, channels, h, w, oh, ow, reflect = a[4], a[5], a[6], a[7], a[8], a[9], a[10]
        top, left = integers(a[2])[i], integers(a[2])[n + i]
        image = carray(pointer(a[0] + integers(a[1])[i] * channels * h * w, 1), (channels, h, w))
        out = carray(pointer(a[3] + i * channels * oh * ow, 1), (channels, oh, ow))
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
        a = integers(params)
        n, channels, h, w = a[4], a[5], a[6], a[7]
        top = min(max(integers(a[2])[i], -h), h)
        left = min(max(integers(a[2])[n + i], -w), w)
        image = carray(pointer(a[0] + integers(a[1])[i] * channels * h * w, 1), (channels, h * w))
        out = carray(pointer(a[3] + i * channels * h * w, 1), (channels, h * w))
        move = top * w + left
        start, stop = min(max(-move, 0), h * w), max(min(h * w - move, h * w), 0)
        first, last = max(-left, 0), min(w - left, w)
        for c in range(channels):
            target = out[c]
            for p in range(start):
                target[p] = 0
            for p in range(stop, h * w):
                target[p] = 0
            inside, copied = target[start:stop], image[c, start + move :]
            for p in range(len(inside)):
                inside[p] = copied[p]
            for y in range(h):
                for x in range(first):
                    target[y * w + x] = 0
                for x in range(last, w):
                    target[y * w + x] = 0

    return shift


def flip(images, chosen):
    """Mirror the images left to right, in place, where ``chosen`` (n,) is True."""
    which = np.flatnonzero(chosen)
    rows = images.shape[1] * images.shape[2]
    arrays = place(images, np.uint8), place(which, np.int64)
    launch(_flip_task(), len(which), parameters([*arrays, rows, images.shape[3]]))


@functools.cache
def _flip_task():
    @task
    def mirror(i, thread, params):
        a = integers(params)
        rows, width = a[2], a[3]
        image = carray(pointer(a[0] + integers(a[1])[i] * rows * width, 1), (rows, width))
        for y in range(rows):
            row = image[y]
            for x in range(width // 2):
                row[x], row[width - 1 - x] = row[width - 1 - x], row[x]

    return mirror


def blacken(images, tops, lefts, size):
    """Set a square of ``size`` pixels to 0 in each image, in place; what lies outside is clipped."""
    corners = np.ascontiguousarray([tops, lefts], np.int64)
    arrays = place(images, np.uint8), place(corners, np.int64)
    launch(_blacken_task(), len(images), parameters([*arrays, *images.shape, size]))


@functools.cache
def _blacken_task():
    @task
    def cover(i, thread, params):
        a = integers(params)
        n, channels, h, w, size = a[2], a[3], a[4], a[5], a[6]
        top, left = integers(a[1])[i], integers(a[1])[n + i]
        image = carray(pointer(a[0] + i * channels * h * w, 1), (channels, h, w))
        for c in range(channels):
            for y in range(max(top, 0), min(top + size, h)):
                for x in range(max(left, 0), min(left + size, w)):
                    image[c, y, x] = 0

    return cover


def place(array, dtype):
    """The address of an array for a task, which has no other way to know that it is as it should be."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        found = f"{array.dtype} {array.shape} with strides {array.strides}"
        raise ValueError(f"expected a C-contiguous array of {np.dtype(dtype)}, found {found}")
    return address(array)
