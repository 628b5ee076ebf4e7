"""Fetch, verify and cache a data set ahead of time, and say what it holds."""

from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    parser.add_argument(
        "name", metavar="NAME", help='"sample", "folder", or a torchvision name such as MNIST'
    )
    parser.add_argument("--root", default="data", metavar="DIR", help="where it is kept (default: data)")
    parser.add_argument("--image-size", type=int, metavar="N", help='"folder": resize to N x N pixels')
    parser.add_argument("--mode", choices=("L", "RGB"), help='"folder": grey or colour')
    parser.add_argument("--split", metavar="NAME", help='"EMNIST": balanced, letters, digits ...')


def run(args):
    """Load the data set and describe it."""
    import numpy as np

    from cnn.data import load_dataset, normalization

    dataset = load_dataset(
        args.name, root=args.root, image_size=args.image_size, mode=args.mode, split=args.split
    )
    mean, std = normalization(dataset.train.images)
    shape = " x ".join(map(str, dataset.input_shape))
    say(f"{dataset.name}: images of {shape}, {len(dataset.classes)} classes: {', '.join(dataset.classes)}")
    for part in ("train", "test"):
        counts = np.bincount(getattr(dataset, part).labels, minlength=len(dataset.classes))
        say(f"{part:5} {counts.sum():,} images, {counts.min():,} to {counts.max():,} a class")
    say(f"mean  {_numbers(mean)}    std {_numbers(std)}    (training images, 0 to 1)")


def _numbers(values):
    return " ".join(f"{v:.4f}" for v in values)
