"""Augmentation of whole batches of uint8 images, before they are normalised (so 0 is black).

Names and argument names follow torchvision where it has them. Every class is stateless: what it does
to a batch depends on its arguments, on the generator it is given, and for `AlternatingFlip` on the
epoch and on which images these are.
"""

import numpy as np

from cnn.backend import operations
from cnn.data.affine import RandomAffine, RandomResizedCrop, RandomRotation  # noqa: F401 -- register themselves
from cnn.data.augmentation import AUGMENTATIONS, Augmentation, Mode, check_mode
from cnn.data.colour import ColorJitter  # noqa: F401
from cnn.data.streams import index_bits
from cnn.errors import ConfigError
from cnn.geometry import pair
from cnn.targets import IGNORED


@AUGMENTATIONS.register
class RandomHorizontalFlip(Augmentation):
    """Mirrors each image left to right with probability ``p``."""

    def __init__(self, p: float = 0.5):
        self.p = _probability(p, "RandomHorizontalFlip")

    def apply(self, images, rng, indices, epoch):
        operations().flip_images(images, rng.random(len(images)) < self.p)
        return images

    move = apply


@AUGMENTATIONS.register
class RandomVerticalFlip(Augmentation):
    """Turns each image upside down with probability ``p``: for images that have no upper side."""

    def __init__(self, p: float = 0.5):
        self.p = _probability(p, "RandomVerticalFlip")

    def apply(self, images, rng, indices, epoch):
        chosen = rng.random(len(images)) < self.p
        images[chosen] = images[chosen, :, ::-1]
        return images

    move = apply


@AUGMENTATIONS.register
class AlternatingFlip(Augmentation):
    """Mirrors half of the images in even epochs and the other half in odd ones.

        flipped(image, epoch) = (bit(image) + epoch) mod 2,   bit: a fixed pseudo-random bit of its index

    So two epochs in a row show every image both ways, where independent coin flips would repeat half.

    References
    ----------
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498.
    """

    def apply(self, images, rng, indices, epoch):
        operations().flip_images(images, (index_bits(indices) + epoch) % 2 == 1)
        return images

    move = apply


class _Window(Augmentation):
    """Cuts one window from each image; a subclass says where (``_corners``) and how large (``_size``)."""

    mode = "zero"

    def apply(self, images, rng, indices, epoch):
        return self.gather(images, np.arange(len(images)), rng, epoch)

    move = apply

    def gather(self, images, indices, rng, epoch):
        plane = images.shape[2:]
        tops, lefts = self._corners(plane, len(indices), rng)
        out = np.empty((len(indices), images.shape[1], *self._size(plane)), np.uint8)
        operations().cut_windows(images, indices, tops, lefts, self.mode == "reflect", out)
        return out

    def _size(self, plane):
        return plane

    def _corners(self, plane, n, rng):
        """Return (tops, lefts), each (n,) int64, of windows in planes of (height, width)."""
        raise NotImplementedError


@AUGMENTATIONS.register
class RandomTranslate(_Window):
    """Shifts each image by whole pixels, uniform in [-pixels, pixels] along either axis.

    What comes in from outside is black (``mode="zero"``) or the image mirrored at its border pixel
    (``mode="reflect"``, as in `numpy.pad`).
    """

    def __init__(self, pixels: int, mode: Mode = "zero"):
        self.pixels = _integer(pixels, "RandomTranslate: pixels", 0)
        self.mode = check_mode(mode, "RandomTranslate")

    def output_shape(self, shape):
        _check_reach(self, shape, self.pixels)
        return shape

    def _corners(self, plane, n, rng):
        return rng.integers(-self.pixels, self.pixels + 1, (2, n))


@AUGMENTATIONS.register
class RandomCrop(_Window):
    """Cuts a window of ``size`` at a uniformly random place of the image padded by ``padding`` pixels.

    Parameters
    ----------
    size : int or (int, int), optional
        (height, width) in pixels; left out, the image's own size. With a smaller size the images of
        validation and test are cut at their centre (`CenterCrop`).
    padding : int
        Pixels added on all four sides before the cut.
    mode : "zero" or "reflect"
        What the padding shows: black, or the image mirrored at its border pixel.
    """

    def __init__(self, size: int | tuple[int, int] | None = None, padding: int = 0, mode: Mode = "zero"):
        self.size = None if size is None else pair(size, "RandomCrop: size")
        self.padding = _integer(padding, "RandomCrop: padding", 0)
        self.mode = check_mode(mode, "RandomCrop")
        if self.size is None and self.padding == 0:
            raise ConfigError("RandomCrop: expected size, padding or both, found neither")

    def output_shape(self, shape):
        _check_reach(self, shape, self.padding)
        return _cropped(shape, self.size or shape[1:], self.padding, self)

    def _size(self, plane):
        return self.size or plane

    def _corners(self, plane, n, rng):
        (h, w), (oh, ow) = plane, self._size(plane)
        tops = rng.integers(-self.padding, h + self.padding - oh + 1, n)
        lefts = rng.integers(-self.padding, w + self.padding - ow + 1, n)
        return tops, lefts

    def for_evaluation(self):
        return None if self.size is None else CenterCrop(self.size)


@AUGMENTATIONS.register
class CenterCrop(_Window):
    """Cuts the middle ``size`` (an int or (height, width), in pixels); an odd margin is larger at the end.

    An image that is smaller is padded with black.
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size = pair(size, "CenterCrop: size")

    def output_shape(self, shape):
        return (shape[0], *self.size)

    def _size(self, plane):
        return self.size

    def _corners(self, plane, n, rng):
        top, left = ((have - want) // 2 for have, want in zip(plane, self.size, strict=True))
        return np.full(n, top), np.full(n, left)

    def for_evaluation(self):
        return self


@AUGMENTATIONS.register
class Cutout(Augmentation):
    """Blackens a square of ``size`` pixels whose centre is uniform over the image; the border clips it.

    The square covers rows cy - size//2 to cy - size//2 + size - 1, columns likewise.

    References
    ----------
    DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552.
    """

    def __init__(self, size: int):
        self.size = _integer(size, "Cutout: size", 1)

    def apply(self, images, rng, indices, epoch):
        operations().blacken_squares(images, *self._corners(images, rng), self.size)
        return images

    def move(self, masks, rng, indices, epoch):
        self._corners(masks, rng)  # what is hidden is still there
        return masks

    def _corners(self, images, rng):
        """Return (tops, lefts) of the squares."""
        n, _, height, width = images.shape
        return rng.integers(0, height, n) - self.size // 2, rng.integers(0, width, n) - self.size // 2


def types():
    """Return the augmentations by name, for configs: dict of str to class."""
    return AUGMENTATIONS.types()


def from_config(entries):
    """Return the augmentations of a list of dicts such as ``{"type": "RandomTranslate", "pixels": 2}``.

    Raises ConfigError naming the entry and the key: unknown type, unknown, missing or bad argument.
    """
    if not isinstance(entries, (list, tuple)):
        raise ConfigError(f"augment: expected a list of tables, found {entries!r}")
    return [_from_entry(entry, f"augment[{number}]") for number, entry in enumerate(entries)]


def _from_entry(entry, where):
    try:
        return AUGMENTATIONS.make(entry)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def for_evaluation(augmentations):
    """Return the augmentations that validation and test images need: those that set the image size."""
    chosen = (augmentation.for_evaluation() for augmentation in augmentations)
    return [augmentation for augmentation in chosen if augmentation is not None]


def move_masks(augmentations, masks, rng, indices, epoch):
    """Return masks (n, H', W') moved as the augmentations move the images with these ``indices``.

    ``rng`` stands where theirs stood. What comes in from outside of the image is IGNORED.
    """
    planes = np.stack([masks, np.full_like(masks, 1)], axis=1)  # of the second, what is 0 came from outside
    for augmentation in augmentations:
        planes = augmentation.move(np.ascontiguousarray(planes), rng, indices, epoch)
    return np.where(planes[:, 1] == 0, np.uint8(IGNORED), planes[:, 0])


def output_shape(augmentations, shape):
    """Return the shape (C, H', W') that images of ``shape`` (C, H, W) have after all augmentations.

    Raises ConfigError when an augmentation does not fit the images.
    """
    for augmentation in augmentations:
        shape = augmentation.output_shape(shape)
    return shape


def _probability(p, owner):
    if not isinstance(p, (int, float)) or isinstance(p, bool) or not 0 <= p <= 1:
        raise ConfigError(f"{owner}: p: expected a probability from 0 to 1, found {p!r}")
    return p


def _integer(value, name, minimum):
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name}: expected an integer >= {minimum}, found {value!r}")
    return value


def _check_reach(augmentation, shape, reach):
    """A mirror image of H pixels ends after H - 1: reflecting further has no meaning."""
    if augmentation.mode == "reflect" and reach >= min(shape[1:]):
        raise ConfigError(
            f'{augmentation}: mode "reflect" reaches at most {min(shape[1:]) - 1} pixels beyond '
            f"images of {shape[1]}x{shape[2]} pixels"
        )


def _cropped(shape, size, padding, augmentation):
    padded = shape[1] + 2 * padding, shape[2] + 2 * padding
    if size[0] > padded[0] or size[1] > padded[1]:
        raise ConfigError(
            f"{augmentation}: the crop of {size[0]}x{size[1]} pixels is larger than the padded image "
            f"of {padded[0]}x{padded[1]} pixels"
        )
    return (shape[0], *size)
