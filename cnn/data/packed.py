"""Images that come in one file: NumPy's .npz, IDX as MNIST's (also gzipped), Parquet as Hugging Face's.

All of them have one of these parts: training, validation ("val", "valid"), test. Where there is no test, a
share of each class is drawn from the training images, whatever the seed the same.
"""

import io
import json
import zipfile
import zlib

import numpy as np

from cnn.data import cache
from cnn.data.arrays import as_pixels, channels_first
from cnn.data.dataset import Split, make_dataset, split_validation
from cnn.data.decode import read_all
from cnn.data.folder import TEST_SHARE
from cnn.data.idx import read_idx
from cnn.data.image_file import check_options
from cnn.data.listing import PARTS
from cnn.errors import DataError, MissingExtra
from cnn.files import user_path
from cnn.targets import IGNORED

_IMAGES = ("x", "images", "image", "data")
_LABELS = ("y", "labels", "label", "targets")


def load_npz(root, test=None, targets="classes", classes=None):
    """Return the data set in a .npz file.

    Its arrays are called as Keras and MedMNIST call them: ``x_train`` or ``train_images``, ``y_train`` or
    ``train_labels``, likewise ``val`` and ``test``; or ``x`` or ``images`` and ``y`` or ``labels``, for one
    part. Which axis holds the channels is told by the rules of `cnn.data.arrays`; floats from 0 to 1 become
    pixels. Labels are whole numbers or texts; an array ``classes`` may name the numbers. With other
    ``targets`` they are what `cnn.targets` says: (N, K) numbers, (N, K) of 0 and 1, or masks (N, H, W).

    Raises DataError naming the file: missing, damaged, no such arrays, pickled objects.
    """
    path = user_path(root)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name.lower(): file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected a .npz file, found no such file") from error
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a .npz file of arrays, found another ({error})") from error
    parts, taken = {}, []
    for part, names in {**PARTS, "whole": ("",)}.items():
        images, labels = _find(arrays, names, _IMAGES), _find(arrays, names, _LABELS)
        if images and labels and (part != "whole" or not parts):
            parts["train" if part == "whole" else part] = arrays[images], arrays[labels]
            taken += [images, labels]
    if "train" not in parts:
        expected = "x_train and y_train, train_images and train_labels, or images and labels"
        raise DataError(f"{path}: expected arrays {expected}, found {', '.join(arrays) or 'none'}")
    names = arrays.get("classes") if classes is None else classes
    if targets != "classes":
        return _of_targets(parts, names, path, test, targets)
    return _dataset("npz", parts, names, path, test)


def _find(arrays, parts, kinds):
    names = (
        name for part in parts for kind in kinds for name in (f"{kind}_{part}", f"{part}_{kind}", kind + part)
    )
    return next((name for name in names if name.strip("_") == name and name in arrays), None)


def load_idx(root, test=None):
    """Return the data set in a folder of IDX files, gzipped or not: train-images…, train-labels…,
    t10k-images… .

    Raises DataError naming the file: missing, damaged, not as many labels as images.
    """
    folder = user_path(root)
    try:
        files = sorted(path for path in folder.iterdir() if "idx" in path.name.lower())
    except OSError as error:
        raise DataError(f"{folder}: expected a folder of IDX files, found none ({error.strerror})") from error
    parts = {}
    for part, names in {**PARTS, "test": (*PARTS["test"], "t10k")}.items():
        of_part = [path for path in files if any(name in path.name.lower() for name in names)]
        pair = [next((p for p in of_part if kind in p.name.lower()), None) for kind in ("image", "label")]
        if all(pair):
            parts[part] = read_idx(pair[0], None), read_idx(pair[1], 1)
    if "train" not in parts:
        raise DataError(
            f"{folder}: expected train-images-idx3-ubyte and train-labels-idx1-ubyte, or their .gz"
        )
    return _dataset("idx", parts, None, folder, test)


def _dataset(name, parts, classes, source, test):
    """Return the Dataset of {part: (images, labels)} of any dtype and order of axes."""
    everything = np.concatenate([np.ravel(labels) for _, labels in parts.values()])
    known, codes = np.unique(everything, return_inverse=True)
    if known.dtype.kind == "f":
        raise DataError(f"{source}: expected whole numbers or texts as labels, found {known.dtype}")
    if classes is not None and known.dtype.kind in "iu" and known.min() >= 0 and known.max() < len(classes):
        names, codes = [str(c) for c in classes], everything.astype(np.int64)
    elif known.dtype.kind in "iu" and known[0] >= 0 and known[-1] < 10 * len(known):
        names, codes = [str(k) for k in range(int(known[-1]) + 1)], everything.astype(np.int64)
    else:
        names = [str(value) for value in known]
    arrays, start = {}, 0
    for part, (images, labels) in parts.items():
        count = np.size(labels)
        arrays[part] = _pixels(images, source, part), codes[start : start + count]
        start += count
    _hold_out_test(arrays, test, stratified=True)
    return make_dataset(name, names, arrays.pop("train"), arrays.pop("test"), source, **arrays)


def _of_targets(parts, names, source, test, targets):
    """Return the Dataset of {part: (images, labels)} whose labels are no classes."""
    arrays = {part: (_pixels(images, source, part), labels) for part, (images, labels) in parts.items()}
    _hold_out_test(arrays, test, stratified=False)
    if names is None:
        labels = [np.asarray(labels) for _, labels in arrays.values()]
        if targets == "masks":
            if any(part.dtype.kind not in "iu" or not part.size for part in labels):
                raise DataError(f"{source}: expected integer masks (N, H, W), found {labels[0].dtype}")
            count = 1 + max(int(part[part != IGNORED].max(initial=0)) for part in labels)
        else:
            count = labels[0].shape[1] if labels[0].ndim == 2 else 1
        names = [str(k) for k in range(count)]
    train, held_out = arrays.pop("train"), arrays.pop("test")
    return make_dataset("npz", [str(n) for n in names], train, held_out, source, **arrays, targets=targets)


def _pixels(images, source, part):
    try:
        return np.ascontiguousarray(channels_first(as_pixels(np.asarray(images))))
    except DataError as error:
        raise DataError(f"{source}, {part} part: {error}") from error


def _hold_out_test(arrays, share, stratified):
    """Move a share of the training part of {part: (images, labels)} to "test" where there is none."""
    if "test" not in arrays:
        images, labels = arrays["train"]
        if len(images) != len(labels):
            raise DataError(f"expected one label an image, found {len(images)} images, {len(labels)} labels")
        share = TEST_SHARE if share is None else share
        train, test = split_validation(Split(images, labels), share, seed=0, stratified=stratified)
        arrays |= {"train": (train.images, train.labels), "test": (test.images, test.labels)}


def load_parquet(
    root, image_size=None, mode=None, fit="stretch", test=None, skip_unreadable=False, decode="full"
):
    """Return the images in a Parquet file, or in a folder of them, as Hugging Face stores a data set.

    A column ``image`` holds the bytes of image files (or {bytes, path}), a column ``label`` numbers or texts;
    Hugging Face's names of the classes are read from the file's metadata. The beginning of a file's name,
    ``train-``, ``validation-`` or ``test-``, tells its part. The other options are those of a folder.

    Raises MissingExtra without the extra ``parquet``, DataError naming the file.
    """
    options = check_options(image_size, mode), mode, fit, test, skip_unreadable, decode
    path = user_path(root)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path}: expected a .parquet file, or a folder with some, found none")

    def build():
        parts, classes = {}, None
        for file in files:
            part = next((p for p, names in PARTS.items() if file.name.lower().startswith(names)), "train")
            images, labels, found = _read_parquet(file)
            classes = classes or found
            parts.setdefault(part, ([], []))
            parts[part][0].extend(images)
            parts[part][1].extend(labels)
        if "train" not in parts:
            raise DataError(f"{path}: expected images of the part train, found {', '.join(parts)}")
        everything = [image for images, _ in parts.values() for image in images]
        pixels, kept = read_all(everything, options[0], mode, fit, skip_unreadable, decode)
        arrays, start = {}, 0
        for part, (images, labels) in parts.items():
            chosen = (kept >= start) & (kept < start + len(images))
            arrays[part] = pixels[chosen], np.array(labels)[kept[chosen] - start]
            start += len(images)
        return _dataset("parquet", arrays, classes, path, test)

    return cache.cached(
        "parquet", f"parquet-{cache.key(options)}.safetensors", path, cache.Source(files), build, beside=False
    )


def _read_parquet(path):
    """Return ([files in memory], [labels], names of the classes or None)."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(f'{path}: reading Parquet needs pyarrow: pip install "cnn[parquet]"') from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file, found a damaged one ({error})") from error
    image = next((name for name in ("image", "img", "images") if name in table.column_names), None)
    label = next((name for name in (*_LABELS, "class", "fine_label") if name in table.column_names), None)
    if image is None or label is None:
        found = ", ".join(table.column_names)
        raise DataError(f"{path}: expected the columns image and label, found {found}")
    files = []
    for number, value in enumerate(table[image].to_pylist()):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(
                f"{path}: row {number}: expected the bytes of an image, found {type(content).__name__}"
            )
        file = io.BytesIO(content)
        inside = value.get("path") if isinstance(value, dict) else None
        file.name = f"{path}: row {number}" + (f" ({inside})" if inside else "")
        files.append(file)
    return files, table[label].to_pylist(), _class_names(table.schema, label)


def _class_names(schema, label):
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        return about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
