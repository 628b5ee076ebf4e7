"""The loops over pixels that prepare a batch.

They run beside the training kernels on a background thread: single-threaded, and ``nogil`` so that
neither side waits for the other.
"""

from numba import njit


@njit(nogil=True, cache=True)
def normalize(images, indices, table, out):
    """Gather and normalise: out[i, c, p] = table[c, images[indices[i], c, p]].

    ``table`` (C, 256) has the normalised value of every pixel value, worked out once in float64, so
    every pixel is correctly rounded. ``images`` (M, C, H*W) uint8, ``out`` (n, C, H*W).
    """
    for i in range(len(indices)):
        for c in range(images.shape[1]):
            source, row, target = images[indices[i], c], table[c], out[i, c]
            for p in range(len(source)):
                target[p] = row[source[p]]


@njit(nogil=True, cache=True)
def window(images, tops, lefts, reflect, out):
    """Cut one window from each image: out[i, c, y, x] = images[i, c, y + tops[i], x + lefts[i]].

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, which is not
    repeated (``np.pad`` mode "reflect"); then a window reaches at most H-1 or W-1 pixels outside.
    """
    n, channels, oh, ow = out.shape
    h, w = images.shape[2], images.shape[3]
    for i in range(n):
        top, left = tops[i], lefts[i]
        # columns first <= x < last of the output lie inside the image
        first, last = min(max(-left, 0), ow), max(min(w - left, ow), 0)
        for c in range(channels):
            for y in range(oh):
                r, target = y + top, out[i, c, y]
                if reflect:
                    r = h - 1 - abs(h - 1 - abs(r))
                elif r < 0 or r >= h:
                    for x in range(ow):
                        target[x] = 0
                    continue
                source = images[i, c, r]
                # sliced first: Numba vectorises the plain copy, and compiles it faster than a[:] = b
                inside, copied = target[first:last], source[first + left :]
                for x in range(len(inside)):
                    inside[x] = copied[x]
                for x in range(first):
                    target[x] = source[-(x + left)] if reflect else 0
                for x in range(max(last, first), ow):
                    target[x] = source[2 * (w - 1) - (x + left)] if reflect else 0


@njit(nogil=True, cache=True)
def flip(images, chosen):
    """Mirror the images left to right, in place, where ``chosen`` (n,) is True."""
    for i in range(len(images)):
        if chosen[i]:
            for c in range(images.shape[1]):
                for y in range(images.shape[2]):
                    row = images[i, c, y]
                    for x in range(len(row) // 2):
                        row[x], row[len(row) - 1 - x] = row[len(row) - 1 - x], row[x]


@njit(nogil=True, cache=True)
def blacken(images, tops, lefts, size):
    """Set a square of ``size`` pixels to 0 in each image, in place; what lies outside is clipped."""
    h, w = images.shape[2], images.shape[3]
    for i in range(len(images)):
        for c in range(images.shape[1]):
            for y in range(max(tops[i], 0), min(tops[i] + size, h)):
                images[i, c, y, max(lefts[i], 0) : max(min(lefts[i] + size, w), 0)] = 0
