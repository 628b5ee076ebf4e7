"""The page: what it tells, in which order."""

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from cnn.layers import Conv2d
from cnn.metrics import confusion_matrix
from cnn.report import pictures
from cnn.report.charts import Line, line_chart
from cnn.report.gradients import layer_names
from cnn.report.style import CSS

_TILES = 24
_LARGEST_TABLE = 20  # classes

_HEAD = """<!doctype html>
<html lang=en><head><meta charset=utf-8>
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


def render(story):
    """Return the HTML text."""
    answers = story.probabilities.argmax(axis=1)
    confusion = confusion_matrix(story.test.labels, answers, len(story.classes))
    sections = [
        _curves(story),
        _confusion(story, confusion),
        _mistakes(story),
        _filters(story),
        _gradients(story),
        _details(story),
    ]
    head = _HEAD.format(title=f"{escape(story.name)}: training report", css=CSS)
    return f"{head}{_header(story, confusion)}{''.join(sections)}</main></body></html>\n"


# -- the top --------------------------------------------------------------------------------------


def _header(story, confusion):
    r = story.result
    low, high = _interval(r["test_accuracy"], r["test_images"])
    speed = story.history[-1]["images_per_second"] if story.history else None
    facts = [
        (
            "test accuracy",
            f"{100 * r['test_accuracy']:.2f} %",
            f"95 % interval {_percent(low)} to {_percent(high)}",
        ),
        *_augmented(r),
        ("test loss", f"{r['test_loss']:.4f}", f"{r['test_images']:,} images"),
        ("weights of epoch", f"{r['epoch']}", f"of {len(story.history)}"),
        ("parameters", f"{r['parameters']:,}", f"input {' x '.join(map(str, story.network.input_shape))}"),
        ("training time", _seconds(r["seconds"]), "" if speed is None else f"{speed:,.0f} images/s"),
    ]
    cells = "".join(f"<div><dt>{k}</dt><dd>{v}<small>{s}</small></dd></div>" for k, v, s in facts)
    sentences = " ".join(_observations(story, confusion))
    return (
        f"<h1>{escape(story.name)}</h1><p class=soft>Trained on {escape(story.dataset)}, "
        f"{len(story.classes)} classes.</p><p>{sentences}</p><dl class=facts>{cells}</dl>"
    )


def _augmented(result):
    """The accuracy over several views of each image, if that was asked for."""
    if result.get("tta_accuracy") is not None:
        yield "with TTA", f"{100 * result['tta_accuracy']:.2f} %", "test-time augmentation"


def _observations(story, confusion):
    """Return sentences (HTML) about what stands out."""
    wrong = int(confusion.sum() - np.trace(confusion))
    yield f"{wrong:,} of {confusion.sum():,} test images were answered wrongly."
    pairs = _pairs(confusion)
    if pairs and pairs[0][0] > 1:
        count, label, answer = pairs[0]
        names = escape(story.classes[label]), escape(story.classes[answer])
        yield f"Most often <b>{names[0]}</b> was taken for <b>{names[1]}</b> ({count} times)."
    last = story.history[-1] if story.history else None
    if last and last["val_accuracy"] is not None:
        gap = last["train_accuracy"] - last["val_accuracy"]
        if gap > 0.05:
            yield (
                f"At the end it was right on {_percent(last['train_accuracy'])} of the training images but "
                f"on {_percent(last['val_accuracy'])} of the validation images: it overfits; "
                "more augmentation, weight decay or dropout would help."
            )
        elif last["train_loss"] > 0 and last["val_loss"] > 0 and len(story.history) > 2:
            before = story.history[-3]
            if before["val_loss"] > 1.1 * last["val_loss"]:
                yield "The validation loss was still falling at the end: more epochs may help."


def _interval(share, count):
    """Return Wilson's 95 % interval of a share of ``count`` images."""
    z = 1.96
    middle, width = (
        share + z * z / (2 * count),
        z * math.sqrt((share * (1 - share) + z * z / (4 * count)) / count),
    )
    return (middle - width) / (1 + z * z / count), (middle + width) / (1 + z * z / count)


# -- sections -------------------------------------------------------------------------------------


def _section(title, note, *content):
    return f"<section><h2>{title}</h2><p class=soft>{note}</p>{''.join(content)}</section>"


def _curves(story):
    if not story.history:
        return _section("Training", "No epoch was trained.")
    history = story.history

    def lines(what):
        for part, label, color in (("train", "training", "--train"), ("val", "validation", "--val")):
            points = [(row["epoch"], row[f"{part}_{what}"]) for row in history]
            if story.label_smoothing and (part, what) == ("train", "loss"):
                label = "training, smoothed labels"  # not to be compared with the validation loss
            if any(y is not None for _, y in points):
                yield Line(label, points, f"var({color})", dashed=part == "train")

    best = story.result["epoch"] if history[-1]["val_accuracy"] is not None else None
    row = next((row for row in history if row["epoch"] == best), None)
    losses = [row[k] for row in history for k in ("train_loss", "val_loss") if row[k] is not None]
    log = min(losses) > 0 and max(losses) > 20 * min(losses)
    charts = [
        line_chart("Loss", list(lines("loss")), "epoch", _short, log, row and (best, row["val_loss"])),
        line_chart(
            "Accuracy",
            list(lines("accuracy")),
            "epoch",
            _percent_tick,
            False,
            row and (best, row["val_accuracy"]),
        ),
        line_chart(
            "Learning rate",
            [Line("lr", [(r["epoch"], r["lr"]) for r in history], "var(--early)")],
            "epoch",
            _short,
        ),
    ]
    note = "Once an epoch. Training values are averages over the epoch while it ran, with augmentation"
    note += "; the ring marks the epoch whose weights were kept." if row else "."
    columns = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    head = "".join(f"<th class=n>{c.replace('_', ' ')}</th>" for c in columns)
    body = "".join(f"<tr>{''.join(f'<td class=n>{_cell(r[c])}</td>' for c in columns)}</tr>" for r in history)
    table = f"<div class=scroll><table class=rows><tr>{head}</tr>{body}</table></div>"
    details = f"<details><summary>The numbers</summary>{table}</details>"
    return _section("Training", note, f"<div class=charts>{''.join(charts)}</div>", details)


def _confusion(story, confusion):
    classes, note = story.classes, "Each row is a true class, each column an answer, on the test images."
    if len(classes) <= _LARGEST_TABLE:
        picture = _confusion_table(classes, confusion)
    else:
        note += " Blue: right; orange: wrong."
        alt = f"Confusion matrix of {len(classes)} classes; the most frequent mistakes are listed beside it"
        picture = f'<img class=heat alt="{alt}" src="{pictures.confusion_png(confusion)}">'
    return _section(
        "Confusion matrix",
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
    return f'<div class=scroll tabindex=0 role=region aria-label="Confusion matrix">{table}</div>'


def _classes(classes, confusion):
    """Return the pairs most often mistaken, and a row for each class."""
    pairs = "".join(
        f"<tr><td>{escape(classes[k])}</td><td>{escape(classes[j])}</td><td class=n>{count}</td></tr>"
        for count, k, j in _pairs(confusion)[:8]
    )
    head = "<tr><th>is</th><th>taken for</th><th class=n>times</th></tr>"
    mistaken = (
        f"<table class=rows><caption>Most frequent mistakes</caption>{head}{pairs}</table>" if pairs else ""
    )
    rows = []
    for k, name in enumerate(classes):
        total, right, answered = confusion[k].sum(), confusion[k, k], confusion[:, k].sum()
        recall = right / total if total else 0.0
        bar = f'<span class=bar aria-hidden=true><i style="width:{100 * recall:.0f}%"></i></span>'
        precision = _percent(right / answered) if answered else "-"
        rows.append(
            f"<tr><td>{escape(name)}</td><td class=n>{total:,}</td>"
            f"<td class=n>{_percent(recall) if total else '-'}{bar}</td><td class=n>{precision}</td></tr>"
        )
    head = "<tr><th>class</th><th class=n>images</th><th class=n>recall</th><th class=n>precision</th></tr>"
    table = f"<div class=scroll><table class=rows>{head}{''.join(rows)}</table></div>"
    opened = "open" if len(classes) <= _LARGEST_TABLE else ""
    return f"<div>{mistaken}<details {opened}><summary>Each class</summary>{table}</details></div>"


def _mistakes(story):
    labels, p = story.test.labels, story.probabilities
    answers, rows = p.argmax(axis=1), np.arange(len(labels))
    wrong = rows[answers != labels]
    wrong = wrong[np.argsort(p[wrong, labels[wrong]], kind="stable")][:_TILES]
    if not len(wrong):
        return _section("Worst mistakes", "There is none: every test image was answered rightly.")
    tiles = []
    for i in wrong:
        is_, said = escape(story.classes[labels[i]]), escape(story.classes[answers[i]])
        caption = f"<b>{is_}</b>, not {said}<br><span>{_percent(p[i, answers[i]])} sure; image {i}</span>"
        image = f'<img alt="test image {i}" src="{pictures.image_png(story.test.images[i])}">'
        tiles.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    note = "The test images whose true class was given the smallest probability. Bold: what the label says."
    return _section("Worst mistakes", note, f"<div class=sheet>{''.join(tiles)}</div>")


def _filters(story):
    first = next(
        ((n, layer) for n, layer in story.network.walk() if not layer.children() and layer.parameters()), None
    )
    if first is None or not isinstance(first[1], Conv2d) or max(first[1].kernel_size) < 2:
        return ""
    name, layer = first
    weight = layer.weight.data
    k, c, kh, kw = weight.shape
    colours = (
        "A filter is a picture: grey is 0."
        if c == 3
        else "Blue weights are negative, orange ones positive."
        + (" Shown: the strongest channel." if c > 1 else "")
    )
    images = "".join(
        f'<img alt="filter {i}" src="{url}">' for i, url in enumerate(pictures.filter_pngs(weight))
    )
    shown = f", the first {min(k, 64)} of {k}" if k > 64 else f", all {k}"
    note = f"Layer {escape(name)}, {kh} x {kw} pixels{shown}. {colours}"
    return _section("First-layer filters", note, f"<div class=filters>{images}</div>")


def _gradients(story):
    if not story.gradients:
        return ""
    names = layer_names(story.network)
    lines = []
    for i, name in enumerate(names):
        depth = round(100 * i / max(1, len(names) - 1))
        points = [(row[0], row[1 + i]) for row in story.gradients]
        lines.append(Line(name, points, f"color-mix(in oklch,var(--late) {depth}%,var(--early))"))
    chart = line_chart("Norm of the gradient of each layer", lines, "epoch", _power, log=True)
    note = (
        "The length of each layer's gradient at sampled steps, from the first layer (violet) to the last "
        "(amber). Lines that drift far apart mean a gradient that vanishes or explodes on its way back."
    )
    few = max(1, len(story.gradients) // 5)
    rows = []
    for i, name in enumerate(names, start=1):
        start, end = (
            _middle([row[i] for row in part]) for part in (story.gradients[:few], story.gradients[-few:])
        )
        rows.append(
            f"<tr><td>{escape(name)}</td><td class=n>{_power(start)}</td><td class=n>{_power(end)}</td></tr>"
        )
    head = "<tr><th>layer</th><th class=n>at the start</th><th class=n>at the end</th></tr>"
    caption = "<caption>Median norm over the first and the last fifth of the run</caption>"
    table = f"<div class=scroll><table class=rows>{caption}{head}{''.join(rows)}</table></div>"
    return _section("Gradients", note, f'<div class="two noisy">{chart}{table}</div>')


def _details(story):
    summary = escape(str(story.network.summary()))
    return _section(
        "The experiment",
        "What was trained; config.toml beside this file trains it again.",
        f"<details><summary>Layers</summary><pre>{summary}</pre></details>",
        f"<details><summary>Config</summary><pre>{escape(story.config_toml)}</pre></details>",
    )


# -- numbers --------------------------------------------------------------------------------------


def _pairs(confusion):
    """Return (count, label, answer) of the mistakes, the most frequent first."""
    off = np.argwhere((confusion > 0) & ~np.eye(len(confusion), dtype=bool))
    return sorted(((int(confusion[k, j]), int(k), int(j)) for k, j in off), key=lambda t: (-t[0], t[1:]))


def _percent(share):
    return f"{100 * share:.1f} %"


def _percent_tick(share):
    return f"{100 * share:.6g} %"


def _short(value):
    return f"{value:.4g}"


def _power(value):
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _middle(values):
    """Return the median, to three digits."""
    return float(f"{float(np.median(values)):.3g}")


def _cell(value):
    return "" if value is None else f"{value:.4g}"


def _seconds(seconds):
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
