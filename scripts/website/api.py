"""The API documentation, by pdoc, from the docstrings."""

import warnings
from pathlib import Path

from website.shell import HERE, Page

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
        "<p class='lead'>Every public class and function, from its docstring: one sentence, the equation, shapes, "
        "errors, the source in the literature. The code of each stands behind “View Source”.</p>",
        "All modules",
    ),
    "zh": (
        "API",
        "<p class='lead'>每个公开的类和函数的说明都取自它的 docstring：一句话、公式、形状、会抛出的错误、文献出处。"
        "点“View Source”可以看到代码。这些说明只有英文，推导与各章则有中文。</p>",
        "全部模块",
    ),
}

_START = {
    "layers": ("cnn/layers.html", "Conv2d, Linear, BatchNorm2d …", "各种层"),
    "network": ("cnn/network.html", "Network", "网络"),
    "optimizers": ("cnn/optimizers.html", "SGD, Adam, Muon …", "优化器"),
    "gradcheck": ("cnn/gradcheck.html", "check_layer, check_network", "梯度检验"),
    "data": ("cnn/data.html", "load_dataset, Batches …", "数据"),
    "training": ("cnn/training.html", "Trainer, experiment", "训练"),
    "reference": ("cnn/reference.html", "NumPy operations, to be read", "供阅读的 NumPy 实现"),
    "explain": ("cnn/explain.html", "collect, build_page", "逐数解释"),
    "course": ("cnn/course.html", "exercises, check_file", "练习"),
}


def build(folder):
    """Write pdoc's pages into ``folder``."""
    import pdoc
    import pdoc.render

    pdoc.render.configure(docformat="numpy", template_directory=HERE / "assets" / "pdoc", search=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pdoc.pdoc(*_modules(), output_directory=Path(folder))
    for path in Path(folder).rglob("*.html"):
        _lead_back(path, "../" * (len(path.relative_to(folder).parts)))


def _lead_back(path, up):
    """Give a page of pdoc links to the site, in both languages."""
    text = path.read_text(encoding="utf-8")
    links = f'<p><a href="{up}en/api.html">cnn</a> · <a href="{up}zh/api.html" lang="zh-CN">中文</a></p>'
    for before in ('<nav class="pdoc">', '<main class="pdoc">'):
        if before in text:
            path.write_text(text.replace(before, before + links, 1), encoding="utf-8")
            return


def _modules():
    """Return the names of all public modules; `__all__` of the package does not name them."""
    import pkgutil

    import cnn

    found = [module.name for module in pkgutil.walk_packages(cnn.__path__, "cnn.")]
    return ["cnn", *(name for name in found if not name.startswith(_LEFT_OUT))]


def page(language):
    """Return the page that leads there."""
    title, lead, everything = _TEXTS[language]
    rows = "".join(
        f'<li><a href="../api/{place}"><code>cnn.{name}</code></a> {english if language == "en" else chinese}</li>'
        for name, (place, english, chinese) in _START.items()
    )
    everything = f'<p><a class="button" href="../api/cnn.html">{everything}</a></p>'
    return Page(
        "api",
        language,
        title,
        f'<article class="prose"><h1>{title}</h1>{lead}{everything}<ul>{rows}</ul></article>',
    )
