"""Files: written whole or not at all, one writer a folder, the user's cache, and what comes with cnn."""

import os
import re
import sys
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

from cnn.errors import CheckpointError, ConfigError

_TEMPORARY = re.compile(r"\..+\.(\d+)(\.tmp)?")  # without ".tmp": how earlier versions called them
_LOCK = ".lock"


def write_atomically(path, payload):
    """Write ``payload`` under a temporary name, flush it to the disk, then rename it over ``path``.

    Parameters
    ----------
    payload : bytes, or an iterable of bytes-like objects
        Of the latter only one at a time is held, so a large file needs no second copy in memory.

    After a crash ``path`` is the old file or the new one. Raises CheckpointError when it cannot be written;
    then nothing is left behind.
    """
    path = Path(path)
    try:
        replace_atomically(path, [payload] if isinstance(payload, bytes) else payload)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_new(path, payload):
    """Write bytes into a file that is not there yet; ConfigError where it is, or cannot be written."""
    try:
        with open(path, "xb") as file:
            file.write(payload)
    except FileExistsError as error:
        raise ConfigError(f"{path}: found a file, expected none; choose another name or remove it") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def replace_atomically(path, parts):
    """Like ``write_atomically`` for an iterable of parts; an OSError is passed on as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder):
    """Make a rename durable; where folders cannot be flushed (Windows, some network disks) it is left out."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporaries(folder):
    """Delete the temporary files that killed writers left in ``folder``."""
    with suppress(OSError):
        for path in Path(folder).iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and not path.is_dir() and not _alive(int(match[1])):
                path.unlink(missing_ok=True)


def is_temporary(path):
    """Whether a file is a lock or a temporary file of ``write_atomically``."""
    return path.name == _LOCK or bool(_TEMPORARY.fullmatch(path.name))


def _alive(process):
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process
        return True
    return True


@contextmanager
def locked(folder):
    """While this holds, no other process can hold it for the same folder; it ends with the process.

    The lock is the kernel's, on the open file ``.lock``, which says who holds it; what a killed process left
    of it locks nothing. Yields False where the file system knows no locks. Raises ConfigError at once when
    another process holds it.
    """
    path = Path(folder) / _LOCK
    descriptor = _lock(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with suppress(OSError):  # removed before it is released, so that no one can lock what is removed
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(path):
    """Return the locked descriptor; None where the file system knows no locks or cannot be written."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _take(descriptor)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise ConfigError(
                f"{path.parent}: another process{holder and f' ({holder})'} is training in this folder; "
                "wait until it has ended, or stop it"
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        if _same_file(descriptor, path):
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its holder has just removed it: once more


def _take(descriptor):
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # a byte behind the text, which stays readable
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same_file(descriptor, path):
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def shipped(name):
    """Return the path of a file that comes with cnn: "configs/sample.toml", "data/sample_digits.npz".

    A wheel carries both folders inside of the package, in cnn/shipped; in a checkout they lie beside it.
    Raises ConfigError where the file is in neither place.
    """
    package = Path(str(resources.files("cnn")))
    places = [package / "shipped" / name, package.parent / name]
    for path in places:
        if path.is_file():
            return path
    raise ConfigError(f"{places[0]}: expected a file that comes with cnn, found none; reinstall cnn")


def user_path(path):
    """Return a path that somebody typed, its ~ replaced; ConfigError for what can be no path."""
    try:
        os.fsencode(path)
        if "\0" not in os.fspath(path):
            return Path(path).expanduser()
        problem = "a path with a NUL character"
    except UnicodeEncodeError:
        problem = "a path that cannot be spelled on this system"
    except RuntimeError as error:  # ~nobody, or ~ without a home
        problem = f"a path whose ~ leads nowhere ({str(error).rstrip('.').lower()})"
    raise ConfigError(f"{path!a}: expected a path, found {problem}")


def user_cache_folder():
    """Return the folder of the user's caches for this program, or None where the user has none.

    ``$XDG_CACHE_HOME/cnn`` or ``~/.cache/cnn``; macOS: ``~/Library/Caches/cnn``; Windows: ``%LOCALAPPDATA%``.
    As the XDG Base Directory Specification demands, an empty or relative variable counts as not set.
    """
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named) / "cnn"
    home = os.path.expanduser("~") if os.environ.get("HOME", "unset") else ""
    if not os.path.isabs(home):
        return None
    return Path(home) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "cnn"
