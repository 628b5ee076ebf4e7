"""Data sets, augmentation and batches. Everything is uint8 in memory until a batch is normalised."""

from cnn.data import augment
from cnn.data.batches import Batches
from cnn.data.dataset import Dataset, Split, normalization, split_validation
from cnn.data.image_file import read_image
from cnn.data.load import NAMES, is_own, load_dataset, own_shape

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
