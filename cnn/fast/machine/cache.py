"""Where compiled kernels are kept between runs, and how many had to be compiled in this one.

Numba's own cache looks at the file of a function only and misses changes in what it calls. Here every kernel
is filed under a hash of all sources of ``cnn.fast`` and of the versions of Python, Numba and LLVM, so that no
stale machine code can ever run and two environments do not overwrite each other's; what is compiled from
other files is not kept at all. Each file begins with a checksum: one that is damaged counts as
missing. The names of the data files are unique: processes that compile the same kernel at the same time (MPI
ranks, test workers) never write one file, the worst they can do is compile twice. Compare Numba issues 4807
and 10128.
"""

import hashlib
import os
import pickle
import re
import shutil
import sys
import time
import uuid
from pathlib import Path
from types import FunctionType

import llvmlite
import numba
from numba.core import config
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    IndexDataCacheFile,
    NullCache,
    _CacheLocator,
)
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.np.ufunc.parallel import _launch_threads

from cnn.files import user_cache_folder

KERNELS = []  # everything compiled or to be compiled, in the order of definition
UNUSED_DAYS = 7  # after which the kernels of other versions are removed
_WING = Path(__file__).resolve().parents[1]
_waiting = []


def when_compiling(callback):
    """Call ``callback()`` once, just before the next kernel that the cache lacks is compiled.

    None takes it back.
    """
    _waiting[:] = [] if callback is None else [callback]


def source_hash():
    """Hash of all that compiled kernels depend on: the sources and what compiles them."""
    digest = hashlib.sha256(f"{sys.version} {numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(_WING.rglob("*.py")):
        digest.update(str(path.relative_to(_WING)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


SOURCE_HASH = source_hash()


def _root():
    """The folder of all versions: NUMBA_CACHE_DIR if set, else the user's caches; None if there are none."""
    return Path(config.CACHE_DIR).absolute() if config.CACHE_DIR else user_cache_folder()


_ROOT = _root()  # once: a process may change its working folder or its environment


def cache_folder():
    """The folder of this version of the kernels, or None where none is kept."""
    return _ROOT and _ROOT / f"kernels-{SOURCE_HASH}"


def keeps_kernels():
    """Whether what is compiled now will be found by the next process."""
    folder = cache_folder()
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return folder is not None and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def remove_unused(now=None):
    """Remove the kernels of versions that no process has used for UNUSED_DAYS; mark this one as used."""
    now, mine = time.time() if now is None else now, cache_folder()
    try:
        os.utime(mine, (now, now))
        for folder in _ROOT.iterdir():
            ours = re.fullmatch("kernels-[0-9a-f]{16}", folder.name)
            if ours and folder != mine and now - folder.stat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # another process removes the same, or this one may not
        return


class _Locator(_CacheLocator):
    def __init__(self, function, path):
        self._py_file = path
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self):
        return str(cache_folder())

    def get_source_stamp(self):
        return SOURCE_HASH

    def get_disambiguator(self):
        return str(self._line)

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


def _sealed(payload):
    return hashlib.sha256(payload).digest() + payload


def _unsealed(content):
    """What was pickled into the payload of ``_sealed``; OSError where it is damaged or not for this Numba."""
    seal, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != seal:
        raise OSError("damaged")
    try:
        return pickle.loads(payload)
    except Exception as error:  # written by a Numba that calls itself the same but names its types otherwise
        raise OSError(f"of another Numba: {error}") from error


class _File(IndexDataCacheFile):
    """Numba's files, each behind a checksum; what cannot be read counts as missing."""

    def _data_name(self, number):
        return self._data_name_pattern.format(number=number).replace(".nbc", f".{uuid.uuid4().hex[:12]}.nbc")

    def _load_index(self):
        try:
            stamp, overloads = _unsealed(Path(self._index_path).read_bytes())
        except OSError:
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads):
        payload = self._dump((self._source_stamp, overloads))
        with self._open_for_write(self._index_path) as file:
            file.write(_sealed(payload))

    def _load_data(self, name):  # the caller takes an OSError as: not there
        return _unsealed(Path(self._data_path(name)).read_bytes())

    def _save_data(self, name, data):
        with self._open_for_write(self._data_path(name)) as file:
            file.write(_sealed(self._dump(data)))


def cache_of(function):
    """The cache of a function that is to be compiled: of ``cnn.fast`` on the disk, of other files none."""
    inside = Path(function.__code__.co_filename).resolve().is_relative_to(_WING)
    return KernelCache(function) if inside and cache_folder() is not None else _NoCache()


def _announce():
    while _waiting:
        _waiting.pop()()


class _NoCache(NullCache):
    """Keeps nothing."""

    def load_overload(self, sig, target_context):
        """Return None; announce that something is compiled."""
        _announce()


def _meaning(value, above=()):
    """What a value that a kernel closes over is, in words that are the same in every process.

    Numba pickles such values; an intrinsic or a kernel is pickled with a number drawn at random, so what
    closes over one would be compiled, and kept, by every process anew. Here it is its place in the sources
    (which are hashed) and what it closes over itself.
    """
    if isinstance(value, tuple):
        return [type(value).__qualname__, *(_meaning(each, above) for each in value)]
    if isinstance(value, type):
        return [value.__module__, value.__qualname__]
    inside = getattr(value, "__dict__", {})  # of a dispatcher, an intrinsic, a task
    function = next((inside[name] for name in ("py_func", "_defn", "_pyfunc") if name in inside), value)
    if not isinstance(function, FunctionType):
        return value if isinstance(value, (int, float, str, bytes, type(None))) else dumps(value)
    place = [function.__module__, function.__qualname__, function.__code__.co_firstlineno]
    if function in above:
        return place
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return place + [_meaning(cell, (*above, function)) for cell in cells]


class KernelCache(FunctionCache):
    """Numba's function cache with the changes described above."""

    _impl_class = _Implementation

    def __init__(self, function):
        super().__init__(function)
        stamp, base = self._impl.locator.get_source_stamp(), self._impl.filename_base
        self._cache_file = _File(self._cache_path, base, stamp)

    def load_overload(self, sig, target_context):
        """Return the compiled kernel of a signature, or None; announce the first one that is missing.

        Numba's own would import all that it can compile first (SciPy's BLAS for one), which takes longer than
        to load a network's kernels; of all that they need the runtime's symbols alone.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
        if found is None:
            _announce()
        elif hasattr(found.library, "_reload_init"):  # since Numba 0.63
            # What is compiled around a loaded parallel kernel must start the threads as well when it is
            # loaded itself; Numba forgets this.
            found.library._reload_init.update(found.reload_init or ())
        else:  # no library knows whether a parallel kernel is inside of it
            _launch_threads()
        return found

    def _index_key(self, sig, codegen):
        cells = [_meaning(cell.cell_contents) for cell in self._py_func.__closure__ or ()]
        words = self._py_func.__code__.co_code, repr(cells).encode()
        return sig, codegen.magic_tuple(), tuple(hashlib.sha256(word).hexdigest() for word in words)

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


if _ROOT is not None and cache_folder().is_dir():
    remove_unused()
