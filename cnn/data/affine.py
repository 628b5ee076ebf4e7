"""Random rotation, translation, scaling and shear in one resampling step."""

import numpy as np

from cnn.backend import operations
from cnn.data.augmentation import AUGMENTATIONS, Augmentation, Mode, check_mode
from cnn.errors import ConfigError


@AUGMENTATIONS.register
class RandomAffine(Augmentation):
    """Rotates, shears, scales and shifts each image about its centre; drawn anew for every image.

        y[c, i, j] = x[c, v, u], bilinear between the four pixels around (v, u),
        (u, v) - centre = A^-1 ((j, i) - centre - shift),
        A = scale * R(angle) * [[1, -tan(shear_y)... ]] as torchvision composes it (``inverse_matrices``)

    Parameters
    ----------
    degrees : float or (float, float)
        The angle is uniform in this range, clockwise; one number d stands for (-d, d).
    translate : (float, float), optional
        Shares of width and height; the shift is uniform within them, rounded to whole pixels.
    scale : (float, float), optional
        The factor is uniform in this range.
    shear : float or (float, float), optional
        The angle of the shear along x in degrees, uniform in this range; one number s stands for (-s, s).
    mode : "zero" or "reflect"
        What lies outside of the image: black, or the image mirrored at its border pixel.

    Raises ConfigError for arguments out of range.

    References
    ----------
    The argument names and the composition are those of ``torchvision.transforms.RandomAffine``.
    Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
    analysis", ICDAR 2003.
    """

    def __init__(
        self,
        degrees: float | tuple[float, float],
        translate: tuple[float, float] | None = None,
        scale: tuple[float, float] | None = None,
        shear: float | tuple[float, float] | None = None,
        mode: Mode = "zero",
    ):
        self.degrees = _range(degrees, "degrees", -360, 360)
        self.translate = None if translate is None else _pair(translate, "translate", 0, 1)
        self.scale = None if scale is None else _range(scale, "scale", 0.01, 100)
        self.shear = None if shear is None else _range(shear, "shear", -80, 80)
        self.mode = check_mode(mode, "RandomAffine")

    def apply(self, images, rng, indices, epoch):
        out = np.empty_like(images)
        operations().resample_images(images, self._matrices(images, rng), self.mode == "reflect", out)
        return out

    def move(self, masks, rng, indices, epoch):
        return nearest(masks, self._matrices(masks, rng), self.mode == "reflect")

    def _matrices(self, images, rng):
        n, _, height, width = images.shape
        shifts = np.zeros((n, 2))
        angles = rng.uniform(*self.degrees, n)
        if self.translate:
            largest = np.array(self.translate) * (width, height)
            shifts = np.rint(rng.uniform(-1, 1, (n, 2)) * largest)
        scales = rng.uniform(*self.scale, n) if self.scale else np.ones(n)
        shears = rng.uniform(*self.shear, n) if self.shear else np.zeros(n)
        return inverse_matrices(angles, shifts, scales, shears, (height, width))


@AUGMENTATIONS.register
class RandomRotation(RandomAffine):
    """Turns each image about its centre by an angle uniform in ``degrees``; see `RandomAffine`.

    Parameters
    ----------
    degrees : float or (float, float)
        Clockwise; one number d stands for (-d, d).
    mode : "zero" or "reflect"
        What lies outside of the image: black, or the image mirrored at its border pixel.
    """

    def __init__(self, degrees: float | tuple[float, float], mode: Mode = "zero"):
        super().__init__(degrees, mode=mode)


@AUGMENTATIONS.register
class RandomResizedCrop(Augmentation):
    """Cuts a random part out of each image and enlarges it to the size that the image had.

        area = a H W,   a uniform in ``scale``;    width / height = r,   log r uniform in log ``ratio``
        y[c, i, j] = x[c, v, u], bilinear,   u = left + (j + 1/2) width / W - 1/2,   v likewise

    Where such a part is wider or higher than the image, that side is the image's. Validation and test images
    are taken whole.

    Parameters
    ----------
    scale, ratio : (float, float)
        The range of the part's share of the area, and of its width over its height.

    Raises ConfigError for arguments out of range.

    References
    ----------
    Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6; the arguments and defaults are
    those of ``torchvision.transforms.RandomResizedCrop``.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (0.75, 4 / 3)):
        self.scale = _ordered(scale, "scale", 0.0001, 1, "RandomResizedCrop")
        self.ratio = _ordered(ratio, "ratio", 0.01, 100, "RandomResizedCrop")

    def apply(self, images, rng, indices, epoch):
        out = np.empty_like(images)
        # half a pixel beyond the border is mirrored
        operations().resample_images(images, self._matrices(images, rng), True, out)
        return out

    def move(self, masks, rng, indices, epoch):
        return nearest(masks, self._matrices(masks, rng), True)

    def _matrices(self, images, rng):
        n, _, height, width = images.shape
        area = rng.uniform(*self.scale, n) * height * width
        ratio = np.exp(rng.uniform(*np.log(self.ratio), n))
        w, h = np.minimum(np.sqrt(area * ratio), width), np.minimum(np.sqrt(area / ratio), height)
        left, top = rng.random(n) * (width - w), rng.random(n) * (height - h)
        matrices = np.zeros((n, 2, 3))
        matrices[:, 0, 0], matrices[:, 1, 1] = w / width, h / height
        matrices[:, 0, 2] = left + matrices[:, 0, 0] / 2 - 0.5
        matrices[:, 1, 2] = top + matrices[:, 1, 1] / 2 - 0.5
        return matrices


def nearest(planes, matrices, reflect):
    """Return out[n, c, i, j], the pixel of plane (n, c) that is nearest to (u, v) = M[n] (j, i, 1).

    Outside of the plane it is 0, or with ``reflect`` the plane mirrored at its border pixel.
    """
    n, _, height, width = planes.shape
    i, j = np.arange(height)[:, None], np.arange(width)
    columns, rows = (
        np.floor(m[:, 0, None, None] * j + m[:, 1, None, None] * i + m[:, 2, None, None] + 0.5).astype(int)
        for m in (matrices[:, 0], matrices[:, 1])
    )
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = _mirrored(rows, height), _mirrored(columns, width)
    out = planes[np.arange(n)[:, None, None], :, rows, columns].transpose(0, 3, 1, 2)
    return out if reflect else np.where(inside[:, None], out, np.uint8(0))


def _mirrored(places, size):
    span = max(1, 2 * (size - 1))
    places = np.abs(places) % span
    return np.where(places < size, places, span - places)


def inverse_matrices(angles, shifts, scales, shears, size):
    """Return the maps from output to input pixels, (n, 2, 3): (u, v) = M[:, :2] (j, i) + M[:, 2].

    With the angle t and the shear s along x, about the centre (cx, cy) of the pixel grid,

        A = scale * [[cos t, -cos t tan s - sin t], [sin t, -sin t tan s + cos t]]
        (u, v) = A^-1 ((j, i) - (cx, cy) - shift) + (cx, cy),    det [[...]] = 1

    Parameters
    ----------
    angles, shears : (n,) in degrees
    shifts : (n, 2), (x, y) in pixels
    scales : (n,)
    size : (height, width)
    """
    turn, slope = np.radians(angles), np.tan(np.radians(shears))
    cos, sin = np.cos(turn), np.sin(turn)
    inverse = np.array([[cos - sin * slope, sin + cos * slope], [-sin, cos]]) / scales  # (2, 2, n)
    centre = np.array([size[1] - 1, size[0] - 1]) / 2
    matrices = np.empty((len(turn), 2, 3))
    matrices[:, :, :2] = inverse.transpose(2, 0, 1)
    matrices[:, :, 2] = centre - np.einsum("nab,nb->na", matrices[:, :, :2], centre + shifts)
    return matrices


def _range(value, name, low, high):
    """Return (from, to) of one number d, which stands for (-d, d), or of a pair."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "scale":
        value = (-value, value)
    return _ordered(value, name, low, high)


def _ordered(value, name, low, high, owner="RandomAffine"):
    begin, end = _pair(value, name, low, high, owner)
    if begin > end:
        raise ConfigError(f"{owner}: {name}: expected the smaller number first, found {value!r}")
    return begin, end


def _pair(value, name, low, high, owner="RandomAffine"):
    """Return two floats; ConfigError unless both lie between ``low`` and ``high``."""
    numbers = value if isinstance(value, (tuple, list)) else ()
    fine = (isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high for v in numbers)
    if len(numbers) != 2 or not all(fine):
        raise ConfigError(f"{owner}: {name}: expected two numbers from {low:g} to {high:g}, found {value!r}")
    return float(numbers[0]), float(numbers[1])
