"""Errors that a person reads: one clear message and the exit code of the command line.

Exit codes: 2 usage or config, 3 data, 4 checkpoint, 5 numbers (NaN, Inf, failed gradient check).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class CnnError(Exception):
    """Any mistake that has a clear message; ``exit_code`` is what the command line returns."""

    exit_code = 2


class ConfigError(CnnError, ValueError):
    """A config file, a command-line option or a layer's argument is wrong."""


class ArgumentError(ConfigError, TypeError):
    """A constructor received an argument that it does not take."""


class UnknownName(ConfigError, KeyError):
    """A network has no layer or parameter of this name."""

    __str__ = Exception.__str__  # KeyError's shows the repr


class ShapeError(ConfigError):
    """A layer received an array or an input shape that it cannot take."""


class DataError(CnnError, ValueError):
    """A data set is missing, truncated or inconsistent."""

    exit_code = 3


class MissingExtra(DataError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class CheckpointError(CnnError, ValueError):
    """A checkpoint cannot be read, or does not fit the network."""

    exit_code = 4


class NumericError(CnnError, ArithmeticError):
    """NaN or Inf where a finite number belongs, or a gradient check that failed."""

    exit_code = 5


@contextmanager
def during(what: str) -> Iterator[None]:
    """Note on any exception what was being done, for the last line of defence: "training in runs/a"."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


# what arguments are called in Keras, scikit-learn, Ultralytics and others -> what they are called here
SYNONYMS = {
    "learning_rate": "lr", "batch": "batch_size", "bs": "batch_size", "n_epochs": "epochs",
    "num_epochs": "epochs", "max_epochs": "epochs", "max_iter": "epochs", "filters": "out_channels",
    "channels": "out_channels", "num_filters": "out_channels", "units": "out_features",
    "neurons": "out_features", "kernel": "kernel_size", "pool_size": "kernel_size", "rate": "p",
    "dropout": "p", "random_state": "seed", "imgsz": "image_size", "input_size": "image_size",
    "wd": "weight_decay", "l2": "weight_decay", "validation_split": "validation", "valid_pct": "validation",
    "val_split": "validation", "n_jobs": "threads", "data_dir": "root", "dense": "Linear",
    "batchnormalization": "BatchNorm2d", "maxpooling2d": "MaxPool2d", "averagepooling2d": "AvgPool2d",
    "globalaveragepooling2d": "GlobalAvgPool2d", "leakyrelu": "LeakyReLU",
    "randomflip": "RandomHorizontalFlip",
}  # fmt: skip


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the option nearest to ``word``, or an empty string.

    What other tools call it counts as nearest.
    """
    import difflib

    lowered = {str(option).lower(): str(option) for option in options}
    other = SYNONYMS.get(str(word).lower())
    if other in lowered.values():
        return f' Did you mean "{other}"?'
    match = difflib.get_close_matches(str(word).lower(), lowered, n=1, cutoff=0.6)
    return f' Did you mean "{lowered[match[0]]}"?' if match else ""
