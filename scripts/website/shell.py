"""What every page has around its content: head, navigation, the link to its twin."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from cnn.explain.page import asset as explain_asset

LANGUAGES = ("en", "zh")
HERE = Path(__file__).parent

#: Places of the navigation, in order, and what they are called.
PLACES = {
    "hour": {"en": "An hour", "zh": "一小时入门"},
    "tour": {"en": "Tour", "zh": "导览"},
    "chapters/index": {"en": "Derivations", "zh": "推导"},
    "notebooks/index": {"en": "Notebooks", "zh": "笔记本"},
    "exercises": {"en": "Exercises", "zh": "练习"},
    "python": {"en": "In the browser", "zh": "浏览器里运行"},
    "networks": {"en": "Networks", "zh": "网络"},
    "speed": {"en": "Speed", "zh": "速度"},
    "manual": {"en": "Manual", "zh": "手册"},
    "api": {"en": "API", "zh": "API"},
}

WORDS = {
    "en": {
        "skip": "Skip to the content",
        "menu": "Pages",
        "foot": "cnn: convolutional networks from scratch. MIT licence. Nothing on these pages is fetched from elsewhere.",
        "twin": "中文",
        "previous": "Before: ",
        "next": "Next: ",
    },
    "zh": {
        "skip": "跳到正文",
        "menu": "页面",
        "foot": "cnn：从零实现的卷积网络。MIT 许可证。这些页面不从别处加载任何东西。",
        "twin": "English",
        "previous": "上一篇：",
        "next": "下一篇：",
    },
}


@dataclass
class Page:
    """One page: ``name`` is its path below the language without .html; ``body`` is HTML."""

    name: str
    language: str
    title: str
    body: str
    scripts: tuple = ()
    wide: bool = False

    @property
    def up(self):
        """The way from the page to the root of the site."""
        return "../" * (self.name.count("/") + 1)


def asset(name):
    """Return the text of a file in scripts/website/assets."""
    return (HERE / "assets" / name).read_text(encoding="utf-8")


def palette():
    """Return the colours and fonts of the explain page, dark where the reader's system is."""
    root = explain_asset("page.css").split("*, *::before", 1)[0]
    light, dark = root.split(':root[data-theme="dark"] {', 1)
    return f"{light}@media (prefers-color-scheme: dark) {{\n:root {{{dark.rstrip()}\n}}\n"


def write(out, page):
    """Write a page where its name says."""
    path = out / page.language / f"{page.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")


def render(page):
    """Return the HTML of a page."""
    language, words = page.language, WORDS[page.language]
    other = LANGUAGES[1 - LANGUAGES.index(language)]
    links = []
    for name, titles in PLACES.items():
        here = page.name == name or (
            name.endswith("/index") and page.name.startswith(name.removesuffix("index"))
        )
        current = ' aria-current="page"' if here else ""
        links.append(f'<a href="{page.up}{language}/{name}.html"{current}>{titles[language]}</a>')
    scripts = "".join(f'<script src="{page.up}assets/{name}" defer></script>\n' for name in page.scripts)
    twin = f"{page.up}{other}/{page.name}.html"
    return f"""<!DOCTYPE html>
<html lang="{"zh-CN" if language == "zh" else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)} · cnn</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{page.up}assets/style.css">
<link rel="alternate" hreflang="{"zh" if other == "zh" else "en"}" href="{twin}">
<script src="{page.up}assets/shell.js" defer></script>
{scripts}</head>
<body{' class="wide"' if page.wide else ""}>
<a class="skip" href="#content">{words["skip"]}</a>
<header class="bar"><div class="inner">
<a class="brand" href="{page.up}{language}/index.html">cnn</a>
<nav aria-label="{words["menu"]}">{"".join(links)}</nav>
<a class="twin" id="twin" href="{twin}" lang="{"zh-CN" if other == "zh" else "en"}">{words["twin"]}</a>
</div></header>
<main id="content" tabindex="-1">
{page.body}
</main>
<footer><div class="inner">{words["foot"]}</div></footer>
</body>
</html>
"""
