"""Print loss, accuracy and a per-class table of a trained network."""

from cnn.commands.common import add_precision_argument, add_set_argument, add_trained_argument
from cnn.language import translate
from cnn.terminal import say


def add_arguments(parser):
    """Describe the command line."""
    add_trained_argument(parser)
    parser.add_argument(
        "--split", choices=("test", "validation", "train"), default="test", help="default: test"
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over the views that the config's [tta] describes"
    )
    add_precision_argument(parser)
    add_set_argument(parser)


def run(args):
    """Evaluate."""
    import numpy as np

    from cnn.backend import use_backend
    from cnn.errors import ConfigError, DataError
    from cnn.training import experiment

    network, config, meta = experiment.load_trained(args.trained, args.set)
    network.precision = args.precision or network.precision
    if args.tta and config.tta is None:
        raise ConfigError(
            "--tta: the config has no [tta] section, which says what to average over; "
            "for example --set tta.flip=true --set tta.translate=1"
        )
    images = experiment.load_images(config, own=False)
    if list(images.classes) != list(meta["classes"]):
        raise DataError(
            f"{config.data.dataset}: found the classes {', '.join(images.classes[:5])} ..., "
            f"expected those of training: {', '.join(meta['classes'][:5])} ..."
        )
    split = part_of_run(args.split, images, config, meta, args.trained)
    if len(split) == 0:
        raise ConfigError("--split validation: there are no such images, the run had data.validation = 0")
    batches = experiment.evaluation_batches(config, split, meta["mean"], meta["std"])
    if batches.image_shape != network.input_shape:
        raise DataError(
            f"images of shape {batches.image_shape}, expected {network.input_shape} as in training"
        )
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        tta = config.tta if args.tta else None
        loss, accuracy, probabilities = experiment.evaluate(network, batches, tta)
    say(class_table(images.classes, split.labels, probabilities))
    views = ", with test-time augmentation" if args.tta else ""
    line = f"{args.split}: {len(split):,} images, loss {loss:.4f}, accuracy {100 * accuracy:.2f} %{views}"
    say(f"\n{translate(line)}")


def part_of_run(part, images, config, meta, trained):
    """Return the Split that is this part of the images that the network was trained with.

    A drawn part depends on the number of images: one more file would move many of them from one part into the
    other. Images with names are found again by the run's split.csv. Raises DataError where that is not
    possible, but for the test part of other data.
    """
    from cnn.config import resolve
    from cnn.errors import DataError
    from cnn.training import checkpoint, parts

    path = checkpoint.find(trained)
    splits = {"test": images.dataset.test, "validation": images.validation, "train": images.train}
    began, digests = resolve(meta["config"], path, foreign=True), meta.get("data") or {}
    drawn = [(c.seed, c.data.validation) for c in (config, began)]
    if digests == images.dataset.digests and drawn[0] == drawn[1]:
        return splits[part]
    listed = path.parent / parts.NAME
    found = parts.as_in_training(part, images.dataset, listed, digests) if digests else None
    if found is not None:
        return found
    if part != "test":
        raise DataError(
            f"--split {part}: the training images in {config.data.root}, data.validation or seed "
            "are not those of the run, so this would be another split; expected them as in training"
        )
    return splits[part]


def class_table(classes, labels, probabilities):
    """Return the table: for each class how many images, how many right, and what it was mistaken for.

    recall = right / images of the class; precision = right / images that were given this class.
    """
    import numpy as np

    from cnn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    width = max(5, *(len(name) for name in classes))
    lines = [f"{'class':{width}}  images   right  recall  precision  most often mistaken for"]
    for k, name in enumerate(classes):
        total, right, answered = confusion[k].sum(), confusion[k, k], confusion[:, k].sum()
        wrong = np.where(np.arange(len(classes)) == k, 0, confusion[k])
        mistaken = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.max() else ""
        recall, precision = _percent(right, total), _percent(right, answered)
        lines.append(
            f"{name:{width}}  {total:6}  {right:6}  {recall:>6}  {precision:>9}  {mistaken}".rstrip()
        )
    return "\n".join(lines)


def _percent(part, whole):
    return f"{100 * part / whole:.1f}%" if whole else "-"
