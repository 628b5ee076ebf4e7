"""Chooses who computes: NumPy to read (``reference``) or Numba to run (``numba``).

Both offer the same functions; layers ask ``operations()`` for the current ones.
"""

import importlib
import os
from contextlib import contextmanager

from cnn.errors import ConfigError, did_you_mean

_MODULES = {"numba": "cnn.fast.kernels", "reference": "cnn.reference"}
_current = "numba"
_loaded = {}
_winograd = True


def backends():
    """Return the names of the backends."""
    return tuple(_MODULES)


def current_backend():
    """Return the name of the backend in use."""
    return _current


def set_backend(name):
    """Use the backend of this name from now on; raises ConfigError on an unknown one."""
    global _current
    if name not in _MODULES:
        known = ", ".join(_MODULES)
        raise ConfigError(f'backend: expected one of {known}, found "{name}".{did_you_mean(name, _MODULES)}')
    _current = name


@contextmanager
def use_backend(name):
    """Use a backend inside a ``with`` block."""
    before = _current
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def operations():
    """Return the module that holds the current backend's functions."""
    if _current not in _loaded:
        _loaded[_current] = importlib.import_module(_MODULES[_current])
    return _loaded[_current]


def check_environment():
    """Raise ConfigError unless Numba can be imported with the NUMBA_NUM_THREADS of the environment."""
    found = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not (found.isascii() and found.isdigit() and int(found) > 0):
        raise ConfigError(f'NUMBA_NUM_THREADS: expected a whole number of at least 1, found "{found}"')


def _numba():
    check_environment()
    return importlib.import_module("numba")


def get_threads():
    """Return how many threads a kernel uses."""
    return _numba().get_num_threads()


def set_threads(count):
    """Let kernels use ``count`` threads; raises ConfigError unless 1 <= count <= cores."""
    numba = _numba()
    cores = numba.config.NUMBA_NUM_THREADS
    if not 1 <= count <= cores:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        raise ConfigError(f"threads: expected 1 to {cores} (this machine offers {available}), found {count}")
    numba.set_num_threads(count)


def has_spare_core():
    """Return whether a core is left that kernels do not use: work beside them costs them nothing there."""
    numba = _numba()
    return numba.get_num_threads() < numba.config.NUMBA_NUM_THREADS


def compile_report():
    """Return how many kernels were taken from the cache and how many compiled: {"loaded": n, "compiled": m}.

    A start is warm when nothing was compiled.
    """
    return _cache().compile_report()


def keeps_kernels():
    """Return whether what is compiled now will be found by the next process."""
    return _cache().keeps_kernels()


def when_compiling(callback):
    """Call ``callback()`` once, when the next kernel that the cache lacks is about to be compiled.

    None takes the callback back.
    """
    _cache().when_compiling(callback)


def _cache():
    return importlib.import_module("cnn.fast.machine.cache")


def set_winograd(enabled):
    """Let 3x3 convolutions with stride 1 in float32 use Winograd's form (the default) or not."""
    global _winograd
    _winograd = bool(enabled)


def get_winograd():
    """Whether Winograd's form may be used."""
    return _winograd
