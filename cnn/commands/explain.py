"""Write one HTML file that shows every number of one image on its way through a trained network.

The page has each activation and each gradient as the kernels computed them; click any of them and read
the sum that made it. It needs no network and no server.
"""

from cnn.commands.common import add_trained_argument


def add_arguments(parser):
    """Describe the command line."""
    add_trained_argument(parser)
    parser.add_argument(
        "--image",
        required=True,
        metavar="I|FILE",
        help="number of an image of the test split, or an image file",
    )
    parser.add_argument(
        "--label",
        metavar="K",
        help="true class, number or name (default: the data set's; for a file, the guess)",
    )
    parser.add_argument("--out", default="explain.html", metavar="FILE", help="default: explain.html")
    parser.add_argument(
        "--max-mb", type=float, default=10, metavar="MB", help="largest page to write (default: 10)"
    )
    parser.add_argument(
        "--training", action="store_true", help="BatchNorm with the statistics of this image, as in training"
    )
    parser.add_argument("--serve", action="store_true", help="show the page at http://127.0.0.1 until Ctrl-C")


def run(args):
    """Explain."""
    from pathlib import Path

    from cnn.errors import ConfigError

    out = Path(args.out)
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out: {out} cannot be written, expected a file in a folder that exists")
    page, guess = explain(args.trained, args.image, args.label, args.max_mb, args.training)
    out.write_text(page, encoding="utf-8")
    print(f"{out}: {len(page.encode()) / 1e6:.2f} MB, {guess}")
    if args.serve:
        from cnn.explain.serve import serve

        serve(page.encode(), lambda address: print(f"{address} (Ctrl-C ends)", flush=True))


def explain(trained, image, label=None, max_mb=10, training=False):
    """Return (HTML text, one line about the guess).

    Parameters
    ----------
    trained : a run folder or a checkpoint file.
    image : number of an image of the test split, or the path of an image file.
    label : the true class as number or name; None for the data set's label, or for a file the guess.
    max_mb : ConfigError if the page would be larger.
    training : see ``cnn.explain.collect``.
    """
    from importlib.metadata import version

    import numpy as np

    from cnn.backend import use_backend
    from cnn.data import Split
    from cnn.explain.collect import collect
    from cnn.explain.page import build_page, check_size
    from cnn.training import experiment

    network, config, meta = experiment.load_trained(trained)
    classes = meta["classes"]
    pixels, known, source = _read(str(image), config, meta)
    truth = known if label is None else _class_number(str(label), classes)
    split = Split(pixels[None], np.zeros(1, np.int64))
    x, _ = next(iter(experiment.evaluation_batches(config, split, meta["mean"], meta["std"]).epoch(0)))
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        guess = int(np.asarray(network.predict(x))[0].argmax())
        truth = guess if truth is None else truth
        nodes = collect(network, np.asarray(x)[0], truth, config.loss.label_smoothing, training)
    about = {
        "label": truth,
        "source": source,
        "backend": f"{config.train.backend} (cnn {version('cnn')}, float32)",
        "mean": [float(v) for v in meta["mean"]],
        "std": [float(v) for v in meta["std"]],
    }
    page = build_page(nodes, config.name, classes, about)
    check_size(page, max_mb, nodes)
    return page, f"predicts {classes[guess]}, true class {classes[truth]}"


def _read(image: str, config, meta):
    """Return (pixels (C, H, W) uint8, label or None, where it comes from)."""
    from pathlib import Path

    from cnn.commands.predict import read_pixels
    from cnn.errors import ConfigError
    from cnn.training import experiment

    if not image.isdigit():
        return read_pixels(image, meta["image_shape"]), None, Path(image).name
    split, number = experiment.read_dataset(config).test, int(image)
    if number >= len(split):
        raise ConfigError(f"--image: found {number}, expected 0 to {len(split) - 1} (the test split)")
    return split.images[number], int(split.labels[number]), f"{config.data.dataset}, test #{number}"


def _class_number(label: str, classes) -> int:
    """Return the number of a class given as number or name; a name wins over a number."""
    from cnn.errors import ConfigError, did_you_mean

    if label in classes:
        return list(classes).index(label)
    if label.isdigit() and int(label) < len(classes):
        return int(label)
    raise ConfigError(
        f'--label: found "{label}", expected a class name or a number from 0 to {len(classes) - 1}.'
        + did_you_mean(label, classes)
    )
