"""What a report says of numbers: how far they are off, each beside what is right, the largest errors."""

from html import escape

import numpy as np

from cnn.language import fill
from cnn.metrics import number_scores
from cnn.report import numbers, pictures
from cnn.report.charts import scatter_chart
from cnn.report.parts import name_of, section, table, tile

_TILES, _CHARTS, _POINTS = 24, 6, 500


def facts(story):
    """Yield (name, number, remark) of what stands at the top."""
    r = story.result
    yield fill("test MAE"), numbers.short(r["test_mae"]), fill("mean absolute error")
    yield fill("test R2"), f"{r['test_r2']:.4f}", fill("1 is right, 0 is as good as the mean")


def observations(story):
    """Return sentences (HTML) about what stands out."""
    if len(story.classes) > 1:
        r2 = np.nan_to_num(number_scores(story.labels, story.answers)[2])
        worst = escape(story.classes[int(r2.argmin())])
        yield fill("Least well told is <b>{name}</b>, with R2 {r2}.", name=worst, r2=f"{r2.min():.3f}")


def sections(story):
    """Return the chapters (HTML)."""
    return [_told(story), _mistakes(story)]


def _told(story):
    scores, rows, charts = np.stack(number_scores(story.labels, story.answers), axis=1), [], []
    for k, name in enumerate(story.classes):
        cells = "".join(f"<td class=n>{numbers.short(v) if v == v else '-'}</td>" for v in scores[k])
        low, high = story.labels[:, k].min(), story.labels[:, k].max()
        span = fill("{low} to {high}", low=numbers.short(low), high=numbers.short(high))
        rows.append(f"<tr><td>{escape(name)}</td><td class=n>{span}</td>{cells}</tr>")
    shown = np.linspace(0, len(story.labels) - 1, min(_POINTS, len(story.labels))).astype(int)
    for k, name in enumerate(story.classes[:_CHARTS]):
        points = list(zip(story.labels[shown, k].tolist(), story.answers[shown, k].tolist(), strict=True))
        charts.append(scatter_chart(name, points, fill("right"), fill("told")))
    columns = ("number", ""), ("range", "n"), ("MAE", "n"), ("RMSE", "n"), ("R2", "n")
    note = fill(
        "On the test images. MAE: mean absolute error; RMSE: root of the mean square; R2: 1 less the share "
        "of the spread that is left. On the line both are equal."
    )
    return section(fill("Numbers"), note, f"<div class=charts>{''.join(charts)}</div>", table(columns, rows))


def _mistakes(story):
    """The images that are furthest off, in units of each number's spread."""
    spread = np.where(story.labels.std(axis=0) > 0, story.labels.std(axis=0), 1)
    off = (np.abs(story.answers - story.labels) / spread).max(axis=1)
    tiles = []
    for i in np.argsort(-off, kind="stable")[:_TILES]:
        k = int((np.abs(story.answers[i] - story.labels[i]) / spread).argmax())
        caption = fill(
            "<b>{name} {right}</b>, not {told}<br><span>{file}</span>",
            name=escape(story.classes[k]),
            right=numbers.short(story.labels[i, k]),
            told=numbers.short(story.answers[i, k]),
            file=name_of(story.test, i),
        )
        tiles.append(tile(story.test, i, pictures.image_png(story.test.images[i]), caption))
    note = fill("The test images that are furthest off. Bold: what is right.")
    return section(fill("Largest errors"), note, f"<div class=sheet>{''.join(tiles)}</div>")
