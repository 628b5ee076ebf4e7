"""What a search found: sweep.csv, sweep.md and sweep.html."""

import csv
import io
import math
from html import escape

from cnn.files import write_atomically
from cnn.language import current, fill
from cnn.report.charts import Line, line_chart
from cnn.report.style import CSS

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 1000, 380, 54, 24, 80


def write(study, folder, config):
    """Write the tables and the page of the trials that are finished so far."""
    trials = [trial for trial in study.trials() if trial.state.is_finished()]
    keys, metric = list(config.sweep.space), config.sweep.metric
    rows = [_row(trial, keys, metric) for trial in trials]
    better = -1 if metric == "val_accuracy" else 1
    ranked = sorted(rows, key=lambda row: (row[metric] is None, better * (row[metric] or 0)))
    write_atomically(folder / "sweep.csv", _csv(rows, keys, metric).encode())
    write_atomically(folder / "sweep.md", _markdown(config.name, ranked, keys, metric).encode())
    page = _page(config, ranked, rows, keys, metric, study.importances())
    write_atomically(folder / "sweep.html", page.encode("utf-8", "backslashreplace"))


def _row(trial, keys, metric):
    """Return the columns of one trial; of a pruned one the metric is that of its last epoch."""
    result = trial.user_attrs.get("result", {})
    value = trial.value
    if value is None and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    if trial.state.name == "FAIL":
        value = None
    return {
        "trial": trial.number,
        "state": {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name],
        metric: value,
        **{key: trial.params.get(key) for key in keys},
        "epochs": len(trial.intermediate_values),
        "test_accuracy": result.get("test_accuracy"),
        "seconds": result.get("seconds"),
        "attempts": trial.user_attrs.get("attempts", 1),
        "failed": trial.user_attrs.get("failed"),
    }


def _csv(rows, keys, metric):
    text = io.StringIO()
    columns = ["trial", "state", metric, *keys, "epochs", "test_accuracy", "seconds", "attempts", "failed"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(row, keys, metric):
    numbers = [_show(row[key]) for key in keys]
    return [str(row["trial"]), row["state"], _score(row[metric], metric), *numbers, str(row["epochs"])]


def _markdown(name, ranked, keys, metric):
    header = ["trial", "state", _title(metric), *keys, "epochs"]
    lines = [f"# {name}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in ranked:
        cells = (cell.replace("|", "/") for cell in _cells(row, keys, metric))
        lines.append(f"| {' | '.join(cells)} |")
    counts = {s: sum(r["state"] == s for r in ranked) for s in ("complete", "pruned", "failed")}
    lines += ["", f"{len(ranked)} trials: " + ", ".join(f"{n} {s}" for s, n in counts.items()) + ".", ""]
    return "\n".join(lines)


def _title(metric):
    return "validation accuracy, %" if metric == "val_accuracy" else "validation loss"


def _score(value, metric):
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if metric == "val_accuracy" else f"{value:.4f}"


def _show(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _page(config, ranked, rows, keys, metric, importances):
    """Return sweep.html: importance, parallel coordinates, the course of the search, the table."""
    parts = [f"<section><h2>{fill('Which keys matter')}</h2>{_importance(importances)}</section>"]
    drawn = [row for row in rows if row[metric] is not None]
    if drawn:
        picture = _parallel(drawn, config.sweep.space, metric)
        note = fill("One line a trial, the better the stronger; the best in green, pruned ones dashed.")
        parts.append(
            f"<section><h2>{fill('Parallel coordinates')}</h2>{picture}<p class=soft>{note}</p></section>"
            f"<section><h2>{fill('Course')}</h2>"
            f"<div style='max-width:520px'>{_course(rows, metric)}</div></section>"
        )
    columns = [fill("trial"), fill("state"), fill(_title(metric)), *keys, fill("epochs")]
    header = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td class=n>{escape(cell)}</td>" for cell in _cells(row, keys, metric)) + "</tr>"
        for row in ({**row, "state": fill(row["state"])} for row in ranked)
    )
    table = f"<div class=scroll><table class=rows><tr>{header}</tr>{body}</table></div>"
    parts.append(f"<section><h2>{fill('Trials')}</h2>{table}</section>")
    title = escape(fill("{name}: {n} trials", name=config.name, n=len(rows)))
    language = "zh-CN" if current() == "zh" else "en"
    return (
        f"<!doctype html><html lang={language}><meta charset=utf-8>"
        f'<meta name=viewport content="width=device-width"><title>{title}</title><style>{CSS}</style>'
        f"<main><h1>{title}</h1>{''.join(parts)}</main></html>\n"
    )


def _importance(importances):
    if not importances:
        return f"<p class=soft>{fill('Too few finished trials that differ.')}</p>"
    height, parts = 26, []
    for k, (key, share) in enumerate(importances.items()):
        y = k * height
        parts.append(
            f"<text x=250 y={y + 17} text-anchor=end>{escape(key)}</text>"
            f'<rect x=260 y={y + 5} width={max(1, 560 * share):.1f} height=16 fill="var(--train)" />'
            f"<text x={268 + 560 * share:.1f} y={y + 17}>{100 * share:.0f} %</text>"
        )
    told = ", ".join(f"{key} {100 * share:.0f} %" for key, share in importances.items())
    note = fill("Share of the difference between the best tenth of the trials and all (PED-ANOVA).")
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {height * len(importances)}" role=img '
        f'aria-label="{escape(told)}">{"".join(parts)}</svg><figcaption>{note}</figcaption></figure>'
    )


def _parallel(rows, space, metric):
    """Return the parallel coordinates: an axis for each key and one for the metric."""
    axes = [(key, _scale(rows, key, space[key])) for key in space]
    values = [row[metric] for row in rows]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    axes.append((fill(_title(metric)), lambda row: (row[metric] - low) / span))
    ends = [_ends(space[key]) for key in space] + [(_score(low, metric), _score(high, metric))]
    gap = (_WIDTH - 2 * _SIDE) / max(1, len(axes) - 1)
    parts = []
    for k, (name, _) in enumerate(axes):
        x = _SIDE + k * gap
        parts.append(
            f"<line class=axis x1={x:.1f} x2={x:.1f} y1={_TOP} y2={_HEIGHT - _BOTTOM} />"
            f"<text x={x:.1f} y={14 if k % 2 == 0 else 30} text-anchor=middle>{escape(name)}</text>"
            f"<text x={x:.1f} y={_TOP - 6} text-anchor=middle>{escape(ends[k][1])}</text>"
            f"<text x={x:.1f} y={_HEIGHT - 8} text-anchor=middle>{escape(ends[k][0])}</text>"
        )
    better = 1 if metric == "val_accuracy" else -1
    order = sorted(rows, key=lambda row: better * row[metric])
    for rank, row in enumerate(order):
        points = []
        for k, (_, place) in enumerate(axes):
            y = _HEIGHT - _BOTTOM - place(row) * (_HEIGHT - _TOP - _BOTTOM)
            points.append(f"{_SIDE + k * gap:.1f},{y:.1f}")
        best = rank == len(order) - 1
        color = "--good" if best else "--train"
        strength = 1 if best else 0.15 + 0.6 * rank / max(1, len(order) - 1)
        dash = ' stroke-dasharray="6 5"' if row["state"] == "pruned" else ""
        parts.append(
            f'<polyline points="{" ".join(points)}" stroke="var({color})" opacity={strength:.2f}{dash}>'
            f"<title>{fill('trial {k}', k=row['trial'])}: {_score(row[metric], metric)}</title></polyline>"
        )
    told = fill("{n} trials over {keys}", n=len(rows), keys=", ".join(space))
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{escape(told)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _scale(rows, key, dimension):
    """Return the function row -> height 0 to 1 on the axis of a key."""
    if dimension.choices is not None:
        from cnn.tuning.space import toml_value

        place = {toml_value(choice): k for k, choice in enumerate(dimension.choices)}
        return lambda row: place.get(row[key], 0) / (len(place) - 1)
    forward = math.log if dimension.log else float
    low, high = forward(dimension.low), forward(dimension.high)
    return lambda row: (forward(row[key]) - low) / (high - low)


def _ends(dimension):
    if dimension.choices is not None:
        return str(dimension.choices[0]), str(dimension.choices[-1])
    return _show(dimension.low), _show(dimension.high)


def _course(rows, metric):
    pick, best, points = (max if metric == "val_accuracy" else min), None, []
    for row in rows:
        if row[metric] is not None:
            best = row[metric] if best is None else pick(best, row[metric])
        points.append((row["trial"], best))
    each = Line(fill("a trial"), [(row["trial"], row[metric]) for row in rows], "var(--soft)", dashed=True)
    lines = [each, Line(fill("the best so far"), points, "var(--good)")]
    return line_chart(fill(_title(metric)), lines, fill("trial"), lambda y: _score(y, metric))
