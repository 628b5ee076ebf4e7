"""Runs a learner's file in a process of its own, with a time limit, and reads the marks.

The process imports the file, lets the judge try it and writes JSON into a file; what the learner's code
prints is kept up to a limit. The process is no prison: the file can do whatever its user can.
"""

import ast
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path

from cnn.course.exercise import find_exercise
from cnn.course.marks import Marks, NotFilledIn, Sheet, Trial
from cnn.errors import ConfigError

_MOST_PRINTED = 2000  # characters
# What would hand in somebody else's work.
_NOT_ONES_OWN = ("cnn", "torch", "jax", "tensorflow", "keras", "scipy", "sklearn", "autograd", "tinygrad")


def check_file(file, name=None, seconds=20.0):
    """Return the Marks of a learner's file.

    Parameters
    ----------
    file : path
    name : str, optional
        The exercise; by default the file's name says it.
    seconds : float
        The process is ended after that.

    ``status`` of the marks is "passed", "failed", "not filled in", "broken" (the file could not be imported,
    or the process died), or "too slow". Raises ConfigError when there is no such file or exercise.
    """
    path = Path(file)
    exercise = find_exercise(name or path.stem)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; cnn exercise start {exercise.name} writes one")
    marks = Marks(exercise.name, str(path))
    with tempfile.TemporaryDirectory(prefix="cnn-exercise-") as folder:
        answer = Path(folder) / "marks.json"
        # -P: neither the folder of the call nor the learner's may shadow a module
        module = ("-P", "-m", "cnn.course.runner")
        command = [sys.executable, *module, exercise.name, str(path.resolve()), str(answer)]
        # one thread: the numbers are few, and a class is checked file after file
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            marks.status, marks.message = "too slow", f"stopped after {seconds:g} s: an endless loop?"
            return marks
        finally:
            _end(process)
        if not answer.is_file():
            marks.status, marks.message = "broken", f"the process ended with code {code} before it answered"
            return marks
        found = json.loads(answer.read_text(encoding="utf-8"))
    marks.trials = [Trial(**trial) for trial in found.pop("trials")]
    for key, value in found.items():
        setattr(marks, key, value)
    return marks


def _end(process):
    """End a process and what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def judge_here(name, file):
    """Return the Marks of a learner's file, run in this process."""
    from cnn.course.judges import JUDGES

    marks, sheet, printed = Marks(name, str(file)), Sheet(file), _Limited()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            _check_imports(file)
            JUDGES[name](sheet, _imported(file))
        except NotFilledIn:
            marks.status, marks.message = "not filled in", "a function still raises NotImplementedError"
        except SyntaxError as error:
            marks.status, marks.message = "broken", f"line {error.lineno}: {error.msg}"
        except Exception as error:
            marks.status, marks.message = "broken", sheet._raised(error)
        else:
            marks.status = "passed" if all(trial.passed for trial in sheet.trials) else "failed"
    marks.trials, marks.printed = sheet.trials, printed.getvalue()
    return marks


def _imported(file):
    spec = importlib.util.spec_from_file_location("answer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_imports(file):
    """Raise ImportError where the file imports a library that would do the exercise."""
    for node in ast.walk(ast.parse(Path(file).read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            if name.split(".")[0] in _NOT_ONES_OWN:
                allowed = "only NumPy and your own work count here"
                raise ImportError(f"line {node.lineno} imports {name}: {allowed}")


class _Limited(io.StringIO):
    """Keeps what is printed, up to a limit."""

    def write(self, text):
        return super().write(text[: max(0, _MOST_PRINTED - self.tell())])


def main(name, file, answer):
    """Judge, and write the marks as JSON: what the process of ``check_file`` runs."""
    marks = asdict(judge_here(name, file))
    keys = ("trials", "status", "message", "printed")
    Path(answer).write_text(json.dumps({key: marks[key] for key in keys}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
