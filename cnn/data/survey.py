"""Looks at somebody's photos before anything is trained: how many of what, how large, in which colours."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from cnn.data.folder import list_images
from cnn.data.image_file import open_image
from cnn.errors import DataError

_OPENED = 200  # images whose size and colour are looked at, spread evenly


@dataclass(frozen=True)
class Survey:
    """What was found: ``counts`` of images by part, of training images by class, and a sample of sizes."""

    root: str
    classes: list
    counts: dict
    of_classes: np.ndarray
    sizes: np.ndarray  # (n, 2): height and width of the images that were opened
    colour: bool
    unreadable: int
    remarks: list

    @property
    def same_shape(self):
        """Whether all images have nearly one aspect ratio."""
        ratios = self.sizes[:, 1] / self.sizes[:, 0]
        return bool(ratios.max() < 1.05 * ratios.min())

    def lines(self):
        """Return what a person wants to know, a line each."""
        parts = ", ".join(f"{count:,} {part}" for part, count in self.counts.items())
        low, high = int(self.of_classes.min()), int(self.of_classes.max())
        middle = np.median(self.sizes, axis=0).astype(int)
        yield f"{self.root}: {len(self.classes)} classes: {', '.join(self.classes[:8])}" + (
            " ..." if len(self.classes) > 8 else ""
        )
        yield f"images: {parts}; {low:,} to {high:,} training images a class"
        low, high = self.sizes.min(axis=0), self.sizes.max(axis=0)
        yield f"sizes: {_size(low)} to {_size(high)}, median {_size(middle)}"
        yield "colours: RGB" if self.colour else "colours: grey"
        for remark in self.remarks:
            yield f"not read: {remark}"
        if self.unreadable:
            yield f"unreadable: {self.unreadable} of {len(self.sizes) + self.unreadable} that were opened"


def survey(root):
    """Return the Survey of a folder or a CSV file; DataError where no image can be read."""
    listing = list_images(root)
    files = [path for paths in listing.files.values() for path in paths]
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), _OPENED)).astype(int))
    sizes, modes, problems = [], Counter(), []
    for number in chosen:
        try:
            image = open_image(files[number])
        except DataError as error:
            problems.append(error)
            continue
        sizes.append(image.size[::-1])
        modes["grey" if image.mode in ("1", "L", "LA", "I", "I;16", "F") else "colour"] += 1
    if not sizes:
        raise problems[0]
    return Survey(
        str(root),
        listing.classes,
        {part: len(paths) for part, paths in listing.files.items()},
        np.bincount(listing.labels["train"], minlength=len(listing.classes)),
        np.array(sizes),
        modes["colour"] > 0,
        len(problems),
        listing.remarks(),
    )


def _size(pair):
    return f"{pair[0]}x{pair[1]}"
