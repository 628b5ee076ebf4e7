"""What a data set is, and the checks that everything loaded has to pass."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn.data.streams import seeded_generator
from cnn.data.thumbnail import thumbnail
from cnn.errors import ConfigError, DataError
from cnn.notebook import html_table
from cnn.targets import KINDS
from cnn.tensor_file import sha256

_SHOWN = 6  # images of each class in a notebook
_COUNTED = {"classes": "classes", "numbers": "numbers", "labels": "labels", "masks": "classes of pixels"}


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels: ``images`` (N, C, H, W) uint8, ``labels`` (N,) int64.

    Labels of another kind than classes are described in ``cnn.targets``. ``names`` (N,) are those of the
    files, where the images have any.
    """

    images: np.ndarray
    labels: np.ndarray
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {'x'.join(map(str, self.images.shape[1:]))})"

    def take(self, indices: Any) -> "Split":
        """Return a Split with copies of the chosen images, in the order of ``indices``."""
        names = None if self.names is None else self.names[indices]
        return Split(self.images[indices], self.labels[indices], names)

    def name(self, index: int) -> str:
        """Return what an image is called: its file's name, or "image 7"."""
        return f"image {index}" if self.names is None else str(self.names[index])


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A named data set; label k means ``classes[k]``.

    ``targets`` says what is to be told of an image (``cnn.targets``); in every kind ``classes`` names the
    outputs. ``digests`` has the SHA-256 of each part, "train" and "test": class names, labels and pixels.
    ``validation`` is None unless the data set comes with such a part.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    digests: dict[str, str]
    validation: Split | None = None
    targets: str = "classes"

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        counts = f"{len(self.train):,} training, {len(self.test):,} test images of {shape}"
        return f"Dataset({self.name!r}: {counts}, {len(self.classes)} {_COUNTED[self.targets]})"

    def _repr_html_(self) -> str:
        if self.targets != "classes":
            shown = "".join(thumbnail(image) for image in self.train.images[:_SHOWN])
            return html_table(("outputs", "first images"), [(", ".join(self.classes), shown)], repr(self))
        sets = [np.bincount(split.labels, minlength=len(self.classes)) for split in (self.train, self.test)]
        firsts = [np.flatnonzero(self.train.labels == k)[:_SHOWN] for k in range(len(self.classes))]
        rows = [
            (name, int(train), int(test), "".join(thumbnail(self.train.images[i]) for i in some))
            for name, train, test, some in zip(self.classes, *sets, firsts, strict=True)
        ]
        return html_table(("class", "training", "test", "first images"), rows, repr(self))

    @property
    def digest(self) -> str:
        """SHA-256 of the whole data set."""
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return self.train.images.shape[1:]


def make_dataset(
    name: str,
    classes: Sequence[str],
    train: tuple[Any, ...],
    test: tuple[Any, ...],
    source: object,
    hashes: dict[str, str] | None = None,
    validation: tuple[Any, ...] | None = None,
    targets: str = "classes",
) -> Dataset:
    """Return a Dataset from tuples (images, labels) or (images, labels, names) after checking them.

    ``hashes`` may hold the SHA-256 of the arrays where they are known, by names such as "train_images".

    Images are (N, H, W) or (N, C, H, W) uint8, labels (N,) integers in [0, len(classes)), or what
    ``cnn.targets`` says of other ``targets``. Labels become int64, arrays C-contiguous.

    Raises DataError naming ``source`` (a path, as a rule), what was expected and what was found.
    """
    parts = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    splits = {
        part: _checked_split(arrays, classes, f"{source}, {part} part", KINDS[targets])
        for part, arrays in parts.items()
    }
    shapes = {part: split.images.shape[1:] for part, split in splits.items()}
    for part, shape in shapes.items():
        if shape != shapes["train"]:
            what = "test" if part == "test" else part
            raise DataError(
                f"{source}: expected training and {what} images of one shape (C, H, W), "
                f"found {shapes['train']} and {shape}"
            )
    classes = tuple(str(c) for c in classes)
    digests = {part: digest(part, split, classes, hashes) for part, split in splits.items()}
    found = splits["train"], splits["test"], digests, splits.get("validation")
    return Dataset(name, classes, *found, targets)


def digest(part: str, split: Split, classes: Sequence[str], hashes: dict[str, str] | None = None) -> str:
    """Return the SHA-256 of a part: class names, labels and pixels; ``hashes`` as for ``make_dataset``."""
    hashes = hashes or {}
    arrays = {"images": split.images, "labels": split.labels}
    known = {key: hashes.get(f"{part}_{key}") or sha256(array) for key, array in arrays.items()}
    record = {"classes": classes, "shape": split.images.shape, **known}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _checked_split(arrays: tuple[Any, ...], classes: Sequence[str], where: str, kind: Any) -> Split:
    images, labels, *more = arrays
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{where}: expected uint8 images (N, H, W) or (N, C, H, W), found {images.dtype} {images.shape}"
        )
    if images.ndim == 3:
        images = images[:, None]
    if 0 in images.shape:
        raise DataError(f"{where}: expected at least one image with at least one pixel, found {images.shape}")
    if labels.ndim and len(images) != len(labels):
        raise DataError(
            f"{where}: expected one label an image, found {len(images)} images and {len(labels)} labels"
        )
    labels = kind.checked(labels, classes, images, where)
    names = None if not more or more[0] is None else np.asarray(more[0], object)
    return Split(np.ascontiguousarray(images), labels, names)


def split_validation(
    split: Split, fraction: float, seed: int, stratified: bool = False
) -> tuple[Split, Split]:
    """Return (train, validation): ``round(fraction * N)`` images drawn at random go to validation.

    The draw depends on ``seed`` and N alone; ``stratified`` draws from each class by itself, so that each
    keeps its share. Both parts keep the order of ``split``. ``fraction=0`` gives ``split`` itself and an
    empty validation part.

    Raises ConfigError unless 0 <= fraction < 1 and both parts get an image (fraction > 0).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"validation: expected a fraction from 0 to below 1, found {fraction!r}")
    if fraction == 0:
        return split, split.take(slice(0, 0))
    total, count = len(split), round(fraction * len(split))
    if not 0 < count < total:
        raise ConfigError(
            f"validation: {fraction} of {total} images would put {count} into validation "
            f"and leave {total - count} to train on; both need at least one"
        )
    order = seeded_generator(seed, "validation").permutation(total)
    held_out = np.zeros(total, bool)
    held_out[_of_each_class(order, split.labels, fraction, count) if stratified else order[:count]] = True
    return split.take(~held_out), split.take(held_out)


def _of_each_class(order: np.ndarray, labels: np.ndarray, fraction: float, count: int) -> np.ndarray:
    """Return ``count`` of the indices in ``order``, the same share of every class.

    The k-th of the n images of a class stands at (k + 1/2) / n; those with the smallest places are taken.
    """
    places = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(places, kind="stable")[:count]]


def normalization(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean, std) of each channel over all images, in units of 0..1 pixel values.

        mean[c] = average over n, h, w of images[n, c, h, w] / 255      std likewise, population form

    Exact: computed in float64 from the histogram of the 256 pixel values. A channel that is constant
    has std 1, so that it normalises to zero instead of dividing by it. Of floats mean and std are in their
    own units, computed in float64.

    Shapes: images (N, C, H, W) uint8 or floats (N, C, ...), N >= 1; mean and std (C,) float64.
    """
    if images.dtype.kind == "f":
        values = np.moveaxis(images, 1, 0).reshape(images.shape[1], -1).astype(np.float64)
        # a constant's mean may be a rounding away from it, and its deviation so small a number
        constant = values.min(axis=1) == values.max(axis=1)
        return values.mean(axis=1), np.where(constant, 1.0, values.std(axis=1))
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 1000):  # bincount widens to int64; blocks keep that small
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + 1000, channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
    constant = (counts > 0).sum(axis=1) == 1
    return mean, np.where(constant, 1.0, np.sqrt(variance))
