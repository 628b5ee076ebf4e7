"""What a report says of labels that do not exclude another: how well each is told, the worst mistakes."""

from html import escape

import numpy as np

from cnn.language import fill
from cnn.metrics import label_scores
from cnn.report import numbers, pictures
from cnn.report.parts import name_of, section, table, tile

_TILES = 24


def facts(story):
    """Yield (name, number, remark) of what stands at the top."""
    r = story.result
    yield fill("test F-score"), f"{100 * r['test_f1']:.2f} %", fill("mean over the labels")
    yield fill("test accuracy"), f"{100 * r['test_accuracy']:.2f} %", fill("of all labels of all images")


def observations(story):
    """Return sentences (HTML) about what stands out."""
    exact = int(((story.answers > 0.5) == (story.labels > 0)).all(axis=1).sum())
    total = f"{len(story.labels):,}"
    yield fill("Of {n} test images {right} have all their labels right.", n=total, right=f"{exact:,}")


def sections(story):
    """Return the chapters (HTML)."""
    return [_each(story), _mistakes(story)]


def _each(story):
    scores, rows = np.stack(label_scores(story.labels, story.answers), axis=1), []
    for k, name in enumerate(story.classes):
        cells = "".join(f"<td class=n>{numbers.percent(v) if v == v else '-'}</td>" for v in scores[k])
        count = int((story.labels[:, k] > 0).sum())
        rows.append(f"<tr><td>{escape(name)}</td><td class=n>{count:,}</td>{cells}</tr>")
    columns = ("label", ""), ("images", "n"), ("recall", "n"), ("precision", "n"), ("F-score", "n")
    note = fill("On the test images; a label is given where its probability is above one half.")
    return section(fill("Each label"), note, table(columns, rows))


def _mistakes(story):
    has, p = story.labels > 0, story.answers
    off = np.where(has, 1 - p, p)
    worst = np.argsort(-off.max(axis=1), kind="stable")
    worst = worst[off.max(axis=1)[worst] > 0.5][:_TILES]
    if not len(worst):
        none = fill("There is none: every test image was answered rightly.")
        return section(fill("Worst mistakes"), none)
    tiles = []
    for i in worst:
        k = int(off[i].argmax())
        caption = fill(
            "<b>{name}</b> is there, told with {p}<br><span>{file}</span>"
            if has[i, k]
            else "no <b>{name}</b>, told with {p}<br><span>{file}</span>",
            name=escape(story.classes[k]),
            p=numbers.percent(p[i, k]),
            file=name_of(story.test, i),
        )
        tiles.append(tile(story.test, i, pictures.image_png(story.test.images[i]), caption))
    note = fill(
        "The test images with the label that is furthest off. Look at them where labels may be wrong."
    )
    return section(fill("Worst mistakes"), note, f"<div class=sheet>{''.join(tiles)}</div>")
