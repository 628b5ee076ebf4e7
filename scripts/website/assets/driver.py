"""Runs in the browser, under Pyodide: the cells and the judges of the exercises. Needs NumPy and cnn only."""

import ast
import json
import sys
import traceback
from pathlib import Path

import cnn
from cnn.commands.exercise import trial_name
from cnn.course.exercise import find_exercise
from cnn.course.runner import judge_here
from cnn.language import speaking, translate

cnn.set_backend("reference")
# A file that is written again within a second would be read from its old cache.
sys.dont_write_bytecode = True


def run(code, space):
    """Execute a cell in the namespace ``space`` and print its last expression, as a notebook does."""
    try:
        tree = ast.parse(code, "cell")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            if value is not None:
                print(value)
    except BaseException as error:
        told = traceback.TracebackException.from_exception(error)
        told.stack = traceback.StackSummary.from_list([f for f in told.stack if f.filename != __file__])
        print("".join(told.format()))
        return False
    return True


def judge(name, text, language):
    """Return the marks of what was written for an exercise, as JSON with its messages in ``language``."""
    file = Path("/tmp") / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    with speaking(language):
        marks, mistakes = judge_here(name, file), find_exercise(name).mistakes
        trials = [
            {
                "passed": trial.passed,
                "what": trial_name(trial.what),
                "message": mistakes[trial.mistake][language] if trial.mistake else translate(trial.message),
            }
            for trial in marks.trials
        ]
        message = translate(marks.message) if marks.message else ""
    return json.dumps(
        {"status": marks.status, "trials": trials, "message": message, "printed": marks.printed}
    )
