"""Convolutional networks from scratch: NumPy to read, Numba to run, every gradient explained."""

import importlib

TYPE_CHECKING = False  # that of typing, which takes longer to import than `cnn --version` has
if TYPE_CHECKING:
    from typing import Any

    from cnn.backend import current_backend, set_backend, set_threads, use_backend
    from cnn.classifier import Classifier
    from cnn.model import load
    from cnn.network import Network
    from cnn.training.callbacks import Callback

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

_LATER = {  # imported when it is asked for: NumPy, pydantic and more come with it
    "Callback": "cnn.training.callbacks",
    "Classifier": "cnn.classifier",
    "Network": "cnn.network",
    "current_backend": "cnn.backend",
    "load": "cnn.model",
    "set_backend": "cnn.backend",
    "set_threads": "cnn.backend",
    "use_backend": "cnn.backend",
}


def __getattr__(name: str) -> "Any":
    if name in _LATER:
        value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return value
    try:
        if not name.startswith("_"):
            return importlib.import_module(f"cnn.{name}")  # `import cnn` is enough for cnn.layers.Conv2d
    except ModuleNotFoundError as error:
        if error.name != f"cnn.{name}":
            raise
    raise AttributeError(f'module "cnn" has no attribute "{name}"')


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
