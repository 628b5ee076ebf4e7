"""Write a trained network for other programs.

onnx         for onnxruntime and most others; needs the extra "onnx"
torch        a state_dict in PyTorch's names, and the source of its nn.Module beside it
safetensors  a folder for a model hub: model.safetensors, config.json, model.py, README.md
c            one C11 file with weights, forward pass and a main that reads an image
"""

from cnn.commands.common import add_trained_argument, load_trained
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_trained_argument(parser)
    parser.add_argument("--format", required=True, metavar="KIND", help="onnx, torch, safetensors or c")
    parser.add_argument("--out", required=True, metavar="F", help="file to write; safetensors: a folder")
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="onnx: take uint8 images as they come from a file, give probabilities or values",
    )


def run(args):
    """Export."""
    from cnn.interop.card import describe
    from cnn.interop.export import export, in_own_units

    network, config, meta = load_trained(args.trained)
    about = describe(network, config, meta, _result(args.trained))
    network = in_own_units(network, meta)
    for path in export(network, about, args.format, args.out, args.with_preprocessing):
        say(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _result(trained):
    """Return result.json of a run folder, or None."""
    import json
    from pathlib import Path

    path = Path(trained)
    file = (path if path.is_dir() else path.parent) / "result.json"
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
