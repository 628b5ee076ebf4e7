"""Class folders of image files: root/train/<class>/*.png, root/test/<class>/*.jpg and the like."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cnn.data import cache
from cnn.data.dataset import make_dataset
from cnn.data.image_file import EXTENSIONS, check_options, default_mode, read_image
from cnn.errors import DataError

_BLOCK = 64  # images a task


def load_folder(root, image_size=None, mode=None, into_root=True):
    """Return the images below ``root`` as a Dataset named "folder", from its cache where nothing changed.

    The classes are the folders in ``root/train``, in alphabetical order, and ``root/test`` has the
    same ones. Names that begin with a dot, and files that are no images by their name, are passed over.

    Parameters
    ----------
    image_size : int or (int, int), optional
        (height, width) to which every image is resized (bilinear, antialiased). Left out, all images
        must have one size.
    mode : "L" or "RGB", optional
        Grey or colour. Left out, what the first image is.
    into_root : bool
        Whether the cache may be written below ``root``; else it goes to the user's cache folder.

    Raises DataError naming the file or folder: unreadable, of another size, missing or empty.
    """
    image_size = check_options(image_size, mode)
    root = Path(root).expanduser()
    classes, files, labels = _list(root)
    key = hashlib.sha256(repr((image_size, mode)).encode()).hexdigest()[:8]
    fingerprint = _fingerprint(classes, files, labels)

    def build():
        images = _read_all([entry.path for entry in files["train"] + files["test"]], image_size, mode)
        train = len(files["train"])
        return make_dataset(
            "folder", classes, (images[:train], labels["train"]), (images[train:], labels["test"]), root
        )

    return cache.cached(
        "folder", f"folder-{key}.safetensors", root, cache.Stamp(fingerprint), build, into_root
    )


def _list(root):
    """Return (classes, {part: directory entries}, {part: labels}), all in a fixed order."""
    classes, files, labels = None, {}, {}
    for part in ("train", "test"):
        folders = _entries(root / part, os.DirEntry.is_dir)
        if not folders:
            raise DataError(f"{root / part}: expected a folder for each class with its images, found none")
        names = [folder.name for folder in folders]
        classes = classes or names
        for name in classes:
            if name not in names:
                raise DataError(f"{root / part}: expected the classes of {root / 'train'}, found no {name}/")
        for name in names:
            if name not in classes:
                raise DataError(f"{root / part / name}: expected only classes that {root / 'train'} has")
        files[part], labels[part] = [], []
        for label, folder in enumerate(folders):
            images = [entry for entry in _entries(folder.path, os.DirEntry.is_file) if _is_image(entry.name)]
            if not images:
                raise DataError(f"{folder.path}: expected images ({', '.join(EXTENSIONS)}), found none")
            files[part] += images
            labels[part] += [label] * len(images)
    return classes, files, {part: np.array(values) for part, values in labels.items()}


def _entries(folder, kind):
    try:
        with os.scandir(folder) as entries:
            chosen = [entry for entry in entries if not entry.name.startswith(".") and kind(entry)]
    except OSError as error:
        raise DataError(f"{folder}: expected a folder, found none ({error.strerror})") from error
    return sorted(chosen, key=lambda entry: entry.name)


def _is_image(name):
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _fingerprint(classes, files, labels):
    """Classes, names, sizes and times of all files: any edit makes the cache stale."""
    digest = hashlib.sha256()
    for part in ("train", "test"):
        for entry, label in zip(files[part], labels[part], strict=True):
            status = entry.stat()
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
            line = f"{part}/{classes[label]}/{entry.name}\0{status.st_size}\0{times}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read_all(files, image_size, mode):
    """Return (N, C, H, W) uint8; the first image settles what was left open, the others must agree."""
    grey_only = mode is None and default_mode(files[0]) == "L"
    mode = mode or default_mode(files[0])
    first = read_image(files[0], image_size, mode)
    try:
        images = np.empty((len(files), *first.shape), np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{len(files)} images of {first.shape[1]}x{first.shape[2]} pixels need "
            f"{len(files) * first.nbytes / 1e9:.1f} GB of memory; a smaller image_size needs less"
        ) from error

    def read_block(start):
        block = files[start : start + _BLOCK]
        for number, path in enumerate(block, start):
            image = read_image(path, image_size, mode, grey_only)
            if image.shape != first.shape:
                raise DataError(
                    f"{path}: expected {first.shape[1]}x{first.shape[2]} pixels, the size of {files[0]}, "
                    f"found {image.shape[1]}x{image.shape[2]}; image_size = [height, width] resizes all"
                )
            images[number] = image
        return len(block)

    # Pillow decodes without the GIL; of small files most work holds it, and threads only get in the way
    workers = os.cpu_count() if os.path.getsize(files[0]) > 10_000 else 1
    bar = tqdm(total=len(files), desc="reading images", unit="image", disable=None)
    with bar, ThreadPoolExecutor(workers) as pool:
        try:
            for done in pool.map(read_block, range(0, len(files), _BLOCK)):
                bar.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
    return images
