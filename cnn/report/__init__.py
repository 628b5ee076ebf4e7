"""The report of a finished run: one HTML file that needs nothing else, no network and no script."""

from cnn.report.page import render
from cnn.report.parts import Story

__all__ = ["Story", "render", "write"]


def write(path, story, language=None):
    """Write the report of a ``Story`` to ``path``, in ``language`` as for ``render``."""
    from cnn.files import write_atomically

    write_atomically(path, render(story, language).encode())
