"""Line charts as PNG files, drawn with Pillow: the curves of a run, and losses side by side."""

import io
import math

from cnn.files import write_atomically
from cnn.report import numbers
from cnn.report.charts import log_ticks, ticks_between, whole_ticks

_TRAIN, _VALIDATION, _TEXT, _GRID, _AXIS = "#3b6fb6", "#d1602b", "#2b2b2b", "#e4e4e4", "#9a9a9a"
_FINE = 3  # drawn so many times larger, then shrunk: smooth lines
_BAND = 72  # rows at a time: all of it in one piece is 30 MB, which the process would never give back
_SIZE = 15  # of letters, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 58, 52
_MARKED = 30  # epochs up to which each has a dot


def curves(path, history, title, best_epoch=None):
    """Draw loss and accuracy, where there is one, over the epochs side by side into the PNG file ``path``.

    ``history`` is a list of rows with the columns of metrics.csv; a validation value may be None, which
    draws nothing. ``best_epoch`` gets a mark.
    """
    epochs, panels = [row["epoch"] for row in history], []
    told = ("loss", "accuracy") if any(row["train_accuracy"] is not None for row in history) else ("loss",)
    for what in told:
        series = {
            label: (epochs, [row[f"{part}_{what}"] for row in history])
            for part, label in (("train", "training"), ("val", "validation"))
        }
        log = what == "loss" and _is_wide(series)
        ring = next((row[f"val_{what}"] for row in history if row["epoch"] == best_epoch), None)
        y_format = numbers.short if what == "loss" else numbers.percent_tick
        mark = None if ring is None else (best_epoch, ring)
        panels.append(_Panel(what, series, "epoch", y_format, log, mark))
    _draw(path, panels, title, (715, 546))


def lines(path, series, title, x_label, y_label, ylim=None):
    """Draw named lines into the PNG file ``path``.

    ``series`` is {name: (xs, ys)}, a y that is None or not finite draws nothing; ``ylim`` (low, high) cuts
    off what is beyond.
    """
    panel = _Panel(y_label, series, x_label, numbers.short, limits=ylim)
    _draw(path, [panel], title, (1040, 520))


class _Panel:
    """One pair of axes with its lines."""

    def __init__(self, title, series, x_label, y_format, log=False, ring=None, limits=None):
        self.title, self.x_label, self.y_format, self.ring = title, x_label, y_format, ring
        self.series = {name: _points(xs, ys, log) for name, (xs, ys) in series.items()}
        everything = [p for points in self.series.values() for p in points if p is not None] or [
            (0, 0),
            (1, 1),
        ]
        xs, ys = [x for x, _ in everything], [y for _, y in everything]
        self.x0, self.x1 = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
        self.forward = math.log if log else float
        low, high = (min(ys), max(ys)) if limits is None else limits
        self.ticks = (log_ticks if log else ticks_between)(low, high)
        self.y0, self.y1 = self.forward(self.ticks[0]), self.forward(self.ticks[-1])

    def draw(self, pen, left, width, height):
        """Draw into the part of the picture that begins at ``left``."""
        x_at, y_at = (left + _LEFT, left + width - _RIGHT), (height - _BOTTOM, _TOP)

        def place(x, y):
            y = min(max(self.forward(y), self.y0), self.y1)
            across = (x - self.x0) / (self.x1 - self.x0)
            up = (y - self.y0) / (self.y1 - self.y0)
            return x_at[0] + across * (x_at[1] - x_at[0]), y_at[0] + up * (y_at[1] - y_at[0])

        for y in self.ticks:
            at = place(self.x0, y)[1]
            pen.line([(x_at[0], at), (x_at[1], at)], _GRID, 1)
            pen.text((x_at[0] - 8, at), self.y_format(y), "rm")
        for x in whole_ticks(self.x0, self.x1):
            pen.text((place(x, self.ticks[0])[0], y_at[0] + 8), f"{x:g}", "mt")
        pen.line([(x_at[0], y_at[0]), (x_at[1], y_at[0])], _AXIS, 1.2)
        pen.line([(x_at[0], y_at[0]), (x_at[0], y_at[1])], _AXIS, 1.2)
        pen.text(((x_at[0] + x_at[1]) / 2, height - 10), self.x_label, "ms")
        pen.text((x_at[0], _TOP - 12), self.title, "ls")
        across = x_at[1]
        for (name, points), color in reversed(list(zip(self.series.items(), _COLORS, strict=False))):
            if not any(points):
                continue
            self._line(pen, points, color, place)
            across -= pen.width(name) + 40
            pen.line([(across, _TOP - 17), (across + 22, _TOP - 17)], color, 3)
            pen.text((across + 28, _TOP - 12), name, "ls")
        if self.ring is not None:
            pen.ring(place(*self.ring), 8, _VALIDATION)

    def _line(self, pen, points, color, place):
        run = []
        for point in [*points, None]:
            if point is not None:
                run.append(place(*point))
                continue
            if len(run) > 1:
                pen.line(run, color, 2)
            if len(run) == 1 or len(points) <= _MARKED:
                for at in run:
                    pen.dot(at, 3, color)
            run = []


_COLORS = (_TRAIN, _VALIDATION, _TEXT)


class _Pen:
    """Draws in pixels of the final picture on a band of it that is _FINE times larger."""

    def __init__(self, font, band, top):
        from PIL import ImageDraw

        self._font, self._draw, self._top = font, ImageDraw.Draw(band), top

    def line(self, points, color, width):
        self._draw.line([self._fine(p) for p in points], color, round(width * _FINE), joint="curve")

    def dot(self, at, radius, color):
        self._draw.ellipse(self._box(at, radius), color)

    def ring(self, at, radius, color):
        self._draw.ellipse(self._box(at, radius), outline=color, width=2 * _FINE)

    def text(self, at, text, anchor):
        self._draw.text(self._fine(at), text, _TEXT, self._font, anchor)

    def width(self, text):
        return self._draw.textlength(text, self._font) / _FINE

    def _box(self, at, radius):
        ends = (at[0] - radius, at[1] - radius), (at[0] + radius, at[1] + radius)
        return [number for end in ends for number in self._fine(end)]

    def _fine(self, point):
        return point[0] * _FINE, (point[1] - self._top) * _FINE


def _draw(path, panels, title, size):
    from PIL import Image, ImageFont

    width, height = size[0], size[1] + 30
    image, font = Image.new("RGB", (width * len(panels), height)), ImageFont.load_default(_SIZE * _FINE)
    for top in range(0, height, _BAND):
        band = Image.new("RGB", (image.width * _FINE, min(_BAND, height - top) * _FINE), "white")
        pen = _Pen(font, band, top)
        for number, panel in enumerate(panels):
            panel.draw(pen, number * width, width, height)
        pen.text((16, 24), title, "ls")
        image.paste(band.reduce(_FINE), (0, top))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def _points(xs, ys, log):
    """Return (x, y) pairs, None for what cannot be drawn."""
    return [
        (x, y) if y is not None and math.isfinite(y) and (y > 0 or not log) else None
        for x, y in zip(xs, ys, strict=True)
    ]


def _is_wide(series):
    """A loss that falls a hundredfold is a flat line on a linear axis."""
    values = [y for _, ys in series.values() for y in ys if y is not None and math.isfinite(y)]
    return bool(values) and min(values) > 0 and max(values) / min(values) > 20
