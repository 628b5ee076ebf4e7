"""The bundled sample: 5,000 real MNIST digits, so that the first command works offline."""

import zipfile
import zlib

import numpy as np

from cnn.data.dataset import make_dataset
from cnn.errors import ConfigError, DataError
from cnn.files import shipped

FILE_NAME = "sample_digits.npz"
TRAIN_PER_CLASS, TEST_PER_CLASS = 400, 100


def sample_path():
    """Return where the sample lies; DataError where it is missing."""
    try:
        return shipped(f"data/{FILE_NAME}")
    except ConfigError as error:
        raise DataError(f"sample: {error}") from error


def load_sample():
    """Return the sample as a Dataset of 4,000 training and 1,000 test digits of 1x28x28 pixels.

    Raises DataError naming the file when it is missing or damaged.
    """
    path = sample_path()
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            train = arrays["train_images"], arrays["train_labels"]
            test = arrays["test_images"], arrays["test_labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected the bundled sample, found a damaged file ({error})") from error
    return make_dataset("sample", "0123456789", train, test, path)
