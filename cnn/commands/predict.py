"""Print class probabilities for image files.

Each image is resized to the size of the training images (the whole image, bilinear) and made grey or RGB
as they were; then it is normalised as in training. Digits for a network trained on MNIST must be white on
black and centred: a picture that is not is said to be so, and --invert and --center make it so.
"""

from cnn.commands.common import (
    add_picture_arguments,
    add_precision_argument,
    add_trained_argument,
    load_trained,
)
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_trained_argument(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any size and mode")
    parser.add_argument(
        "--top", type=int, default=3, metavar="K", help="classes to show for each (default: 3)"
    )
    add_picture_arguments(parser)
    add_precision_argument(parser)
    parser.add_argument("--json", action="store_true", help="print all probabilities as JSON")


def run(args):
    """Predict."""
    import json

    import numpy as np

    from cnn.backend import use_backend
    from cnn.data import Split
    from cnn.errors import ConfigError
    from cnn.training import experiment

    if args.top < 1:
        raise ConfigError(f"--top: found {args.top}, expected at least 1")
    network, config, meta = load_trained(args.trained)
    network.precision = args.precision or config.train.precision
    pixels = np.stack([read_pixels(path, meta, args.invert, args.center) for path in args.images])
    split = Split(pixels, np.zeros(len(pixels), np.int64))
    batches = experiment.evaluation_batches(config, split, meta["mean"], meta["std"])
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        _, _, probabilities = experiment.evaluate(network, batches)
    rows = [dict(zip(meta["classes"], p.tolist(), strict=True)) for p in probabilities]
    if args.json:
        say(
            json.dumps(
                [{"image": i, "probabilities": r} for i, r in zip(args.images, rows, strict=True)], indent=2
            )
        )
        return
    width = max(map(len, args.images))
    for path, row in zip(args.images, rows, strict=True):
        best = sorted(row.items(), key=lambda item: -item[1])[: args.top]
        say(f"{path:{width}}  " + "  ".join(f"{name} {100 * p:.1f} %" for name, p in best))


def read_pixels(path, meta, invert=False, center=False):
    """Return an image file as (C, H, W) uint8 of the shape that the network was trained on."""
    from cnn.data.picture import read_picture

    pixels, remarks = read_picture(path, meta["image_shape"], meta["mean"], invert, center)
    tell_remarks(path, remarks, meta["mean"])
    return pixels


def tell_remarks(path, remarks, mean):
    """Say on stderr where a picture differs from the training images."""
    from cnn.data.picture import describe

    for remark in remarks:
        say(f"{path}: {describe(remark, mean)}", error=True)
