"""Writes the files of ``cnn export``."""

import copy
import json
from pathlib import Path

import numpy as np

from cnn.errors import ConfigError
from cnn.files import write_atomically
from cnn.interop.extras import require
from cnn.layers import Linear

FORMATS = ("onnx", "torch", "safetensors", "c")


def export(network, about, kind, out, preprocessing=False):
    """Write a built network to ``out``; return the paths of the files written.

    Parameters
    ----------
    network : Network
    about : About
    kind : one of FORMATS
        "onnx" a .onnx file. "torch" a .pt or .safetensors file of the state_dict, and beside it the source
        of the nn.Module, ``out`` with the suffix .py. "safetensors" a folder for a hub: model.safetensors,
        config.json, the model card README.md and model.py. "c" a C11 file.
    out : path
    preprocessing : bool
        See ``to_onnx``; for "onnx" only.
    """
    out = Path(out)
    if kind not in FORMATS:
        raise ConfigError(f"--format: found {kind!r}, expected one of {', '.join(FORMATS)}")
    if preprocessing and kind != "onnx":
        raise ConfigError(f"--with-preprocessing: it is for --format onnx, found --format {kind}")
    if not out.parent.is_dir() or (out.is_dir() and kind != "safetensors"):
        raise ConfigError(f"--out: {out} cannot be written, expected a file in a folder that exists")
    payloads = _WRITERS[kind](network, about, out, preprocessing)
    for path, payload in payloads.items():
        write_atomically(path, payload)
    return list(payloads)


def _onnx(network, about, out, preprocessing):
    from cnn.interop.onnx_write import to_onnx

    return {out: to_onnx(network, about, preprocessing).SerializeToString()}


def _torch(network, about, out, preprocessing):
    from cnn.interop.torch_write import module_source, state_dict

    if out.suffix not in (".pt", ".pth", ".safetensors"):
        raise ConfigError(f"--out: found {out.name}, expected a file that ends with .safetensors or .pt")
    arrays = state_dict(network)
    source = module_source(network, about).encode()
    return {
        out: _safetensors(arrays) if out.suffix == ".safetensors" else _pickle(arrays),
        out.with_suffix(".py"): source,
    }


def _pickle(arrays):
    """Return what torch.save writes; ``torch.load(weights_only=True)`` reads it."""
    import io

    torch = require("torch", "torchvision", "a .pt file")
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def _safetensors(arrays, metadata=None):
    from safetensors.numpy import save

    return save({k: np.array(v, order="C") for k, v in arrays.items()}, {"format": "pt", **(metadata or {})})


def _hub(network, about, out, preprocessing):
    """Return the files that hubs expect: weights, config.json, README.md, and the source that reads them."""
    from cnn.interop.torch_write import module_source, state_dict

    if out.suffix == ".safetensors":
        raise ConfigError(f"--out: found {out.name}, expected a folder for model.safetensors and config.json")
    payloads = {
        out / "model.safetensors": _safetensors(state_dict(network)),
        out / "config.json": (json.dumps(_config(network, about), indent=2) + "\n").encode(),
        out / "model.py": module_source(network, about).encode(),
        out / "README.md": (_front_matter(about) + about.card).encode(),
    }
    taken = [path.name for path in payloads if path.exists()]
    if taken:
        raise ConfigError(f"--out {out}: has {taken[0]} already, expected a new or empty folder")
    out.mkdir(exist_ok=True)
    return payloads


def _config(network, about):
    names = about.classes or [str(k) for k in range(network.output_shape[0])]
    return {
        "architecture": about.name,
        "architectures": ["Model"],
        "model_type": "cnn",
        "num_classes": network.output_shape[0],
        "label_names": names,
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
        "torch_dtype": "float32",
        "pretrained_cfg": {
            "input_size": list(network.input_shape),
            "mean": about.mean,
            "std": about.std,
            "num_classes": network.output_shape[0],
        },
    }


def in_own_units(network, meta):
    """Return the network; of a regression a copy whose last layer gives the numbers in units of their own.

        W' = std W,   b' = mean + std b

    Raises ConfigError where the last layer is no Linear with a bias.
    """
    if not meta.get("target_mean"):
        return network
    network = copy.deepcopy(network)
    last = network.layers[-1]
    if not isinstance(last, Linear) or last.bias is None:
        raise ConfigError(
            f"export: the last layer is {type(last).__name__}, expected a Linear with bias, which can give "
            "the numbers in their own units"
        )
    std = np.array(meta["target_std"])
    last.weight.data[...] = last.weight.data * std[:, None]
    last.bias.data[...] = last.bias.data * std + np.array(meta["target_mean"])
    return network


def _front_matter(about):
    fields = ["library_name: pytorch"]
    task = {"masks": "image-segmentation", "numbers": None}.get(about.targets, "image-classification")
    if task is not None:
        fields += [f"pipeline_tag: {task}", f"tags: [{task}]"]
    return "\n".join(["---", *fields, "---", "", ""])


def _c(network, about, out, preprocessing):
    from cnn.interop.c_write import to_c

    return {out: to_c(network, about).encode()}


_WRITERS = {"onnx": _onnx, "torch": _torch, "safetensors": _hub, "c": _c}
