"""What a report says of masks: the intersection over union of each class, the worst masks."""

from html import escape

import numpy as np

from cnn.language import fill
from cnn.metrics import class_scores, iou
from cnn.report import numbers, pictures
from cnn.report.parts import name_of, section, table, tile
from cnn.targets import IGNORED, KINDS

_TILES = 18


def facts(story):
    """Yield (name, number, remark) of what stands at the top."""
    r = story.result
    yield fill("test mean IoU"), f"{100 * r['test_mean_iou']:.2f} %", fill("intersection over union")
    yield fill("test accuracy"), f"{100 * r['test_accuracy']:.2f} %", fill("of all pixels")


def observations(story):
    """Return sentences (HTML) about what stands out."""
    of_class = iou(_matrix(story))
    if np.isfinite(of_class).any():
        k = int(np.nanargmin(of_class))
        name, share = escape(story.classes[k]), numbers.percent(of_class[k])
        yield fill("Least well covered is <b>{name}</b>, with an IoU of {share}.", name=name, share=share)


def sections(story):
    """Return the chapters (HTML)."""
    return [_each(story), _worst(story)]


def _matrix(story):
    return KINDS["masks"].confusion(story.answers, story.labels, story.classes)


def _each(story):
    confusion, rows = _matrix(story), []
    recall, precision, _ = class_scores(confusion)
    for k, (name, *shares) in enumerate(zip(story.classes, iou(confusion), recall, precision, strict=True)):
        cells = "".join(f"<td class=n>{numbers.percent(v) if v == v else '-'}</td>" for v in shares)
        wrong = np.where(np.arange(len(confusion)) == k, 0, confusion[k])
        taken = escape(story.classes[int(wrong.argmax())]) if wrong.any() else ""
        total = confusion[k].sum()
        rows.append(f"<tr><td>{escape(name)}</td><td class=n>{total:,}</td>{cells}<td>{taken}</td></tr>")
    columns = ("class", ""), ("pixels", "n"), ("IoU", "n"), ("recall", "n"), ("precision", "n")
    note = fill("Pixels of all test images; those that do not count are left out.")
    return section(fill("Each class"), note, table((*columns, ("mostly taken for", "")), rows))


def _worst(story):
    counted = story.labels != IGNORED
    wrong = (story.answers != story.labels) & counted
    shares = wrong.sum(axis=(1, 2)) / np.maximum(counted.sum(axis=(1, 2)), 1)
    tiles = []
    for i in np.argsort(-shares, kind="stable")[:_TILES]:
        caption = f"{numbers.percent(shares[i])}<br><span>{name_of(story.test, i)}</span>"
        url = pictures.masks_png(story.test.images[i], story.labels[i], story.answers[i])
        tiles.append(tile(story.test, i, url, caption))
    note = fill(
        "The test images with the largest share of wrong pixels: the image, the right mask, the answer. "
        "Black does not count."
    )
    return section(fill("Worst masks"), note, f'<div class="sheet masks">{"".join(tiles)}</div>')
