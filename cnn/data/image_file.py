"""Where pictures come in: the one place that opens an image file, for training and for every command."""

import functools
import importlib.util
import os
import stat

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

from cnn.errors import ConfigError, DataError
from cnn.geometry import pair

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
# Pillow guesses the format from the content, whatever the name; only these decoders are ever asked, so that
# no file starts another program (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
if "avif" in features.modules and features.check("avif"):  # since Pillow 11.3
    EXTENSIONS, FORMATS = (*EXTENSIONS, ".avif"), (*FORMATS, "AVIF")
_HEIF = (".heic", ".heif")
if importlib.util.find_spec("pillow_heif"):
    EXTENSIONS, FORMATS = (*EXTENSIONS, *_HEIF), (*FORMATS, "HEIF")
FITS = ("stretch", "crop", "pad")
DECODES = ("full", "reduced")
_GAP = 2  # a JPEG file decoded at reduced size still has so many times the pixels of a side that are wanted
MAX_PIXELS = 2**26  # of one image file; decoded they take 256 MB
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "P", "PA")
_CAMERA_BITS = 12
_MAX_SAMPLE_VALUE = 281  # a TIFF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def with_extra(suffix):
    """Return words for files with an extension that is not read, and what would read them."""
    if suffix in _HEIF:
        return f'{suffix} files (pip install "cnn[heic]" reads them)'
    return f"{suffix} files"


def check_options(image_size, mode):
    """Return ``image_size`` as (height, width) or None; ConfigError unless both options are valid."""
    if mode not in (None, "L", "RGB"):
        raise ConfigError(f'mode: expected "L" (grey) or "RGB", found {mode!r}')
    return None if image_size is None else pair(image_size, "image_size")


def default_mode(path):
    """Return "RGB" for a colour image and "L" for a grey one."""
    return "RGB" if open_image(path).mode in _COLOUR_MODES else "L"


def read_image(path, image_size=None, mode="RGB", fit="stretch", decode="full"):
    """Return an image file as (C, H, W) uint8; see `read_with_bits`."""
    return read_with_bits(path, image_size, mode, fit=fit, decode=decode)[0]


def read_with_bits(
    path, image_size=None, mode="RGB", grey_only=False, bits=None, fit="stretch", decode="full"
):
    """Return (pixels (C, H, W) uint8, bits): C is 1 for ``mode`` "L" and 3 for "RGB".

    The camera's orientation tag is obeyed, transparency dropped, the first frame taken. ``image_size``
    (height, width) resizes, bilinear with antialiasing; ``fit`` says how an image of another aspect ratio
    gets that size: "stretch" changes the ratio, "crop" cuts out the middle, "pad" adds black borders.

    Grey values of more than 8 bits keep the 8 highest of the ``bits`` in use: value >> (bits - 8). Left out,
    they are what a TIFF says (BitsPerSample, MaxSampleValue), and else, as 16-bit files say nothing, 12 where
    no value reaches 4096, as cameras and microscopes write them, or 16. The bits returned are 0 for grey
    of 8 bits and for colour, of which 16 bits keep the high byte.

    With ``decode`` "reduced" a JPEG file that is at least four times as large as ``image_size`` is decoded at
    1/2, 1/4 or 1/8 of its size, from fewer of its frequencies (`open_image`).

    Raises DataError naming the file: missing, no regular file, truncated, no image, of more than MAX_PIXELS
    pixels, of floats, or with ``grey_only`` in colour.
    """
    image = open_image(path, least=side_of(image_size, decode))
    return pixels_of(image, path, image_size, mode, grey_only, bits, fit)


def side_of(image_size, decode):
    """Return what `open_image` takes as ``least`` for images that become ``image_size``."""
    return max(image_size) if decode == "reduced" and image_size is not None else None


def pixels_of(image, path, image_size=None, mode="RGB", grey_only=False, bits=None, fit="stretch"):
    """Return what `read_with_bits` does, of a Pillow image; ``path`` names it in errors."""
    if grey_only and image.mode in _COLOUR_MODES:
        hint = 'mode = "RGB" or "L" settles it'
        raise DataError(f"{path}: expected a grey image like the first one, found {image.mode}; {hint}")
    if image.mode == "F":
        raise DataError(f"{path}: expected an image of 8 or 16 bits, found floats")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            found = f"values from {values.min()} to {values.max()}"
            raise DataError(f"{path}: expected an image of 8 or 16 bits (0 to 65535), found {found}")
        bits = bits or _bits_of(image, values)
        image = Image.fromarray((values.astype(np.uint32) >> (bits - 8)).clip(0, 255).astype(np.uint8))
    else:
        bits = 0
    try:
        pixels = _converted(image, mode, image_size, fit)
    except (ValueError, OSError, MemoryError) as error:
        raise DataError(
            f"{path}: expected an image, found one that cannot be made {mode} ({error})"
        ) from error
    return (pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)), bits


def open_image(path, least=None):
    """Return the Pillow image of a file, decoded and turned as its orientation tag says.

    ``path`` may be an open file as well, such as a BytesIO with a ``name``. With ``least`` a JPEG file is
    decoded at the smallest of 1/8, 1/4 and 1/2 of its size whose sides have at least twice that many pixels:
    each block of 8 x 8 pixels from its lowest frequencies alone. Resized to ``least`` pixels, photos then
    differ from those of a full decoding by some 0.2 of 255 on average, drawings of thin lines by up to 2.

    Raises DataError naming the file: missing, no regular file, no image, damaged, or too large.
    """
    if hasattr(path, "read"):
        path.seek(0)
        return _decoded(path, path.name, least)
    try:
        # a pipe must not be waited for; opened by name Pillow maps the file, and then turns TIFFs wrongly
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected an image file, found no such file") from error
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: expected an image file, found none that can be opened ({problem})"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        kind = "a folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "a pipe or a device"
        os.close(descriptor)
        raise DataError(f"{path}: expected an image file, found {kind}")
    with os.fdopen(descriptor, "rb") as file:
        return _decoded(file, path, least)


def _decoded(file, path, least):
    if "HEIF" in FORMATS:
        _know_heif()
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                if least is not None and image.format == "JPEG":
                    image.draft(None, (_GAP * least, _GAP * least))
                image.load()
                return _upright(image)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: expected an image of at most {MAX_PIXELS:,} pixels; {error}") from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        problem = str(error).replace(repr(file), "this file") or type(error).__name__
        raise DataError(f"{path}: expected an image, found a file that cannot be read ({problem})") from error
    raise DataError(
        f"{path}: expected an image of at most {MAX_PIXELS:,} pixels, found {height} x {width}; "
        "make it smaller first"
    )


def upright_size(path):
    """Return (width, height) of an image file as `open_image` gives it, without decoding it."""
    if "HEIF" in FORMATS:
        _know_heif()
    try:
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
            return image.size[::-1] if turned else image.size
    except Exception:  # as `_decoded`; it then says what is wrong
        return open_image(path).size


@functools.cache
def _know_heif():
    """Let Pillow read HEIC, iPhones' format, by the extra ``heic``."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def _upright(image):
    """Turn an image as its orientation tag says; a block of tags that cannot be read says nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # as many kinds as there are ways to damage one
        return image
    return image if turn is None else image.transpose(turn)


def _bits_of(image, values):
    tags = getattr(image, "tag_v2", {})
    for tag in (ExifTags.Base.BitsPerSample, _MAX_SAMPLE_VALUE):
        stated = np.ravel(tags.get(tag, 0))[0]
        if tag == _MAX_SAMPLE_VALUE and isinstance(stated, int | np.integer):
            stated = int(stated).bit_length()
        if stated in range(9, 16):
            return int(stated)
    return _CAMERA_BITS if values.max() < 2**_CAMERA_BITS else 16


def _converted(image, mode, image_size, fit):
    """Return the pixels (H, W) or (H, W, 3) of an image in ``mode``, resized."""
    if "transparency" in image.info:  # a palette's goes by way of RGBA
        image = image.convert("RGBA")
    if image.mode in ("LAB", "HSV"):  # Pillow knows a way to RGB only
        image = image.convert("RGB")
    image = image.convert(mode)
    if image_size is not None and image.size != image_size[::-1]:
        image = _FIT[fit](image, image_size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


_FIT = {"stretch": Image.Image.resize, "crop": ImageOps.fit, "pad": ImageOps.pad}
