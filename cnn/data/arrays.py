"""Arrays of anybody's making as the images that a network takes: (N, C, H, W), or (N, F) for features.

What is an array: NumPy's, what becomes one (lists, pandas), and PyTorch's tensors, of which their values are
taken. Which axis holds the channels is told by these rules, in this order:

1. Where the network knows its C channels: axis 1 if it is C long, else the last axis if that is.
2. Else, of four axes: the last if it is 1 to 4 long and axis 1 is longer than 4, otherwise axis 1.
3. Three axes are grey images (N, H, W); two are features (N, F).
"""

import numpy as np

from cnn.data.image_file import pixels_of
from cnn.errors import ArgumentError, DataError

_MOST_CHANNELS = 4  # grey, grey and alpha, RGB, RGBA


def to_numpy(x):
    """Return ``x`` as a NumPy array: a tensor's values, a data frame's, a list's.

    Raises DataError for what has no numbers of one shape, ArgumentError for objects that are no numbers.
    """
    if hasattr(x, "detach"):  # a tensor of PyTorch, on whatever device and with a gradient or not
        x = x.detach().cpu()
    if hasattr(x, "to_numpy"):
        x = x.to_numpy()
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise DataError(f"expected images of one shape, found a list of different ones ({error})") from error
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except TypeError as error:
            raise ArgumentError(f"expected numbers, found objects: {error}") from error
        except ValueError as error:
            raise DataError(f"expected numbers, found objects: {error}") from error
    if array.dtype.kind == "c":
        raise DataError(f"Complex data not supported: expected real numbers, found {array.dtype}")
    if array.dtype.kind not in "buif":
        raise DataError(f"expected numbers, found an array of {array.dtype}")
    return array


def channels_first(array, channels=None):
    """Return images (N, C, H, W), or features (N, F), of an array of two to four axes; see the rules above.

    Raises DataError where no axis can hold the channels.
    """
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise DataError(f"expected images (N, C, H, W), (N, H, W, C) or (N, H, W), found {array.shape}")
    first, last = array.shape[1], array.shape[3]
    if channels is not None and channels not in (first, last):
        expected = f"expected images of {channels} channels, (N, {channels}, H, W) or (N, H, W, {channels})"
        raise DataError(f"{expected}, found {array.shape}")
    is_last = (last <= _MOST_CHANNELS < first) if channels is None else first != channels
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if is_last else array


def as_pixels(array):
    """Return numbers as uint8 pixels: uint8 and other integers from 0 to 255 as they are, floats from 0 to 1
    times 255, rounded.

    Raises DataError for numbers outside.
    """
    if array.dtype == np.uint8:
        return array
    most = 255 if array.dtype.kind in "iu" else 1
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= 0 and high <= most):  # NaN fails both
        found = f"{array.dtype} from {low:g} to {high:g}"
        raise DataError(f"expected pixels: integers from 0 to 255 or floats from 0 to 1, found {found}")
    return array.astype(np.uint8) if most == 255 else np.rint(array * 255).astype(np.uint8)


def fitted(images, size):
    """Return uint8 images (N, C, H, W) in ``size`` (height, width), resized as image files are.

    Bilinear with antialiasing, each channel for itself.
    """
    if images.shape[2:] == tuple(size):
        return images
    from PIL import Image  # not at the top: who resizes nothing needs none, as in a browser

    out = np.empty((*images.shape[:2], *size), np.uint8)
    for place in np.ndindex(images.shape[:2]):
        plane = Image.fromarray(np.ascontiguousarray(images[place]))
        out[place] = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
    return out


def of_pillow(image, shape, name="image", fit="stretch"):
    """Return a Pillow image as (C, H, W) uint8, as a file with it would be read; C is 1 or 3."""
    mode = "L" if shape[0] == 1 else "RGB"
    return pixels_of(image, name, shape[1:], mode, fit=fit)[0]
