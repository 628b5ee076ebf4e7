"""Tables for notebooks: what ``_repr_html_`` returns."""

from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["html_table"]


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> str:
    """Return an HTML table of plain values; numbers stand to the right. ``title`` is its caption."""
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    head = "".join(f'<th style="text-align:left">{escape(str(cell))}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    """Return a cell; a string that begins with ``<img`` is one already."""
    if isinstance(value, str) and value.startswith("<img"):
        return f"<td>{value}</td>"
    side = "right" if isinstance(value, (int, float)) else "left"
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return f'<td style="text-align:{side}">{escape(shown)}</td>'
