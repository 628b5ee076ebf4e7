"""Checkpoints: named arrays and a JSON header in one safetensors file, written whole or not at all."""

import json
from pathlib import Path

import numpy as np

from cnn.errors import CheckpointError
from cnn.files import write_atomically

FORMAT = 1
_HEADER = ("config", "layers", "classes", "image_shape", "input_shape", "mean", "std")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def save(path, tensors, meta):
    """Write ``tensors`` and ``meta`` to ``path`` so that a crash leaves the old file or the new one.

    Parameters
    ----------
    tensors : dict of str to array
        Any NumPy number type; the dtype and the shape are kept, the bits are kept.
    meta : dict
        Anything that JSON can hold; floats come back bit for bit.

    Raises CheckpointError when the file cannot be written.
    """
    from safetensors.numpy import save as encode

    path = Path(path)
    # safetensors writes the memory as it lies, so every array must be in C order
    arrays = {name: np.array(value, order="C") for name, value in tensors.items()}
    # one entry only: safetensors shuffles several, and equal checkpoints should be equal files
    header = {"cnn": json.dumps({"format": FORMAT, "meta": meta})}
    payload = encode(arrays, metadata=header)
    write_atomically(path, payload)


def load(path):
    """Return (tensors, meta) of a checkpoint.

    Nothing is unpickled: whatever is not a whole safetensors file of this program raises CheckpointError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as decode

    path = Path(path)
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if payload.startswith(_PICKLES):
        raise CheckpointError(
            f"{path}: found a pickle or a zip file, expected a safetensors checkpoint; "
            "pickles can run code, so they are never opened"
        )
    try:
        tensors = decode(payload)
        size = int.from_bytes(payload[:8], "little")
        header = json.loads(json.loads(payload[8 : 8 + size]).get("__metadata__", {})["cnn"])
        version, meta = header["format"], header["meta"]
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: found {len(payload):,} bytes that are not a whole safetensors file, "
            f"expected a checkpoint of cnn ({error})"
        ) from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: a safetensors file without the header of cnn, expected one that `cnn train` wrote"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {version}, expected {FORMAT}")
    return tensors, meta


def find(run_or_checkpoint):
    """Return the checkpoint file that a run folder or a file name stands for: best, else last."""
    path = Path(run_or_checkpoint)
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path}: no checkpoint in this folder, expected best.safetensors")


def load_network(run_or_checkpoint):
    """Return (network, meta) of a run folder or of a checkpoint file.

    The network is built and holds the saved parameters and buffers. ``meta`` has ``config`` (as resolved),
    ``layers``, ``classes``, ``image_shape`` (C, H, W) of the data, ``input_shape`` of the network (another
    one when images are cropped), ``mean`` and ``std`` (one number a channel).
    Raises CheckpointError when the file cannot be read or does not fit the network it describes.
    """
    from cnn.layers import from_config
    from cnn.network import Network

    path = find(run_or_checkpoint)
    tensors, meta = load(path)
    missing = [key for key in _HEADER if key not in meta]
    if missing:
        raise CheckpointError(
            f"{path}: the header lacks {', '.join(missing)}, expected a file of `cnn train`"
        )
    try:
        network = Network(from_config(meta["layers"]))
        network.build(tuple(meta["input_shape"]), rng=np.random.default_rng(0))
        network.load_state(section(tensors, "network"))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return network, meta


def section(tensors, name):
    """Return the arrays saved under ``name/``, without that prefix."""
    prefix = name + "/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
