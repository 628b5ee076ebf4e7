"""Where compiled kernels are kept between runs, and how many had to be compiled in this one.

Numba's own cache looks at the file of a function only and misses changes in what it calls. Here every kernel
is filed under a hash of all kernel sources, so that no stale machine code can ever run. The names of the
data files are unique: processes that compile the same kernel at the same time (MPI ranks, test workers)
never write one file, the worst they can do is compile twice. Compare Numba issues 4807 and 10128.
"""

import hashlib
import os
import uuid
from pathlib import Path

from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.misc.appdirs import AppDirs

KERNELS = []  # everything compiled or to be compiled, in the order of definition
_waiting = []


def when_compiling(callback):
    """Call ``callback()`` once, just before the next kernel that the cache lacks is compiled.

    None takes it back.
    """
    _waiting[:] = [] if callback is None else [callback]


def source_hash():
    """Hash of all sources that compiled kernels depend on."""
    wing = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(wing.rglob("*.py")):
        digest.update(str(path.relative_to(wing)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


SOURCE_HASH = source_hash()


def cache_folder():
    """The folder of this version of the kernels: below NUMBA_CACHE_DIR if set, else the user's cache."""
    root = config.CACHE_DIR or AppDirs(appname="cnn", appauthor=False).user_cache_dir
    return os.path.join(root, f"kernels-{SOURCE_HASH}")


class _Locator(_CacheLocator):
    def __init__(self, function, path):
        self._py_file = path
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self):
        return cache_folder()

    def get_source_stamp(self):
        return SOURCE_HASH

    def get_disambiguator(self):
        return str(self._line)

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _File(IndexDataCacheFile):
    def _data_name(self, number):
        return self._data_name_pattern.format(number=number).replace(".nbc", f".{uuid.uuid4().hex[:12]}.nbc")


class KernelCache(FunctionCache):
    """Numba's function cache with the two changes described above."""

    _impl_class = _Implementation

    def __init__(self, function):
        super().__init__(function)
        stamp, base = self._impl.locator.get_source_stamp(), self._impl.filename_base
        self._cache_file = _File(self._cache_path, base, stamp)

    def load_overload(self, sig, target_context):
        """Return the compiled kernel of a signature, or None; announce the first one that is missing."""
        found = super().load_overload(sig, target_context)
        if found is None:
            while _waiting:
                _waiting.pop()()
        else:
            # What is compiled around a loaded parallel kernel must start the threads as well when it is
            # loaded itself; Numba forgets this.
            found.library._reload_init.update(found.reload_init or ())
        return found

    def save_overload(self, sig, data):
        """Keep a compiled kernel; a folder that cannot be written switches this off."""
        try:
            super().save_overload(sig, data)
        except OSError:  # a read-only or full disk costs the next start some seconds, not this run
            self.disable()


def compile_report():
    """How many kernels this process took from the cache and how many it compiled: a dict with both counts."""
    report = {"loaded": 0, "compiled": 0}
    for kernel in KERNELS:
        if hasattr(kernel, "stats"):
            report["loaded"] += sum(kernel.stats.cache_hits.values())
            report["compiled"] += sum(kernel.stats.cache_misses.values())
        else:  # a C callback is compiled once, when it is defined
            report["loaded" if kernel._cache_hits else "compiled"] += 1
    return report
