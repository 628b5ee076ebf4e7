"""Data sets known by name, in the files that torchvision downloads and verifies.

torchvision brings PyTorch, 5.7 GB, so it is an extra and imported only here, only to download a set or
to read one whose files have no plain format (CIFAR's are pickles, which torchvision opens after it has
checked their MD5). The MNIST family lies in IDX files, which `cnn.data.idx` reads.
Images, labels and class names are torchvision's; so EMNIST's images are transposed, and its split
"letters" has a class "N/A" with label 0 that never occurs.
"""

import logging
import string
from pathlib import Path

import numpy as np

from cnn.data import cache
from cnn.data.dataset import make_dataset
from cnn.data.idx import read_idx
from cnn.errors import ConfigError, DataError, MissingExtra, did_you_mean
from cnn.files import user_path

DEFAULT_ROOT = Path("data")
log = logging.getLogger("cnn.data")

_DIGITS = tuple(string.digits)
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_IDX_CLASSES = {"MNIST": _DIGITS, "FashionMNIST": _CLOTHES, "KMNIST": _HIRAGANA}

# EMNIST "balanced" and "bymerge" give these letters one class for both cases
_MERGED = set("cijklmopsuvwxyz")
_CHARACTERS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
_EMNIST_CLASSES = {
    "byclass": _CHARACTERS,
    "bymerge": tuple(c for c in _CHARACTERS if c not in _MERGED),
    "balanced": tuple(c for c in _CHARACTERS if c not in _MERGED),
    "letters": ("N/A", *string.ascii_lowercase),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}

_OTHER_FILES = {
    "CIFAR10": tuple(
        f"cifar-10-batches-py/{name}"
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    ),
    "CIFAR100": tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
    "SVHN": ("train_32x32.mat", "test_32x32.mat"),
}

NAMES = (*_IDX_CLASSES, "EMNIST", *_OTHER_FILES)


def emnist_classes(split=None):
    """Return the class names of a split of EMNIST ("balanced" if left out); ConfigError for another name."""
    split = "balanced" if split is None else split
    if split not in _EMNIST_CLASSES:
        raise ConfigError(
            f"EMNIST: split: expected one of {', '.join(_EMNIST_CLASSES)}, found {split!r}."
            + did_you_mean(split, _EMNIST_CLASSES)
        )
    return _EMNIST_CLASSES[split]


def load_named(name, root, download, into_root=True, split=None):
    """Return one of `NAMES` from its cache under ``root``, converting or downloading it first if need be.

    ``split`` belongs to EMNIST: byclass, bymerge, balanced (if left out), letters, digits or mnist.

    Raises ConfigError for a bad ``split``; MissingExtra when torchvision is needed and absent; DataError
    when files are missing (and ``download`` is False or fails) or damaged.
    """
    root = user_path(root)
    if name == "EMNIST":
        split = "balanced" if split is None else split
        emnist_classes(split)
    files = [root / file for file in _files(name, split)]
    file_name = f"{name.lower()}{f'-{split}' if split else ''}.safetensors"
    if not all(file.is_file() for file in files):
        dataset = cache.find(name, file_name, root)
        if dataset is not None:
            return dataset
        _download(name, root, download if into_root else False, split, files)

    def build():
        if name in _OTHER_FILES:
            return _from_torchvision(name, root)
        return _from_idx(name, files, emnist_classes(split) if split else _IDX_CLASSES[name])

    return cache.cached(name, file_name, root, cache.Source(files), build, into_root)


def _files(name, split):
    """Return the files of a data set relative to its root; for IDX: images, labels, train before test."""
    if name in _OTHER_FILES:
        return _OTHER_FILES[name]
    parts = ("train", "t10k") if name != "EMNIST" else (f"emnist-{split}-train", f"emnist-{split}-test")
    return [f"{name}/raw/{part}-{kind}-ubyte" for part in parts for kind in ("images-idx3", "labels-idx1")]


def _from_idx(name, files, classes):
    parts = []
    for image_file, label_file in (files[:2], files[2:]):
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise DataError(f"{label_file}: expected {len(images)} labels, one an image, found {len(labels)}")
        parts.append((images, labels))
    return make_dataset(name, classes, *parts, files[0].parent)


def _torchvision(reason):
    try:
        import torchvision.datasets
    except ImportError as error:
        raise MissingExtra(f'{reason} torchvision: pip install "cnn[torchvision]" ({error})') from error
    return torchvision.datasets


def _open(name, root, split, train, failed=None):
    """Return torchvision's data set; with ``failed``, words for the error, it is downloaded first."""
    datasets = _torchvision(f"{name}: the files in {root} are there, but reading them needs")
    if name == "SVHN":
        part = {"split": "train" if train else "test"}
    else:
        part = {"train": train} | ({"split": split} if split else {})
    try:
        return getattr(datasets, name)(root, download=failed is not None, **part)
    except ModuleNotFoundError as error:  # torchvision reads SVHN through SciPy
        raise MissingExtra(f"{name} needs {error.name}: pip install {error.name}") from error
    except (OSError, RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        damaged = f"{name} in {root}: its files are damaged; delete them to download again"
        raise DataError(f"{failed or damaged} ({problem})") from error


def _download(name, root, download, split, files):
    """Let torchvision fetch a data set, after saying which file was looked for.

    "first use" refuses where some of the files are there, or where ``root`` is not the default one: then a
    path is likely to be wrong, and half a minute of downloading would hide that.
    """
    missing = next(file for file in files if not file.is_file())
    looked_for = f"{name}: expected {missing}, found no such file"
    command = f"`cnn data {name}{f' --split {split}' if split else ''} --root {root}` downloads it"
    if download == "first use":
        download = root == DEFAULT_ROOT and not any(file.is_file() for file in files)
    if not download:
        raise DataError(f"{looked_for}; {command}")
    _torchvision(f"{looked_for}, and downloading it needs")
    log.warning("%s; downloading", looked_for)
    for train in (True, False):
        _open(name, root, split, train, failed=f"{looked_for}; downloading failed")


def _from_torchvision(name, root):
    parts = {}
    for train in (True, False):
        source = _open(name, root, None, train)
        images = np.asarray(source.data)
        if name == "SVHN":
            classes, labels = _DIGITS, source.labels
        else:
            classes, labels, images = source.classes, source.targets, images.transpose(0, 3, 1, 2)
        parts[train] = images, np.asarray(labels)
    return make_dataset(name, classes, parts[True], parts[False], root)
