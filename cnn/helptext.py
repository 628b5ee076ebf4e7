"""The help of the commands in the reader's language, wrapped by the columns that characters take."""

import argparse
import re

from cnn.language import current, phrase, width

__all__ = ["localise", "wrapped"]

# White space, a run of other letters, or one Chinese character; a string, since English help never needs it.
_PIECE = r"\s+|[^\s\u2e80-\uffef]+|."
_NEVER_FIRST = "，。；：、！？）》”’…"


def localise(parser):
    """Turn all texts of a parser into the current language."""
    if current() == "en":
        return
    parser.formatter_class = _Formatter
    parser.description = phrase(parser.description or "")
    for group in parser._action_groups:
        group.title = phrase(group.title or "")
    for action in parser._actions:
        if action.help and action.help != argparse.SUPPRESS:
            action.help = phrase(action.help)


def wrapped(text: str, columns: int) -> list[str]:
    """Return the lines of a text: broken at spaces and beside Chinese characters, marks never first."""
    lines, line = [], ""
    for piece in re.findall(_PIECE, " ".join(text.split())):
        if line and width(line + piece.rstrip()) > columns and piece not in _NEVER_FIRST:
            lines.append(line.rstrip())
            line = ""
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()] if line.strip() else lines


class _Formatter(argparse.HelpFormatter):
    """Wraps by columns instead of characters."""

    def _split_lines(self, text, width):
        return wrapped(text, width)

    def _fill_text(self, text, width, indent):
        return "\n".join(indent + line for line in wrapped(text, width - len(indent)))

    def _format_usage(self, usage, actions, groups, prefix):
        prefix = phrase("usage: ") if prefix is None else prefix
        taken = width(prefix) - len(prefix)  # columns of which argparse does not know
        self._width -= taken
        text = super()._format_usage(usage, actions, groups, prefix)
        self._width += taken
        return text
