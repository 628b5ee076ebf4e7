"""Where bytes go out: one way to write a file whole or not at all, and the user's folder for caches."""

import os
import sys
from pathlib import Path

from cnn.errors import CheckpointError, ConfigError


def write_atomically(path, payload):
    """Write bytes under a temporary name, flush them to the disk, then rename over ``path``."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


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
