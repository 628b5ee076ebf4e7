"""What every augmentation has in common."""

import inspect
from typing import Literal

from cnn.errors import ConfigError, did_you_mean
from cnn.registry import Registry

#: Every augmentation that a config can name; one's own is "package.module:Class".
AUGMENTATIONS = Registry("augmentation", example="RandomTranslate")

Mode = Literal["zero", "reflect"]


@AUGMENTATIONS.base
class Augmentation:
    """What every augmentation has: `apply`, `gather`, `output_shape`, `for_evaluation`."""

    def apply(self, images, rng, indices, epoch):
        """Return the augmented batch (n, C, H', W') uint8; ``images`` may be changed in place.

        ``rng`` is the batch's generator, ``indices`` (n,) which images of the split these are, and
        ``epoch`` counts from 0.
        """
        raise NotImplementedError

    def gather(self, images, indices, rng, epoch):
        """Return `apply` to the images of a whole split that ``indices`` (n,) choose; ``images`` stay.

        What reads its images only once takes them where they lie, and saves the copy.
        """
        return self.apply(images[indices], rng, indices, epoch)

    def move(self, masks, rng, indices, epoch):
        """Return masks (n, C, H, W) uint8 whose pixels go where `apply` moves those of images.

        Values are never mixed: a pixel is the nearest one, or 0 from outside. It draws from ``rng`` what
        `apply` draws. Raises ConfigError where an augmentation of one's own does not say.
        """
        raise ConfigError(
            f"{type(self).__name__}: expected a method move(masks, rng, indices, epoch), which masks need"
        )

    def output_shape(self, shape):
        """Return the shape (C, H', W') of an augmented image of ``shape`` (C, H, W).

        Raises ConfigError when such images are too small.
        """
        return shape

    def for_evaluation(self):
        """Return what takes its place when no chance is wanted, or None for nothing."""
        return None

    def __repr__(self):
        names = inspect.signature(type(self)).parameters
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def check_mode(value, owner):
    """Return ``value``; ConfigError unless it is a Mode."""
    if value not in ("zero", "reflect"):
        hint = did_you_mean(value, ("zero", "reflect"))
        raise ConfigError(f'{owner}: mode: expected "zero" or "reflect", found {value!r}.{hint}')
    return value
