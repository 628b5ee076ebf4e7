"""What `cnn evaluate` prints and writes where a network tells numbers, labels or masks."""

import csv
import io
import json

import numpy as np

from cnn.commands.compare import aligned
from cnn.files import user_path, write_atomically
from cnn.language import phrase
from cnn.metrics import class_scores, iou, label_scores, number_scores

_HEADS = {
    "numbers": ("number", "MAE", "RMSE", "R2"),
    "labels": ("label", "images", "recall", "precision", "F1"),
    "masks": ("class", "pixels", "IoU", "recall", "precision"),
}


def scores_of(kind, classes, told):
    """Return {key: one number an output} of an Evaluation."""
    if kind.name == "numbers":
        return dict(zip(("mae", "rmse", "r2"), number_scores(told.labels, told.answers), strict=True))
    if kind.name == "labels":
        counts = {"images": (told.labels > 0).sum(axis=0)}
        scores = label_scores(told.labels, told.answers)
        return counts | dict(zip(("recall", "precision", "f1"), scores, strict=True))
    confusion = kind.confusion(told.answers, told.labels, classes)
    recall, precision, _ = class_scores(confusion)
    return {"pixels": confusion.sum(axis=1), "iou": iou(confusion), "recall": recall, "precision": precision}


def output_table(kind, classes, told):
    """Return the table: a row an output."""
    columns = scores_of(kind, classes, told).values()

    def cell(value):
        if not np.isfinite(value):
            return "-"
        if kind.name == "numbers":
            return f"{value:.4g}"
        return f"{value:,}" if isinstance(value, np.integer) else f"{100 * value:.1f}%"

    rows = [[name, *map(cell, row)] for name, row in zip(classes, zip(*columns, strict=True), strict=True)]
    return "\n".join(aligned([[phrase(head) for head in _HEADS[kind.name]], *rows]))


def write_files(args, images, split, told):
    """Write what --json, --confusion and --predictions ask for."""
    kind, classes = images.kind, images.classes
    if args.confusion:
        confusion = kind.confusion(told.answers, told.labels, classes).tolist()
        rows = [["", *classes], *([name, *row] for name, row in zip(classes, confusion, strict=True))]
        write_atomically(user_path(args.confusion), csv_bytes(rows))
    if args.predictions:
        before = "share of " if kind.name == "masks" else ""
        rows = [["file", *(f"{w} {before}{name}" for w in ("right", "told") for name in classes)]]
        for i, (right, answer) in enumerate(zip(told.labels, told.answers, strict=True)):
            if kind.name == "masks":  # of the pixels that count
                counted = right < len(classes)
                right, answer = right[counted], answer[counted]
                if not right.size:
                    continue
            both = (*kind.by_name(right, classes).values(), *kind.by_name(answer, classes).values())
            rows.append([split.name(i), *(f"{v:.6g}" for v in both)])
        write_atomically(user_path(args.predictions), csv_bytes(rows))
    if args.json:
        columns = scores_of(kind, classes, told)
        record = {
            "split": args.split,
            "images": len(split),
            "loss": told.loss,
            **told.scores,
            "outputs": {
                name: {key: _plain(values[k]) for key, values in columns.items()}
                for k, name in enumerate(classes)
            },
        }
        write_atomically(user_path(args.json), (json.dumps(record, indent=2) + "\n").encode())


def csv_bytes(rows):
    """Return rows as the bytes of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _plain(value):
    if isinstance(value, np.integer):
        return int(value)
    return round(float(value), 6) if np.isfinite(value) else None
