"""The notebooks as pages: executed once, shown with English or Chinese texts."""

import copy
import os
import re
from html import escape

from website.shell import WORDS, Page
from website.text import coloured, markdown

_INDEX = {
    "en": (
        "Notebooks",
        "Four sittings, each of them runs from its first cell to its last in about a minute. The files are in "
        "<code>scripts/notebooks/</code>; they need <code>pip install '.[notebooks]'</code>.",
    ),
    "zh": (
        "笔记本",
        "四次课，每一本从头运行到尾大约一分钟。文件在 <code>scripts/notebooks/</code>，"
        "需要 <code>pip install '.[notebooks]'</code>。",
    ),
}


def prepare(root, execute=True):
    """Return {name: notebook}, executed unless asked not to."""
    import nbformat

    found = {}
    for path in sorted((root / "scripts" / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if execute:
            _execute(notebook, root)
        found[path.stem] = notebook
    return found


def _execute(notebook, root):
    import tempfile

    from nbclient import NotebookClient

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        quiet = ["--IPKernelApp.log_level=40"]  # errors only
        client = NotebookClient(
            notebook, timeout=900, resources=resources, coalesce_streams=True, extra_arguments=quiet
        )
        client.execute(env=environment)


def style(place="pre.code"):
    """Return the colours of code inside of ``place``."""
    from pygments.formatters import HtmlFormatter

    other = re.compile(rf"{re.escape(place)}(\s*\{{| \.hll)|td|span|pre \{{")
    light, dark = (
        [
            line
            for line in HtmlFormatter(style=name).get_style_defs(place).splitlines()
            if not other.match(line)
        ]
        for name in ("default", "github-dark")
    )
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}\n"])


def pages(found, language):
    """Yield the index and a page for each notebook."""
    titles = {name: _title(notebook, language) for name, notebook in found.items()}
    title, lead = _INDEX[language]
    items = "".join(
        f'<li><a href="{name}.html"><strong>{escape(titles[name])}</strong><span>{_lead(found[name], language)}'
        "</span></a></li>"
        for name in found
    )
    body = f'<article class="prose"><h1>{title}</h1><p class="lead">{lead}</p><ol class="cards">{items}</ol></article>'
    yield Page("notebooks/index", language, title, body)
    names = list(found)
    for k, name in enumerate(names):
        body = f'<article class="prose notebook">{_body(found[name], language)}{_ways(names, titles, k, language)}</article>'
        yield Page(f"notebooks/{name}", language, titles[name], body)


def _ways(names, titles, k, language):
    words, links = WORDS[language], []
    for step, word in ((-1, "previous"), (1, "next")):
        if 0 <= k + step < len(names):
            other = names[k + step]
            links.append(f'<a href="{other}.html">{words[word]}{escape(titles[other])}</a>')
    return f'<nav class="ways" aria-label="{words["next"].rstrip(": ：")}">{"".join(links)}</nav>'


def _text(cell, language):
    return "".join(cell.metadata["zh"]) if language == "zh" else cell.source


def _title(notebook, language):
    return re.search(r"^# (.+)$", _text(notebook.cells[0], language), re.M)[1]


def _lead(notebook, language):
    html = markdown(_text(notebook.cells[0], language).split("\n\n")[1])
    return re.sub(r"</?p>", "", html)


def _body(notebook, language):
    parts = []
    for cell in copy.deepcopy(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(markdown(_text(cell, language)))
            continue
        parts.append(f'<div class="cell">{coloured(cell.source)}')
        parts += [_output(output) for output in cell.outputs]
        parts.append("</div>")
    return "\n".join(parts)


def _output(output):
    if output.output_type == "stream":
        text = output.text if output.name == "stdout" else ""
    elif "text/html" in output.get("data", {}):
        inside = output.data["text/html"].replace("<pre>", '<pre tabindex="0">')  # it may scroll
        return f'<div class="output" tabindex="0">{inside}</div>'
    else:
        text = output.get("data", {}).get("text/plain", "")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return f'<pre class="output" tabindex="0">{escape(text)}</pre>' if text.strip() else ""
