"""Named arrays and a description in one safetensors file, under checksums.

    8 bytes: length of the header, little-endian
    header:  {"__metadata__": {"sha256": "...", "cnn": "..."}, name: {"dtype", "shape", "data_offsets"}, ...}
    arrays:  their bytes in C order, the widest numbers first

"cnn" is JSON text: the format, the SHA-256 of every array and the description. "sha256" is the SHA-256 of all
bytes before the arrays, its own 64 digits taken as zeros. Any reader of safetensors reads the arrays.

Nothing is allocated before sizes are compared: header with file, shapes with offsets, offsets with file.

Source: the safetensors format, github.com/huggingface/safetensors (README, "Format").
"""

import hashlib
import json
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_MOST_HEADER = 1 << 24  # bytes
_CHUNK = 1 << 20  # bytes
_START = b'{"__metadata__":{"sha256":"'
_ZEROS = b"0" * 64
_DTYPES = {
    np.dtype(dtype): name
    for name, dtype in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
        "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip
_NAMES = {name: dtype for dtype, name in _DTYPES.items()}


class FormatError(ValueError):
    """A file is not what this module writes, or was changed since."""


def sha256(array):
    """Return the SHA-256 of an array's bytes in C order, as hexadecimal digits."""
    return hashlib.sha256(_bytes(array)).hexdigest()


def _bytes(array):
    """Return the memory of an array as bytes: a view unless it has to be brought into C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else bytearray()


def parts(tensors, description, version):
    """Yield the bytes of a file piece by piece; the arrays are not copied.

    Equal arrays and descriptions give equal files.

    Parameters
    ----------
    tensors : dict of str to array
        Numbers of any common type; dtype, shape and bits are kept.
    description : JSON data without NaN
        Floats come back bit for bit.
    version : int
        Of what the description says; ``open_tensors`` compares it.
    """
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    arrays = {name: a.astype(a.dtype.newbyteorder("<"), copy=False) for name, a in arrays.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    digests = {name: sha256(arrays[name]) for name in order}
    text = {"format": version, "sha256": digests, "meta": description}
    entries, start = {}, 0
    for name in order:
        array = arrays[name]
        end = start + array.nbytes
        entries[name] = {"dtype": _DTYPES[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
        start = end
    header = {"__metadata__": {"sha256": "", "cnn": json.dumps(text, allow_nan=False)}, **entries}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded = _START + _ZEROS + encoded[len(_START) :]
    encoded += b" " * (-len(encoded) % 8)  # so that the arrays begin at a multiple of their size
    before = len(encoded).to_bytes(8, "little") + encoded
    digest = hashlib.sha256(before).hexdigest().encode()
    yield before.replace(_START + _ZEROS, _START + digest, 1)
    for name in order:
        yield _bytes(arrays[name])


class Tensors:
    """An open file: ``version``, ``description`` (checked against its checksum) and the arrays.

    ``shapes``, ``dtypes`` and ``digests`` are known by name before any array is read.
    """

    def __init__(self, file, version, description, entries, digests):
        self.version, self.description, self.digests = version, description, digests
        self.shapes = {name: shape for name, (_, shape, _) in entries.items()}
        self.dtypes = {name: dtype for name, (dtype, _, _) in entries.items()}
        self._file, self._starts = file, {name: start for name, (_, _, start) in entries.items()}

    def __iter__(self):
        return iter(self.shapes)

    def read(self, name):
        """Return a new array with the tensor called ``name``; FormatError where its checksum differs."""
        array = np.empty(self.shapes[name], self.dtypes[name])
        self.read_into(name, array)
        return array

    def read_into(self, name, array):
        """Read a tensor into ``array`` of the same shape and dtype, then compare its checksum."""
        target = array if array.flags.c_contiguous else np.empty(array.shape, array.dtype)
        self._file.seek(self._starts[name])
        memory = memoryview(_bytes(target))
        if self._file.readinto(memory) != len(memory):
            raise FormatError(f'tensor "{name}": the file ends before it does')
        self._compare(name, hashlib.sha256(memory))
        if target is not array:
            array[...] = target

    def check(self, names=None):
        """Compare the checksums of all tensors, or of ``names``; FormatError names the first that differs."""
        for name in self if names is None else names:
            self._file.seek(self._starts[name])
            left, digest = math.prod(self.shapes[name]) * self.dtypes[name].itemsize, hashlib.sha256()
            while left:
                piece = self._file.read(min(left, _CHUNK))
                if not piece:
                    raise FormatError(f'tensor "{name}": the file ends before it does')
                digest.update(piece)
                left -= len(piece)
            self._compare(name, digest)

    def _compare(self, name, digest):
        expected = self.digests.get(name)
        if expected is not None and expected != digest.hexdigest():
            raise FormatError(f'tensor "{name}" is damaged: its SHA-256 differs from the one in the header')


@contextmanager
def open_tensors(path, versions, unchecked=()):
    """Open a file that ``parts`` wrote, as Tensors; the header is checked here, an array when it is read.

    ``versions`` are those that can be read; those of ``unchecked`` are older than the checksums.

    Raises OSError when the file cannot be read, FormatError when it is damaged, cut, or of another kind.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FormatError("not a regular file")  # a pipe or a device might never end
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        before = file.read(8)
        length = int.from_bytes(before, "little")
        if len(before) < 8 or length > size - 8:
            raise FormatError(f"found {size:,} bytes that are not a whole safetensors file")
        if length > _MOST_HEADER:
            raise FormatError(f"a header of {length:,} bytes, expected at most {_MOST_HEADER:,}")
        raw = file.read(length)
        yield Tensors(file, *_header(before, raw, size - 8 - length, versions, unchecked))


def _header(before, raw, room, versions, unchecked):
    """Return (version, description, {name: (dtype, shape, start in the file)}, {name: SHA-256})."""
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a whole safetensors file ({str(error)[:100]})") from error
    try:
        metadata = header.pop("__metadata__")
        own = json.loads(metadata["cnn"])
        version, description = own["format"], own["meta"]
        digests = own.get("sha256", {})
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise FormatError("a safetensors file without the header of cnn") from error
    if type(version) is not int or version not in versions:
        raise FormatError(f"format {str(version)[:20]}, expected {' or '.join(map(str, versions))}")
    entries = _entries(header, room, 8 + len(raw))
    if version in unchecked and not digests:
        return version, description, entries, {}
    place = len(_START)
    written = raw[place : place + 64]
    zeroed = _START + _ZEROS + raw[place + 64 :]
    if not raw.startswith(_START) or hashlib.sha256(before + zeroed).hexdigest().encode() != written:
        raise FormatError("the header is damaged: its SHA-256 differs from the one in it")
    if not isinstance(digests, dict) or digests.keys() != entries.keys():
        raise FormatError("the header lacks the SHA-256 of a tensor")
    return version, description, entries, digests


def _entries(header, room, first):
    """Return {name: (dtype, shape, start)}; shapes and offsets must fill ``room``, the bytes there are."""
    entries, here = {}, 0
    try:
        tensors = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        for name, entry in tensors:
            dtype, shape, (start, end) = _NAMES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            sizes = [*shape, start, end]
            if len(shape) > 16 or not all(type(v) is int and 0 <= v < 1 << 60 for v in sizes):
                raise ValueError
            if start != here or end - start != math.prod(shape) * dtype.itemsize:
                raise FormatError(
                    f'tensor "{name[:80]}": its shape {tuple(shape)} and its bytes do not agree'
                )
            entries[name], here = (dtype, tuple(shape), first + start), end
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError("not a whole safetensors file (a tensor's entry is not one)") from error
    if here != room:
        raise FormatError(f"not a whole safetensors file: {room:,} bytes of arrays, expected {here:,}")
    return entries
