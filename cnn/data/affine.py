"""Random rotation, translation, scaling and shear in one resampling step."""

import functools
import math

import numpy as np
from numba import carray

from cnn.data.augmentation import AUGMENTATIONS, Augmentation, Mode, check_mode
from cnn.data.pixels import place
from cnn.errors import ConfigError
from cnn.fast.machine.jit import jit, launch, table, task
from cnn.fast.machine.tables import integers, pointer


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
        resample(images, matrices, self.mode == "reflect", out)
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


def resample(images, matrices, reflect, out):
    """Write bilinear samples: out[n, c, i, j] is image n at (u, v) = M[n] (j, i, 1), rounded to nearest.

    Outside of the image pixels are 0, or with ``reflect`` mirrored at the border pixel, again and again.
    ``images`` and ``out`` (n, C, H, W) uint8, ``matrices`` (n, 2, 3) float64.
    """
    arrays = place(images, np.uint8), place(matrices, np.float64), place(out, np.uint8)
    launch(_resample_task(), len(images), table([*arrays, *images.shape[1:], reflect]))


@functools.cache
def _resample_task():
    @task
    def resample_image(n, thread, params):
        p = integers(params)
        channels, h, w, reflect = p[3], p[4], p[5], p[6]
        image = carray(pointer(p[0] + n * channels * h * w, 1), (channels, h, w))
        m = carray(pointer(p[1] + n * 48, 8), (2, 3))
        out = carray(pointer(p[2] + n * channels * h * w, 1), (channels, h, w))
        for i in range(h):
            for j in range(w):
                u = m[0, 0] * j + m[0, 1] * i + m[0, 2]
                v = m[1, 0] * j + m[1, 1] * i + m[1, 2]
                left, top = math.floor(u), math.floor(v)
                fu, fv = u - left, v - top
                a, b = (1 - fv) * (1 - fu), (1 - fv) * fu
                c, d = fv * (1 - fu), fv * fu
                if 0 <= left < w - 1 and 0 <= top < h - 1:
                    for k in range(channels):
                        x = image[k]
                        value = a * x[top, left] + b * x[top, left + 1]
                        value += c * x[top + 1, left] + d * x[top + 1, left + 1]
                        out[k, i, j] = np.uint8(value + 0.5)
                    continue
                right, bottom = left + 1, top + 1
                if reflect:
                    left, right = _mirrored(left, w), _mirrored(right, w)
                    top, bottom = _mirrored(top, h), _mirrored(bottom, h)
                else:  # weight 0 for what lies outside, and any pixel in its place
                    a, c = (a, c) if 0 <= left < w else (0.0, 0.0)
                    b, d = (b, d) if 0 <= right < w else (0.0, 0.0)
                    a, b = (a, b) if 0 <= top < h else (0.0, 0.0)
                    c, d = (c, d) if 0 <= bottom < h else (0.0, 0.0)
                    left, right = min(max(left, 0), w - 1), min(max(right, 0), w - 1)
                    top, bottom = min(max(top, 0), h - 1), min(max(bottom, 0), h - 1)
                for k in range(channels):
                    x = image[k]
                    value = a * x[top, left] + b * x[top, right] + c * x[bottom, left] + d * x[bottom, right]
                    out[k, i, j] = np.uint8(value + 0.5)

    return resample_image


@jit
def _mirrored(index, size):
    """Fold an index into 0..size-1, mirrored at the first and the last pixel."""
    if size == 1:
        return 0
    index = abs(index) % (2 * (size - 1))
    return min(index, 2 * (size - 1) - index)


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
