"""Reads weights of PyTorch's modules (torchvision, timm) into a network, with a report of what matched."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnn.errors import CheckpointError
from cnn.interop.extras import require

_COUNTER = "num_batches_tracked"  # counts nothing here
_WRAPPERS = ("state_dict", "model", "module.")


@dataclass
class Report:
    """What was loaded.

    Parameters
    ----------
    matched : list of (entry of ``Network.state()``, name in the file, "name" or "shape and order")
    missing : list of str
        Entries of the network that keep what they were.
    unused : list of (name in the file, shape)
    """

    matched: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    unused: list = field(default_factory=list)

    def __str__(self):
        total = len(self.matched) + len(self.missing)
        lines = [f"{len(self.matched)} of {total} arrays loaded, {len(self.unused)} of the file not used"]
        lines += [f"  {entry} <- {name} (by {how})" for entry, name, how in self.matched]
        lines += [f"  {entry} <- nothing: it stays as it was" for entry in self.missing]
        lines += [f"  {name} {shape}: fits nothing" for name, shape in self.unused]
        return "\n".join(lines)


def load_state_dict(network, file):
    """Copy the arrays of a state_dict into a built network where they belong; return a Report.

    An entry takes the array of its own name (what ``cnn export`` writes has those). The rest is matched layer
    by layer: where the file has as many layers with arrays of certain shapes as the network has, they are
    taken in their order, which for safetensors, where a file has none, is that of their names. Layers of
    which the file has more or fewer stay as they were, such as a head for other classes.

    Parameters
    ----------
    network : Network, built
    file : path
        .safetensors, or what torch.save wrote of a state_dict; it is read with weights_only.

    Raises CheckpointError when the file cannot be read, is no state_dict, or has nothing for this network.
    """
    path = Path(file)
    tensors = read_state_dict(path)
    state, report = network.state(), Report()
    ours = {name: array for name, array in state.items() if array.dtype.kind == "f"}
    for name, array in ours.items():
        if name in tensors and tensors[name].shape == array.shape:
            report.matched.append((name, name, "name"))
    done = {entry for entry, _, _ in report.matched}
    used = set(done)
    for entry, name in _by_shape(
        {k: a for k, a in ours.items() if k not in done}, {k: a for k, a in tensors.items() if k not in used}
    ):
        report.matched.append((entry, name, "shape and order"))
        used.add(name)
    if not report.matched:
        raise CheckpointError(f"{path}: found no array that fits this network")
    fresh = dict(state)
    for entry, name, _ in report.matched:
        fresh[entry] = tensors[name].astype(ours[entry].dtype)
    network.load_state(fresh)
    taken = {entry for entry, _, _ in report.matched}
    report.matched.sort(key=lambda row: list(ours).index(row[0]))
    report.missing = [entry for entry in ours if entry not in taken]
    report.unused = [(name, array.shape) for name, array in tensors.items() if name not in used]
    return report


def _by_shape(ours, theirs):
    """Yield (entry, name) of the layers that both sides have equally many of."""
    found = _layers(theirs)
    for signature, places in _layers(ours).items():
        names = found.get(signature, [])
        if len(names) == len(places):
            for (place, whats), (prefix, _) in zip(places, names, strict=True):
                yield from ((_join(place, what), _join(prefix, what)) for what in whats)


def _join(prefix, what):
    return f"{prefix}.{what}" if prefix else what


def _layers(arrays):
    """Return {what a layer's arrays are called and their shapes: list of (layer, what they are called)}."""
    layers = {}
    for name, array in arrays.items():
        prefix, _, what = name.rpartition(".")
        layers.setdefault(prefix, {})[what] = array.shape
    kinds = {}
    for prefix, shapes in layers.items():
        signature = tuple(sorted(shapes.items()))
        kinds.setdefault(signature, []).append((prefix, sorted(shapes)))
    return kinds


def read_state_dict(path):
    """Return {name: float array} of a .safetensors file or of what torch.save wrote, nothing being run."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    pickled = start[:2] in (b"PK", b"\x80\x02")
    tensors = _read_torch(path) if pickled else _read_safetensors(path)
    arrays = {name: array for name, array in tensors.items() if name.rpartition(".")[2] != _COUNTER}
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            names = sorted(file.keys(), key=_natural)
            return {name: np.asarray(file.get_tensor(name)) for name in names}
    except (SafetensorError, TypeError, ValueError, OSError) as error:
        line = " ".join(str(error).split())
        raise CheckpointError(f"{path}: found no whole safetensors file ({line})") from error


def _natural(name):
    """Sort 10 behind 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _read_torch(path):
    torch = require("torch", "torchvision", "a .pt file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damage looks like is up to PyTorch
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: torch.load(weights_only=True) refuses it ({line})") from error
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path}: expected a state_dict, names and tensors")
    return {str(name): tensor.float().numpy() for name, tensor in loaded.items()}
