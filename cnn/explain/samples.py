"""A few training images that travel inside the page, so that it can train there."""

import numpy as np

from cnn.errors import DataError

__all__ = ["choose_samples", "find_samples"]

_COUNT = 64
_MOST_BYTES = 100_000
_DIGITS = tuple("0123456789")


def choose_samples(split, classes: int, count: int = _COUNT):
    """Return (images (n, C, H, W) uint8, labels): the classes in turn, always the same ones of a split.

    At most ``count``, fewer when they would make the page heavy; images of each class as evenly as they are.
    """
    count = min(count, _MOST_BYTES // max(1, split.images[0].size), len(split))
    order = np.random.default_rng(0).permutation(len(split))
    labels = np.asarray(split.labels)[order]
    by_class = [order[labels == k] for k in range(classes)]
    turns = [own[i] for i in range(count) for own in by_class if i < len(own)]
    chosen = np.array(turns[:count], np.int64)
    return np.asarray(split.images)[chosen], np.asarray(split.labels)[chosen]


def find_samples(config, meta, input_shape):
    """Return the samples for a network explained on a file, or None where there are none to be had at once.

    The bundled sample serves every network that tells digits apart; a folder is read again; nothing is
    downloaded.
    """
    from cnn.data.sample import load_sample
    from cnn.training import experiment

    if tuple(meta["image_shape"]) != tuple(input_shape):
        return None
    try:
        if config.data.dataset == "folder":
            return choose_samples(experiment.read_dataset(config, own=False).train, len(meta["classes"]))
        if tuple(meta["classes"]) == _DIGITS and tuple(input_shape) == (1, 28, 28):
            return choose_samples(load_sample().train, len(_DIGITS))
    except DataError:
        return None
    return None
