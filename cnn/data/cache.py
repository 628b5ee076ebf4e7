"""A converted data set in one file: uint8 images, labels and class names, under checksums.

The file is a safetensors file (``cnn.tensor_file``); its header holds the class names and a fingerprint of
what it was made from. Files are written under a temporary name and renamed, so a reader never sees half of
one.
"""

import hashlib
import logging
import os
import stat
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from cnn import tensor_file
from cnn.data.dataset import make_dataset
from cnn.errors import DataError
from cnn.files import remove_temporaries, replace_atomically, user_cache_folder
from cnn.targets import KINDS

FORMAT = 2
_PARTS = ("train", "test", "validation")
UNUSED_DAYS = 30  # after which data sets in the user's cache folder are removed
_CHUNK = 1 << 20  # bytes

log = logging.getLogger("cnn.data")


class Source:
    """The files that a cache is made from: did they change?

    ``stamp``: names, sizes, times of the last change of content and of entry, and inodes. Where it is another
    one, as after a copy, ``content`` decides: the SHA-256 of all bytes.
    """

    def __init__(self, files):
        self._files = list(files)

    @cached_property
    def stamp(self):
        """A digest of what the file system says about the files."""
        digest = hashlib.sha256()
        for file in self._files:
            status = os.stat(file)
            times = status.st_mtime_ns, status.st_ctime_ns
            digest.update(f"{Path(file).name}\0{status.st_size} {times} {status.st_ino}\n".encode())
        return digest.hexdigest()

    @cached_property
    def content(self):
        """A digest of all their bytes."""
        digest = hashlib.sha256()
        for path in self._files:
            with open(path, "rb") as file:
                digest.update(f"{Path(path).name} {os.fstat(file.fileno()).st_size}\n".encode())
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()

    def fingerprint(self):
        """Return what a cache keeps."""
        return {"stamp": self.stamp, "content": self.content}

    def matches(self, fingerprint):
        """Whether a cache with this fingerprint was made from these files as they are now."""
        if not isinstance(fingerprint, dict):
            return False
        return self.stamp == fingerprint.get("stamp") or self.content == fingerprint.get("content")


class Stamp:
    """Like Source, for what a text describes completely."""

    def __init__(self, text):
        self._text = text

    def fingerprint(self):
        """Return what a cache keeps."""
        return self._text

    def matches(self, fingerprint):
        """Whether a cache with this fingerprint was made from the same."""
        return self._text == fingerprint


def key(options):
    """Return a short name for the options that a data set was read with."""
    return hashlib.sha256(repr(options).encode()).hexdigest()[:8]


def cached(name, file_name, root, source, build, into_root=True, beside=True):
    """Return the data set from its cache, or build it and cache it.

    ``source`` is a Source or a Stamp. ``build()`` returns a Dataset; it is called when no intact cache was
    made from the source as it is now. The new cache goes to ``root/cnn-cache``; where that cannot be written,
    to a folder of the user's, which one line of the log says; else nowhere. With ``into_root=False``, for a
    root that somebody else chose, it goes to the user's at once, and with ``beside=False``, for a folder that
    is the user's own, it is also looked for only there.
    """
    places = _places(root, file_name)[0 if beside else 1 :]
    dataset = _find(name, places, source)
    if dataset is None:
        fingerprint = (
            source.fingerprint()
        )  # before the files are read: a change meanwhile makes the cache stale
        dataset = build()
        _write_to_first(places if into_root or not beside else places[1:], root, dataset, fingerprint)
    return dataset


def find(name, file_name, root, source=None):
    """Return the data set from its cache, or None. Without ``source`` any intact cache will do.

    A damaged cache is passed over; a line of the log says so.
    """
    return _find(name, _places(root, file_name), source)


def _find(name, places, source):
    for path in places:
        if path.is_file():
            try:
                dataset = read(name, path, source)
            except DataError as error:
                log.warning("%s; not used", error)
                continue
            if dataset is not None:
                log.info("%s: read from %s", name, path)
                with suppress(OSError):
                    os.utime(path)  # it is in use
                return dataset
    return None


def remove_unused(folder, now=None):
    """Remove the data sets in the user's cache folder that nobody has used for UNUSED_DAYS."""
    oldest = (time.time() if now is None else now) - UNUSED_DAYS * 86400
    for path in folder.glob("*/*.safetensors"):
        with suppress(OSError):  # another process removes the same
            if path.stat().st_mtime < oldest:
                path.unlink()
                path.parent.rmdir()


def _places(root, file_name):
    folders = (Path(root) / "cnn-cache", user_cache(root))
    return [folder / file_name for folder in folders if folder is not None]


def user_cache(root):
    """Return the folder of the user's caches for one ``root``, or None where the user has none."""
    base = user_cache_folder()
    return base and base / hashlib.sha256(os.path.abspath(root).encode()).hexdigest()[:16]


def read(name, path, source=None):
    """Return the Dataset in a cache file, every checksum compared; None where ``source`` is another one now.

    Raises DataError naming the file when it is damaged or of another format.
    """
    try:
        with tensor_file.open_tensors(path, (FORMAT,)) as file:
            header = file.description
            classes, fingerprint = header["classes"], header["fingerprint"]
            targets = KINDS[header.get("targets", "classes")].name
            if source is not None and not source.matches(fingerprint):
                return None
            arrays = {part: _read_part(file, part) for part in _PARTS if f"{part}_labels" in file.digests}
            hashes = file.digests
        train, test, *validation = (arrays[part] for part in _PARTS if part in arrays)
    except (tensor_file.FormatError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a data cache, found a damaged file ({error})") from error
    return make_dataset(name, classes, train, test, path, hashes, *(validation or [None]), targets)


def _read_part(file, part):
    arrays = [file.read(f"{part}_{kind}") for kind in ("images", "labels")]
    if f"{part}_names" not in file.digests:
        return tuple(arrays)
    text = file.read(f"{part}_names").tobytes().decode("utf-8")
    return (*arrays, np.array(text.split("\0"), object))


def write(path, dataset, fingerprint):
    """Write ``dataset`` to ``path`` atomically; its folder must exist.

    Raises OSError when that is not possible; then nothing is left behind.
    """
    arrays = {}
    for part in _PARTS:
        split = getattr(dataset, part)
        if split is not None:
            arrays |= {f"{part}_images": split.images, f"{part}_labels": split.labels}
            if split.names is not None:  # of one image at least
                arrays[f"{part}_names"] = np.frombuffer("\0".join(split.names).encode("utf-8"), np.uint8)
    header = {"classes": dataset.classes, "fingerprint": fingerprint, "digests": dataset.digests}
    header["targets"] = dataset.targets
    replace_atomically(path, tensor_file.parts(arrays, header, FORMAT))


def _write_to_first(paths, root, dataset, fingerprint):
    problems = []
    for path in paths:
        try:
            _make_folder(path.parent)
            remove_temporaries(path.parent)
            if path.parent == user_cache(root):
                remove_unused(path.parent.parent)
            write(path, dataset, fingerprint)
        except OSError as error:
            problems.append(f"{path.parent}: {error.strerror or error}")
            continue
        log.info("%s: cached in %s", dataset.name, path)
        if problems:
            log.warning("%s cannot be written to; cached in %s", root, path)
        return
    log.warning("%s is not cached (%s)", dataset.name, "; ".join(problems))


def _make_folder(folder):
    """Create ``folder``; a parent without any write bit is left alone even where root could write to it."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, "read-only", str(existing))
    folder.mkdir(parents=True, exist_ok=True)
