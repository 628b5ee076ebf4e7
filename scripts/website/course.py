"""The exercises and the planted bugs as pages."""

from html import escape

from cnn.course import exercises
from cnn.course.breaking import bugs
from website.shell import Page
from website.text import coloured, markdown

_WORDS = {
    "en": {
        "title": "Exercises",
        "lead": "Sixteen small files to fill in, from softmax to a residual block. They mark themselves: by numbers, by a "
        "gradient check, and by recognising the usual mistakes. In the browser they need <a href='python.html'>nothing installed</a>.",
        "how": "```sh\ncnn exercise start softmax    # writes softmax.py\ncnn exercise check softmax.py # marks it, and says which mistake it is\n"
        "cnn exercise hint softmax 2   # three hints, each saying more\n```\n\nA teacher checks a whole class at once: "
        "`cnn exercise check */softmax.py --json marks.json`. Each file runs in a process of its own with a time limit, "
        "as your user: look into files of strangers before you run them.",
        "hint": "Hint",
        "mistakes": "Mistakes that are recognised",
        "then": "Afterwards read",
        "here": "Do it in the browser",
        "break": "Break it",
        "breaklead": "The other way round: `cnn break` plants a classic bug in a copy of `cnn`, trains it beside the right one and "
        "shows the curves, the gradient check, the doctor and the page. You guess; then it shows the diff.",
        "bug": "The bug",
        "lesson": "What it teaches",
    },
    "zh": {
        "title": "练习",
        "lead": "十六个待填写的小文件，从 softmax 到残差块。它们自动批改：核对数值，做梯度检验，并能认出常见的错误。在浏览器里做，<a href='python.html'>什么都不用安装</a>。",
        "how": "```sh\ncnn exercise start softmax    # 写出 softmax.py\ncnn exercise check softmax.py # 批改，并指出是哪种错误\n"
        "cnn exercise hint softmax 2   # 三级提示，一级比一级具体\n```\n\n老师可以一次批改全班："
        "`cnn exercise check */softmax.py --json marks.json`。每个文件都在单独的进程里运行，有时间限制，"
        "但用的是你的用户权限：运行陌生人的文件前请先看一眼。",
        "hint": "提示",
        "mistakes": "能认出的错误",
        "then": "做完后可以读",
        "here": "在浏览器里做",
        "break": "找出埋下的错误",
        "breaklead": "反过来练：`cnn break` 在 `cnn` 的一份副本里埋下一个经典错误，与正确的副本并排训练，给出曲线、梯度检验、"
        "`cnn doctor` 和页面上的结果。你来猜，然后它给出差异。",
        "bug": "埋的是什么",
        "lesson": "可以学到什么",
    },
}


def pages(language):
    """Yield the page of the exercises."""
    words = _WORDS[language]
    items = "".join(
        _exercise(number, one, words, language) for number, one in enumerate(exercises().values(), 1)
    )
    contents = "".join(
        f'<li><a href="#{one.name}">{escape(one.title[language])}</a></li>' for one in exercises().values()
    )
    planted = "".join(
        f"<details><summary>{escape(bug.name)}</summary><p><strong>{words['bug']}:</strong> {escape(bug.what[language])}</p>"
        f"<p><strong>{words['lesson']}:</strong> {escape(bug.lesson[language])}</p></details>"
        for bug in bugs().values()
    )
    body = (
        f'<article class="prose"><h1>{words["title"]}</h1><p class="lead">{words["lead"]}</p>{markdown(words["how"])}'
        f'<ol class="toc">{contents}</ol>{items}<h2 id="break">{words["break"]}</h2>{markdown(words["breaklead"])}{planted}</article>'
    )
    yield Page("exercises", language, words["title"], body)


def _exercise(number, exercise, words, language):
    hints = "".join(
        f"<details><summary>{words['hint']} {k}</summary><p>{escape(hint[language])}</p></details>"
        for k, hint in enumerate(exercise.hints, 1)
    )
    mistakes = "".join(f"<li>{escape(text[language])}</li>" for text in exercise.mistakes.values())
    return (
        f'<section class="exercise" id="{exercise.name}"><h2><span class="count">{number}</span>'
        f"{escape(exercise.title[language])}</h2><div class='task'>{markdown(exercise.task[language])}</div>"
        f"{coloured(exercise.code)}{hints}"
        f"<details><summary>{words['mistakes']}</summary><ul>{mistakes}</ul></details>"
        f'<p class="fine"><a href="python.html#{exercise.name}">{words["here"]}</a> · '
        f"{words['then']}: <code>{exercise.reads}</code></p></section>"
    )
