"""Every exercise: its stub fails, its solution passes, typical wrong answers are told apart."""

import json
import re
import time
import tomllib
from pathlib import Path

import pytest

from cnn import cli
from cnn.course import check_file, exercises
from cnn.course.judges import JUDGES
from cnn.course.runner import judge_here

SOLUTIONS = Path(__file__).parent / "solutions"
WRONG = tomllib.loads((SOLUTIONS / "wrong.toml").read_text(encoding="utf-8"))
CASES = [(name, case) for name, cases in WRONG.items() for case in cases]
CHINESE = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")


INVERTED = "import numpy as np\ndef relu_backward(dy, x):\n    return np.where(x < 0, dy, 0)\n"


def write(folder, name, text):
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_some_fifteen_each_with_a_judge_a_solution_and_wrong_answers():
    assert len(exercises()) >= 15
    assert list(exercises()) == list(JUDGES) == list(WRONG)
    assert {path.stem for path in SOLUTIONS.glob("*.py")} == set(JUDGES)


@pytest.mark.parametrize("exercise", exercises().values(), ids=exercises())
def test_texts_are_there_in_both_languages(exercise):
    texts = [exercise.title, exercise.task, *exercise.hints, *exercise.mistakes.values()]
    assert len(exercise.hints) == 3
    for text in texts:
        assert text["en"].strip()
        assert CHINESE.search(text["zh"]) or text is exercise.title
        assert not CHINESE.search(text["en"])
    assert (SOLUTIONS.parents[1] / exercise.reads).is_file()


@pytest.mark.parametrize("name", exercises())
def test_the_stub_fails_and_the_solution_passes(name, tmp_path):
    for language in ("en", "zh"):
        stub = judge_here(name, write(tmp_path, name, exercises()[name].stub(language)))
        assert (stub.passed, stub.status) == (False, "not filled in")
    solution = judge_here(name, SOLUTIONS / f"{name}.py")
    assert solution.passed, solution.trials
    assert solution.points == len(solution.trials) >= 2


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case['mistake']}" for name, case in CASES])
def test_a_typical_wrong_answer_is_told_by_name(name, case, tmp_path):
    right = (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")
    assert case["old"] in right
    marks = judge_here(name, write(tmp_path, name, right.replace(case["old"], case["new"])))
    assert not marks.passed
    assert marks.status == "failed"
    assert marks.mistakes == [case["mistake"]], marks.trials
    assert case["mistake"] in exercises()[name].mistakes


@pytest.mark.parametrize("name", WRONG)
def test_of_every_exercise_three_mistakes_and_more_are_told_apart(name):
    assert len({case["mistake"] for case in WRONG[name]}) >= 3


@pytest.mark.parametrize(
    "name", ["softmax_jacobian", "p_minus_y", "linear", "conv_dx", "conv_dw", "batch_norm_backward"]
)
def test_the_gradient_check_alone_refuses_a_wrong_derivative(name, tmp_path):
    case = WRONG[name][0]
    right = (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")
    marks = judge_here(name, write(tmp_path, name, right.replace(case["old"], case["new"])))
    (check,) = [trial for trial in marks.trials if trial.what == "gradient check"]
    assert not check.passed
    assert check.message.startswith("d")


def test_an_unusual_wrong_answer_is_told_by_its_numbers(tmp_path):
    marks = judge_here("relu", write(tmp_path, "relu", "def relu_backward(dy, x):\n    return dy * 0 + 3\n"))
    assert marks.mistakes == []
    assert "numbers differ; expected" in marks.trials[0].message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def relu_backward(dy, x):\n    return dy[:2]\n", r"expected shape \(3, 4, 5\), found \(2, 4, 5\)"),
        ("def relu_backward(dy, x):\n    return 'a'\n", "expected numbers, found one str"),
        ("def relu_backward(dy, x):\n    return dy, x\n", "expected dx, found 2 values"),
        ("def relu_backward(dy, x):\n    x[0] = 1\n    return dy\n", "argument 2 was changed"),
        ("def relu_backward(dy, x):\n    return dy / 'a'\n", "TypeError in line 2"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_described(text, message, tmp_path):
    marks = judge_here("relu", write(tmp_path, "relu", text))
    assert re.search(message, marks.trials[0].message), marks.trials[0]


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("def relu_backward(:\n", "broken", "line 1"),
        ("x = 1\n", "broken", "relu_backward"),
        ("1 / 0\n", "broken", "ZeroDivisionError in line 1"),
        ("from cnn.reference import relu_backward\n", "broken", "imports cnn.reference"),
        ("import os\nos._exit(3)\n", "broken", "ended with code 3"),
        ("while True:\n    pass\n", "too slow", "stopped after 3 s"),
    ],
)
def test_a_file_that_cannot_be_judged_says_why(text, status, message, tmp_path):
    begin = time.monotonic()
    marks = check_file(write(tmp_path, "relu", text), seconds=3 if status == "too slow" else 60)
    assert (marks.passed, marks.status) == (False, status)
    assert message in marks.message
    assert time.monotonic() - begin < 60


def test_what_a_file_prints_is_kept_up_to_a_limit_and_cannot_pretend_to_be_marks(tmp_path):
    text = 'print(\'{"status": "passed"}\' * 10000)\ndef relu_backward(dy, x):\n    return x\n'
    marks = check_file(write(tmp_path, "relu", text))
    assert marks.status == "failed"
    assert len(marks.printed) == 2000


def test_the_folder_of_a_file_shadows_no_module(tmp_path):
    (tmp_path / "numpy.py").write_text("raise RuntimeError\n")
    path = write(tmp_path, "relu", (SOLUTIONS / "relu.py").read_text())
    assert check_file(path).passed


# -- the command -----------------------------------------------------------------------------------


def test_the_list_names_every_exercise(capsys):
    assert cli.main(["exercise", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in exercises())
    assert cli.main(["exercise", "list", "--language", "zh"]) == 0
    assert "残差块" in capsys.readouterr().out


def test_a_newcomer_starts_asks_for_hints_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["exercise", "start", "relu"]) == 0
    assert "cnn exercise check relu.py" in capsys.readouterr().out
    assert cli.main(["exercise", "check", "relu.py"]) == 5
    assert "nothing is filled in yet" in capsys.readouterr().out
    for step in ("1", "2", "3"):
        assert cli.main(["exercise", "hint", "relu", step]) == 0
        assert exercises()["relu"].hints[int(step) - 1]["en"] in " ".join(capsys.readouterr().out.split())
    write(tmp_path, "relu", INVERTED)
    assert cli.main(["exercise", "check", "relu"]) == 5
    out = capsys.readouterr().out
    assert "the gradient passes where the unit was off" in " ".join(out.split())
    write(tmp_path, "relu", (SOLUTIONS / "relu.py").read_text())
    assert cli.main(["exercise", "check", "relu.py"]) == 0
    assert "cnn/layers/activation.py" in capsys.readouterr().out


def test_a_class_is_checked_at_once_with_json(tmp_path, capsys):
    for pupil, text in (("ada", (SOLUTIONS / "relu.py").read_text()), ("bo", exercises()["relu"].stub())):
        (tmp_path / pupil).mkdir()
        write(tmp_path / pupil, "relu", text)
    files = [str(tmp_path / pupil / "relu.py") for pupil in ("ada", "bo")]
    assert cli.main(["exercise", "check", *files, "--json", str(tmp_path / "marks.json")]) == 5
    table = json.loads((tmp_path / "marks.json").read_text(encoding="utf-8"))
    assert [(row["file"], row["passed"]) for row in table] == [(files[0], True), (files[1], False)]
    assert table[0]["points"] == table[0]["of"] > 0
    assert table[1]["status"] == "not filled in"
    assert "1 of 2 passed" in capsys.readouterr().out


def test_start_overwrites_nothing(tmp_path, capsys):
    path = write(tmp_path, "relu", "mine\n")
    assert cli.main(["exercise", "start", "relu", "--out", str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert path.read_text() == "mine\n"


def test_start_all_writes_every_stub(tmp_path):
    assert cli.main(["exercise", "start", "all", "--out", str(tmp_path / "course")]) == 0
    assert {p.stem for p in (tmp_path / "course").glob("*.py")} == set(exercises())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "softmacks"], 'Did you mean "softmax"?'),
        (["check", "nowhere/relu.py"], "no such file"),
        (["check", "relu.py", "--seconds", "0"], "--seconds"),
        (["hint", "relu", "4"], "1, 2 or 3"),
        (["check"], "expected files"),
        (["solve"], "solve"),
        ([], "list"),
    ],
)
def test_a_wrong_call_gets_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["exercise", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_marks_are_told_in_chinese(tmp_path, capsys):
    path = write(tmp_path, "relu", INVERTED)
    assert cli.main(["exercise", "check", str(path), "--language", "zh"]) == 5
    out = capsys.readouterr().out
    assert "梯度从没有激活的单元传过去了" in out
    assert "梯度检验" in out
    assert not re.search(
        r"[A-Za-z]{4,} [a-z]{3,} [a-z]{3,}", out.replace(str(path), "").split("cnn exercise")[0]
    ), out
