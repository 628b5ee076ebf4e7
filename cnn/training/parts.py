"""Which images a run trains on, chooses the best epoch by and is tested on: they belong to the run.

A share that is drawn anew after a photo was added would put other images into it. So a run of named images
writes split.csv, one line a file with its part, and `cnn evaluate` takes the images that are listed there.
"""

import csv
import io

import numpy as np

from cnn.data import Split
from cnn.data.dataset import digest
from cnn.errors import DataError
from cnn.files import write_atomically

NAME = "split.csv"


def write(path, images):
    """Write the parts of ``images`` into the file ``path``; nothing where the images have no names."""
    if images.train.names is None:
        return
    roles = dict.fromkeys(images.validation.names, "validation")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "part"])
    for split, role in _splits(images.dataset):
        writer.writerows([name, roles.get(name, role)] for name in split.names)
    write_atomically(path, buffer.getvalue().encode())


def as_in_training(part, dataset, path, digests):
    """Return a part of a run, "train", "validation" or "test", of a data set that has changed since.

    Its images are chosen by the names in the run's split.csv, the file ``path``; ``digests`` are those of the
    run's data set. None where there is no such file, or none of the run's images: then these are other data.
    Raises DataError where images of the part are gone or changed.
    """
    rows = _read(path)
    if not rows or dataset.train.names is None:
        return None
    everything = _together(dataset)
    places = {name: k for k, name in enumerate(everything.names)}
    if not any(name in places for name, _ in rows):
        return None
    # what is drawn from the training images is checked together with them
    drawn = ("train", "validation") if "validation" not in digests and part != "test" else (part,)
    rows = [(name, role) for name, role in rows if role in drawn]
    missing = [name for name, _ in rows if name not in places]
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of {len(rows):,} images of the run are gone, such as {missing[0]}; "
            "put them back, or say with --set data.root=... where other images lie"
        )
    chosen = everything.take(np.array([places[name] for name, _ in rows], int))
    checked = "train" if "train" in drawn else part
    if digest(checked, chosen, dataset.classes) != digests.get(checked):
        raise DataError(f"{path}: images of the run have changed since, or their labels or classes")
    return chosen.take(np.array([role == part for _, role in rows]))


def _splits(dataset):
    """Return the parts of a data set with the roles that they have by themselves."""
    parts = (dataset.train, "train"), (dataset.validation, "validation"), (dataset.test, "test")
    return [(split, role) for split, role in parts if split is not None]


def _together(dataset):
    splits = [split for split, _ in _splits(dataset)]
    return Split(
        *(np.concatenate([getattr(s, name) for s in splits]) for name in ("images", "labels", "names"))
    )


def _read(path):
    """Return [(name, role)] of a split.csv; [] where there is none that can be read."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [(row["file"], row["part"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
