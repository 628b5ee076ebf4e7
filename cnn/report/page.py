"""The page: what it tells, in which order."""

from html import escape

from cnn.language import current, fill, speaking
from cnn.layers import Conv2d
from cnn.report import numbers, of_classes, of_labels, of_masks, of_numbers, pictures
from cnn.report.charts import Line, line_chart
from cnn.report.gradients import layer_names
from cnn.report.parts import section, table_head
from cnn.report.style import CSS

_KINDS = {"classes": of_classes, "numbers": of_numbers, "labels": of_labels, "masks": of_masks}
_TRAINED = {
    "classes": "Trained on {data}, {n} classes.",
    "numbers": "Trained on {data}, to tell {n} numbers.",
    "labels": "Trained on {data}, {n} labels.",
    "masks": "Trained on {data}, masks of {n} classes.",
}

_HEAD = """<!doctype html>
<html lang={language}><head><meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
<meta http-equiv=Content-Security-Policy
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title><style>{css}</style></head><body><main>
"""


def render(story, language=None):
    """Return the HTML text in ``language``, "en" or "zh"; None: in the language of the command that runs."""
    with speaking(language or current()):
        return _page(story)


def _page(story):
    sections = [
        _curves(story),
        *_KINDS[story.targets].sections(story),
        _filters(story),
        _gradients(story),
        _details(story),
    ]
    title = fill("{name}: training report", name=escape(story.name))
    head = _HEAD.format(title=title, css=CSS, language="zh-CN" if current() == "zh" else "en")
    return f"{head}{_header(story)}{''.join(sections)}</main></body></html>\n"


# -- the top --------------------------------------------------------------------------------------


def _header(story):
    r = story.result
    speed = story.history[-1]["images_per_second"] if story.history else None
    facts = [
        *_KINDS[story.targets].facts(story),
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
    sentences = ("" if current() == "zh" else " ").join(_observations(story))
    trained = fill(_TRAINED[story.targets], data=escape(story.dataset), n=len(story.classes))
    return (
        f"<h1>{escape(story.name)}</h1><p class=soft>{trained}</p><p>{sentences}</p>"
        f"<dl class=facts>{cells}</dl>"
    )


def _observations(story):
    """Return sentences (HTML) about what stands out."""
    yield from _KINDS[story.targets].observations(story)
    last = story.history[-1] if story.history else None
    if last and last["val_accuracy"] is not None and story.targets == "classes":
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


def _curves(story):
    if not story.history:
        return section(fill("Training"), fill("No epoch was trained."))
    history = story.history

    def lines(what):
        for part, label, color in (("train", "training", "--train"), ("val", "validation", "--val")):
            points = [(row["epoch"], row[f"{part}_{what}"]) for row in history]
            if story.label_smoothing and (part, what) == ("train", "loss"):
                label = "training, smoothed labels"  # not to be compared with the validation loss
            if any(y is not None for _, y in points):
                yield Line(fill(label), points, f"var({color})", dashed=part == "train")

    best = story.result["epoch"] if history[-1]["val_loss"] is not None else None
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
        *_accuracy(list(lines("accuracy")), row and (best, row["val_accuracy"])),
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
    return section(fill("Training"), note, f"<div class=charts>{''.join(charts)}</div>", details)


def _accuracy(lines, mark):
    """Return the chart of the accuracy, where there is one."""
    if lines:
        yield line_chart(fill("Accuracy"), lines, fill("epoch"), numbers.percent_tick, False, mark)


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
    return section(fill("First-layer filters"), note, f"<div class=filters>{images}</div>")


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
    head = table_head(("layer", ""), ("at the start", "n"), ("at the end", "n"))
    caption = f"<caption>{fill('Median norm over the first and the last fifth of the run')}</caption>"
    table = f"<div class=scroll><table class=rows>{caption}{head}{''.join(rows)}</table></div>"
    return section(fill("Gradients"), note, f'<div class="two noisy">{chart}{table}</div>')


def _details(story):
    summary = escape(str(story.network.summary()))
    return section(
        fill("The experiment"),
        fill("What was trained; config.toml beside this file trains it again."),
        f"<details><summary>{fill('Layers')}</summary><pre>{summary}</pre></details>",
        f"<details><summary>{fill('Config')}</summary><pre>{escape(story.config_toml)}</pre></details>",
    )
