"""What ``compare_pytorch.py`` writes about its rows: a table and a plot of accuracy against minutes."""

import statistics

_NAMES = {"cnn": "cnn", "torch": "PyTorch"}
# told apart in black and white too: one line is solid and dark, the other dashed and light
_STYLES = {
    "cnn": {"color": "#1f4e9c", "linestyle": "-", "marker": "o"},
    "torch": {"color": "#e0812b", "linestyle": "--", "marker": "s"},
}
_TEXT, _GRID = "#2b2b2b", "#e4e4e4"


def write_report(folder, rows, title):
    """Write summary.md and curves.png for the rows (dicts of strings) of rows.csv."""
    runs = {}
    for row in rows:
        runs.setdefault(row["framework"], {}).setdefault(row["seed"], []).append(row)
    last = max(int(row["epoch"]) for row in rows)
    (folder / "summary.md").write_text("\n".join(_summary(runs, title, last)) + "\n", "utf-8")
    _plot(folder / "curves.png", runs, title)


def _numbers(ends, key, factor=1.0):
    return [factor * float(row[key]) for row in ends if row[key]]


def _clocks(runs):
    """Whether the seconds are those of the wall or of the processor."""
    every = (row for seeds in runs.values() for rows in seeds.values() for row in rows)
    return " and ".join(sorted({row["clock"] for row in every}))


def _mean_std(values, digits=2):
    """Like "90.73 ± 0.12", or a dash for nothing."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _summary(runs, title, last):
    """Yield the lines of the Markdown table; only runs that reached the last epoch count."""
    yield f"# {title}: cnn and PyTorch"
    yield ""
    yield "| | as | threads | seeds | epochs | test accuracy, % | with TTA, % | training loss | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    seconds = {}
    for framework, seeds in sorted(runs.items()):
        ends = [rows[-1] for rows in seeds.values() if int(rows[-1]["epoch"]) == last]
        seconds[framework] = _numbers(ends, "seconds")
        cells = [
            _NAMES[framework],
            ", ".join(sorted({row["variant"] for row in ends if row["variant"]})),
            ", ".join(sorted({row["threads"] for row in ends})),
            str(len(ends)),
            str(last),
            _mean_std(_numbers(ends, "test_accuracy", 100)),
            _mean_std(_numbers(ends, "tta_accuracy", 100)),
            _mean_std(_numbers(ends, "train_loss"), 4),
            _mean_std(seconds[framework], 1),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    if seconds.get("cnn") and seconds.get("torch"):
        ratio = statistics.fmean(seconds["cnn"]) / statistics.fmean(seconds["torch"])
        yield f"Time of cnn / time of PyTorch: {ratio:.2f}"
    yield "Mean ± standard deviation over the seeds that reached the last epoch;"
    yield f"seconds of training alone, {_clocks(runs)} time."


def _plot(path, runs, title):
    """Draw test accuracy against minutes of training: a thin line a seed, a thick one for their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for framework, seeds in sorted(runs.items()):
        style = _STYLES[framework]
        curves = [
            ([float(row["seconds"]) / 60 for row in rows], [float(row["test_accuracy"]) for row in rows])
            for rows in seeds.values()
        ]
        for x, y in curves:
            axes.plot(x, y, color=style["color"], linestyle=style["linestyle"], linewidth=0.7, alpha=0.5)
        shortest = min(len(x) for x, _ in curves)
        x, y = ([statistics.fmean(c[i][e] for c in curves) for e in range(shortest)] for i in (0, 1))
        count = f"{len(curves)} seeds" if len(curves) > 1 else "1 seed"
        label = f"{_NAMES[framework]}, {count}: {100 * y[-1]:.2f} % after {x[-1]:.1f} min"
        if views := _numbers([rows[-1] for rows in seeds.values()], "tta_accuracy", 100):
            label += f"\n({statistics.fmean(views):.2f} % with test-time augmentation)"
        axes.plot(x, y, linewidth=2.2, markersize=5, label=label, **style)
    axes.set_title(title, loc="left", color=_TEXT, fontsize=12)
    axes.set_xlabel(f"minutes of training ({_clocks(runs)} time)", color=_TEXT)
    axes.set_ylabel("test accuracy", color=_TEXT)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_TEXT, length=3)
    axes.legend(frameon=False, labelcolor=_TEXT, loc="lower right")
    figure.savefig(path, dpi=150, format="png")
