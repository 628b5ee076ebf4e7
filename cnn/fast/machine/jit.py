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
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import register_jitable
from numba.np.ufunc import parallel as numba_threads

from cnn.fast.machine import cache
from cnn.fast.machine.owner import local, owner
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
    """Let Numba start threads through OpenMP (2 µs a launch); its fallback, workqueue, takes some 100 µs.

    Returns whether OpenMP or TBB is there.
    """
    if numba.config.THREADING_LAYER == "default":
        numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
    for pool in ("omppool", "tbbpool"):
        try:
            with _short_wait():
                importlib.import_module(f"numba.np.ufunc.{pool}")
        except ImportError:
            continue
        return True
    warnings.warn(
        "Numba finds neither OpenMP nor TBB: every kernel starts some 100 microseconds late. "
        "Install an OpenMP runtime (libgomp, libomp) or `pip install tbb`.",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


_concurrent = _prefer_openmp()


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


class Task(CFunc):
    """A function of int64 without result, in machine code from the moment that its address is asked for.

    Then it is taken from the cache or compiled. A program that is lowered only for the size of its memory
    (``Arena(dry=True)``) runs nothing: there the address is 0.
    """

    def __init__(self, function):
        signature = (types.int64,) * function.__code__.co_argcount, types.void
        super().__init__(function, signature, {}, {"fastmath": FLAGS, "error_model": "numpy"})
        self._cache = cache.cache_of(function)

    @property
    def address(self):
        """Where the machine code begins."""
        if self._wrapper_address is None:
            if local.lowering is not None and local.lowering.arena.dry:
                return 0
            self._compile()
        return self._wrapper_address

    @global_compiler_lock
    def _compile(self):
        if self._wrapper_address is not None:  # by another thread
            return
        # With NUMBA_DISABLE_JIT tasks are machine code nonetheless: there are no vectors in plain Python.
        disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
        try:
            self.compile()
        finally:
            numba.config.DISABLE_JIT = disabled
        cache.KERNELS.append(self)


def task(function):
    """Make a function of int64 without result a Task: ``function(index, thread, params)`` for ``launch``.

    Tasks call others by address (``params.call``), so that what they have in common is compiled once.
    """
    return Task(function)


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


_queue = threading.Lock()


#: Whether the threading layer breaks where two threads start work at once, so that calls queue: Numba's
#: workqueue ends the process then. OpenMP and TBB take any number of callers.
_takes_turns = not _concurrent or numba.config.THREADING_LAYER == "workqueue"

#: Whether this process is a child of fork. It computes with one thread: OpenMP's do not exist in it, and the
#: runtime ends a process that asks for them.
_forked = False


def _after_fork():
    global _forked, _queue
    _forked, _queue = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _number_of_threads():
    """What ``numba.get_num_threads`` asks behind two locks, which take 2 µs of a prediction's 40."""
    numba.get_num_threads()  # starts the threads, the first time
    return numba_threads._get_num_threads


def _threads():
    return 1 if _forked else _number_of_threads()()


def launch(function, count, params):
    """Run the compiled task for index 0 ... count-1, spread over the threads; or write that down.

    While a program is lowered the launch becomes an entry of it, to be made when the program runs. A caller
    that was given one thread only (``backend.set_threads``, which counts for the thread that calls it) runs
    all of it itself, and leaves the others alone.
    """
    if local.lowering is not None:
        local.lowering.launch(function, count, params)
    elif numba.config.DISABLE_JIT:
        _launch_plainly(function, count, params.ctypes.data)
    elif _takes_turns:
        with _queue:
            _launch(function.address, count, params, _threads())
    else:
        _launch(function.address, count, params, _threads())


def _launch_plainly(function, count, address):
    for index in range(count):  # only tasks are machine code then
        function.ctypes(index, 0, address)


class Launches:
    """Consecutive launches of a program, made by one call.

    Parameters
    ----------
    launches : list of (task, count, params)
        ``params`` are the tables themselves: a number changed in one counts from the next run on.
    """

    def __init__(self, launches):
        self._launches = launches
        self._rows = None

    def run(self):
        """Make all launches in their order."""
        if numba.config.DISABLE_JIT:
            for function, count, params in self._launches:
                _launch_plainly(function, count, params.ctypes.data)
            return
        if self._rows is None:
            self._rows = table([(task.address, count, p.ctypes.data) for task, count, p in self._launches])
        if _takes_turns:
            with _queue:
                _launch_all(self._rows, _threads())
        else:
            _launch_all(self._rows, _threads())


def plans(make):
    """Decorate what makes the plan of a geometry: each owner makes it once and has it to itself.

    A plan may be patched before each launch: no other thread and no other network sees it.
    """

    @functools.wraps(make)
    def plan(*arguments):
        return owner().plan(make, arguments)

    return plan


def workspace(name, size):
    """Memory of at least ``size`` bytes, aligned to a cache line, that all plans of an owner share by name.

    For what a plan writes and reads within its own launches: the launches of an owner run one after the
    other. It holds anything at the start.
    """
    return owner().workspace(name, size)


def scratch(shape, dtype):
    """A zeroed array, aligned to a cache line, that lives as long as the program or the caller holds it."""
    return owner().scratch(shape, dtype)


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
