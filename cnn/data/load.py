"""`load_dataset`: every data set through one door."""

import importlib

from cnn.data import named
from cnn.data.sample import load_sample
from cnn.errors import ConfigError, did_you_mean

# modules with ``load_<name>``, imported when asked for: they need Pillow, which named sets do without
_OWN = {"folder": "folder", "npz": "packed", "idx": "packed", "parquet": "packed"}
NAMES = ("sample", *_OWN, *named.NAMES)
_FILES = ("image_size", "mode", "fit", "test", "skip_unreadable", "decode")
_OPTIONS = {
    "EMNIST": ("split",),
    "folder": (*_FILES, "targets", "columns", "classes"),
    "parquet": _FILES,
    "npz": ("test", "targets", "classes"),
    "idx": ("test",),
}


def load_dataset(name, root="data", download=True, into_root=True, **options):
    """Return a data set, whole and in memory, as uint8 images and int64 labels.

    Parameters
    ----------
    name : str
        "sample", the bundled digits; your own images: "folder", also for a CSV file (`cnn.data.folder`),
        "npz", "idx", "parquet" (`cnn.data.packed`); or MNIST, FashionMNIST, KMNIST, EMNIST, CIFAR10,
        CIFAR100, SVHN (`cnn.data.named`).
    root : path
        Where torchvision's files and our caches are kept, or the folder or file of your own images.
        It may be read-only. The sample does not use it.
    download : bool or "first use"
        False never touches the network: a set that is not there yet is a DataError. "first use" downloads
        only into the default root, and only where no file of the set is there: a misspelt root or a file that
        went missing is found at once.
    into_root : bool
        False writes nothing below ``root``, which somebody else may have chosen; a cache goes to the user's
        cache folder. The caches of your own images always do.
    **options
        EMNIST: ``split`` ("balanced" if left out). folder, parquet: ``image_size``, ``mode``, ``fit``,
        ``test``, ``skip_unreadable``, ``decode``. npz, idx: ``test``. folder, npz: ``targets``, ``classes``;
        folder: ``columns``. None leaves an option out.

    Raises ConfigError for an unknown name or option, DataError for missing or damaged files, MissingExtra
    where torchvision is needed and absent.
    """
    options = _checked(name, options)
    if name == "sample":
        return load_sample()
    if name in _OWN:
        return _load_own(name, root, options)
    return named.load_named(name, root, download, into_root, **options)


def own_shape(name, root, **options):
    """Return ((C, H, W), classes) of your own images; of a folder only one image is read."""
    options = _checked(name, options)
    if name == "folder":
        from cnn.data.folder import folder_shape

        return folder_shape(root, **options)
    dataset = _load_own(name, root, options)
    return dataset.input_shape, len(dataset.classes)


def _load_own(name, root, options):
    module = importlib.import_module(f"cnn.data.{_OWN[name]}")
    return getattr(module, f"load_{name}")(root, **options)


def is_own(name):
    """Whether a data set is of your own images, of which only looking tells the shape."""
    return name in _OWN


def _checked(name, options):
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise ConfigError(f'dataset: unknown name "{name}", expected {", ".join(NAMES)}.{hint}')
    known = _OPTIONS.get(name, ())
    options = {key: value for key, value in options.items() if value is not None}
    for key in options:
        if key not in known:
            expected = f"expected {', '.join(known)}" if known else "it has none"
            hint = did_you_mean(key, known)
            raise ConfigError(f'dataset {name}: unknown option "{key}", {expected}.{hint}')
    return options
