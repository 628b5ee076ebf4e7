"""Which image files are to be predicted: folders, patterns and lists of any length, in a fixed order."""

import glob
import heapq
import itertools
import json
import os
import sys
import tempfile
from contextlib import ExitStack, nullcontext

from cnn.data.image_file import EXTENSIONS
from cnn.errors import DataError
from cnn.files import user_path

_SORTED_IN_MEMORY = 100_000  # names; more are sorted in files
_BOM = b"\xef\xbb\xbf"


def is_one_file(name):
    """Whether an argument stands for itself: no folder, and no pattern unless a file is called so."""
    return not os.path.isdir(name) and (os.path.lexists(name) or not glob.has_magic(name))


def image_files(inputs, list_file=None):
    """Yield the paths that ``inputs`` stand for, then those that ``list_file`` names.

    A folder stands for the image files in it and below, sorted by name folder by folder; hidden names and
    links to folders are passed over. A pattern with ``*``, ``?`` or ``[`` (``**`` for any depth) stands for
    the files that match, sorted. Anything else is a path, given on as it is. A list has one path a line;
    "-" is the standard input. Of all names only some are held in memory at a time.

    Raises DataError for a folder or a list that cannot be read, and for a folder or a pattern without images.
    """
    for name in inputs:
        if is_one_file(name):
            yield name
            continue
        found = _below(name) if os.path.isdir(name) else _matches(name)
        first = next(found, None)
        if first is None:
            images = f"images ({', '.join(EXTENSIONS)})"
            expected = images if os.path.isdir(name) else "an image file, or a pattern that files match"
            raise DataError(f"{name}: expected {expected}, found none")
        yield first
        yield from found
    if list_file is not None:
        yield from _listed(list_file)


def _below(folder):
    """Yield the image files in a folder and below it."""
    try:
        with os.scandir(folder) as entries:
            chosen = ((e.name, e.is_dir(follow_symlinks=False)) for e in entries if _wanted(e))
            ordered = _sorted(chosen)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for name, is_folder in ordered:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _below(path)
        else:
            yield path


def _wanted(entry):
    if entry.name.startswith("."):
        return False
    return entry.is_dir(follow_symlinks=False) or (
        os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not entry.is_dir()
    )


def _matches(pattern):
    return (path for path in _sorted(glob.iglob(pattern, recursive=True)) if not os.path.isdir(path))


def _listed(path):
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(user_path(path), "rb") as file:
            for number, line in enumerate(file):
                name = line.removeprefix(_BOM if number == 0 else b"").rstrip(b"\r\n")
                if name:
                    yield os.fsdecode(name)
    except OSError as error:
        raise DataError(f"{path}: expected a list of paths, {error.strerror or error}") from error


def _sorted(items):
    """Return an iterator over the sorted items; beyond some number they are sorted in files, then merged."""
    items, runs = iter(items), []
    with ExitStack() as stack:
        while chunk := sorted(itertools.islice(items, _SORTED_IN_MEMORY)):
            if not runs and len(chunk) < _SORTED_IN_MEMORY:
                return iter(chunk)
            file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(json.dumps(item) + "\n" for item in chunk)
            file.seek(0)
            runs.append(map(json.loads, file))
        return _merged(runs, stack.pop_all())


def _merged(runs, stack):
    with stack:
        yield from heapq.merge(*runs)
