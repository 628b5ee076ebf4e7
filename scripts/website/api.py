"""The API documentation, by pdoc, from the docstrings."""

import importlib
import inspect
import pkgutil
import re
import tempfile
import tomllib
import warnings
from functools import cache
from html import escape
from pathlib import Path

import cnn
from website import notebooks
from website.shell import HERE, Page, asset, palette

#: Not for readers of an API: kernels, and what only the command line uses.
_LEFT_OUT = (
    "cnn.fast",
    "cnn.commands",
    "cnn.cli",
    "cnn.__main__",
    "cnn.course.judges",
    "cnn.course.recording",
)

_TEXTS = {
    "en": (
        "API",
        "Every public class and function with a sentence each. A name leads to its docstring (the equation, shapes, errors, "
        "the source in the literature), and behind “View Source” there to its code.",
        "All modules",
        ("Name", "What it is"),
    ),
    "zh": (
        "API",
        "每个公开的类和函数，各用一句话说明。点名字可以看到它的 docstring（公式、形状、会抛出的错误、文献出处），那里的“View Source”"
        "后面是代码；docstring 是英文的，公式和签名两种语言通用，中文的推导见<a href='chapters/index.html'>推导</a>各章。",
        "全部模块",
        ("名字", "说明"),
    ),
}

#: What has no docstring, in English; the order of cnn.gradcheck's classes is that of its report.
_VALUES = {
    "cnn.layers.LAYERS": "The registry of layers: name to class.",
    "cnn.layers.LOSSES": "The registry of losses: name to class.",
    "cnn.optimizers.OPTIMIZERS": "The registry of optimizers.",
    "cnn.optimizers.SCHEDULES": "The registry of schedules.",
    "cnn.optimizers.AVERAGES": "The registry of weight averages.",
    "cnn.gradcheck.OK": "Backward agrees with the difference of forward.",
    "cnn.gradcheck.ROUNDING": "The difference cannot be computed more exactly than it differs.",
    "cnn.gradcheck.KINK": "A ReLU mask or a pool's winner changes within the step: there is no derivative.",
    "cnn.gradcheck.BUG": "Backward is not the gradient of forward.",
    "cnn.data.NAMES": "The names that load_dataset knows.",
    "cnn.doctor.OK": "Nothing is wrong.",
    "cnn.doctor.WARN": "Worth a look.",
    "cnn.doctor.FAIL": "A training would suffer from this.",
}

_MOST = 7  # parameters of a signature in the index

#: How the operations of cnn.reference end, in Chinese.
_ENDINGS = {
    "_backward_input": "：对输入的梯度",
    "_backward_weight": "：对权重的梯度",
    "_backward": "：反向",
    "_forward": "：前向",
    "": "",
}


def names():
    """Return {module: [public names]}, as the index lists them: in the order of text/api.zh.toml."""
    found = {}
    for module in _chinese():
        if module != "operations":
            loaded = importlib.import_module(module)
            public = getattr(loaded, "__all__", None) or _defined(loaded)
            found[module] = [name for name in public if not name.startswith("_")]
    return found


def _defined(module):
    """Return what a module without ``__all__`` defines and the Chinese texts name."""
    return [name for name in _chinese()[module.__name__] if name != "about" and hasattr(module, name)]


@cache
def _chinese():
    return tomllib.loads((HERE / "text" / "api.zh.toml").read_text(encoding="utf-8"))


def sentence(module, name, language):
    """Return what a name is, in a sentence."""
    if language == "zh":
        texts = _chinese()
        if module != "cnn.reference":
            return texts[module][name]
        ending = next(end for end in _ENDINGS if name.endswith(end))
        return texts["operations"][name.removesuffix(ending)] + _ENDINGS[ending] + "。"
    value = getattr(importlib.import_module(module), name)
    if f"{module}.{name}" in _VALUES:
        return _VALUES[f"{module}.{name}"]
    first = inspect.getdoc(value).split("\n\n")[0].replace("\n", " ")
    return f"{re.split(r'(?<=[a-z`)]{2})[.] ', first)[0].strip().rstrip('.:')}."


def _signature(value):
    """Return the parameters of a class or function, without types."""
    if not callable(value):
        return ""
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:
        return ""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    whole = str(inspect.Signature(plain[:_MOST]))
    return whole if len(plain) <= _MOST else f"{whole[:-1]}, …)"


def build(folder):
    """Write pdoc's pages into ``folder``."""
    import pdoc
    import pdoc.render

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as templates:
        warnings.simplefilter("ignore")
        style = palette() + asset("pdoc.css") + notebooks.style(".pdoc .pdoc-code")
        (Path(templates) / "custom.css").write_text(style, encoding="utf-8")
        pdoc.render.configure(docformat="numpy", template_directory=Path(templates), search=True)
        pdoc.pdoc(*_modules(), output_directory=Path(folder))
    for path in Path(folder).rglob("*.html"):
        _mend(path, "../" * (len(path.relative_to(folder).parts)))


def _mend(path, up):
    """Give a page of pdoc links to the site, in both languages, and what a keyboard and a screen reader need."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(
        r'<a class="headerlink" href="#([^"]+)">', r'<a class="headerlink" href="#\1" aria-label="#\1">', text
    )
    text = text.replace("<pre>", '<pre tabindex="0">')
    links = f'<p class="site"><a href="{up}en/api.html">cnn</a> · <a href="{up}zh/api.html" lang="zh-CN">中文</a></p>'
    for before in ('<nav class="pdoc">', '<main class="pdoc">'):
        if before in text:
            path.write_text(text.replace(before, before + links, 1), encoding="utf-8")
            return


def _modules():
    """Return the names of all public modules; `__all__` of the package does not name them."""
    found = [module.name for module in pkgutil.walk_packages(cnn.__path__, "cnn.")]
    return ["cnn", *(name for name in found if not name.startswith(_LEFT_OUT))]


def page(language):
    """Return the index of all public names, with a sentence each, which leads into pdoc's pages."""
    title, lead, everything, columns = _TEXTS[language]
    head = f'<h1>{title}</h1><p class="lead">{lead}</p><p><a class="button" href="../api/cnn.html">{everything}</a></p>'
    contents = "".join(f'<li><a href="#{module}"><code>{module}</code></a></li>' for module in names())
    parts = [f'<ul class="toc modules">{contents}</ul>']
    for module, public in names().items():
        loaded = importlib.import_module(module)
        about = _chinese()[module]["about"] if language == "zh" else loaded.__doc__.strip().split("\n")[0]
        rows = "".join(
            f'<tr><td><a href="{_place(module, name)}"><code>{name}</code></a><code class="signature">{escape(_signature(getattr(loaded, name)))}'
            f"</code></td><td>{_marked(sentence(module, name, language))}</td></tr>"
            for name in public
        )
        parts.append(
            f'<h2 id="{module}"><a href="{_place(module)}"><code>{module}</code></a></h2><p>{_marked(about)}</p>'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{module}"><table class="api"><thead><tr><th>{columns[0]}'
            f"</th><th>{columns[1]}</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )
    return Page("api", language, title, f'<article class="prose">{head}{"".join(parts)}</article>')


def _place(module, name=""):
    """Return where pdoc's pages describe a module or a name of it."""
    if name and inspect.ismodule(getattr(importlib.import_module(module), name)):
        return _place(f"{module}.{name}")
    return f"../api/{module.replace('.', '/')}.html{'#' if name else ''}{name}"


def _marked(text):
    """Return a sentence as HTML, code between ` or `` as code."""
    return re.sub(r"`{1,2}(.+?)`{1,2}", r"<code>\1</code>", escape(text, quote=False))
