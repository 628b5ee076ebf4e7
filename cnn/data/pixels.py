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
def window(images, indices, tops, lefts, reflect, out):
    """Cut a window from each image: out[i, c, y, x] = images[indices[i], c, y + tops[i], x + lefts[i]].

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, which is not
    repeated (``np.pad`` mode "reflect"); then a window reaches at most H-1 or W-1 pixels outside.
    """
    n, channels, oh, ow = out.shape
    h, w = images.shape[2], images.shape[3]
    for i in range(n):
        top, left = tops[i], lefts[i]
        if (oh, ow) == (h, w) and not reflect:
            for c in range(channels):
                _shift(images[indices[i], c], top, left, out[i, c])
            continue
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
                source = images[indices[i], c, r]
                # sliced first: Numba vectorises the plain copy, and compiles it faster than a[:] = b
                inside, copied = target[first:last], source[first + left :]
                for x in range(len(inside)):
                    inside[x] = copied[x]
                for x in range(first):
                    target[x] = source[-(x + left)] if reflect else 0
                for x in range(max(last, first), ow):
                    target[x] = source[2 * (w - 1) - (x + left)] if reflect else 0


@njit(nogil=True, cache=True)
def _shift(image, top, left, out):
    """out[y, x] = image[y + top, x + left], 0 outside; both of one size.

    Row after row, the moved image is the old one from number top * w + left on: one long copy, which takes a
    third of the time of many short ones. What a row got from its neighbour is then set to 0.
    """
    h, w = image.shape
    top, left = min(max(top, -h), h), min(max(left, -w), w)
    source, target, move = image.reshape(-1), out.reshape(-1), top * w + left
    start, stop = min(max(-move, 0), h * w), max(min(h * w - move, h * w), 0)
    for p in range(start):
        target[p] = 0
    for p in range(stop, h * w):
        target[p] = 0
    inside, copied = target[start:stop], source[start + move :]
    for p in range(len(inside)):
        inside[p] = copied[p]
    first, last = max(-left, 0), min(w - left, w)
    for y in range(h):
        for x in range(first):
            out[y, x] = 0
        for x in range(last, w):
            out[y, x] = 0


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
