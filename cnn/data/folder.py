"""A person's own image files: class folders in one of the usual layouts, a CSV file, or masks beside them."""

import hashlib
import logging
import os

import numpy as np

from cnn.data import cache, masks, tables
from cnn.data.dataset import make_dataset
from cnn.data.decode import read_all
from cnn.data.image_file import DECODES, FITS, check_options, default_mode, read_image
from cnn.data.listing import Listing, class_folders, has_tables
from cnn.errors import ConfigError, DataError
from cnn.files import user_path

TEST_SHARE = 0.2
_READER = 3  # grows when `read_image` gives other pixels: caches of older ones are stale

log = logging.getLogger("cnn.data")


def load_folder(
    root,
    image_size=None,
    mode=None,
    fit="stretch",
    test=None,
    skip_unreadable=False,
    targets="classes",
    columns=None,
    classes=None,
    decode="full",
):
    """Return the images below ``root`` as a Dataset named "folder", from its cache where nothing changed.

    `cnn.data.listing` says which layouts are understood, `cnn.data.tables` how a CSV file is read. The
    classes are in alphabetical order. A part ``val`` becomes ``Dataset.validation``. Where there is no part
    ``test``, a share of each class is held out for it, the same files whatever the seed. The cache lies in
    the user's cache folder, not beside the photos. Bytes of a name that are not UTF-8, and characters that
    cannot be seen, are spelled \\xe9.

    Images of 16-bit files are all reduced by the same number of bits: 12 are in use only if no image has a
    value of more (see `cnn.data.image_file.read_with_bits`).

    Parameters
    ----------
    root : path
        Of the folder, or of a CSV file.
    image_size : int or (int, int), optional
        (height, width) to which every image is resized (bilinear, antialiased). Left out, all images
        must have one size.
    mode : "L" or "RGB", optional
        Grey or colour. Left out, what the first image is.
    fit : "stretch", "crop" or "pad"
        How an image of another shape gets ``image_size``: stretched, its middle cut out, or with black
        borders.
    test : float, optional
        The share of each class that is held out where there is no part ``test``; 0.2 if left out.
    skip_unreadable : bool
        Leave out files that cannot be read; else they are an error that lists them.
    targets : "classes", "numbers", "labels" or "masks"
        See `cnn.targets`; numbers and labels stand in a CSV file (`cnn.data.tables`), masks beside the images
        (`cnn.data.masks`).
    columns : list of str, optional
        Of the CSV file, those to take.
    classes : list of str, optional
        Names of the values 0, 1 ... of masks.
    decode : "full" or "reduced"
        See `cnn.data.image_file.open_image`.

    Raises DataError naming the file or folder: unreadable, of another size, missing or empty.
    """
    image_size = _checked(image_size, mode, fit, test, decode)
    listing = list_images(root, test, targets, columns)
    for remark in listing.remarks():
        log.warning("%s: not read: %s", listing.root, remark)
    options = image_size, mode, fit, test, skip_unreadable, targets, columns, classes, decode

    def build():
        order = [(part, k) for part, files in listing.files.items() for k in range(len(files))]
        paths = [path for files in listing.files.values() for path in files]
        images, kept = read_all(paths, image_size, mode, fit, skip_unreadable, decode)
        labels, named = [label for part in listing.files for label in listing.labels[part]], listing.classes
        if targets == "masks":
            pairs = [(paths[k], labels[k]) for k in kept]
            labels = masks.read_masks(pairs, images.shape[2:], image_size is not None, fit)
            named, labels = masks.classes_of(labels, listing.root, classes)
        else:
            labels = np.array(labels)[kept]
        names = np.array([name for part in listing.files for name in listing.names(part)], object)
        parts = np.array([part for part, _ in order], object)[kept]
        found = {part: _part(images, labels, names[kept], parts == part) for part in listing.files}
        for part, (_, left, _) in found.items():
            _check_classes(listing, part, left)
        train, test = found.pop("train"), found.pop("test")
        return make_dataset("folder", named, train, test, listing.root, **found, targets=targets)

    stamp = cache.Stamp(_fingerprint(listing))
    return cache.cached(
        "folder", f"folder-{cache.key(options)}.safetensors", listing.root, stamp, build, beside=False
    )


def folder_shape(
    root,
    image_size=None,
    mode=None,
    fit="stretch",
    test=None,
    skip_unreadable=False,
    decode="full",
    **targets,
):
    """Return ((C, H, W), classes) of what `load_folder` would load, from one image.

    With masks all images are read: only they tell how many classes there are.
    """
    if targets.get("targets") == "masks":
        dataset = load_folder(root, image_size, mode, fit, test, skip_unreadable, **targets, decode=decode)
        return dataset.input_shape, len(dataset.classes)
    image_size = _checked(image_size, mode, fit, test, decode)
    listing, problem = list_images(root, test, **targets), None
    for path in listing.files["train"]:
        try:
            return read_image(path, image_size, mode or default_mode(path), fit).shape, len(listing.classes)
        except DataError as error:
            problem = problem or error
            if not skip_unreadable:
                break
    raise problem


def list_images(root, test=None, targets="classes", columns=None, classes=None):
    """Return the Listing of a folder or of a CSV file, a test part included."""
    root = user_path(root)
    if targets == "masks":
        listing = masks.with_masks(root)
    elif tables.is_table(root):
        listing = tables.from_csv(root, targets, columns)
    elif has_tables(root):
        listing = tables.folder_with_tables(root, targets, columns)
    elif targets != "classes" or columns:
        need = f'as data.targets = "{targets}" needs it' if targets != "classes" else "for data.columns"
        raise DataError(f"{root}: expected a CSV file, or a folder with metadata.csv, {need}; found none")
    else:
        if root.is_dir() and masks.looks_like_masks(root):
            found = f"{root}: found a folder of images and one of masks, expected a folder for each class"
            raise DataError(f'{found}; did you mean data.targets = "masks"?')
        listing = class_folders(root)
    listing.hold_out_test(TEST_SHARE if test is None else test)
    return listing


def _checked(image_size, mode, fit, test, decode):
    if decode not in DECODES:
        raise ConfigError(f"decode: expected {' or '.join(DECODES)}, found {decode!r}")
    if fit not in FITS:
        raise ConfigError(f"fit: expected one of {', '.join(FITS)}, found {fit!r}")
    if fit != "stretch" and image_size is None:
        raise ConfigError(f'fit = "{fit}" needs image_size, to which the images are brought')
    if test is not None and not 0 < test < 1:
        raise ConfigError(f"test: expected a share above 0 and below 1, found {test!r}")
    return check_options(image_size, mode)


def _part(images, labels, names, chosen):
    return images[chosen], labels[chosen], names[chosen]


def _check_classes(listing, part, labels):
    """After unreadable files went, every class must still have images to train on, every part some."""
    of_classes = part == "train" and labels.ndim == 1
    missing = sorted(set(range(len(listing.classes))) - set(labels.tolist())) if of_classes else []
    if missing or not len(labels):
        what = f"of class {listing.classes[missing[0]]}" if missing else f"of the part {part}"
        raise DataError(f"{listing.root}: expected readable images {what}, found none")


def _fingerprint(listing: Listing):
    """Classes, names, sizes and times of all files: any edit makes the cache stale."""
    digest = hashlib.sha256(b"reader %d\n" % _READER)
    for part, files in listing.files.items():
        for path, label in zip(files, listing.labels[part], strict=True):
            line = f"{part}/{_label(listing, label)}/{path}\0{_stamp(path)}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _label(listing, label):
    """Return a label as a text that changes when it does."""
    if isinstance(label, str):  # a mask
        return f"{label}\0{_stamp(label)}"
    return listing.classes[label] if isinstance(label, int) else f"{listing.classes} {label}"


def _stamp(path):
    status = os.stat(path)
    return f"{status.st_size}\0{status.st_mtime_ns} {status.st_ctime_ns}"
