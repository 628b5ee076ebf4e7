"""The derivations of cnn.explain as chapters, each with its picture."""

import json

from cnn.explain.derivations import derivation, kinds, loop_source, reference_source
from cnn.explain.page import asset as explain_asset
from cnn.explain.page import texts
from website import pictures
from website.shell import LANGUAGES, WORDS, Page
from website.text import coloured

#: Parts of the index and their chapters; what is named here and not derived yet is left out.
PARTS = (
    ({"en": "The loss", "zh": "损失"}, ("Loss", "Softmax", "LogSoftmax")),
    ({"en": "Layers with weights", "zh": "带权重的层"}, ("Linear", "Conv2d", "ConvTranspose2d", "Scale", "PReLU")),
    (
        {"en": "Pooling and shape", "zh": "池化与形状"},
        ("MaxPool2d", "AvgPool2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "Flatten"),
    ),
    (
        {"en": "Normalisation and dropout", "zh": "归一化与 dropout"},
        ("BatchNorm2d", "BatchNorm1d", "LocalResponseNorm", "Dropout"),
    ),
    (
        {"en": "Activations", "zh": "激活函数"},
        ("ReLU", "LeakyReLU", "ReLU6", "Hardtanh", "ELU", "GELU", "SiLU", "Hardswish", "Sigmoid", "Hardsigmoid",
         "Tanh", "Softplus"),
    ),
    ({"en": "Branches", "zh": "支路"}, ("Add", "Mul", "Concat")),
)  # fmt: skip

NAMES = {
    "Loss": {"en": "Softmax and cross-entropy: p − y", "zh": "softmax 与交叉熵：p − y"},
    "Softmax": {"en": "Softmax", "zh": "softmax"},
    "Linear": {"en": "Linear", "zh": "全连接层"},
    "Conv2d": {"en": "Convolution", "zh": "卷积"},
    "ConvTranspose2d": {"en": "Transposed convolution", "zh": "转置卷积"},
    "Scale": {"en": "Scale", "zh": "缩放"},
    "MaxPool2d": {"en": "Max pooling", "zh": "最大池化"},
    "AvgPool2d": {"en": "Average pooling", "zh": "平均池化"},
    "GlobalAvgPool2d": {"en": "Global average pooling", "zh": "全局平均池化"},
    "GlobalMaxPool2d": {"en": "Global max pooling", "zh": "全局最大池化"},
    "Flatten": {"en": "Flatten", "zh": "展平"},
    "BatchNorm2d": {"en": "Batch normalisation", "zh": "批归一化"},
    "BatchNorm1d": {"en": "Batch normalisation of features", "zh": "特征的批归一化"},
    "Dropout": {"en": "Dropout", "zh": "dropout"},
    "Add": {"en": "A sum of branches: residual blocks", "zh": "支路相加：残差块"},
    "Mul": {"en": "A product of branches", "zh": "支路相乘"},
    "Concat": {"en": "Branches side by side", "zh": "支路拼接"},
}

_WORDS = {
    "en": {
        "title": "Derivations",
        "lead": "From the definition of each layer to its backward pass, step by step, with the plain loops and the "
        "NumPy that compute it. The same texts stand beside the numbers on the pages of <code>cnn explain</code>.",
        "loops": "As plain loops",
        "numpy": "In NumPy",
        "more": "More derivations",
        "training": "Training",
        "rate": "The learning rate, and how to read its curve",
    },
    "zh": {
        "title": "推导",
        "lead": "从每一层的定义到它的反向传播，一步一步推出来，并附上完成计算的普通循环和 NumPy 代码。"
        "在 <code>cnn explain</code> 的页面上，同样的文字就在数字旁边。",
        "loops": "写成普通循环",
        "numpy": "NumPy 写法",
        "more": "其他推导",
        "training": "训练",
        "rate": "学习率，以及怎样读它的曲线",
    },
}


def order():
    """Return [(part, chapters)], every derived kind in exactly one part."""
    known, parts = set(kinds()), []
    for part, names in PARTS:
        parts.append((part, [name for name in names if name in known]))
        known -= set(names)
    if known:
        more = {language: _WORDS[language]["more"] for language in LANGUAGES}
        parts.append((more, sorted(known)))
    return parts


def name_of(kind, language):
    """Return what a chapter is called."""
    return NAMES.get(kind, {}).get(language, kind)


def pages(language):
    """Yield the index and every chapter."""
    words = _WORDS[language]
    parts = []
    for part, names in order():
        items = "".join(f'<li><a href="{kind}.html">{_tile(kind, language)}</a></li>' for kind in names)
        parts.append(f'<h2>{part[language]}</h2><ul class="tiles">{items}</ul>')
    rate = f'{pictures.rate()}<strong>{words["rate"]}</strong><span class="kind">cnn lr-find</span>'
    tile = f'<ul class="tiles"><li><a href="../learning-rate.html">{rate}</a></li></ul>'
    parts.append(f"<h2>{words['training']}</h2>{tile}")
    body = f'<h1>{words["title"]}</h1><p class="lead">{words["lead"]}</p>{"".join(parts)}'
    yield Page("chapters/index", language, words["title"], f'<article class="prose index">{body}</article>')
    flat = [kind for _, names in order() for kind in names]
    for k, kind in enumerate(flat):
        yield _chapter(kind, flat[k - 1] if k else None, flat[k + 1] if k + 1 < len(flat) else None, language)


def _tile(kind, language):
    return f'{pictures.thumbnail(kind)}<strong>{name_of(kind, language)}</strong><span class="kind">{kind}</span>'


def _chapter(kind, before, after, language):
    words, steps = _WORDS[language], []
    moving = False
    for number, step in enumerate(derivation(kind)):
        title = f"<h2>{step['title'][language]}</h2>" if step["title"] else ""
        math = step["math"].get(language, step["math"]["en"]) if step["math"] else ""
        formula = f'<div class="math" tabindex="0">{math}</div>' if math else ""
        anim = ""
        if step["anim"]:
            moving = True
            anim = f'<div class="moving" data-kind="{step["anim"].removeprefix("conv-")}"></div>'
        steps.append(f'<li id="step-{number}">{title}<p>{step[language]}</p>{formula}{anim}</li>')
    figure = pictures.picture(kind, language)
    code = _code(kind, words)
    ways = _ways(before, after, language)
    title = name_of(kind, language)
    body = (
        f'<article class="prose chapter"><h1>{title}</h1>{figure}<ol class="steps">{"".join(steps)}</ol>'
        f"{code}{ways}</article>"
    )
    return Page(f"chapters/{kind}", language, title, body, ("chapter.js",) if moving else ())


def _code(kind, words):
    parts = []
    loops = {found["source"]: found["name"] for found in loop_source(kind).values()}
    for title, sources in ((words["loops"], loops.items()), (words["numpy"], _numpy(kind))):
        blocks = "".join(
            f'<figure class="source"><figcaption>{name}</figcaption>{coloured(source)}</figure>'
            for source, name in sources
        )
        if blocks:
            parts.append(f"<h2>{title}</h2>{blocks}")
    return "".join(parts)


def _numpy(kind):
    return [(one["source"], one["name"]) for one in reference_source(kind)]


def _ways(before, after, language):
    words, links = WORDS[language], []
    for kind, word in ((before, "previous"), (after, "next")):
        if kind:
            links.append(f'<a href="{kind}.html">{words[word]}{name_of(kind, language)}</a>')
    return f'<nav class="ways" aria-label="{words["next"].rstrip(": ：")}">{"".join(links)}</nav>'


def style():
    """Return the style of formulas and moving pictures: that of the explain page."""
    return explain_asset("derivation.css")


def script():
    """Return the program of the moving pictures: that of the explain page, with its texts."""
    found = {
        language: {key: text for key, text in texts(language).items() if key.startswith("anim.")}
        for language in LANGUAGES
    }
    start = """
app.language = document.documentElement.lang.startsWith("zh") ? "zh" : "en";
for (const place of document.querySelectorAll(".moving")) place.append(convPicture(place.dataset.kind));
"""
    carried = f"const carried = {{ texts: {json.dumps(found, ensure_ascii=False)} }};"
    return "\n".join(
        ['"use strict";', carried, *map(explain_asset, ("dom.js", "chart.js", "anim_conv.js")), start]
    )
