"""Random changes of brightness, contrast, saturation and hue, as one matrix an image."""

import numpy as np

from cnn.backend import operations
from cnn.data.augmentation import AUGMENTATIONS, Augmentation
from cnn.errors import ConfigError

# how bright red, green and blue are to the eye: ITU-R BT.601, as in Pillow and torchvision
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@AUGMENTATIONS.register
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue of each image by chance, in this order.

        x <- b x                            b uniform in [max(0, 1 - brightness), 1 + brightness]
        x <- c x + (1 - c) m                m: the mean luma of the image;  c likewise, of contrast
        x <- s x + (1 - s) luma(x)          s likewise, of saturation
        x <- T^-1 R(2 pi h) T x             T: RGB to YIQ, R turns I and Q;  h uniform in [-hue, hue]

    All four are linear in a pixel, so one matrix does them at once; the result is rounded and cut to 0..255
    once, at the end. Grey images have brightness and contrast only.

    Parameters
    ----------
    brightness, contrast, saturation : float
        At least 0. 0 leaves it alone.
    hue : float
        From 0 to 0.5, in turns of the colour circle.

    Raises ConfigError for arguments out of range.

    References
    ----------
    The arguments are those of ``torchvision.transforms.ColorJitter``, which draws the order as well, cuts
    after each step and turns hues in HSV.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ):
        self.brightness, self.contrast = _amount(brightness, "brightness"), _amount(contrast, "contrast")
        self.saturation, self.hue = _amount(saturation, "saturation"), _amount(hue, "hue", 0.5)
        if not (brightness or contrast or saturation or hue):
            raise ConfigError(
                "ColorJitter: expected brightness, contrast, saturation or hue above 0, found none"
            )

    def output_shape(self, shape):
        if shape[0] != 3 and (self.saturation or self.hue):
            raise ConfigError(f"{self}: saturation and hue need images of 3 channels, found {shape[0]}")
        return shape

    def apply(self, images, rng, indices, epoch):
        factors, turns = self._draw(len(images), rng)
        means = images.mean(axis=(2, 3)) if self.contrast else np.zeros(images.shape[:2])
        out = np.empty_like(images)
        operations().recolor_images(images, color_matrices(*factors, turns, means), out)
        return out

    def move(self, masks, rng, indices, epoch):
        self._draw(len(masks), rng)
        return masks

    def _draw(self, n, rng):
        """Return (factors (3, n) of brightness, contrast and saturation, turns (n,) of hues)."""
        amounts = np.array([self.brightness, self.contrast, self.saturation])[:, None]
        factors = rng.uniform(np.maximum(0, 1 - amounts), 1 + amounts, (3, n))
        return factors, rng.uniform(-self.hue, self.hue, n)


def color_matrices(brightness, contrast, saturation, turns, means):
    """Return the maps of pixels (n, C, C + 1): y = M[:, :C] x + M[:, C]; see `ColorJitter`.

    ``means`` (n, C) are those of the channels of each image before; the other arguments are (n,).
    """
    n, channels = means.shape
    luma = _LUMA if channels == 3 else np.full(channels, 1 / channels)
    matrices = np.zeros((n, channels, channels + 1))
    matrices[:, :, :channels] = np.eye(channels) * (brightness * contrast)[:, None, None]
    matrices[:, :, channels] = ((1 - contrast) * brightness * (means @ luma))[:, None]
    if channels != 3:
        return matrices
    grey = np.broadcast_to(luma, (3, 3))
    saturate = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    turn = np.zeros((n, 3, 3))
    angle = 2 * np.pi * turns
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return np.linalg.inv(_YIQ) @ turn @ _YIQ @ saturate @ matrices


def _amount(value, name, most=np.inf):
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
        limit = "" if most == np.inf else f" to {most:g}"
        raise ConfigError(f"ColorJitter: {name}: expected a number from 0{limit}, found {value!r}")
    return float(value)
