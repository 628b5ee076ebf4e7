"""Chooses who computes: NumPy to read (``reference``) or Numba to run (``numba``).

Both offer the same functions; layers ask ``operations()`` for the current ones.
"""

import importlib
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cnn.errors import ConfigError, did_you_mean

_MODULES = {"numba": "cnn.fast.kernels", "reference": "cnn.reference"}
_ENGINES = {"numba": "cnn.fast.engine", "reference": "cnn.reference.engine"}
_default = "numba"
_loaded: dict[str, Any] = {}


class _Chosen(threading.local):
    name: str | None = None


_chosen = _Chosen()
_winograd = True


def backends() -> tuple[str, ...]:
    """Return the names of the backends."""
    return tuple(_MODULES)


def current_backend() -> str:
    """Return the name of the backend in use: that of ``use_backend`` in this thread, else the default."""
    return _chosen.name or _default


def set_backend(name: str) -> None:
    """Use the backend of this name from now on, in all threads; raises ConfigError on an unknown one."""
    global _default
    _default = _known(name)


def _known(name: str) -> str:
    if name not in _MODULES:
        known = ", ".join(_MODULES)
        raise ConfigError(f'backend: expected one of {known}, found "{name}".{did_you_mean(name, _MODULES)}')
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use a backend inside a ``with`` block, in this thread."""
    before, _chosen.name = _chosen.name, _known(name)
    try:
        yield
    finally:
        _chosen.name = before


def operations() -> Any:
    """Return the module that holds the current backend's functions."""
    name = _chosen.name or _default
    if name not in _loaded:
        _loaded[name] = importlib.import_module(_MODULES[name])
    return _loaded[name]


def engine(body: Any, name: str | None = None, precision: str = "float32", exact: Any = ()) -> Any:
    """Return what runs a list of layers (a built Sequential) under a backend, or the current one.

    ``precision``: what activations are stored and multiplied in, "float32" or "bf16"; NumPy has float32 only.
    ``exact``: layers that are float32 in any case.
    """
    name = name or current_backend()
    make = importlib.import_module(_ENGINES[name]).Engine
    return make(body, precision, exact) if name == "numba" else make(body)


PRECISIONS = ("float32", "bf16")


def known_precision(name: str) -> str:
    """Return ``name``; raises ConfigError unless it is one of PRECISIONS.

    Warns where the processor lacks the instructions for bfloat16: networks compute in float32 then.
    """
    if name not in PRECISIONS:
        known = " or ".join(PRECISIONS)
        raise ConfigError(f'precision: expected {known}, found "{name}".{did_you_mean(name, PRECISIONS)}')
    if name == "bf16" and not has_bf16():
        warnings.warn(
            'precision "bf16": this processor has no instructions for bfloat16 (avx512_bf16); '
            "computing in float32",
            RuntimeWarning,
            stacklevel=3,
        )
    return name


def has_bf16() -> bool:
    """Return whether kernels can multiply bfloat16 on this processor."""
    check_environment()
    return importlib.import_module("cnn.fast.machine.bf16").has_bf16()


def check_environment() -> None:
    """Raise ConfigError unless Numba can be imported with the NUMBA_NUM_THREADS of the environment."""
    found = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not (found.isascii() and found.isdigit() and int(found) > 0):
        raise ConfigError(f'NUMBA_NUM_THREADS: expected a whole number of at least 1, found "{found}"')


def _numba() -> Any:
    check_environment()
    return importlib.import_module("numba")


def get_threads() -> int:
    """Return how many threads a kernel uses."""
    return _numba().get_num_threads()


def set_threads(count: int) -> None:
    """Let kernels use ``count`` threads; raises ConfigError unless 1 <= count <= cores."""
    numba = _numba()
    cores = numba.config.NUMBA_NUM_THREADS
    if not 1 <= count <= cores:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        raise ConfigError(f"threads: expected 1 to {cores} (this machine offers {available}), found {count}")
    numba.set_num_threads(count)


def processor() -> str:
    """Return the type of processor that kernels are compiled for; another one may give other last bits."""
    import numba
    from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

    asked = getattr(numba.config, "CPU_NAME", None)  # set at run time
    name, host = asked or get_host_cpu_name(), {} if asked else get_host_cpu_features()
    vectors = [feature for feature in ("avx2", "avx512f") if host.get(feature)]
    return " ".join([name, *vectors])


def has_spare_core() -> bool:
    """Return whether a core is left that kernels do not use: work beside them costs them nothing there."""
    numba = _numba()
    return numba.get_num_threads() < numba.config.NUMBA_NUM_THREADS


def compile_report() -> Any:
    """Return how many kernels were taken from the cache and how many compiled: {"loaded": n, "compiled": m}.

    A start is warm when nothing was compiled.
    """
    return _cache().compile_report()


def keeps_kernels() -> Any:
    """Return whether what is compiled now will be found by the next process."""
    return _cache().keeps_kernels()


def when_compiling(callback: Any) -> Any:
    """Call ``callback()`` once, when the next kernel that the cache lacks is about to be compiled.

    None takes the callback back.
    """
    _cache().when_compiling(callback)


def _cache() -> Any:
    return importlib.import_module("cnn.fast.machine.cache")


def set_winograd(enabled: bool) -> None:
    """Let 3x3 convolutions with stride 1 in float32 use Winograd's form (the default) or not."""
    global _winograd
    _winograd = bool(enabled)


def get_winograd() -> bool:
    """Whether Winograd's form may be used."""
    return _winograd
