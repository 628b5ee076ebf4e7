"""Which image files there are and what they show: the layouts in which people keep their photos.

    root/train/<class>/...  root/val/<class>/...  root/test/<class>/...   PyTorch, Keras, Ultralytics
    root/<class>/...                                                      one folder; a test is drawn of it
    root/metadata.csv, or root/train/metadata.csv                         Hugging Face's "imagefolder"

A class folder is searched through to its deepest sub-folder. Names that begin with a dot are passed over in
silence; what else is passed over is counted.
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnn.data.image_file import EXTENSIONS, with_extra
from cnn.errors import DataError
from cnn.terminal import printable_name

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
TABLE = "metadata.csv"
_CACHE = "cnn-cache"  # earlier versions kept one in the folder


@dataclass
class Listing:
    """Image files by part ("train", and where they are there "validation" and "test") with their labels.

    ``passed_over`` counts what was left alone, in words: {".heic files": 3}.
    """

    root: Path
    classes: list = field(default_factory=list)
    files: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)
    passed_over: Counter = field(default_factory=Counter)

    def names(self, part):
        """Return the names of the files of a part, relative to the root, as they can be shown."""
        return [printable_name(os.path.relpath(path, self.root)) for path in self.files[part]]

    def add(self, part, files, labels):
        """Add files with their labels to a part."""
        self.files.setdefault(part, []).extend(files)
        self.labels.setdefault(part, []).extend(labels)

    def remove(self, paths):
        """Take files out of every part."""
        for part, files in self.files.items():
            kept = [k for k, path in enumerate(files) if path not in paths]
            self.files[part] = [files[k] for k in kept]
            self.labels[part] = [self.labels[part][k] for k in kept]

    def hold_out_test(self, share):
        """Move ``share`` of each class from "train" to "test" where there is no such part.

        Where the labels are no classes, it is a share of all. Those files go whose names have the smallest
        hashes, so that a new photo hardly moves others; a class of two and more keeps one on either side.
        Raises DataError where no file would be left for the test.
        """
        if "test" in self.files:
            return
        chosen = np.zeros(len(self.files["train"]), bool)
        names, labels = self.names("train"), self.labels["train"]
        labels = np.array(labels) if isinstance(labels[0], int) else np.zeros(len(names), int)
        order = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
        for label in np.unique(labels):
            members = sorted(np.flatnonzero(labels == label), key=order.__getitem__)
            count = min(max(1, round(share * len(members))), len(members) - 1)
            chosen[members[: max(0, count)]] = True
        if not chosen.any():
            what = "images of some class" if isinstance(self.labels["train"][0], int) else "images"
            raise DataError(f"{self.root}: expected at least two {what}, one of them to test with")
        files, labels = self.files["train"], self.labels["train"]
        self.files["train"], self.labels["train"] = [], []
        for path, label, held_out in zip(files, labels, chosen, strict=True):
            self.add("test" if held_out else "train", [path], [label])

    def remarks(self):
        """Return sentences on what was passed over."""
        return [f"{count:,} {what}" for what, count in sorted(self.passed_over.items())]


def class_folders(root):
    """Return the Listing of a folder in any of the layouts above.

    Raises DataError naming the folder or file: missing, empty, a class that "train" has not, a link to
    nowhere.
    """
    parts = {part: _part_folder(root, names) for part, names in PARTS.items()}
    if not any(parts.values()):
        return _one_folder(root)
    parts["train"] = parts["train"] or root / "train"
    listing = Listing(root)
    classes = _class_names(parts["train"])
    listing.classes = [printable_name(entry.name) for entry in classes]
    for part, folder in parts.items():
        if folder is not None:
            _add_part(listing, part, folder, parts["train"])
    known = {folder.name for folder in parts.values() if folder}
    others = [e for e in _entries(root) if _is(os.DirEntry.is_dir, e) and e.name not in known | {_CACHE}]
    for entry in others:
        listing.passed_over[f"images in {printable_name(entry.name)}/"] += _count_images(entry.path)
    listing.passed_over = +listing.passed_over
    return listing


def has_tables(root):
    """Whether the labels stand in metadata.csv, in the folder itself or in one of its parts."""
    return bool(table_files(root))


def table_files(root):
    """Return {part: path of its metadata.csv}; "train" for one in the root."""
    found = {part: _part_folder(root, names) for part, names in PARTS.items()}
    tables = {part: folder / TABLE for part, folder in found.items() if folder and (folder / TABLE).is_file()}
    return {"train": root / TABLE} if (root / TABLE).is_file() else tables


def _part_folder(root, names):
    return next((root / name for name in names if (root / name).is_dir()), None)


def _one_folder(root):
    listing, folders = Listing(root), [e for e in _class_names(root) if e.name != _CACHE]
    if len(folders) < 2:
        inside = Path(folders[0].path) if folders else root
        deeper = [e for e in _entries(inside) if _is(os.DirEntry.is_dir, e)] if folders else []
        hint = f'; did you mean data.root = "{inside}"?' if len(deeper) > 1 else ""
        raise DataError(f"{root}: expected a folder for each class, at least two, found {len(folders)}{hint}")
    listing.classes = [printable_name(entry.name) for entry in folders]
    _add_classes(listing, "train", root, folders)
    return listing


def _add_part(listing, part, folder, train):
    folders = _class_names(folder)
    names = [printable_name(entry.name) for entry in folders]
    if part != "validation":
        for name in listing.classes:
            if name not in names:
                raise DataError(f"{folder}: expected the classes of {train}, found no {name}/")
    for name in names:
        if name not in listing.classes:
            raise DataError(f"{folder / name}: expected only classes that {train} has")
    _add_classes(listing, part, folder, folders)


def _add_classes(listing, part, folder, folders):
    for entry in folders:
        images = _images(entry.path, listing.passed_over)
        if not images:
            raise DataError(f"{entry.path}: expected images ({', '.join(EXTENSIONS)}), found none")
        listing.add(part, images, [listing.classes.index(printable_name(entry.name))] * len(images))
    loose = sum(is_image(entry.name) and _is(os.DirEntry.is_file, entry) for entry in _entries(folder))
    if loose:
        listing.passed_over["images outside of the class folders"] += loose


def _class_names(parent):
    """Return the entries of the class folders in ``parent``, sorted; DataError when there are none."""
    entries = _entries(parent)
    folders = [entry for entry in entries if _is(os.DirEntry.is_dir, entry)]
    _check_links([entry for entry in entries if not Path(entry.name).suffix or is_image(entry.name)])
    if not folders:
        raise DataError(f"{parent}: expected a folder for each class with its images, found none")
    return folders


def _images(folder, passed_over, above=()):
    """Return the paths of the image files in a folder and its sub-folders, sorted; count the other files."""
    status = os.stat(folder)
    above = (*above, (status.st_dev, status.st_ino))
    entries, found = _entries(folder), []
    _check_links([entry for entry in entries if is_image(entry.name)])
    for entry in entries:
        if _is(os.DirEntry.is_dir, entry):
            inside = os.stat(entry.path)
            if (inside.st_dev, inside.st_ino) not in above:  # a link to a folder above would never end
                found += _images(entry.path, passed_over, above)
        elif not _is(os.DirEntry.is_file, entry):
            continue
        elif is_image(entry.name):
            found.append(entry.path)
        else:
            suffix = os.path.splitext(entry.name)[1].lower()
            passed_over[with_extra(suffix) if suffix else "files without an extension"] += 1
    return found


def images_below(folder, passed_over):
    """Return the paths of the image files in a folder and below it, sorted; count the other files."""
    return _images(str(folder), passed_over)


def _count_images(folder):
    return sum(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _entries(folder):
    """Return what lies in a folder, without hidden names, sorted by the bytes of the names."""
    try:
        with os.scandir(folder) as entries:
            chosen = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: expected a folder, found none ({error.strerror})") from error
    return sorted(chosen, key=lambda entry: os.fsencode(entry.name))


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


def is_image(name):
    """Whether a file is an image that can be read, by its name."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS
