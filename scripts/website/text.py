"""Markdown into HTML."""

import re
from html import unescape

import mistune
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from website.shell import HERE


class _Renderer(mistune.HTMLRenderer):
    """Headings with anchors, coloured code, tables that may scroll."""

    def heading(self, text, level, **_):
        return f'<h{level} id="{slug(text)}">{text}</h{level}>\n'

    def block_code(self, code, info=None):
        language = (info or "text").split()[0]
        return coloured(code, language)


def coloured(code, language="python"):
    """Return code as HTML with colours; it can be scrolled by keyboard."""
    lexer = get_lexer_by_name(language, stripnl=False)
    inner = highlight(code.strip("\n"), lexer, HtmlFormatter(nowrap=True))
    return f'<pre class="code" tabindex="0"><code>{inner}</code></pre>\n'


_markdown = mistune.create_markdown(renderer=_Renderer(escape=False), plugins=["table"])


def slug(text):
    """Return the anchor of a heading."""
    plain = unescape(re.sub(r"<[^>]+>", "", text)).lower()
    return re.sub(r"[^\w]+", "-", plain).strip("-")


def markdown(text):
    """Return Markdown as HTML."""
    html = _markdown(text)
    table = '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table>'
    parts = html.split("<table>")
    # a table that scrolls needs a name: the words of its first heading
    for k in range(1, len(parts)):
        name = re.search(r"<th[^>]*>(.*?)</th>", parts[k], re.S)
        label = re.sub(r"<[^>]+>|\"", "", name[1]) if name else "table"
        parts[k] = table.format(label or "table") + parts[k].replace("</table>", "</table></div>", 1)
    return parts[0] + "".join(parts[1:])


def prose(root, name, language):
    """Return (title, HTML) of a text of its own: text/NAME.LANGUAGE.md; the English readme is README.md."""
    path = HERE / "text" / f"{name}.{language}.md"
    text = (
        (root / "README.md").read_text("utf-8")
        if (name, language) == ("readme", "en")
        else path.read_text("utf-8")
    )
    text = text.replace("](data/pictures/", "](../pictures/").replace("](LICENSE)", "](readme.html)")
    title = re.search(r"^# (.+)$", text, re.M)[1]
    return title, f'<article class="prose">{markdown(text)}</article>'
