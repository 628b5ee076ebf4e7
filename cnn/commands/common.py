"""Arguments that several commands share."""

import argparse

from cnn.commands import COMMANDS, module_of
from cnn.language import LANGUAGES


def add_common_arguments(parser):
    """Add what every command takes."""
    common = parser.add_argument_group("for every command")
    common.add_argument("--threads", type=int, metavar="N", help="cores to use (default: all)")
    common.add_argument("-q", "--quiet", action="store_true", help="no progress: results, warnings, errors")
    common.add_argument("-v", "--verbose", action="store_true", help="also say what is read from where")
    common.add_argument(
        "--language", choices=LANGUAGES, help="of the messages, English or Chinese (default: the locale's)"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")


def whole_parser():
    """Return one parser of all commands, for what wants to know them all: completion in a shell."""
    parser = argparse.ArgumentParser(prog="cnn")
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        module_of(name).add_arguments(command)
        add_common_arguments(command)
    return parser


def add_config_arguments(parser):
    """Add CONFIG and --set."""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a TOML file (default: the bundled sample.toml)"
    )
    add_set_argument(parser)


def add_set_argument(parser):
    """Add --set."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, for example --set train.epochs=5 or --set 'model.layers[0].out_channels=8'",
    )


def add_trained_argument(parser):
    """Add RUN_OR_CHECKPOINT."""
    parser.add_argument(
        "trained", metavar="RUN_OR_CHECKPOINT", help="a run folder, or a .safetensors or .onnx file"
    )


def add_precision_argument(parser):
    """Add --precision."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        help="what activations are stored in and convolutions multiply (default: as in training)",
    )


def add_picture_arguments(parser):
    """Add --invert and --center."""
    parser.add_argument(
        "--invert", action="store_true", help="swap dark and light first: for dark ink on light paper"
    )
    parser.add_argument(
        "--center", action="store_true", help="scale and centre the ink first, as MNIST's digits are"
    )


def read_config(args, default=None):
    """Return the Config that CONFIG and --set stand for; ``default`` replaces the bundled sample."""
    from cnn.config import bundled_config, load_config

    return load_config(args.config or default or bundled_config(), args.set)


def load_trained(trained):
    """Return (network, config, meta) of a run folder, a checkpoint or an ONNX file."""
    from cnn.model import load_trained

    return load_trained(trained)


def whole_number(text):
    """Return the number that a text of decimal digits stands for, None for any other text."""
    return int(text) if text.isdecimal() and len(text) < 16 else None
