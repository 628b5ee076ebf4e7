"""Many image files as one array of pixels, decoded in threads; the unreadable ones are all listed."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnn.data.image_file import default_mode, read_image, read_with_bits
from cnn.errors import DataError
from cnn.terminal import bar, printable_name

_BLOCK = 64  # images a task
_WORKERS = 8  # each may hold a decoded image of 256 MB
_NAMED = 3  # unreadable files that a message names

log = logging.getLogger("cnn.data")


class Unreadable(DataError):
    """Some files cannot be read; ``problems`` has a line for each of them."""

    def __init__(self, message, problems):
        super().__init__(message)
        self.problems = problems


def read_all(files, image_size=None, mode=None, fit="stretch", skip_unreadable=False, decode="full"):
    """Return (images (N, C, H, W) uint8, indices (N,) of the files that they are).

    The first readable image settles what was left open; the others must agree. With ``skip_unreadable`` files
    that cannot be read are left out, and the log says how many and which. ``decode`` as for `read_with_bits`.

    Raises Unreadable with all files that cannot be read; DataError for images of different sizes, for a
    coloured one among grey ones, and where memory does not suffice.
    """
    first = _first(files, skip_unreadable)
    grey_only = mode is None and default_mode(files[first]) == "L"
    mode = mode or default_mode(files[first])
    shape = read_image(files[first], image_size, mode, fit).shape
    try:
        images = np.empty((len(files), *shape), np.uint8)
    except MemoryError as error:
        size = len(files) * int(np.prod(shape)) / 1e9
        raise DataError(
            f"{len(files)} images of {shape[1]}x{shape[2]} pixels need {size:.1f} GB of memory; "
            "a smaller image_size needs less"
        ) from error
    bits, problems = np.zeros(len(files), int), {}

    def read_block(start):
        block = files[start : start + _BLOCK]
        for number, path in enumerate(block, start):
            try:
                read = read_with_bits(path, image_size, mode, grey_only, fit=fit, decode=decode)
                image, bits[number] = read
            except DataError as error:
                if grey_only and "expected a grey image" in str(error):
                    raise
                problems[number] = str(error)
                continue
            if image.shape != shape:
                raise DataError(
                    f"{path}: expected {shape[1]}x{shape[2]} pixels, the size of {files[first]}, "
                    f"found {image.shape[1]}x{image.shape[2]}; image_size = [height, width] resizes all"
                )
            images[number] = image
        return len(block)

    # Pillow decodes without the GIL; of small files most work holds it, and threads only get in the way
    workers = min(os.cpu_count(), _WORKERS) if _size(files[first]) > 10_000 else 1
    shown = bar(total=len(files), desc="reading images", unit="image")
    with shown, ThreadPoolExecutor(workers) as pool:
        try:
            for done in pool.map(read_block, range(0, len(files), _BLOCK)):
                shown.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
    kept = np.setdiff1d(np.arange(len(files)), list(problems))
    if problems:
        _report([problems[number] for number in sorted(problems)], len(files), skip_unreadable)
        images = images[kept]
    for place, number in enumerate(kept):  # a dark image among those of 16 bits
        if 0 < bits[number] < bits.max():
            images[place] = read_with_bits(files[number], image_size, mode, bits=int(bits.max()), fit=fit)[0]
    return images, kept


def _size(file):
    return os.path.getsize(file) if isinstance(file, str | os.PathLike) else len(file.getbuffer())


def _first(files, skip_unreadable):
    """Return the index of the first file that can be read."""
    for number, path in enumerate(files):
        try:
            default_mode(path)
            return number
        except DataError:
            continue
    raise _unreadable([_problem(path) for path in files], len(files), skip_unreadable)


def _problem(path):
    try:
        default_mode(path)
    except DataError as error:
        return str(error)
    return ""


def _report(problems, total, skip_unreadable):
    if not skip_unreadable:
        raise _unreadable(problems, total, skip_unreadable)
    log.warning("%s", _unreadable(problems, total, skip_unreadable))


def _unreadable(problems, total, skipped):
    if len(problems) == 1 and not skipped:
        return Unreadable(f"{problems[0]}; data.skip_unreadable = true leaves it out", problems)
    named = ", ".join(
        printable_name(os.path.basename(line.partition(": expected")[0])) for line in problems[:_NAMED]
    )
    more = f" and {len(problems) - _NAMED:,} more" if len(problems) > _NAMED else ""
    advice = (
        "left out" if skipped else "data.skip_unreadable = true leaves them out, `cnn data` lists them all"
    )
    return Unreadable(
        f"{len(problems):,} of {total:,} image files cannot be read: {named}{more}; {advice}\n{problems[0]}",
        problems,
    )
