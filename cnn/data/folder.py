"""Class folders of image files: root/train/<class>/*.png, root/test/<class>/*.jpg and the like."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnn.data import cache
from cnn.data.dataset import make_dataset
from cnn.data.image_file import EXTENSIONS, check_options, default_mode, read_image, read_with_bits
from cnn.errors import DataError
from cnn.files import user_path
from cnn.terminal import bar, printable_name

_BLOCK = 64  # images a task
_WORKERS = 8  # each may hold a decoded image of 256 MB
_READER = 2  # grows when `read_image` gives other pixels: caches of older ones are stale


def load_folder(root, image_size=None, mode=None, into_root=True):
    """Return the images below ``root`` as a Dataset named "folder", from its cache where nothing changed.

    The classes are the folders in ``root/train``, in alphabetical order, and ``root/test`` has the
    same ones. Names that begin with a dot, files that are no images by their name, and what is no regular
    file (a folder or a pipe called x.png) are passed over; a link to nowhere is an error. Bytes of a class
    name that are not UTF-8, and characters that cannot be seen, are spelled \\xe9.

    Images of 16-bit files are all reduced by the same number of bits: 12 are in use only if no image has a
    value of more (see `cnn.data.image_file.read_with_bits`).

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
    root = user_path(root)
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


def folder_shape(root, image_size=None, mode=None):
    """Return ((C, H, W), classes) of what `load_folder` would load; of the images only the first is read."""
    image_size = check_options(image_size, mode)
    folders = _class_folders(user_path(root) / "train")
    first = _images(folders[0])[0].path
    return read_image(first, image_size, mode or default_mode(first)).shape, len(folders)


def _list(root):
    """Return (classes, {part: directory entries}, {part: labels}), all in a fixed order."""
    classes, files, labels = None, {}, {}
    for part in ("train", "test"):
        folders = _class_folders(root / part)
        names = [printable_name(folder.name) for folder in folders]
        classes = classes or names
        for name in classes:
            if name not in names:
                raise DataError(f"{root / part}: expected the classes of {root / 'train'}, found no {name}/")
        for name in names:
            if name not in classes:
                raise DataError(f"{root / part / name}: expected only classes that {root / 'train'} has")
        files[part], labels[part] = [], []
        for label, folder in enumerate(folders):
            images = _images(folder)
            files[part] += images
            labels[part] += [label] * len(images)
    return classes, files, {part: np.array(values) for part, values in labels.items()}


def _class_folders(parent):
    """Return the entries of the class folders in ``parent``, sorted; DataError when there are none."""
    entries = _entries(parent)
    folders = [entry for entry in entries if _is(os.DirEntry.is_dir, entry)]
    _check_links([entry for entry in entries if not Path(entry.name).suffix or _is_image(entry.name)])
    if not folders:
        raise DataError(f"{parent}: expected a folder for each class with its images, found none")
    return folders


def _images(folder):
    """Return the entries of the image files in a class folder, sorted; DataError when there are none."""
    entries = [entry for entry in _entries(folder.path) if _is_image(entry.name)]
    images = [entry for entry in entries if _is(os.DirEntry.is_file, entry)]
    _check_links(entries)
    if not images:
        raise DataError(f"{folder.path}: expected images ({', '.join(EXTENSIONS)}), found none")
    return images


def _entries(folder):
    """Return what lies in a folder, sorted by name, without hidden names."""
    try:
        with os.scandir(folder) as entries:
            chosen = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: expected a folder, found none ({error.strerror})") from error
    return sorted(chosen, key=lambda entry: entry.name)


def _is(kind, entry):
    try:
        return kind(entry)
    except OSError:  # a link that leads to itself
        return False


def _check_links(entries):
    """Refuse links to nowhere: a part of the images is missing (git-annex, DVC, a disk that is not there)."""
    broken = [entry.path for entry in entries if entry.is_symlink() and not os.path.exists(entry.path)]
    if broken:
        more = f" ({len(broken)} such links in this folder)" if len(broken) > 1 else ""
        raise DataError(
            f"{broken[0]}: found a link to {os.readlink(broken[0])}, which is not there{more}; "
            "bring the files back or remove the links"
        )


def _is_image(name):
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _fingerprint(classes, files, labels):
    """Classes, names, sizes and times of all files: any edit makes the cache stale."""
    digest = hashlib.sha256(b"reader %d\n" % _READER)
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

    bits = np.zeros(len(files), int)

    def read_block(start):
        block = files[start : start + _BLOCK]
        for number, path in enumerate(block, start):
            image, bits[number] = read_with_bits(path, image_size, mode, grey_only)
            if image.shape != first.shape:
                raise DataError(
                    f"{path}: expected {first.shape[1]}x{first.shape[2]} pixels, the size of {files[0]}, "
                    f"found {image.shape[1]}x{image.shape[2]}; image_size = [height, width] resizes all"
                )
            images[number] = image
        return len(block)

    # Pillow decodes without the GIL; of small files most work holds it, and threads only get in the way
    workers = min(os.cpu_count(), _WORKERS) if os.path.getsize(files[0]) > 10_000 else 1
    shown = bar(total=len(files), desc="reading images", unit="image")
    with shown, ThreadPoolExecutor(workers) as pool:
        try:
            for done in pool.map(read_block, range(0, len(files), _BLOCK)):
                shown.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
    for number in np.flatnonzero((bits > 0) & (bits < bits.max())):  # a dark image among those of 16 bits
        images[number] = read_with_bits(files[number], image_size, mode, bits=int(bits.max()))[0]
    return images
