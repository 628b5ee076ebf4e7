"""Small pictures inside the page: images, filters and a heat map as PNG data."""

import base64
import io

import numpy as np

_LARGEST = 96  # pixels; larger images are shrunk
_NEGATIVE, _ZERO, _POSITIVE = (38, 98, 200), (246, 246, 246), (214, 84, 26)


def png(pixels):
    """Return (H, W) or (H, W, 3) uint8 as the text of a data: URL."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_png(image):
    """Return the data: URL of a (C, H, W) uint8 image; other than 1 or 3 channels, the first one."""
    return png(image.transpose(1, 2, 0) if image.shape[0] == 3 else image[0])


def masks_png(image, right, answer):
    """Return the data: URL of an image (C, H, W) uint8, its mask and the answer (H, W), side by side.

    Of an image that is larger than its mask the middle is shown, which is what the network saw.
    """
    from cnn.data.masks import PALETTE

    top, left = ((have - want) // 2 for have, want in zip(image.shape[1:], right.shape, strict=True))
    cut = image[:, top : top + right.shape[0], left : left + right.shape[1]].transpose(1, 2, 0)
    cut = cut if cut.shape[2] == 3 else cut[..., :1].repeat(3, axis=2)
    gap = np.full((right.shape[0], 2, 3), 128, np.uint8)
    step = max(1, max(right.shape) // _LARGEST)
    parts = [cut, gap, PALETTE[right], gap, PALETTE[answer]]
    return png_at_size(np.concatenate(parts, axis=1)[::step, ::step], 1)


def filter_pngs(weight, most=64):
    """Return data: URLs of the filters (K, C, kh, kw), at most ``most``.

    With three channels a filter is a picture, grey being 0. Otherwise blue is negative, orange positive, and
    the channel with the largest weights is shown.
    """
    limit = float(np.abs(weight).max()) or 1.0
    return [png(_filter_pixels(w / limit)) for w in weight[:most]]


def _filter_pixels(w):
    if w.shape[0] == 3:
        return np.clip(127.5 + 127.5 * w.transpose(1, 2, 0), 0, 255).astype(np.uint8)
    return diverging(w[np.abs(w).sum(axis=(1, 2)).argmax()])


def diverging(values):
    """Return (H, W, 3) uint8 colours of numbers from -1 (blue) over 0 (white) to 1 (orange)."""
    amount = np.sqrt(np.abs(np.clip(values, -1, 1)))[..., None]
    end = np.where((values < 0)[..., None], np.array(_NEGATIVE, float), np.array(_POSITIVE, float))
    return np.rint((1 - amount) * np.array(_ZERO, float) + amount * end).astype(np.uint8)


def confusion_png(confusion):
    """Return the data: URL of a confusion matrix, one pixel a pair: white none, orange wrong, blue right."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    signed = np.where(np.eye(len(share), dtype=bool), -share, share)
    return png_at_size(diverging(signed), max(1, 560 // len(share)))


def png_at_size(pixels, factor):
    """Return the data: URL of pixels drawn as squares of ``factor`` pixels."""
    from PIL import Image

    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
