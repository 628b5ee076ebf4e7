"""Pieces of the page that its chapters share."""

from dataclasses import dataclass
from html import escape

import numpy as np

from cnn.language import fill


@dataclass(frozen=True, eq=False)
class Story:
    """What a report is made of.

    ``history`` are the rows of metrics.csv, ``gradients`` rows [epoch, norm of each layer ...], ``result``
    what result.json holds, ``test`` the test images. ``answers`` are those to them and ``labels`` what is
    right, both as ``cnn.targets`` has them for ``targets``.
    """

    name: str
    dataset: str
    classes: tuple
    history: list
    gradients: list
    result: dict
    network: object
    test: object
    answers: np.ndarray
    config_toml: str
    label_smoothing: float = 0.0
    labels: np.ndarray | None = None
    targets: str = "classes"

    def __post_init__(self):
        if self.labels is None:
            object.__setattr__(self, "labels", self.test.labels)


def section(title, note, *content):
    """Return a chapter: heading, note and content (HTML)."""
    return f"<section><h2>{title}</h2><p class=soft>{note}</p>{''.join(content)}</section>"


def table_head(*columns):
    """Return the head of a table from (title, class) of each column; the class "n" is that of numbers."""
    cells = (f"<th{kind and f' class={kind}'}>{fill(title)}</th>" for title, kind in columns)
    return f"<tr>{''.join(cells)}</tr>"


def name_of(split, i):
    """Return what an image is called in the report: its file, or its number."""
    return fill("image {i}", i=i) if split.names is None else escape(split.name(i))


def tile(split, i, url, caption):
    """Return a figure of image ``i`` with a caption (HTML)."""
    alt = fill("test image {i}", i=i)
    return f'<figure><img alt="{alt}" src="{url}"><figcaption>{caption}</figcaption></figure>'


def table(columns, rows):
    """Return a table that may be wider than the page; ``columns`` as for ``table_head``, ``rows`` of HTML."""
    return f"<div class=scroll><table class=rows>{table_head(*columns)}{''.join(rows)}</table></div>"
