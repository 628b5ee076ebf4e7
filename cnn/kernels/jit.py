"""How kernels are compiled and started: one place for flags, one compiled parallel loop for all of them.

A kernel is a ``@task``: a function ``task(index, thread, params)`` that does the ``index``-th piece of the
work alone; ``params`` is the address of a table of int64 (addresses and sizes). ``launch`` runs all pieces on
all threads. Numba's ``parallel=True`` costs seconds of compilation for each function; here it is paid once.
Pieces never share a cell they write, and their number depends on shapes only, not on the number of threads:
that is why results are the same bits on any machine load and thread count.
"""

import importlib
import os
import warnings
from contextlib import contextmanager

import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc

from cnn.kernels import cache
from cnn.kernels.simd import call

# Sums may be regrouped and contracted to fma; NaN and infinity keep their meaning.
FLAGS = {"reassoc", "contract", "nsz"}


@contextmanager
def _short_wait():
    """Let OpenMP threads that wait for work spin for some 50 µs, not milliseconds, before they sleep.

    Kernels of a training step follow each other faster than that. But where other programs want the
    processor too, a spinning thread takes the time that the one it waits for needs: LeNet-5's step took
    400 to 700 ms beside ten busy processes, 35 ms with this (and 3 ms alone). Read once, when the GNU
    runtime is loaded; a user's own setting wins.
    """
    name = "GOMP_SPINCOUNT"
    if name in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[name] = "2000"
    try:
        yield
    finally:
        del os.environ[name]


def _prefer_openmp():
    """Let Numba start threads through OpenMP (2 µs a launch); its fallback, workqueue, takes some 100 µs."""
    if numba.config.THREADING_LAYER == "default":
        numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    for pool in ("omppool", "tbbpool"):
        try:
            with _short_wait():
                importlib.import_module(f"numba.np.ufunc.{pool}")
        except ImportError:
            continue
        return
    warnings.warn(
        "Numba finds neither OpenMP nor TBB: every kernel starts some 100 microseconds late. "
        "Install an OpenMP runtime (libgomp, libomp) or `pip install tbb`.",
        RuntimeWarning,
        stacklevel=2,
    )


_prefer_openmp()


# Only prange matters; the passes that look for array expressions cost compile time and find nothing here.
_PARALLEL = {
    "prange": True, "comprehension": False, "reduction": False, "inplace_binop": False,
    "setitem": False, "numpy": False, "stencil": False, "fusion": False,
}  # fmt: skip


def jit(function=None, *, parallel=False, **options):
    """numba.njit with the flags and the cache of this package; ``parallel`` gives prange all threads."""
    if function is None:
        return lambda f: jit(f, parallel=parallel, **options)
    if parallel:
        options["parallel"] = dict(_PARALLEL)
    kernel = numba.njit(fastmath=FLAGS, error_model="numpy", nogil=True, **options)(function)
    if not numba.config.DISABLE_JIT:
        kernel._cache = cache.KernelCache(function)
        cache.KERNELS.append(kernel)
    return kernel


def task(function):
    """Compile a function of int64 without result: ``function(index, thread, params)`` for ``launch``.

    Tasks call others by address (``simd.call``), so that what they have in common is compiled once.
    """
    signature = (types.int64,) * function.__code__.co_argcount, types.void
    kernel = CFunc(function, signature, locals={}, options={"fastmath": FLAGS, "error_model": "numpy"})
    kernel._cache = cache.KernelCache(function)
    # With NUMBA_DISABLE_JIT tasks are machine code nonetheless: there are no vectors in plain Python.
    disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
    try:
        kernel.compile()
    finally:
        numba.config.DISABLE_JIT = disabled
    cache.KERNELS.append(kernel)
    return kernel


@jit(parallel=True)
def _launch(function, count, params):
    address = params.ctypes.data
    for index in numba.prange(count):
        call(function, (index, numba.get_thread_id(), address))


@jit
def _launch_alone(function, count, params):
    address = params.ctypes.data
    for index in range(count):
        call(function, (index, 0, address))


def launch(function, count, params):
    """Run the compiled task for index 0 ... count-1, spread over the threads."""
    if numba.config.DISABLE_JIT:  # then the loop is Python, and only tasks are machine code
        for index in range(count):
            function.ctypes(index, 0, params.ctypes.data)
    elif count == 1:
        _launch_alone(function.address, count, params)
    else:
        _launch(function.address, count, params)


def scratch_threads():
    """How many threads may ask for scratch memory at once."""
    return numba.config.NUMBA_NUM_THREADS


def table(values):
    """A table of int64 for ``params``."""
    return np.array(values, np.int64)


CHUNK = 8192  # numbers that one piece of an elementwise task handles: enough to be worth handing out


def chunks(size):
    """How many pieces of CHUNK numbers cover ``size`` of them."""
    return -(-size // CHUNK)


def contiguous(array):
    """Return ``array`` as a writable C-contiguous NumPy array, so that a kernel compiles once for each dtype.

    Read-only is part of Numba's array type: without the copy, a memory-mapped batch would compile anew.
    """
    array = np.ascontiguousarray(np.asarray(array))
    return array if array.flags.writeable else array.copy()
