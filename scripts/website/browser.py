"""The page that runs cnn in the browser, with nothing installed: cells, and exercises that are marked there."""

import base64
import gzip
import io
import json
import zipfile
from html import escape

from cnn.course import exercises
from website import pyodide
from website.shell import HERE, Page, asset
from website.text import markdown

_CELLS = ("origin", "gradcheck", "training")

_WORDS = {
    "en": {
        "title": "In the browser",
        "h1": "In the browser, nothing installed",
        "lead": "Python, NumPy and cnn run on this page itself, in double precision with the readable reference backend. "
        "Nothing leaves your computer, and nothing comes from elsewhere: the files lie beside this page ({mb} MB).",
        "start": "Start Python",
        "stop": "Stop",
        "off": "Python is not running yet.",
        "cells": "Three cells",
        "cellslead": "Change what you like and run it again (Shift+Enter); the cells share their variables, as in a notebook. "
        "Run them in this order.",
        "run": "Run",
        "code": "Code: {name}",
        "origin": "Where backprop begins: p − y",
        "gradcheck": "Is every gradient of a LeNet right?",
        "training": "Twenty training steps",
        "exercises": "The exercises",
        "exerciseslead": "Fill in the functions and press Check. The marks are those of <code>cnn exercise check</code>, "
        "and the usual mistakes are recognised.",
        "which": "Exercise",
        "answer": "Your answer",
        "check": "Check",
        "hint": "Hint",
        "again": "Start again",
        "about": "What this exercise is about",
        "marks": "Marks",
        "limits": "What is not here: the fast Numba kernels, reading images and checkpoints, and "
        "training from configs, which need packages that a browser has not. <a href='hour.html'>Your first hour</a> "
        "goes on with an installed cnn.",
        "licence": "The page carries Pyodide {version} (MPL 2.0) with Python (PSF licence) and NumPy (BSD), unchanged.",
        "js": {
            "loading": "Loading …",
            "part": "Loading: {k} of {n} files",
            "starting": "Starting Python …",
            "ready": "Ready: {version}",
            "broken": "It could not start: {why}",
            "stopped": "Stopped. Python starts again; the variables are gone.",
            "nothing": "(nothing was printed)",
            "curve": "A curve of the values",
            "passed": "All {n} passed.",
            "failed": "{k} of {n} passed. A hint may help.",
            "empty": "Nothing is filled in yet.",
        },
        "missing": "Python for browsers was not at hand when this site was built ({why}), so this page cannot run anything. "
        "What it needs are the files below, of Pyodide {version}; nothing here is fetched from elsewhere while you read.",
        "file": "file",
        "build": "With them in a folder, or with a package registry within reach, the site builds this page:",
        "instead": "What does run here, with nothing installed",
        "insteadlist": "<li><a href='index.html'>The network of the landing page</a>: draw a digit, take training steps.</li>"
        "<li><a href='../networks/digits.html?lang=en#/train'>Train a network</a> in its page, with momentum or Adam.</li>"
        "<li><a href='../networks/digits.html?lang=en#/experiments'>Check gradients</a> by finite differences, number by number.</li>",
    },
    "zh": {
        "title": "浏览器里运行",
        "h1": "在浏览器里运行，什么都不用安装",
        "lead": "Python、NumPy 和 cnn 就在本页里运行，用双精度和可读的 reference 后端。"
        "数据不会离开你的电脑，也不从别处加载任何东西：所需文件就放在本页旁边（{mb} MB）。",
        "start": "启动 Python",
        "stop": "停止",
        "off": "Python 还没有启动。",
        "cells": "三段代码",
        "cellslead": "可以随意改动后重新运行（Shift+Enter）；各段共用变量，和笔记本一样。请按顺序运行。",
        "run": "运行",
        "code": "代码：{name}",
        "origin": "反向传播从这里开始：p − y",
        "gradcheck": "LeNet 的每个梯度都对吗？",
        "training": "训练二十步",
        "exercises": "练习",
        "exerciseslead": "填好函数，按“检查”。评判与 <code>cnn exercise check</code> 完全相同，也能认出常见的错误。",
        "which": "练习",
        "answer": "你的答案",
        "check": "检查",
        "hint": "提示",
        "again": "重新开始",
        "about": "这道练习讲什么",
        "marks": "评判结果",
        "limits": "这里没有的：快速的 Numba 内核、读取图像和检查点、按配置文件训练，因为它们需要浏览器里没有的软件包。"
        "安装 cnn 之后，<a href='hour.html'>一小时入门</a>会接着讲。",
        "licence": "本页附带未经改动的 Pyodide {version}（MPL 2.0），其中有 Python（PSF 许可证）和 NumPy（BSD 许可证）。",
        "js": {
            "loading": "正在加载……",
            "part": "正在加载：第 {k} 个文件，共 {n} 个",
            "starting": "正在启动 Python……",
            "ready": "就绪：{version}",
            "broken": "无法启动：{why}",
            "stopped": "已停止。Python 会重新启动，变量已清空。",
            "nothing": "（没有输出）",
            "curve": "数值曲线",
            "passed": "{n} 项全部通过。",
            "failed": "{n} 项中通过了 {k} 项。可以看看提示。",
            "empty": "还没有填写。",
        },
        "missing": "构建本站时没有浏览器用的 Python（{why}），所以本页什么都运行不了。它需要 Pyodide {version} 的下列文件；"
        "阅读时，本站不从别处加载任何东西。",
        "file": "文件",
        "build": "把这些文件放进一个文件夹，或者能连上软件包仓库，就能构建出本页：",
        "instead": "什么都不安装也能运行的",
        "insteadlist": "<li><a href='index.html'>首页上的网络</a>：画一个数字，训练几步。</li>"
        "<li><a href='../networks/digits.html?lang=zh#/train'>训练网络</a>：就在它的页面里，可以用动量或 Adam。</li>"
        "<li><a href='../networks/digits.html?lang=zh#/experiments'>检验梯度</a>：用有限差分逐个核对。</li>",
    },
}


def build(root, out, files):
    """Write python/*.js, the files that the page loads, from ``files`` of website.pyodide; return (names, MB)."""
    folder = out / "python"
    folder.mkdir()
    carried = {
        **files,
        "numpy": files[pyodide.NUMPY],
        "cnn": _package(root),
        "worker.js": asset("worker.js").encode(),
    }
    del carried[pyodide.NUMPY]
    size = 0
    for name, data in carried.items():
        text = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
        size += (folder / f"{name}.js").write_text(f'part("{name}", "{text}");\n', encoding="ascii")
    return tuple(carried), size / 1e6


def _package(root):
    """Return a zip of cnn, of the bundled digits and of what drives them."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted((root / "cnn").rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and "__pycache__" not in inside.parts and inside.parts[1] != "shipped":
                archive.writestr(zipfile.ZipInfo(str(inside)), path.read_bytes())
        for path, inside in (
            (root / "data" / "sample_digits.npz", "data/sample_digits.npz"),
            (HERE / "assets" / "driver.py", "driver.py"),
        ):
            archive.writestr(zipfile.ZipInfo(inside), path.read_bytes())
    return whole.getvalue()


def page(language, carried, why=""):
    """Return the page; ``carried`` is what `build` returned, or None where Pyodide is missing: ``why`` says it."""
    words = _WORDS[language]
    body = _without(words, why) if carried is None else _with(words, language, *carried)
    scripts = () if carried is None else ("browser.js",)
    return Page("python", language, words["title"], f'<article class="prose">{body}</article>', scripts)


def _with(words, language, names, mb):
    cells = "".join(
        f'<section class="pycell" id="cell-{name}"><h3>{words[name]}</h3>'
        f'<textarea class="editor" spellcheck="false" aria-label="{escape(words["code"].format(name=words[name]))}">'
        f"{escape(asset(f'cells/{name}.py').rstrip())}</textarea>"
        f'<p class="tools"><button type="button" class="button small" data-needs>{words["run"]}</button></p>'
        '<pre class="output" tabindex="0" hidden></pre></section>'
        for name in _CELLS
    )
    options = "".join(
        f'<option value="{one.name}">{escape(one.title[language])}</option>' for one in exercises().values()
    )
    texts = {
        one.name: {"stub": one.stub(language), "hints": [hint[language] for hint in one.hints]}
        for one in exercises().values()
    }
    return f"""<h1>{words["h1"]}</h1><p class="lead">{words["lead"].format(mb=round(mb))}</p>
<div id="python" data-state="off" data-version="{pyodide.VERSION}" data-files="{" ".join(names)}">
<p class="starter"><button type="button" class="button" id="start">{words["start"]}</button>
<button type="button" class="plain" id="stop" disabled>{words["stop"]}</button> <span id="state" role="status">{words["off"]}</span></p>
<h2 id="cells">{words["cells"]}</h2><p>{words["cellslead"]}</p>{cells}
<h2 id="exercise">{words["exercises"]}</h2><p>{words["exerciseslead"]}</p>
<p class="tools"><label for="which">{words["which"]}</label> <select id="which">{options}</select>
<a id="about" href="exercises.html">{words["about"]}</a></p>
<textarea class="editor" id="answer" spellcheck="false" aria-label="{words["answer"]}"></textarea>
<p class="tools"><button type="button" class="button small" id="check" data-needs>{words["check"]}</button>
<button type="button" class="plain" id="hint">{words["hint"]}</button>
<button type="button" class="plain" id="again">{words["again"]}</button></p>
<ol id="hints" class="hints"></ol><ul id="marks" class="marks" aria-label="{words["marks"]}" aria-live="polite"></ul>
</div>
<p class="fine">{words["limits"]}</p><p class="fine">{words["licence"].format(version=pyodide.VERSION)}</p>
<script type="application/json" id="words">{_json({**words["js"], "language": language})}</script>
<script type="application/json" id="exercises">{_json(texts)}</script>"""


def _without(words, why):
    rows = "".join(f"| `{name}` | `{digest}` |\n" for name, digest in pyodide.FILES.items())
    table = markdown(f"| {words['file']} | SHA-256 |\n|---|---|\n{rows}")
    command = markdown("```sh\npython scripts/site.py OUT --pyodide DIR\n```")
    missing = words["missing"].format(why=escape(why), version=pyodide.VERSION)
    return (
        f'<h1>{words["h1"]}</h1><p class="lead">{missing}</p>{table}<p>{words["build"]}</p>{command}'
        f"<h2>{words['instead']}</h2><ul>{words['insteadlist']}</ul>"
    )


def _json(value):
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")
