"""Pictures of a run, drawn with matplotlib's Agg canvas: no display and no global state."""

import io
import math

from cnn.files import write_atomically

_TRAIN, _VALIDATION, _TEXT, _GRID = "#3b6fb6", "#d1602b", "#2b2b2b", "#e4e4e4"


def curves(path, history, title, best_epoch=None):
    """Draw loss and accuracy over the epochs side by side into the PNG file ``path``.

    ``history`` is a list of rows with the columns of metrics.csv; a validation value may be None, which
    draws nothing. ``best_epoch`` gets a mark.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=_TEXT, fontsize=13, x=0.01, ha="left")
    epochs = [row["epoch"] for row in history]
    panels = zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True)
    for axes, what in panels:
        for part, label, color in (("train", "training", _TRAIN), ("val", "validation", _VALIDATION)):
            values = [math.nan if (v := row[f"{part}_{what}"]) is None else v for row in history]
            if all(math.isnan(v) for v in values):
                continue
            marker = "o" if len(epochs) <= 30 else None
            axes.plot(epochs, values, color=color, linewidth=2, marker=marker, markersize=4, label=label)
            if best_epoch in epochs and part == "val":
                axes.plot(
                    best_epoch,
                    values[epochs.index(best_epoch)],
                    marker="o",
                    markersize=11,
                    markerfacecolor="none",
                    markeredgecolor=color,
                    markeredgewidth=1.8,
                    linestyle="none",
                    label=f"best: epoch {best_epoch}",
                )
        axes.set_title(what, loc="left", color=_TEXT, fontsize=11)
        axes.set_xlabel("epoch", color=_TEXT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9a9a9a")
        axes.tick_params(colors=_TEXT, length=3)
        if what == "loss":
            _log_scale_if_wide(axes, history)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if axes.has_data():
            axes.legend(frameon=False, labelcolor=_TEXT)
    _save(figure, path)


def lines(path, series, title, x_label, y_label, **axis):
    """Draw named lines into the PNG file ``path``.

    ``series`` is {name: (xs, ys)}, a y that is None draws nothing; ``axis`` holds what matplotlib's
    ``Axes.set`` takes: scales and limits.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, (xs, ys)), color in zip(series.items(), (_TRAIN, _VALIDATION, _TEXT), strict=False):
        axes.plot(xs, [math.nan if y is None else y for y in ys], color=color, label=name, linewidth=1.3)
    axes.set(xlabel=x_label, ylabel=y_label, **axis)
    axes.set_title(title, loc="left", fontsize=10, color=_TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID)
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png")
    write_atomically(path, buffer.getvalue())


def _log_scale_if_wide(axes, history):
    """A loss that falls a hundredfold is a flat line on a linear axis."""
    values = [row[key] for row in history for key in ("train_loss", "val_loss")]
    values = [v for v in values if v is not None and math.isfinite(v)]
    if values and min(values) > 0 and max(values) / min(values) > 20:
        axes.set_yscale("log")
