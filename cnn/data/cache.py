"""A converted data set in one file: uint8 images, labels and class names, under a checksum.

The file is a safetensors file; its header holds the format version, the class names, a fingerprint of
what it was made from, and the SHA-256 of the arrays. Files are written under a temporary name and renamed, so
a reader never sees half of one.
"""

import hashlib
import json
import logging
import os
import stat
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from cnn.data.dataset import make_dataset
from cnn.errors import DataError
from cnn.files import user_cache_folder

FORMAT = 1
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

log = logging.getLogger("cnn.data")


def cached(name, file_name, root, fingerprint, build):
    """Return the data set from its cache, or build it and cache it.

    ``fingerprint`` is a string that changes when the source does. ``build()`` returns a Dataset; it is
    called when no intact cache has that fingerprint. The new cache goes to ``root/cnn-cache``; where that
    cannot be written, to a folder of the user's, which one line of the log says; else nowhere.
    """
    dataset = find(name, file_name, root, fingerprint)
    if dataset is None:
        dataset = build()
        _write_to_first(_places(root, file_name), root, dataset, fingerprint)
    return dataset


def find(name, file_name, root, fingerprint=None):
    """Return the data set from its cache, or None. Without ``fingerprint`` any intact cache will do.

    A damaged cache is passed over; a line of the log says so.
    """
    for path in _places(root, file_name):
        if path.is_file():
            try:
                found, dataset = read(name, path)
            except DataError as error:
                log.warning("%s; not used", error)
                continue
            if fingerprint in (None, found):
                return dataset
    return None


def _places(root, file_name):
    folders = (Path(root) / "cnn-cache", user_cache(root))
    return [folder / file_name for folder in folders if folder is not None]


def user_cache(root):
    """Return the folder of the user's caches for one ``root``, or None where the user has none."""
    base = user_cache_folder()
    return base and base / hashlib.sha256(os.path.abspath(root).encode()).hexdigest()[:16]


def read(name, path):
    """Return (fingerprint, Dataset) of a cache file after checking its checksum.

    Raises DataError naming the file when it is damaged or of another format.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["cnn"])
            arrays = {key: file.get_tensor(key) for key in _ARRAYS}
        version, fingerprint, classes = header["format"], header["fingerprint"], header["classes"]
        expected = header["sha256"]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: expected a data cache, found a damaged file ({error})") from error
    if version != FORMAT:
        raise DataError(f"{path}: expected data cache format {FORMAT}, found {version}")
    checksum = _checksum(arrays)
    if expected != checksum:
        raise DataError(f"{path}: damaged, expected SHA-256 {expected}, found {checksum}")
    train = arrays["train_images"], arrays["train_labels"]
    test = arrays["test_images"], arrays["test_labels"]
    return fingerprint, make_dataset(name, classes, train, test, path)


def write(path, dataset, fingerprint):
    """Write ``dataset`` to ``path`` atomically; its folder must exist.

    Raises OSError when that is not possible; then nothing is left behind.
    """
    arrays = {
        "train_images": dataset.train.images,
        "train_labels": dataset.train.labels,
        "test_images": dataset.test.images,
        "test_labels": dataset.test.labels,
    }
    header = {
        "format": FORMAT,
        "classes": dataset.classes,
        "fingerprint": fingerprint,
        "sha256": _checksum(arrays),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode  # as the umask wants; safetensors would keep others out
        safetensors.numpy.save_file(arrays, temporary, metadata={"cnn": json.dumps(header)})
        temporary.chmod(permissions)
        os.replace(temporary, path)
    except safetensors.SafetensorError as error:  # a full disk, for one, arrives as this
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_to_first(paths, root, dataset, fingerprint):
    problems = []
    for path in paths:
        try:
            _make_folder(path.parent)
            write(path, dataset, fingerprint)
        except OSError as error:
            problems.append(f"{path.parent}: {error.strerror or error}")
            continue
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


def _checksum(arrays):
    digest = hashlib.sha256()
    for key in _ARRAYS:
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array)
    return digest.hexdigest()
