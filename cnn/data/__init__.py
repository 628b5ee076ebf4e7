"""Data sets, augmentation and batches. Everything is uint8 in memory until a batch is normalised."""

from cnn.data import augment
from cnn.data.batches import Batches
from cnn.data.dataset import Dataset, Split, normalization, split_validation

__all__ = ["Batches", "Dataset", "Split", "augment", "normalization", "split_validation"]
