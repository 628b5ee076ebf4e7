"""The page: what it tells, in which order."""

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from cnn.language import current, fill, speaking
from cnn.layers import Conv2d
from cnn.metrics import class_scores, confusion_matrix, likely_mislabelled
from cnn.report import numbers, pictures
from cnn.report.charts import Line, line_chart
from cnn.report.gradients import layer_names
from cnn.report.style import CSS

_TILES, _MOST_SUSPECTS = 24, 50
_LARGEST_TABLE = 20  # classes

_HEAD = """<!doctype html>
<html lang={language}><head><meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
<meta http-equiv=Content-Security-Policy
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title><style>{css}</style></head><body><main>
"""


@dataclass(frozen=True, eq=False)
class Story:
    """What a report is made of.

    ``history`` are the rows of metrics.csv, ``gradients`` rows [epoch, norm of each layer ...], ``result``
    what result.json holds, ``test`` the test images, ``probabilities`` (N, C) the answers to them.
    """

    name: str
    dataset: str
    classes: tuple
    history: list
    gradients: list
    result: dict
    network: object
    test: object
    probabilities: np.ndarray
    config_toml: str
    label_smoothing: float = 0.0


def render(story, language=None):
    """Return the HTML text in ``language``, "en" or "zh"; None: in the language of the command that runs."""
    with speaking(language or current()):
        return _page(story)


def _page(story):
    answers = story.probabilities.argmax(axis=1)
    confusion = confusion_matrix(story.test.labels, answers, len(story.classes))
    sections = [
        _curves(story),
        _confusion(story, confusion),
        _mistakes(story),
        _suspects(story),
        _filters(story),
        _gradients(story),
        _details(story),
    ]
    title = fill("{name}: training report", name=escape(story.name))
    head = _HEAD.format(title=title, css=CSS, language="zh-CN" if current() == "zh" else "en")
    return f"{head}{_header(story, confusion)}{''.join(sections)}</main></body></html>\n"


# -- the top --------------------------------------------------------------------------------------


def _header(story, confusion):
    r = story.result
    low, high = numbers.interval(r["test_accuracy"], r["test_images"])
    speed = story.history[-1]["images_per_second"] if story.history else None
    facts = [
        (
            fill("test accuracy"),
            f"{100 * r['test_accuracy']:.2f} %",
            fill("95 % interval {low} to {high}", low=numbers.percent(low), high=numbers.percent(high)),
        ),
        *_augmented(r),
        (fill("test loss"), f"{r['test_loss']:.4f}", fill("{n} images", n=f"{r['test_images']:,}")),
        (fill("weights of epoch"), f"{r['epoch']}", fill("of {n}", n=len(story.history))),
        (
            fill("parameters"),
            f"{r['parameters']:,}",
            fill("input {shape}", shape=" x ".join(map(str, story.network.input_shape))),
        ),
        (
            fill("training time"),
            numbers.seconds(r["seconds"]),
            "" if speed is None else fill("{n} images/s", n=f"{speed:,.0f}"),
        ),
    ]
    cells = "".join(f"<div><dt>{k}</dt><dd>{v}<small>{s}</small></dd></div>" for k, v, s in facts)
    sentences = ("" if current() == "zh" else " ").join(_observations(story, confusion))
    trained = fill("Trained on {data}, {n} classes.", data=escape(story.dataset), n=len(story.classes))
    return (
        f"<h1>{escape(story.name)}</h1><p class=soft>{trained}</p><p>{sentences}</p>"
        f"<dl class=facts>{cells}</dl>"
    )


def _augmented(result):
    """The accuracy over several views of each image, if that was asked for."""
    if result.get("tta_accuracy") is not None:
        yield fill("with TTA"), f"{100 * result['tta_accuracy']:.2f} %", fill("test-time augmentation")


def _observations(story, confusion):
    """Return sentences (HTML) about what stands out."""
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
    last = story.history[-1] if story.history else None
    if last and last["val_accuracy"] is not None:
        gap = last["train_accuracy"] - last["val_accuracy"]
        if gap > 0.05:
            yield fill(
                "At the end it was right on {train} of the training images but on {val} of the validation "
                "images: it overfits; more augmentation, weight decay or dropout would help.",
                train=numbers.percent(last["train_accuracy"]),
                val=numbers.percent(last["val_accuracy"]),
            )
        elif last["train_loss"] > 0 and last["val_loss"] > 0 and len(story.history) > 2:
            before = story.history[-3]
            if before["val_loss"] > 1.1 * last["val_loss"]:
                yield fill("The validation loss was still falling at the end: more epochs may help.")


# -- sections -------------------------------------------------------------------------------------


def _section(title, note, *content):
    return f"<section><h2>{title}</h2><p class=soft>{note}</p>{''.join(content)}</section>"


def _head(*columns):
    """Return the head of a table from (title, class) of each column; the class "n" is that of numbers."""
    cells = (f"<th{kind and f' class={kind}'}>{fill(title)}</th>" for title, kind in columns)
    return f"<tr>{''.join(cells)}</tr>"


def _curves(story):
    if not story.history:
        return _section(fill("Training"), fill("No epoch was trained."))
    history = story.history

    def lines(what):
        for part, label, color in (("train", "training", "--train"), ("val", "validation", "--val")):
            points = [(row["epoch"], row[f"{part}_{what}"]) for row in history]
            if story.label_smoothing and (part, what) == ("train", "loss"):
                label = "training, smoothed labels"  # not to be compared with the validation loss
            if any(y is not None for _, y in points):
                yield Line(fill(label), points, f"var({color})", dashed=part == "train")

    best = story.result["epoch"] if history[-1]["val_accuracy"] is not None else None
    row = next((row for row in history if row["epoch"] == best), None)
    losses = [row[k] for row in history for k in ("train_loss", "val_loss") if row[k] is not None]
    log = min(losses) > 0 and max(losses) > 20 * min(losses)
    charts = [
        line_chart(
            fill("Loss"),
            list(lines("loss")),
            fill("epoch"),
            numbers.short,
            log,
            row and (best, row["val_loss"]),
        ),
        line_chart(
            fill("Accuracy"),
            list(lines("accuracy")),
            fill("epoch"),
            numbers.percent_tick,
            False,
            row and (best, row["val_accuracy"]),
        ),
        line_chart(
            fill("Learning rate"),
            [Line(fill("lr"), [(r["epoch"], r["lr"]) for r in history], "var(--early)")],
            fill("epoch"),
            numbers.short,
        ),
    ]
    note = fill(
        "Once an epoch. Training values are averages over the epoch while it ran, with augmentation; "
        "the ring marks the epoch whose weights were kept."
        if row
        else "Once an epoch. Training values are averages over the epoch while it ran, with augmentation."
    )
    columns = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    head = "".join(f"<th class=n>{fill(c.replace('_', ' '))}</th>" for c in columns)
    body = "".join(
        f"<tr>{''.join(f'<td class=n>{numbers.cell(r[c])}</td>' for c in columns)}</tr>" for r in history
    )
    table = f"<div class=scroll><table class=rows><tr>{head}</tr>{body}</table></div>"
    details = f"<details><summary>{fill('The numbers')}</summary>{table}</details>"
    return _section(fill("Training"), note, f"<div class=charts>{''.join(charts)}</div>", details)


def _confusion(story, confusion):
    classes = story.classes
    note = fill("Each row is a true class, each column an answer, on the test images.")
    if len(classes) <= _LARGEST_TABLE:
        picture = _confusion_table(classes, confusion)
    else:
        note += fill(" Blue: right; orange: wrong.")
        alt = fill(
            "Confusion matrix of {n} classes; the most frequent mistakes are listed beside it", n=len(classes)
        )
        picture = f'<img class=heat alt="{alt}" src="{pictures.confusion_png(confusion)}">'
    return _section(
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
    head = _head(("is", ""), ("taken for", ""), ("times", "n"))
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
    head = _head(("class", ""), ("images", "n"), ("recall", "n"), ("precision", "n"), ("F-score", "n"))
    table = f"<div class=scroll><table class=rows>{head}{''.join(rows)}</table></div>"
    opened = "open" if len(classes) <= _LARGEST_TABLE else ""
    return f"<div>{mistaken}<details {opened}><summary>{fill('Each class')}</summary>{table}</details></div>"


def _mistakes(story):
    labels, p = story.test.labels, story.probabilities
    answers, rows = p.argmax(axis=1), np.arange(len(labels))
    wrong = rows[answers != labels]
    wrong = wrong[np.argsort(p[wrong, labels[wrong]], kind="stable")][:_TILES]
    if not len(wrong):
        none = fill("There is none: every test image was answered rightly.")
        return _section(fill("Worst mistakes"), none)
    tiles = []
    for i in wrong:
        is_, said = escape(story.classes[labels[i]]), escape(story.classes[answers[i]])
        caption = fill(
            "<b>{label}</b>, not {answer}<br><span>{p} sure; {name}</span>",
            label=is_,
            answer=said,
            p=numbers.percent(p[i, answers[i]]),
            name=_name(story.test, i),
        )
        image = f'<img alt="{fill("test image {i}", i=i)}" src="{pictures.image_png(story.test.images[i])}">'
        tiles.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    note = fill(
        "The test images whose true class was given the smallest probability. Bold: what the label says."
    )
    return _section(fill("Worst mistakes"), note, f"<div class=sheet>{''.join(tiles)}</div>")


def _name(split, i):
    """Return what an image is called in the report: its file, or its number."""
    return fill("image {i}", i=i) if split.names is None else escape(split.name(i))


def _suspects(story):
    """The images whose labels are likely wrong, by their files: they can be looked up and moved."""
    found, answers = likely_mislabelled(story.test.labels, story.probabilities)
    if not len(found) or story.test.names is None:
        return ""
    rows, classes = [], story.classes
    for i, k in list(zip(found, answers, strict=True))[:_MOST_SUSPECTS]:
        label, p = classes[story.test.labels[i]], numbers.percent(story.probabilities[i, k])
        names = f"<td>{escape(label)}</td><td>{escape(classes[k])}</td>"
        rows.append(f"<tr><td>{_name(story.test, i)}</td>{names}<td class=n>{p}</td></tr>")
    head = _head(("file", ""), ("label", ""), ("or rather", ""), ("probability", "n"))
    note = fill(
        "Test images of which the network is as sure of another class as it is of that class as a rule. "
        "Look at them first where labels may be wrong."
    )
    table = f"<div class=scroll><table class=rows>{head}{''.join(rows)}</table></div>"
    return _section(fill("Likely wrong labels"), note, table)


def _filters(story):
    first = next(
        ((n, layer) for n, layer in story.network.walk() if not layer.children() and layer.parameters()), None
    )
    if first is None or not isinstance(first[1], Conv2d) or max(first[1].kernel_size) < 2:
        return ""
    name, layer = first
    weight = layer.weight.data
    k, c, kh, kw = weight.shape
    if c == 3:
        colours = fill("A filter is a picture: grey is 0.")
    else:
        colours = fill("Blue weights are negative, orange ones positive.")
        colours += fill(" Shown: the strongest channel.") if c > 1 else ""
    images = "".join(
        f'<img alt="{fill("filter {i}", i=i)}" src="{url}">'
        for i, url in enumerate(pictures.filter_pngs(weight))
    )
    shown = fill("the first {few} of {n}", few=64, n=k) if k > 64 else fill("all {n}", n=k)
    note = fill(
        "Layer {name}, {h} x {w} pixels, {shown}. {colours}",
        name=escape(name),
        h=kh,
        w=kw,
        shown=shown,
        colours=colours,
    )
    return _section(fill("First-layer filters"), note, f"<div class=filters>{images}</div>")


def _gradients(story):
    if not story.gradients:
        return ""
    names = layer_names(story.network)
    lines = []
    for i, name in enumerate(names):
        depth = round(100 * i / max(1, len(names) - 1))
        points = [(row[0], row[1 + i]) for row in story.gradients]
        lines.append(Line(name, points, f"color-mix(in oklch,var(--late) {depth}%,var(--early))"))
    chart = line_chart(
        fill("Norm of the gradient of each layer"), lines, fill("epoch"), numbers.power, log=True
    )
    note = fill(
        "The length of each layer's gradient at sampled steps, from the first layer (violet) to the last "
        "(amber). Lines that drift far apart mean a gradient that vanishes or explodes on its way back."
    )
    few = max(1, len(story.gradients) // 5)
    rows = []
    for i, name in enumerate(names, start=1):
        start, end = (
            numbers.middle([row[i] for row in part])
            for part in (story.gradients[:few], story.gradients[-few:])
        )
        rows.append(
            f"<tr><td>{escape(name)}</td><td class=n>{numbers.power(start)}</td>"
            f"<td class=n>{numbers.power(end)}</td></tr>"
        )
    head = _head(("layer", ""), ("at the start", "n"), ("at the end", "n"))
    caption = f"<caption>{fill('Median norm over the first and the last fifth of the run')}</caption>"
    table = f"<div class=scroll><table class=rows>{caption}{head}{''.join(rows)}</table></div>"
    return _section(fill("Gradients"), note, f'<div class="two noisy">{chart}{table}</div>')


def _details(story):
    summary = escape(str(story.network.summary()))
    return _section(
        fill("The experiment"),
        fill("What was trained; config.toml beside this file trains it again."),
        f"<details><summary>{fill('Layers')}</summary><pre>{summary}</pre></details>",
        f"<details><summary>{fill('Config')}</summary><pre>{escape(story.config_toml)}</pre></details>",
    )
