"""Write one HTML file that shows every number of one image on its way through a trained network.

The page has each activation and each gradient as the kernels computed them; click any of them and read
the sum that made it. It needs no network and no server.
"""

from typing import NamedTuple

from cnn.commands.common import add_picture_arguments, add_trained_argument, load_trained, whole_number
from cnn.language import translate
from cnn.terminal import say

_MOST_IMAGES = 64  # in a batch: evaluation takes as many at once


def add_arguments(parser):
    """Describe the command line."""
    add_trained_argument(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--image", metavar="I|FILE", help="number of an image of the test split, or an image file"
    )
    which.add_argument(
        "--images", metavar="A..B", help="images of the test split as one batch: with --training, one step"
    )
    parser.add_argument(
        "--label",
        metavar="K",
        help="true class, number or name; or numbers, or labels, with commas between them (default: the data "
        "set's; for a file none: the page then takes the guess as target, and says so)",
    )
    add_picture_arguments(parser)
    parser.add_argument("--out", default="explain.html", metavar="FILE", help="default: explain.html")
    parser.add_argument(
        "--max-mb", type=float, default=10, metavar="MB", help="largest page to write (default: 10)"
    )
    parser.add_argument(
        "--training", action="store_true", help="BatchNorm with the statistics of this image, as in training"
    )
    parser.add_argument(
        "--history", action="store_true", help="add the run's snapshots: the image from the first step on"
    )
    parser.add_argument("--serve", action="store_true", help="show the page at http://127.0.0.1 until Ctrl-C")


def run(args):
    """Explain."""
    from pathlib import Path

    from cnn.errors import ConfigError
    from cnn.files import write_atomically

    out = Path(args.out)
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out: {out} cannot be written, expected a file in a folder that exists")
    options = {"invert": args.invert, "center": args.center, "history": args.history}
    if args.images is not None:
        page, guess = explain_batch(args.trained, args.images, args.max_mb, args.training)
    else:
        page, guess = explain(args.trained, args.image, args.label, args.max_mb, args.training, **options)
    payload = page.encode("utf-8", "backslashreplace")
    write_atomically(out, payload)
    say(translate(f"{out}: {len(payload) / 1e6:.2f} MB, {guess}"))
    if args.serve:
        from cnn.explain.serve import serve

        serve(payload, lambda address: say(translate(f"{address} (Ctrl-C ends)")))


def check_loss(config, trained, classes_only=None):
    """Raise ConfigError for a loss whose gradient the page does not derive.

    ``classes_only`` names the option that asks for what only the page of a classifier has.
    """
    from cnn.errors import ConfigError
    from cnn.explain.derivations import losses

    plain = config.loss.type == "SoftmaxCrossEntropy" and config.data.targets == "classes"
    if classes_only and not plain:
        raise ConfigError(f"{classes_only}: it is for classes learned with SoftmaxCrossEntropy")
    if not plain and config.loss.type not in (*losses(), "SoftmaxCrossEntropy"):
        known = ", ".join(("SoftmaxCrossEntropy", *(name for name in losses() if name != "PixelLoss")))
        raise ConfigError(f"{trained}: loss.type: found {config.loss.type}, expected one of {known}")


def explain(trained, image, label=None, max_mb=10, training=False, invert=False, center=False, history=False):
    """Return (HTML text, one line about the guess).

    Parameters
    ----------
    trained : a run folder or a checkpoint file.
    image : number of an image of the test split, or the path of an image file.
    label : the true class as number or name; None for the data set's label. Of a file it is unknown: then
        the guess stands in as the target.
    max_mb : ConfigError if the page would be larger.
    training : see ``cnn.explain.collect``.
    invert, center : see ``cnn.data.picture.read_picture``; for a file only.
    history : add the snapshots of the run.
    """
    from importlib.metadata import version

    import numpy as np

    from cnn.backend import use_backend
    from cnn.data import Split
    from cnn.errors import NumericError
    from cnn.explain.collect import collect
    from cnn.explain.page import build_page, check_size
    from cnn.training import experiment

    network, config, meta = load_trained(trained)
    check_loss(config, trained, "--history" if history else None)
    network.precision = "float32"  # what the page shows is computed again by its reader, in float32
    classes = meta["classes"]
    if config.loss.type != "SoftmaxCrossEntropy" or config.data.targets != "classes":
        from cnn.commands.explain_outputs import explain_outputs

        source = _read(str(image), config, meta, network.input_shape, invert, center)
        page, line = explain_outputs(network, config, meta, source, label, training)
        check_size(page, max_mb, ())
        return page, line
    source = _read(str(image), config, meta, network.input_shape, invert, center)
    truth = source.label if label is None else _class_number(str(label), classes)
    split = Split(source.pixels[None], np.zeros(1, np.int64))
    x, _ = next(iter(experiment.evaluation_batches(config, split, meta["mean"], meta["std"]).epoch(0)))
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        logits = np.asarray(network.predict(x))[0]
        if not np.isfinite(logits).all():
            raise NumericError(f"{trained}: the network answers NaN or Inf for this image")
        guess = int(logits.argmax())
        target = guess if truth is None else truth
        nodes = collect(network, np.asarray(x)[0], target, training=training)
    about = {
        "label": target,
        "known": truth is not None,
        "remarks": source.remarks,
        "training": training,
        "smoothing": config.loss.label_smoothing,
        "rate": config.optimizer.lr,
        "source": source.name,
        "backend": f"{config.train.backend} (cnn {version('cnn')}, float32)",
        "mean": [float(v) for v in meta["mean"]],
        "std": [float(v) for v in meta["std"]],
    }
    snapshots = _snapshots(trained) if history else ()
    page = build_page(nodes, config.name, classes, about, source.samples, snapshots)
    check_size(page, max_mb, nodes)
    what = "no true class was given" if truth is None else f"true class {classes[truth]}"
    return page, f"predicts {classes[guess]}, {what}"


def explain_batch(trained, images, max_mb=10, training=False):
    """Return (HTML text, one line) of several images at once: each gradient is the mean over them.

    ``images`` is "A..B", both included, numbers of the test split; see ``explain`` for the rest.
    """
    from importlib.metadata import version

    import numpy as np

    from cnn.backend import use_backend
    from cnn.explain.collect import collect
    from cnn.explain.page import build_page, check_size
    from cnn.training import experiment

    network, config, meta = load_trained(trained)
    check_loss(config, trained, "--images")
    network.precision = "float32"  # what the page shows is computed again by its reader, in float32
    test = experiment.read_dataset(config).test
    numbers = _range(images, len(test))
    split = test.take(np.array(numbers))
    x, _ = next(iter(experiment.evaluation_batches(config, split, meta["mean"], meta["std"]).epoch(0)))
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        nodes = collect(network, np.asarray(x), split.labels, training=training)
    sources = [f"{config.data.dataset}, test #{number}" for number in numbers]
    about = {
        "label": int(split.labels[0]),
        "known": True,
        "training": training,
        "smoothing": 0,
        "labels": [int(label) for label in split.labels],
        "sources": sources,
        "source": sources[0],
        "backend": f"{config.train.backend} (cnn {version('cnn')}, float32)",
        "mean": [float(v) for v in meta["mean"]],
        "std": [float(v) for v in meta["std"]],
    }
    page = build_page(nodes, config.name, meta["classes"], about)
    check_size(page, max_mb, nodes)
    return page, f"a batch of {len(numbers)} images, loss {float(nodes[-1].stored['y'][0]):.4f}"


def _range(images, count):
    """Return the numbers that "A..B" names."""
    import re

    from cnn.errors import ConfigError

    found = re.fullmatch(r"(\d+)\.\.(\d+)", images)
    first, last = (int(n) for n in found.groups()) if found else (0, -1)
    if not (found and first < last < count and last - first < _MOST_IMAGES):
        raise ConfigError(
            f"--images: found {images}, expected A..B with A < B < {count} (the test split), "
            f"at most {_MOST_IMAGES} images"
        )
    return list(range(first, last + 1))


class _Source(NamedTuple):
    """The image to explain: pixels (C, H, W) uint8, its label or None, and what the page says of it."""

    pixels: object
    label: object
    name: str
    remarks: list
    samples: tuple | None


def _read(image: str, config, meta, input_shape, invert, center):
    from pathlib import Path

    from cnn.commands.predict import tell_remarks
    from cnn.data.picture import read_picture
    from cnn.errors import ConfigError
    from cnn.explain.samples import choose_samples, find_samples
    from cnn.terminal import printable_name
    from cnn.training import experiment

    number = whole_number(image)
    if number is None:
        pixels, remarks = read_picture(
            image, meta["image_shape"], meta["mean"], invert, center, config.data.fit, config.data.decode
        )
        tell_remarks(image, remarks, meta["mean"])
        samples = find_samples(config, meta, input_shape) if config.data.targets == "classes" else None
        return _Source(pixels, None, printable_name(Path(image).name), remarks, samples)
    if invert or center:
        raise ConfigError("--invert, --center: they are for image files; the test images need neither")
    dataset = experiment.read_dataset(config, own=False)
    test = dataset.test
    if number >= len(test):
        raise ConfigError(f"--image: found {number}, expected 0 to {len(test) - 1} (the test split)")
    fits = test.images.shape[1:] == tuple(input_shape) and test.labels.ndim == 1
    samples = choose_samples(dataset.train, len(meta["classes"])) if fits else None
    name = f"{config.data.dataset}, test #{number}"
    label = int(test.labels[number]) if test.labels.ndim == 1 else test.labels[number]
    return _Source(test.images[number], label, name, [], samples)


def _snapshots(trained):
    from pathlib import Path

    from cnn.errors import ConfigError
    from cnn.training.run_folder import RunFolder
    from cnn.training.snapshots import read_snapshots

    if not Path(trained).is_dir():
        raise ConfigError(f"--history: found {trained}, expected the run folder: it holds the snapshots")
    return read_snapshots(RunFolder(trained).snapshots)


def _class_number(label: str, classes) -> int:
    """Return the number of a class given as number or name; a name wins over a number."""
    from cnn.errors import ConfigError, did_you_mean

    if label in classes:
        return list(classes).index(label)
    number = whole_number(label)
    if number is not None and number < len(classes):
        return number
    raise ConfigError(
        f'--label: found "{label}", expected a class name or a number from 0 to {len(classes) - 1}.'
        + did_you_mean(label, classes)
    )
