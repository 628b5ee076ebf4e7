"""`load_dataset`: every data set through one door."""

from cnn.data import named
from cnn.data.folder import load_folder
from cnn.data.sample import load_sample
from cnn.errors import ConfigError, did_you_mean

NAMES = ("sample", "folder", *named.NAMES)
_OPTIONS = {"EMNIST": ("split",), "folder": ("image_size", "mode")}


def load_dataset(name, root="data", download=True, into_root=True, **options):
    """Return a data set, whole and in memory, as uint8 images and int64 labels.

    Parameters
    ----------
    name : str
        "sample", the bundled digits; "folder", your own images (`cnn.data.folder`); or MNIST,
        FashionMNIST, KMNIST, EMNIST, CIFAR10, CIFAR100, SVHN (`cnn.data.named`).
    root : path
        Where torchvision's files and our caches are kept, or the folder that holds train/ and test/.
        It may be read-only. The sample does not use it.
    download : bool or "first use"
        False never touches the network: a set that is not there yet is a DataError. "first use" downloads
        only into the default root, and only where no file of the set is there: a misspelt root or a file that
        went missing is found at once.
    into_root : bool
        False writes nothing below ``root``, which somebody else may have chosen; a cache goes to the user's
        cache folder.
    **options
        EMNIST: ``split`` ("balanced" if left out). folder: ``image_size``, ``mode``. None leaves an
        option out.

    Raises ConfigError for an unknown name or option, DataError for missing or damaged files, MissingExtra
    where torchvision is needed and absent.
    """
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
    if name == "sample":
        return load_sample()
    if name == "folder":
        return load_folder(root, into_root=into_root, **options)
    return named.load_named(name, root, download, into_root, **options)
