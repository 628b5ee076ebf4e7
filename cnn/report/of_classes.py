"""What a report says of classes: the confusion matrix, the worst mistakes, labels that are likely wrong."""

import math
from html import escape

import numpy as np

from cnn.language import fill
from cnn.metrics import class_scores, confusion_matrix, likely_mislabelled
from cnn.report import numbers, pictures
from cnn.report.parts import name_of, section, table, table_head, tile

_TILES, _MOST_SUSPECTS = 24, 50
_LARGEST_TABLE = 20  # classes


def facts(story):
    """Yield (name, number, remark) of what stands at the top."""
    r = story.result
    low, high = numbers.interval(r["test_accuracy"], r["test_images"])
    remark = fill("95 % interval {low} to {high}", low=numbers.percent(low), high=numbers.percent(high))
    yield fill("test accuracy"), f"{100 * r['test_accuracy']:.2f} %", remark
    if r.get("tta_accuracy") is not None:  # over several views of each image, if that was asked for
        yield fill("with TTA"), f"{100 * r['tta_accuracy']:.2f} %", fill("test-time augmentation")


def observations(story):
    """Return sentences (HTML) about what stands out."""
    confusion = _matrix(story)
    wrong = int(confusion.sum() - np.trace(confusion))
    yield fill(
        "{wrong} of {n} test images were answered wrongly.", wrong=f"{wrong:,}", n=f"{confusion.sum():,}"
    )
    pairs = numbers.pairs(confusion)
    if pairs and pairs[0][0] > 1:
        count, label, answer = pairs[0]
        names = escape(story.classes[label]), escape(story.classes[answer])
        yield fill(
            "Most often <b>{label}</b> was taken for <b>{answer}</b> ({n} times).",
            label=names[0],
            answer=names[1],
            n=count,
        )


def sections(story):
    """Return the chapters (HTML)."""
    return [_confusion(story), _mistakes(story), _suspects(story)]


def _matrix(story):
    return confusion_matrix(story.labels, story.answers.argmax(axis=1), len(story.classes))


def _confusion(story):
    confusion, classes = _matrix(story), story.classes
    note = fill("Each row is a true class, each column an answer, on the test images.")
    if len(classes) <= _LARGEST_TABLE:
        picture = _confusion_table(classes, confusion)
    else:
        note += fill(" Blue: right; orange: wrong.")
        alt = fill(
            "Confusion matrix of {n} classes; the most frequent mistakes are listed beside it", n=len(classes)
        )
        picture = f'<img class=heat alt="{alt}" src="{pictures.confusion_png(confusion)}">'
    return section(
        fill("Confusion matrix"),
        note,
        f"<div class=wide><div>{picture}</div>",
        _classes(classes, confusion),
        "</div>",
    )


def _confusion_table(classes, confusion):
    head = "".join(f'<th scope=col title="{escape(c)}">{escape(c)}</th>' for c in classes)
    rows = []
    for k, name in enumerate(classes):
        cells = []
        for j, count in enumerate(confusion[k]):
            share = count / max(1, confusion[k].sum())
            # the square root makes single mistakes visible beside hundreds of right answers
            depth = round(65 * (share if j == k else math.sqrt(share)))
            color = "good" if j == k else "bad"
            style = f'style="background:color-mix(in srgb,var(--{color}) {depth}%,transparent)"'
            cells.append(f"<td {style}>{count}</td>" if count else "<td class=zero>·</td>")
        rows.append(f'<tr><th scope=row title="{escape(name)}">{escape(name)}</th>{"".join(cells)}</tr>')
    body = f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = f"<table class=confusion>{body}</table>"
    return f'<div class=scroll tabindex=0 role=region aria-label="{fill("Confusion matrix")}">{table}</div>'


def _classes(classes, confusion):
    """Return the pairs most often mistaken, and a row for each class."""
    pairs = "".join(
        f"<tr><td>{escape(classes[k])}</td><td>{escape(classes[j])}</td><td class=n>{count}</td></tr>"
        for count, k, j in numbers.pairs(confusion)[:8]
    )
    head = table_head(("is", ""), ("taken for", ""), ("times", "n"))
    caption = fill("Most frequent mistakes")
    mistaken = f"<table class=rows><caption>{caption}</caption>{head}{pairs}</table>" if pairs else ""
    rows, f1 = [], class_scores(confusion)[2]
    for k, name in enumerate(classes):
        total, right, answered = confusion[k].sum(), confusion[k, k], confusion[:, k].sum()
        recall = right / total if total else 0.0
        bar = f'<span class=bar aria-hidden=true><i style="width:{100 * recall:.0f}%"></i></span>'
        precision = numbers.percent(right / answered) if answered else "-"
        rows.append(
            f"<tr><td>{escape(name)}</td><td class=n>{total:,}</td>"
            f"<td class=n>{numbers.percent(recall) if total else '-'}{bar}</td>"
            f"<td class=n>{precision}</td>"
            f"<td class=n>{numbers.percent(f1[k]) if total + answered else '-'}</td></tr>"
        )
    head = table_head(("class", ""), ("images", "n"), ("recall", "n"), ("precision", "n"), ("F-score", "n"))
    table = f"<div class=scroll><table class=rows>{head}{''.join(rows)}</table></div>"
    opened = "open" if len(classes) <= _LARGEST_TABLE else ""
    return f"<div>{mistaken}<details {opened}><summary>{fill('Each class')}</summary>{table}</details></div>"


def _mistakes(story):
    labels, p = story.labels, story.answers
    answers, rows = p.argmax(axis=1), np.arange(len(labels))
    wrong = rows[answers != labels]
    wrong = wrong[np.argsort(p[wrong, labels[wrong]], kind="stable")][:_TILES]
    if not len(wrong):
        none = fill("There is none: every test image was answered rightly.")
        return section(fill("Worst mistakes"), none)
    tiles = []
    for i in wrong:
        is_, said = escape(story.classes[labels[i]]), escape(story.classes[answers[i]])
        caption = fill(
            "<b>{label}</b>, not {answer}<br><span>{p} sure; {name}</span>",
            label=is_,
            answer=said,
            p=numbers.percent(p[i, answers[i]]),
            name=name_of(story.test, i),
        )
        tiles.append(tile(story.test, i, pictures.image_png(story.test.images[i]), caption))
    note = fill(
        "The test images whose true class was given the smallest probability. Bold: what the label says."
    )
    return section(fill("Worst mistakes"), note, f"<div class=sheet>{''.join(tiles)}</div>")


def _suspects(story):
    """The images whose labels are likely wrong, by their files: they can be looked up and moved."""
    found, answers = likely_mislabelled(story.labels, story.answers)
    if not len(found) or story.test.names is None:
        return ""
    rows, classes = [], story.classes
    for i, k in list(zip(found, answers, strict=True))[:_MOST_SUSPECTS]:
        label, p = classes[story.labels[i]], numbers.percent(story.answers[i, k])
        names = f"<td>{escape(label)}</td><td>{escape(classes[k])}</td>"
        rows.append(f"<tr><td>{name_of(story.test, i)}</td>{names}<td class=n>{p}</td></tr>")
    columns = ("file", ""), ("label", ""), ("or rather", ""), ("probability", "n")
    note = fill(
        "Test images of which the network is as sure of another class as it is of that class as a rule. "
        "Look at them first where labels may be wrong."
    )
    return section(fill("Likely wrong labels"), note, table(columns, rows))


