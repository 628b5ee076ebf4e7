"""Puts the site together, page by page."""

import shutil
import sys

from website import api, browser, chapters, course, landing, networks, notebooks, pyodide
from website.shell import LANGUAGES, Page, asset, palette, write
from website.text import prose


def build(root, out, data=None, draft=False, python=None):
    """Write the site into the folder ``out``; return how many pages it has.

    ``data`` and ``python`` are folders with data sets and with Pyodide's files, or None.
    """
    (out / "assets").mkdir()
    style = palette() + asset("style.css") + chapters.style() + notebooks.style()
    for name, text in (
        ("style.css", style),
        ("shell.js", asset("shell.js")),
        ("browser.js", asset("browser.js")),
        ("chapter.js", chapters.script()),
    ):
        (out / "assets" / name).write_text(text, encoding="utf-8")
    shutil.copytree(root / "data" / "pictures", out / "pictures")
    found = networks.build(root, out, data, draft)
    (out / "assets" / "live.js").write_text(landing.script(found.live), encoding="utf-8")
    carried, why = _python(root, out, python, draft)
    executed = notebooks.prepare(root, execute=not draft)
    api.build(out / "api")
    pages = []
    for language in LANGUAGES:
        texts = ("hour", "speed", "manual", "learning-rate", "readme")
        pages += [
            landing.page(language),
            *(Page(name, language, *prose(root, name, language)) for name in texts),
            networks.tour(language),
            networks.page(language, found),
            *chapters.pages(language),
            *course.pages(language),
            *notebooks.pages(executed, language),
            browser.page(language, carried, why),
            api.page(language),
        ]
    for page in pages:
        write(out, page)
    (out / "index.html").write_text(asset("entrance.html"), encoding="utf-8")
    return len(pages) + sum(1 for _ in (out / "api").rglob("*.html")) + len(found.pages) + 1


def _python(root, out, folder, draft):
    """Return (what `browser.build` returned, ""), or (None, why Pyodide is missing); a draft fetches nothing."""
    try:
        if folder is None and draft:
            raise pyodide.Missing("a draft")
        return browser.build(root, out, pyodide.read(folder) if folder else pyodide.obtain()), ""
    except pyodide.Missing as error:
        print(f"python.html runs nothing: {error}", file=sys.stderr)
        return None, str(error)
