"""Figures of a report and how they are written."""

import math

import numpy as np

from cnn.language import fill


def interval(share, count):
    """Return Wilson's 95 % interval of a share of ``count`` images."""
    z = 1.96
    middle, width = (
        share + z * z / (2 * count),
        z * math.sqrt((share * (1 - share) + z * z / (4 * count)) / count),
    )
    return (middle - width) / (1 + z * z / count), (middle + width) / (1 + z * z / count)


def pairs(confusion):
    """Return (count, label, answer) of the mistakes, the most frequent first."""
    off = np.argwhere((confusion > 0) & ~np.eye(len(confusion), dtype=bool))
    return sorted(((int(confusion[k, j]), int(k), int(j)) for k, j in off), key=lambda t: (-t[0], t[1:]))


def percent(share):
    """Return a share as per cent with one decimal."""
    return f"{100 * share:.1f} %"


def percent_tick(share):
    """Return a share as per cent with the decimals that it needs: a tick of an axis."""
    return f"{100 * share:.6g} %"


def short(value):
    """Return a number with four digits."""
    return f"{value:.4g}"


def power(value):
    """Return a number, beyond 0.001 to 10,000 as a power of ten."""
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def middle(values):
    """Return the median, to three digits."""
    return float(f"{float(np.median(values)):.3g}")


def cell(value):
    """Return a number of a table with four digits; None leaves the cell empty."""
    return "" if value is None else f"{value:.4g}"


def seconds(time):
    """Return a time in seconds as seconds, minutes or hours."""
    if time < 120:
        return fill("{t} s", t=f"{time:.1f}")
    if time < 7200:
        return fill("{t} min", t=f"{time / 60:.1f}")
    return fill("{t} h", t=f"{time / 3600:.1f}")
