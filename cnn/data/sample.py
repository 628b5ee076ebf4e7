"""The bundled sample: 5,000 real MNIST digits, so that the first command works offline."""

import importlib.metadata
import zipfile
import zlib
from pathlib import Path

import numpy as np

from cnn.data.dataset import make_dataset
from cnn.errors import DataError

FILE_NAME = "sample_digits.npz"
TRAIN_PER_CLASS, TEST_PER_CLASS = 400, 100


def sample_path():
    """Return where the sample lies: in data/ of a checkout, else where the wheel was installed to.

    Raises DataError when it is in neither place.
    """
    checkout = Path(__file__).resolve().parents[2] / "data" / FILE_NAME
    if checkout.is_file():
        return checkout
    installed = _installed_path()
    if installed is None:
        raise DataError(f"sample: {FILE_NAME} is missing, expected {checkout}; reinstall cnn")
    return installed


def _installed_path():
    for installation in importlib.metadata.distributions(name="cnn"):
        for file in installation.files or ():
            path = Path(file.locate())
            if file.name == FILE_NAME and path.is_file():
                return path.resolve()
    return None


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
