"""Convolutional networks from scratch: NumPy to read, Numba to run, every gradient explained."""

import importlib

from cnn.backend import current_backend, set_backend, set_threads, use_backend
from cnn.network import Network

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Classifier",
    "Network",
    "__version__",
    "current_backend",
    "load",
    "set_backend",
    "set_threads",
    "use_backend",
]

_LATER = {  # imported when they are asked for: they bring pydantic and more
    "Callback": "cnn.training.callbacks",
    "Classifier": "cnn.classifier",
    "load": "cnn.model",
}


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f'module "cnn" has no attribute "{name}"')
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__():
    return sorted({*globals(), *_LATER})
