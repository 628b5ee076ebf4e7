"""Checkpoints: named arrays and a header in one safetensors file, under checksums, whole or not at all."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cnn import tensor_file
from cnn.config import check_layers
from cnn.errors import CheckpointError, ConfigError, NumericError, did_you_mean
from cnn.files import write_atomically
from cnn.training import finite
from cnn.training.header import check_header

FORMAT = 2
_BEFORE_CHECKSUMS = 1  # such a file can be evaluated, not resumed
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def save(path, tensors, meta):
    """Write ``tensors`` and ``meta`` to ``path`` so that a crash leaves the old file or the new one.

    Parameters
    ----------
    tensors : dict of str to array
        Any NumPy number type; the dtype and the shape are kept, the bits are kept. None is copied.
    meta : dict
        Anything that JSON can hold; floats come back bit for bit.

    Raises CheckpointError when the file cannot be written.
    """
    write_atomically(path, tensor_file.parts(tensors, meta, FORMAT))


def load(path):
    """Return (tensors, meta) of a checkpoint, every checksum compared.

    Nothing is unpickled: whatever is not a whole safetensors file of this program raises CheckpointError.
    """
    with opened(path) as file:
        return {name: file.read(name) for name in file}, file.description


@contextmanager
def opened(path):
    """Open a checkpoint as ``tensor_file.Tensors``: its header is checked, its arrays when they are read.

    Raises CheckpointError, also for what is found to be damaged while it is open.
    """
    path = Path(path)
    try:
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(4).startswith(_PICKLES):
                    raise CheckpointError(
                        f"{path}: found a pickle or a zip file, expected a safetensors checkpoint; "
                        "pickles can run code, so they are never opened"
                    )
        with tensor_file.open_tensors(path, (_BEFORE_CHECKSUMS, FORMAT), (_BEFORE_CHECKSUMS,)) as file:
            yield file
    except tensor_file.FormatError as error:
        raise CheckpointError(f"{path}: {error}; expected a checkpoint that `cnn train` wrote") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def find(run_or_checkpoint):
    """Return the checkpoint file that a run folder or a file name stands for: best, else last."""
    path = Path(run_or_checkpoint)
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path}: no checkpoint in this folder, expected best.safetensors")


def save_network(path, network, classes=None, **about):
    """Write a built network as a checkpoint that nobody trained: ``Network.save``.

    ``about`` may have ``mean``, ``std``, ``image_shape``, ``numbers`` and ``config`` of the header.
    """
    if not network.body.built:
        raise ConfigError("Network: save needs build(input_shape) first")
    layers = [layer.spec() for layer in network.layers]
    errors = check_layers(layers)
    if errors:
        raise ConfigError(f"Network: cannot be saved: {errors[0]}")
    outputs = network.output_shape[0]
    if classes is not None and len(classes) != outputs:
        raise ConfigError(f"Network.save: classes: expected {outputs} names, found {len(classes)}")
    shape = list(network.input_shape)
    meta = {
        "config": {},
        "layers": layers,
        "classes": [] if classes is None else [str(name) for name in classes],
        "input_shape": shape,
        "image_shape": shape,
        "mean": [0.0] * shape[0],
        "std": [1.0] * shape[0],
        **about,
    }
    tensors = {f"network/{name}": array for name, array in network.state().items()}
    save(path, tensors, meta)


def load_network(run_or_checkpoint):
    """Return (network, meta) of a run folder or of a checkpoint file.

    The network is built and holds the saved parameters and buffers. ``meta`` has ``config`` (as resolved),
    ``layers``, ``classes``, ``image_shape`` (C, H, W) of the data, ``input_shape`` of the network (another
    one when images are cropped), ``mean`` and ``std`` (one number a channel).
    Raises CheckpointError when the file cannot be read or does not fit the network it describes, and
    NumericError when a weight is NaN or infinite.
    """
    from cnn.layers import from_config
    from cnn.network import Network

    path = find(run_or_checkpoint)
    with opened(path) as file:
        meta = file.description
        header = check_header(meta, path)
        try:
            network = Network(from_config(header.layers))
            network.build(tuple(header.input_shape), rng=_Allocation(file), dtype=_dtype(file))
        except (ValueError, RecursionError, MemoryError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        if header.classes and network.output_shape[0] != len(header.classes):
            raise CheckpointError(
                f"{path}: {len(header.classes)} classes, but the last layer gives {network.output_shape}"
            )
        restore(file, "network", network.state(), path)
    check_finite(network.state(), path)
    return network, meta


def _dtype(file):
    """Return float64 where all of the network's numbers are, else float32."""
    dtypes = {dtype for name, dtype in file.dtypes.items() if name.startswith("network/")}
    return np.float64 if dtypes == {np.dtype(np.float64)} else np.float32


class _Allocation(np.random.Generator):
    """A generator whose starting values, all of which the file replaces, are zeros and cost nothing.

    Refuses a parameter that the file does not have before it takes any memory.
    """

    def __init__(self, file):
        super().__init__(np.random.PCG64(0))
        self._shapes = set(file.shapes.values())

    def starting_values(self, shape, dtype):
        """Return zeros of ``shape``."""
        if tuple(shape) not in self._shapes:
            raise CheckpointError(f"the layers need a parameter of shape {tuple(shape)}, the file has none")
        return np.zeros(shape, dtype)


def restore(file, section, arrays, path):
    """Read the tensors called ``section/...`` into ``arrays``; names, dtypes and shapes must agree exactly.

    All is compared before anything is changed, and no second copy of the tensors is made.
    Raises CheckpointError that names the first tensor that does not fit.
    """
    prefix = section + "/"
    saved = {name.removeprefix(prefix): name for name in file if name.startswith(prefix)}
    for name, array in arrays.items():
        if name not in saved:
            raise CheckpointError(f'{path}: lacks "{prefix}{name}".{did_you_mean(name, saved)}')
        shape, dtype = file.shapes[saved[name]], file.dtypes[saved[name]]
        if shape != array.shape:
            raise CheckpointError(f'{path}: "{name}": expected shape {array.shape}, found {shape}')
        if dtype != array.dtype:
            raise CheckpointError(f'{path}: "{name}": expected {array.dtype} numbers, found {dtype}')
    for name in saved:
        if name not in arrays:
            raise CheckpointError(
                f'{path}: the {section} has no entry "{name[:80]}".{did_you_mean(name, arrays)}'
            )
    file.check(saved.values())
    for name, array in arrays.items():
        file.read_into(saved[name], array)


def check_finite(tensors, path):
    """Raise NumericError when an array holds NaN or Inf, naming it."""
    found = finite.first_not_finite(tensors)
    if found is not None:
        raise NumericError(f"{path}: {found}, so it gives no answers; the training that wrote it diverged")


def section(tensors, name):
    """Return the arrays saved under ``name/``, without that prefix."""
    prefix = name + "/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
