"""Print loss, accuracy, a table of the classes and the images whose labels are likely wrong.

recall = right / images of the class; precision = right / images that were given this class; F1 is the
harmonic mean of both; "mean" is that over the classes, so that a rare class counts as much as a frequent one.
"""

from cnn.commands.common import add_precision_argument, add_set_argument, add_trained_argument
from cnn.language import pad, phrase, translate, width
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
    parser.add_argument(
        "--json", metavar="F", help="write all numbers, and the confusion matrix, to this file"
    )
    parser.add_argument("--confusion", metavar="F.csv", help="write the confusion matrix: a row a true class")
    parser.add_argument(
        "--predictions", metavar="F.csv", help="write the file, label, answer and probabilities of each image"
    )
    parser.add_argument(
        "--suspects", type=int, default=10, metavar="N", help="likely wrong labels to list (default: 10)"
    )
    add_precision_argument(parser)
    add_set_argument(parser)


def run(args):
    """Evaluate."""
    import numpy as np

    from cnn.backend import use_backend
    from cnn.commands.evaluate_outputs import output_table, write_files
    from cnn.errors import ConfigError, DataError
    from cnn.training import experiment
    from cnn.training.evaluation import evaluate

    network, config, meta = experiment.load_trained(args.trained, args.set)
    network.precision = args.precision or network.precision
    if args.tta and config.tta is None:
        raise ConfigError(
            "--tta: the config has no [tta] section, which says what to average over; "
            "for example --set tta.flip=true --set tta.translate=1"
        )
    if args.confusion and config.data.targets in ("numbers", "labels"):
        raise ConfigError(f"--confusion: expected classes or masks, the network tells {config.data.targets}")
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
        told = evaluate(network, batches, tta, experiment.loss_of(config, meta), images.kind.name)
    kind = images.kind
    if kind.name == "classes":
        say(class_table(images.classes, split.labels, told.answers))
        _tell_more(images.classes, split, told.answers, args.suspects)
    else:
        say(output_table(kind, images.classes, told))
    views = ", with test-time augmentation" if args.tta else ""
    line = f"{args.split}: {len(split):,} images, loss {told.loss:.4f}, {kind.words(told.scores)}{views}"
    say(f"\n{translate(line)}")
    if kind.name == "classes":
        _write_files(args, images.classes, split, told.answers, {"loss": told.loss, **told.scores})
    else:
        write_files(args, images, split, told)


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
    """Return the table: for each class how many images, how many right, and what it was mistaken for."""
    import numpy as np

    from cnn.metrics import class_scores, confusion_matrix

    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    heads = ("class", "images", "right", "recall", "precision", "F1", "most often mistaken for")
    heads = [phrase(head) for head in heads]
    first = max(5, *(width(name) for name in (*classes, heads[0])))
    columns = [max(width(head), least) for head, least in zip(heads[1:6], (6, 6, 6, 9, 6), strict=True)]

    def line(name, cells, last=""):
        cells = [" " * (room - width(cell)) + cell for cell, room in zip(cells, columns, strict=True)]
        return "  ".join([pad(name, first), *cells, last]).rstrip()

    lines = [line(heads[0], heads[1:6], heads[6])]
    scores = np.array(class_scores(confusion))
    for k, name in enumerate(classes):
        wrong = np.where(np.arange(len(classes)) == k, 0, confusion[k])
        mistaken = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.max() else ""
        counts = (str(confusion[k].sum()), str(confusion[k, k]))
        lines.append(line(name, (*counts, *_scores(scores[:, k])), mistaken))
    means = [np.nanmean(row) if np.isfinite(row).any() else np.nan for row in scores]
    lines.append(line(phrase("mean"), ("", "", *_scores(means))))
    return "\n".join(lines)


def _scores(scores):
    return [f"{100 * x:.1f}%" if x == x else "-" for x in scores]


def _tell_more(classes, split, probabilities, suspects):
    from cnn.metrics import likely_mislabelled, top_k_accuracy

    if len(classes) > 5:
        say("\n" + translate(f"top-5 accuracy {100 * top_k_accuracy(split.labels, probabilities, 5):.2f} %"))
    found, answers = likely_mislabelled(split.labels, probabilities)
    if not len(found) or suspects < 1:
        return
    say("\n" + translate(f"likely wrong labels ({len(found):,}):"))
    for i, answer in list(zip(found, answers, strict=True))[:suspects]:
        p = 100 * probabilities[i, answer]
        say(f"  {split.name(i)}: {classes[split.labels[i]]}, or {classes[answer]} ({p:.1f} %)?")


def _write_files(args, classes, split, probabilities, numbers):
    """Write what --json, --confusion and --predictions ask for."""
    import json

    from cnn.commands.evaluate_outputs import csv_bytes
    from cnn.files import user_path, write_atomically
    from cnn.metrics import class_scores, confusion_matrix, likely_mislabelled, top_k_accuracy

    answers = probabilities.argmax(axis=1)
    confusion = confusion_matrix(split.labels, answers, len(classes))
    if args.confusion:
        rows = [
            ["", *classes],
            *([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True)),
        ]
        write_atomically(user_path(args.confusion), csv_bytes(rows))
    if args.predictions:
        rows = [["file", "label", "answer", *classes]]
        for i, (label, answer) in enumerate(zip(split.labels, answers, strict=True)):
            shares = [f"{p:.6g}" for p in probabilities[i]]
            rows.append([split.name(i), classes[label], classes[answer], *shares])
        write_atomically(user_path(args.predictions), csv_bytes(rows))
    if args.json:
        found, better = likely_mislabelled(split.labels, probabilities)
        scores = [[None if x != x else round(x, 6) for x in row.tolist()] for row in class_scores(confusion)]
        record = {
            "split": args.split,
            "images": len(split),
            **numbers,
            "top5_accuracy": top_k_accuracy(split.labels, probabilities, 5),
            "classes": list(classes),
            **dict(zip(("recall", "precision", "f1"), scores, strict=True)),
            "confusion": confusion.tolist(),
            "likely_mislabelled": [
                {"file": split.name(i), "label": classes[split.labels[i]], "answer": classes[k]}
                for i, k in zip(found, better, strict=True)
            ],
        }
        write_atomically(user_path(args.json), (json.dumps(record, indent=2) + "\n").encode())
