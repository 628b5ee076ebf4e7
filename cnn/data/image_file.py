"""Reads one image file, the same way for training and for ``cnn predict``."""

import numpy as np
from PIL import Image, ImageOps

from cnn.errors import ConfigError, DataError
from cnn.geometry import pair

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "P", "PA")


def check_options(image_size, mode):
    """Return ``image_size`` as (height, width) or None; ConfigError unless both options are valid."""
    if mode not in (None, "L", "RGB"):
        raise ConfigError(f'mode: expected "L" (grey) or "RGB", found {mode!r}')
    return None if image_size is None else pair(image_size, "image_size")


def default_mode(path):
    """Return "RGB" for a colour image and "L" for a grey one."""
    return "RGB" if open_image(path).mode in _COLOUR_MODES else "L"


def read_image(path, image_size=None, mode="RGB", grey_only=False):
    """Return an image file as (C, H, W) uint8: C is 1 for ``mode`` "L" and 3 for "RGB".

    The camera's orientation tag is obeyed, transparency dropped, 16-bit grey reduced to its high byte,
    the first frame taken. ``image_size`` (height, width) resizes, bilinear with antialiasing.

    Raises DataError naming the file: missing, truncated, no image, of floats, or with ``grey_only`` in
    colour.
    """
    image = open_image(path)
    if grey_only and image.mode in _COLOUR_MODES:
        hint = 'mode = "RGB" or "L" settles it'
        raise DataError(f"{path}: expected a grey image like the first one, found {image.mode}; {hint}")
    if image.mode == "F":
        raise DataError(f"{path}: expected an image of 8 or 16 bits, found floats")
    if image.mode.startswith("I"):  # 16 bits; older Pillows widen them to 32
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if "transparency" in image.info:  # a palette's goes by way of RGBA
        image = image.convert("RGBA")
    image = image.convert(mode)
    if image_size is not None and image.size != image_size[::-1]:
        image = image.resize(image_size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def open_image(path):
    """Return the Pillow image of a file, turned as its orientation tag says; DataError if it has none."""
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected an image file, found no such file") from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        problem = str(error) or type(error).__name__
        raise DataError(f"{path}: expected an image, found a file that cannot be read ({problem})") from error
