"""Brings a user's own picture to what a network was trained on, and says where it still differs.

Networks for digits learn white ink on black, centred; photographs of handwriting are usually neither.
"""

import numpy as np
from PIL import Image, ImageOps

from cnn.data.image_file import open_image, pixels_of, side_of
from cnn.errors import ConfigError

__all__ = ["REMARKS", "read_picture"]

# What may be said of a picture, for the terminal; the page has the same in its languages.
REMARKS = {
    "transparent": "has transparent parts, whose hidden colours were read: try --invert or --center",
    "inverted": "has a {ground} ground, the training images a {expected} one: try --invert",
    "offcentre": "is off-centre, or much smaller or larger than the training images: try --center",
    "blank": "is almost of one colour",
}
_INK = 0.25  # of the largest difference from the ground: what counts as ink
_BOX = 20 / 28  # share of the image that MNIST's digits fill
_SPARSE = 0.25  # mean of the training pixels up to which they are ink on a dark ground


def read_picture(path, image_shape, mean, invert=False, center=False, fit="stretch", decode="full"):
    """Return (pixels (C, H, W) uint8, remarks): an image file as the network takes it.

    Parameters
    ----------
    path : the file.
    image_shape : (C, H, W) of the training images.
    mean : mean of each channel of the training images, 0 to 1.
    invert : swap dark and light.
    center : scale the ink to 20/28 of the size and move its centre of mass to the middle, as MNIST's
        digits were made.
    fit : how an image of another aspect ratio gets the size; see `cnn.data.image_file.read_with_bits`.
    decode : "full" or "reduced", likewise.

    ``remarks`` are keys of ``REMARKS``. Raises DataError when the file cannot be read, ConfigError when the
    network takes neither grey nor RGB images.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise ConfigError(f"the network takes images of {channels} channels, expected 1 (grey) or 3 (RGB)")
    mode = "L" if channels == 1 else "RGB"
    source = open_image(path, least=None if invert or center else side_of((height, width), decode))
    see_through = _is_transparent(source)
    if not (invert or center):
        pixels = pixels_of(source, path, (height, width), mode, fit=fit)[0]
    else:
        image = Image.fromarray(_pixels_last(pixels_of(source, path, mode=mode)[0]))
        if see_through:
            image = _on_white(source, mode)
        if invert:
            image = ImageOps.invert(image)
        image = _centered(image, (width, height)) if center else image
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = _channels_first(np.asarray(image))
    remarks = ["transparent"] if see_through and not (invert or center) else []
    return pixels, remarks + _differences(pixels, float(np.mean(mean)))


def describe(remark, mean):
    """Return one remark as a sentence's end, for a network trained on images of this mean."""
    dark = float(np.mean(mean)) < 0.5
    return REMARKS[remark].format(ground="light" if dark else "dark", expected="dark" if dark else "light")


def _differences(pixels, mean):
    """Return the remarks on what the network will see; only ink on a plain ground can be judged."""
    ground, ink = _ground_and_ink(pixels)
    if ink.max() < 0.1:
        return ["blank"]
    remarks = []
    if pixels.shape[0] == 1 and ((mean < 0.4 and ground > 0.6) or (mean > 0.6 and ground < 0.4)):
        remarks.append("inverted")
    if pixels.shape[0] == 1 and min(mean, 1 - mean) < _SPARSE:
        size = np.array(ink.shape)
        (top, left), (bottom, right) = _box(ink)
        largest = max((bottom - top) / size[0], (right - left) / size[1])
        shift = np.abs(_middle(ink) - (size - 1) / 2) / size
        if shift.max() > 0.09 or not 0.5 <= largest <= 0.9:
            remarks.append("offcentre")
    return remarks


def _ground_and_ink(pixels):
    """Return (the ground's brightness, how far each pixel is from it (H, W)), 0 to 1."""
    grey = pixels.mean(axis=0) / 255
    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    ground = float(np.median(border))
    return ground, np.abs(grey - ground)


def _box(ink):
    """Return ((top, left), (bottom, right)) of the ink, the last two exclusive."""
    places = np.argwhere(ink > _INK * ink.max())
    return places.min(axis=0), places.max(axis=0) + 1


def _middle(ink):
    """Return the centre of mass (row, column) of the ink."""
    rows, columns = np.indices(ink.shape)
    return np.array([(rows * ink).sum(), (columns * ink).sum()]) / ink.sum()


def _centered(image, size):
    """Return an image of ``size`` (width, height) with the ink scaled and moved as MNIST's."""
    pixels = np.asarray(image)
    grey = _channels_first(pixels)
    ground, ink = _ground_and_ink(grey)
    if ink.max() < 0.1:
        return image
    (top, left), (bottom, right) = _box(ink)
    cut = image.crop((int(left), int(top), int(right), int(bottom)))
    scale = _BOX * min(size) / max(cut.size)
    cut = cut.resize([max(1, round(scale * side)) for side in cut.size], Image.Resampling.LANCZOS)
    plain = np.median(np.concatenate([pixels[0], pixels[-1]]), axis=0).astype(np.uint8)
    inside = np.abs(_channels_first(np.asarray(cut)).mean(axis=0) / 255 - ground)
    row, column = _middle(inside) if inside.sum() > 0 else (cut.height / 2, cut.width / 2)
    whole = Image.new(image.mode, size, plain.item() if plain.ndim == 0 else tuple(plain.tolist()))
    whole.paste(cut, (round((size[0] - 1) / 2 - column), round((size[1] - 1) / 2 - row)))
    return whole


def _is_transparent(image):
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    return bool(np.asarray(image.convert("RGBA"))[..., 3].min() < 128)


def _on_white(image, mode):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(mode)


def _channels_first(pixels):
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _pixels_last(pixels):
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
