"""What prepares a batch of uint8 images: normalisation, windows, flips, squares, colours, resampling."""

import numpy as np


def normalize_pixels(images, indices, table, out):
    """Gather and normalise: out[i, c, y, x] = table[c, images[indices[i], c, y, x]].

    ``table`` (C, 256) has the normalised value of every pixel value. ``images`` (M, C, H, W) uint8.
    """
    channel = np.arange(images.shape[1])[:, None, None]
    out[...] = table[channel, images[indices]]


def _reflected(index, size):
    """Fold an index at the first and the last pixel, again and again."""
    if size == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * (size - 1))
    return np.minimum(index, 2 * (size - 1) - index)


def cut_windows(images, indices, tops, lefts, reflect, out):
    """Cut a window from each image: out[i, c, y, x] = images[indices[i], c, y + tops[i], x + lefts[i]].

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, which is not
    repeated (``np.pad`` mode "reflect").
    """
    channel, (height, width) = np.arange(images.shape[1])[:, None, None], images.shape[2:]
    rows = (np.asarray(tops)[:, None] + np.arange(out.shape[2]))[:, None, :, None]
    columns = (np.asarray(lefts)[:, None] + np.arange(out.shape[3]))[:, None, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = _reflected(rows, height), _reflected(columns, width)
    picked = images[np.asarray(indices)[:, None, None, None], channel, rows, columns]
    out[...] = picked if reflect else np.where(inside, picked, 0)


def flip_images(images, chosen):
    """Mirror the images left to right, in place, where ``chosen`` (n,) is True."""
    images[chosen] = images[chosen][..., ::-1]


def blacken_squares(images, tops, lefts, size):
    """Set a square of ``size`` pixels to 0 in each image, in place; what lies outside is clipped."""
    row, column = np.arange(images.shape[2])[:, None], np.arange(images.shape[3])
    tops, lefts = (np.asarray(values)[:, None, None, None] for values in (tops, lefts))
    inside = (row >= tops) & (row < tops + size) & (column >= lefts) & (column < lefts + size)
    images[...] = np.where(inside, 0, images)


def recolor_images(images, matrices, out):
    """Mix the channels: out[n, c] = sum_k M[n, c, k] images[n, k] + M[n, c, C], rounded and cut to 0..255.

    ``images`` and ``out`` (n, C, H, W) uint8, ``matrices`` (n, C, C + 1) float64.
    """
    channels = images.shape[1]
    mixed = np.einsum("nck,nkhw->nchw", matrices[:, :, :channels], images.astype(float))
    out[...] = np.floor(np.clip(mixed + matrices[:, :, channels, None, None], 0, 255) + 0.5)


def resample_images(images, matrices, reflect, out):
    """Write bilinear samples: out[n, c, i, j] is image n at (u, v) = M[n] (j, i, 1), rounded to nearest.

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, again and again.
    ``images`` and ``out`` (n, C, H, W) uint8, ``matrices`` (n, 2, 3) float64.
    """
    n, channels, height, width = images.shape
    i, j = np.arange(height)[:, None], np.arange(width)
    u, v = (
        m[:, 0, None, None] * j + m[:, 1, None, None] * i + m[:, 2, None, None]
        for m in (matrices[:, 0], matrices[:, 1])
    )
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    total = np.zeros(images.shape)
    image, channel = np.arange(n)[:, None, None, None], np.arange(channels)[:, None, None]
    for down in (0, 1):
        for right in (0, 1):
            rows, columns = top + down, left + right
            weight = np.where(down, v - top, 1 - (v - top)) * np.where(right, u - left, 1 - (u - left))
            if not reflect:
                weight = np.where(
                    (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width), weight, 0
                )
            pixel = image, channel, _reflected(rows, height)[:, None], _reflected(columns, width)[:, None]
            total += weight[:, None] * images[pixel]
    out[...] = np.floor(total + 0.5)
