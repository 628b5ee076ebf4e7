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
        n, _, height, width = images.shape
        shifts = np.zeros((n, 2))
        angles = rng.uniform(*self.degrees, n)
        if self.translate:
            largest = np.array(self.translate) * (width, height)
            shifts = np.rint(rng.uniform(-1, 1, (n, 2)) * largest)
        scales = rng.uniform(*self.scale, n) if self.scale else np.ones(n)
        shears = rng.uniform(*self.shear, n) if self.shear else np.zeros(n)
        out = np.empty_like(images)
        matrices = inverse_matrices(angles, shifts, scales, shears, (height, width))
        operations().resample_images(images, matrices, self.mode == "reflect", out)
        return out


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
    begin, end = _pair(value, name, low, high)
    if begin > end:
        raise ConfigError(f"RandomAffine: {name}: expected the smaller number first, found {value!r}")
    return begin, end


def _pair(value, name, low, high):
    """Return two floats; ConfigError unless both lie between ``low`` and ``high``."""
    numbers = value if isinstance(value, (tuple, list)) else ()
    fine = (isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high for v in numbers)
    if len(numbers) != 2 or not all(fine):
        raise ConfigError(
            f"RandomAffine: {name}: expected two numbers from {low:g} to {high:g}, found {value!r}"
        )
    return float(numbers[0]), float(numbers[1])
