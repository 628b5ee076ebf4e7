"""Line charts as SVG whose colours follow the page's colour scheme."""

import math
from dataclasses import dataclass
from html import escape

from cnn.language import fill

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 34


@dataclass(frozen=True)
class Line:
    """One line: points (x, y), where y may be None or not finite (a gap); ``color`` is any CSS colour."""

    label: str
    points: list
    color: str
    dashed: bool = False


def line_chart(title, lines, x_label, y_format, log=False, mark=None):
    """Return a figure: heading, SVG and legend.

    Parameters
    ----------
    y_format : function
        Number -> text of a tick.
    log : bool
        Logarithmic y axis; values that are not positive are left out.
    mark : (x, y), optional
        A point to ring.
    """
    lines = [_clean(line, log) for line in lines]
    points = [p for line in lines for p in line.points if p[1] is not None]
    if not points:
        return f"<figure><h3>{escape(title)}</h3><p class=soft>{fill('Nothing was recorded.')}</p></figure>"
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    x0, x1 = (x0 - 0.5, x1 + 0.5) if x0 == x1 else (x0, x1)
    ticks = (log_ticks if log else ticks_between)(min(y for _, y in points), max(y for _, y in points))
    forward = math.log if log else float
    low, high = forward(ticks[0]), forward(ticks[-1])

    def place(x, y):
        across = (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)
        up = (forward(y) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{_LEFT + across:.1f}", f"{_HEIGHT - _BOTTOM - up:.1f}"

    parts = []
    for y in ticks:
        _, at = place(x0, y)
        parts.append(f"<line class=grid x1={_LEFT} x2={_WIDTH - _RIGHT} y1={at} y2={at} />")
        parts.append(f'<text x={_LEFT - 7} y={at} dy=".35em" text-anchor=end>{escape(y_format(y))}</text>')
    for x in whole_ticks(x0, x1):
        at, _ = place(x, ticks[0])
        parts.append(f"<text x={at} y={_HEIGHT - _BOTTOM + 17} text-anchor=middle>{x:g}</text>")
    bottom = _HEIGHT - _BOTTOM
    parts.append(f"<line class=axis x1={_LEFT} x2={_WIDTH - _RIGHT} y1={bottom} y2={bottom} />")
    parts.append(f"<text x={_WIDTH - _RIGHT} y={_HEIGHT - 2} text-anchor=end>{escape(x_label)}</text>")
    for line in lines:
        parts += _draw(line, place)
    if mark is not None:
        x, y = place(*mark)
        parts.append(f'<circle cx={x} cy={y} r=6.5 fill=none stroke="var(--ink)" stroke-width=1.6 />')
    ends = [(line.label, [y for _, y in line.points if y is not None]) for line in lines]
    told = "; ".join(
        fill("{line}: {first} to {last}", line=label, first=y_format(ys[0]), last=y_format(ys[-1]))
        for label, ys in ends
        if ys
    )
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{escape(f"{title}. {told}")}">'
        f"{''.join(parts)}</svg>{_legend(lines)}</figure>"
    )


def scatter_chart(title, points, x_label, y_label):
    """Return a figure of points (x, y) on axes of one scale, with the line on which both are equal."""
    points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    values = [v for p in points for v in p] or [0, 1]
    ticks = ticks_between(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def place(x, y):
        across, up = ((v - low) / (high - low) for v in (x, y))
        x, y = across * (_WIDTH - _LEFT - _RIGHT), up * (_HEIGHT - _TOP - _BOTTOM)
        return f"{_LEFT + x:.1f}", f"{_HEIGHT - _BOTTOM - y:.1f}"

    parts = []
    for tick in ticks:
        across, up = place(tick, tick)
        parts.append(f"<line class=grid x1={_LEFT} x2={_WIDTH - _RIGHT} y1={up} y2={up} />")
        parts.append(f'<text x={_LEFT - 7} y={up} dy=".35em" text-anchor=end>{tick:g}</text>')
        parts.append(f"<text x={across} y={_HEIGHT - _BOTTOM + 17} text-anchor=middle>{tick:g}</text>")
    ends = place(low, low), place(high, high)
    parts.append(f"<line class=axis x1={ends[0][0]} y1={ends[0][1]} x2={ends[1][0]} y2={ends[1][1]} />")
    for x, y in points:
        at = place(x, y)
        parts.append(f'<circle cx={at[0]} cy={at[1]} r=2.2 fill="var(--val)" fill-opacity=.55 />')
    names = escape(f"{y_label} / {x_label}")
    parts.append(f"<text x={_WIDTH - _RIGHT} y={_HEIGHT - 2} text-anchor=end>{names}</text>")
    told = escape(fill("{title}: {n} images", title=title, n=len(points)))
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{told}">{"".join(parts)}</svg></figure>'
    )


def _clean(line, log):
    """Turn what cannot be drawn into gaps."""
    points = [
        (x, y if y is not None and math.isfinite(y) and (y > 0 or not log) else None) for x, y in line.points
    ]
    return Line(line.label, points, line.color, line.dashed)


def _draw(line, place):
    """Return polylines between the gaps; a point that stands alone becomes a dot."""
    runs, parts = [[]], []
    for x, y in line.points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append(place(x, y))
    dash = ' stroke-dasharray="6 5"' if line.dashed else ""
    for run in filter(None, runs):
        if len(run) == 1:
            parts.append(f'<circle cx={run[0][0]} cy={run[0][1]} r=3 fill="{line.color}" />')
        else:
            path = " ".join(map(",".join, run))
            parts.append(f'<polyline points="{path}" stroke="{line.color}"{dash} />')
    return parts


def _legend(lines):
    if len(lines) < 2:
        return ""
    items = []
    for line in lines:
        dash = ' stroke-dasharray="6 5"' if line.dashed else ""
        key = f'<line x1=1 x2=25 y1=5 y2=5 stroke="{line.color}" stroke-width=2.4{dash} />'
        items.append(f'<li><svg viewBox="0 0 26 10" aria-hidden=true>{key}</svg>{escape(line.label)}</li>')
    return f"<ul class=legend>{''.join(items)}</ul>"


def ticks_between(low, high):
    """Return about five round numbers from at or below ``low`` to at or above ``high``."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def log_ticks(low, high):
    """Return powers of ten around the range, with 2 and 5 between them when it is short."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    stride = math.ceil((last - first) / 6) or 1
    ticks = [m * 10.0**e for e in range(first - 1, last + 2) for m in steps if (e - first) % stride == 0]
    below = [t for t in ticks if t <= low * 1.0001] or ticks[:1]
    above = [t for t in ticks if t >= high * 0.9999] or ticks[-1:]
    chosen = [t for t in ticks if below[-1] <= t <= above[0]]
    return chosen if len(chosen) > 1 else [below[-1], above[0] * (10 if above[0] == below[-1] else 1)]


def whole_ticks(low, high):
    """Return at most eight whole numbers inside the range."""
    first, last = math.ceil(low), math.floor(high)
    for step in (m * 10**e for e in range(9) for m in (1, 2, 5)):
        if (last - first) / step <= 7:
            break
    return [x for x in range(first, last + 1) if x % step == 0 or first == last]
