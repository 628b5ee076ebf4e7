"""Data sets, augmentation and batches. Everything is uint8 in memory until a batch is normalised.

What reads image files needs Pillow and is imported at its first use: batches and `cnn.data.sample` work
without, as in a browser.
"""

import importlib

from cnn.data import augment
from cnn.data.batches import Batches
from cnn.data.dataset import Dataset, Split, normalization, split_validation

__all__ = [
    "NAMES",
    "Batches",
    "Dataset",
    "Split",
    "augment",
    "is_own",
    "load_dataset",
    "normalization",
    "own_shape",
    "read_image",
    "split_validation",
]

_LAZY = dict.fromkeys(("NAMES", "is_own", "load_dataset", "own_shape"), "cnn.data.load")
_LAZY["read_image"] = "cnn.data.image_file"


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
