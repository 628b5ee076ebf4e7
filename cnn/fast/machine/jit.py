"""How kernels are compiled and started: one place for flags, one compiled parallel loop for all of them.

A kernel is a ``@task``: a function ``task(index, thread, params)`` that does the ``index``-th piece of the
work alone; ``params`` is the address of a table of int64 (addresses and sizes). ``launch`` runs all pieces on
all threads. Numba's ``parallel=True`` costs seconds of compilation for each function; here it is paid once.
Pieces never share a cell they write, and their number depends on shapes only, not on the number of threads:
that is why results are the same bits on any machine load and thread count.
"""

import ctypes
import functools
import importlib
import os
import threading
import warnings
from contextlib import contextmanager

import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.extending import register_jitable

from cnn.fast.blocked import aligned_zeros
from cnn.fast.machine import cache
from cnn.fast.machine.tables import call

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
    if numba.config.DISABLE_JIT:  # plain Python, which tasks, machine code nonetheless, must be able to call
        return register_jitable(fastmath=FLAGS, error_model="numpy", **options)(function)
    kernel = numba.njit(fastmath=FLAGS, error_model="numpy", nogil=True, **options)(function)
    kernel._cache = cache.cache_of(function)
    cache.KERNELS.append(kernel)
    return kernel


def helper(function):
    """Compile a function that only tasks call: ``jit`` without the wrappers by which Python would call it."""
    return jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def task(function):
    """Compile a function of int64 without result: ``function(index, thread, params)`` for ``launch``.

    Tasks call others by address (``params.call``), so that what they have in common is compiled once.
    """
    signature = (types.int64,) * function.__code__.co_argcount, types.void
    kernel = CFunc(function, signature, locals={}, options={"fastmath": FLAGS, "error_model": "numpy"})
    kernel._cache = cache.cache_of(function)
    # With NUMBA_DISABLE_JIT tasks are machine code nonetheless: there are no vectors in plain Python.
    disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
    try:
        kernel.compile()
    finally:
        numba.config.DISABLE_JIT = disabled
    cache.KERNELS.append(kernel)
    return kernel


@jit(parallel=True)
def _spread(function, count, address):
    for index in numba.prange(count):
        call(function, (index, numba.get_thread_id(), address))


@jit
def _run(function, count, address, threads):
    if count == 1 or threads == 1:
        for index in range(count):
            call(function, (index, 0, address))
    else:
        _spread(function, count, address)


@jit
def _launch(function, count, params, threads):
    _run(function, count, params.ctypes.data, threads)


@jit
def _launch_all(launches, threads):
    for k in range(launches.shape[0]):
        _run(launches[k, 0], launches[k, 1], launches[k, 2], threads)


def launch(function, count, params):
    """Run the compiled task for index 0 ... count-1, spread over the threads.

    A thread that was given one only (``backend.set_threads``, which counts for the thread that calls it) runs
    them itself, and leaves the others alone.
    """
    if _running.recording is not None:
        _running.recording.add(function, count, params)
    if numba.config.DISABLE_JIT:
        _launch_plainly(function, count, params.ctypes.data)
    else:
        _launch(function.address, count, params, numba.get_num_threads())


def _launch_plainly(function, count, address):
    for index in range(count):  # only tasks are machine code then
        function.ctypes(index, 0, address)


class _Running(threading.local):
    recording = None  # of this thread: what others launch meanwhile is not part of it


_running = _Running()


class Recording:
    """Launches in the order they were made, to be made again without the Python between them.

        with Recording() as recording:
            ...                       # whatever launches tasks
        recording.run()               # the same tasks on the same addresses

    All memory that the launches use must stay where it is: plans, and whatever ``keep`` is told of, are kept
    alive here, blocked arrays by the pool that they were taken from.
    """

    def __init__(self):
        self._launches, self._kept, self._rows = [], [], None

    def __enter__(self):
        _running.recording = self
        return self

    def __exit__(self, *error):
        _running.recording = None

    def add(self, function, count, params):
        """Write a launch down."""
        self._launches.append((function, count, params.copy()))

    def keep(self, thing):
        """Keep something alive whose memory the launches use."""
        self._kept.append(thing)

    def run(self, source=None, target=None):
        """Launch all again; if given, the first reads the array ``source``, the last writes to ``target``."""
        if source is not None:
            self._launches[0][2][0] = address(source)
        if target is not None:
            self._launches[-1][2][1] = address(target)
        if numba.config.DISABLE_JIT:
            for function, count, params in self._launches:
                _launch_plainly(function, count, params.ctypes.data)
            return
        if self._rows is None:
            rows = [(task.address, count, params.ctypes.data) for task, count, params in self._launches]
            self._rows = table(rows)
        _launch_all(self._rows, numba.get_num_threads())


def keep(thing):
    """Keep a plan or an array alive as long as the recording that runs now, if one does."""
    if _running.recording is not None:
        _running.recording.keep(thing)


def plans(make):
    """Decorate what makes the plan of a geometry: it is made once, and kept as long as recordings use it."""
    cached = functools.lru_cache(maxsize=256)(make)

    @functools.wraps(make)
    def plan(*arguments):
        found = cached(*arguments)
        keep(found)
        return found

    return plan


def workspace(name, size):
    """Memory of at least ``size`` bytes, aligned to a cache line, that all plans share under this name.

    For what a plan writes and reads within its own launches: kernels run one after the other. It holds
    anything at the start.
    """
    return _workspace(name, 1 << (size - 1).bit_length())


@functools.cache
def _workspace(name, size):
    return aligned_zeros((size,), np.uint8)


def scratch(shape, dtype):
    """A zeroed array, aligned to a cache line, that lives as long as the recording or the caller holds it."""
    made = aligned_zeros(shape, dtype)
    keep(made)
    return made


def scratch_threads():
    """How many threads may ask for scratch memory at once."""
    return numba.config.NUMBA_NUM_THREADS


def address(array):
    """Address of the first number of a NumPy array: ``array.ctypes.data`` in a quarter of its 2 µs."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only, not contiguous or empty
        return array.ctypes.data


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
