"""Reads IDX files, the format of MNIST and its relatives.

    byte 0-1: 0    byte 2: 8 for unsigned bytes    byte 3: number of axes
    then the length of each axis, 4 bytes big-endian, then the values, last axis fastest

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from cnn.errors import DataError


def read_idx(path, ndim):
    """Return the uint8 array of ``ndim`` axes (None: 3 or 4) in an IDX file, which may be gzipped.

    Raises DataError naming the file for a wrong magic number and for a size other than the header
    promises. A missing file is a DataError too.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected a gzipped IDX file, found a damaged one ({error})") from error
    if ndim is None:
        ndim = 4 if content[:4] == bytes([0, 0, 8, 4]) else 3
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic:
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes with {ndim} axes (magic {magic.hex()}), "
            f"found {content[:4].hex() or 'an empty file'}"
        )
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{path}: truncated, expected a header of {header} bytes, found {len(content)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    expected = header + math.prod(shape)
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else "too long"
        raise DataError(
            f"{path}: {problem}, expected {expected} bytes for {' x '.join(map(str, shape))} values, "
            f"found {len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
