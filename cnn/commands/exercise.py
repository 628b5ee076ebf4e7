"""Exercises that mark themselves: `list` them, `start` one, ask for a `hint`, `check` what you wrote.

From the Jacobian of softmax to a residual block: fill in a file, and its numbers and a gradient check tell
what is right, and which of the usual mistakes was made. A file runs in a process of its own, as your user.

  cnn exercise list
  cnn exercise start NAME|all [--out DIR]    writes the file to fill in
  cnn exercise hint NAME [1|2|3]             each says more than the one before
  cnn exercise check FILE... [--json F]      marks files called as their exercise, for example relu.py
"""

import textwrap

from cnn.language import current, fill, pad, translate, width
from cnn.terminal import say

_COLUMNS = 100


def add_arguments(parser):
    """Describe the command line."""
    import argparse

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=tuple(_ACTIONS), metavar="list|start|hint|check")
    parser.add_argument("names", nargs="*", metavar="NAME|FILE", help="an exercise; of check, files")
    parser.add_argument("--out", default=".", metavar="DIR", help="where start writes (default: here)")
    parser.add_argument(
        "--json", metavar="F", help="check: write the marks of all files to this file as well"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="check: for each file (default 20)"
    )


def run(args):
    """Do what was asked for; return 5 when a file does not pass."""
    from cnn.errors import ConfigError

    fewest, most, expected = _COUNTS[args.action]
    if not fewest <= len(args.names) <= most:
        found = " ".join(args.names) or "nothing"
        raise ConfigError(f"cnn exercise {args.action}: expected {expected}, found {found}")
    return _ACTIONS[args.action](args)


def _list(_):
    from cnn.course import exercises

    rows = [(name, exercise.title[current()]) for name, exercise in exercises().items()]
    columns = max(width(name) for name, _ in rows)
    for number, (name, title) in enumerate(rows, 1):
        say(f"{number:3} {pad(name, columns)}  {title}")
    say("\n" + translate("cnn exercise start NAME writes the file to fill in"))


def _start(args):
    from pathlib import Path

    from cnn.course import exercises, find_exercise
    from cnn.errors import ConfigError
    from cnn.files import write_atomically

    chosen = list(exercises().values()) if args.names == ["all"] else [find_exercise(args.names[0])]
    folder = Path(args.out)
    for exercise in chosen:
        if (folder / exercise.file).exists():
            raise ConfigError(f"{folder / exercise.file}: exists already and is left as it is")
    folder.mkdir(parents=True, exist_ok=True)
    for exercise in chosen:
        path = folder / exercise.file
        write_atomically(path, exercise.stub().encode())
        say(translate(f"{path}: fill it in, then: cnn exercise check {path}"))


def _hint(args):
    from cnn.course import find_exercise
    from cnn.errors import ConfigError

    name, step = [*args.names, "1"][:2]
    exercise = find_exercise(name)
    if step not in ("1", "2", "3"):
        raise ConfigError(f"cnn exercise hint: expected 1, 2 or 3, found {step}")
    _paragraph(exercise.hints[int(step) - 1][current()], "")
    if step != "3":
        say(translate(f"more: cnn exercise hint {exercise.name} {int(step) + 1}"))


def _check(args):
    import json

    from cnn.course import check_file, find_exercise
    from cnn.errors import ConfigError
    from cnn.files import write_atomically

    if not args.seconds > 0:
        raise ConfigError(f"--seconds: found {args.seconds:g}, expected a number above 0")
    files = [file if file.endswith(".py") else find_exercise(file).file for file in args.names]
    found = []
    for file in files:
        found.append(check_file(file, seconds=args.seconds))
        _tell(found[-1])
    passed = sum(marks.passed for marks in found)
    if len(found) > 1:
        say(translate(f"{passed} of {len(found)} passed"))
    if args.json:
        payload = json.dumps([marks.to_json() for marks in found], indent=1, ensure_ascii=False)
        write_atomically(args.json, f"{payload}\n".encode())
    return 0 if passed == len(found) else 5


def _tell(marks):
    """Print the marks of one file."""
    from cnn.course import find_exercise

    exercise, language = find_exercise(marks.exercise), current()
    say(f"{marks.file}  {exercise.title[language]}")
    for trial in marks.trials:
        what = trial_name(trial.what)
        say(f"  {'✓' if trial.passed else '✗'} {what}")
        if trial.mistake:
            _paragraph(exercise.mistakes[trial.mistake][language])
        elif trial.message:
            _paragraph(translate(trial.message))
    if marks.printed:
        _paragraph(fill("your file printed: {text}", text=marks.printed.strip()[:300]))
    if marks.passed:
        say("  " + translate(f"all {marks.points} passed; now read how cnn does it: {exercise.reads}"))
    elif marks.status == "not filled in":
        say(f"  {translate('nothing is filled in yet')}")
    elif marks.message:
        say(f"  ✗ {translate(marks.message)}")
    else:
        trials = f"{marks.points} of {len(marks.trials)} passed"
        say("  " + translate(f"{trials}; a hint: cnn exercise hint {exercise.name}"))
    say()


def trial_name(what):
    """Return the name of a trial, "a batch: dx", in the current language."""
    colon = "：" if current() == "zh" else ": "
    return colon.join(translate(part) for part in what.split(": "))


def _paragraph(text, indent="      "):
    """Print a text of either language in lines that fit."""
    if current() == "zh":
        say(f"{indent}{text}")
        return
    say(textwrap.fill(text, _COLUMNS, initial_indent=indent, subsequent_indent=indent))


_ACTIONS = {"list": _list, "start": _start, "hint": _hint, "check": _check}
#: Fewest and most names of each action, and what they are.
_COUNTS = {
    "list": (0, 0, "no name"),
    "start": (1, 1, "one exercise, or all"),
    "hint": (1, 2, "an exercise, and 1, 2 or 3"),
    "check": (1, 10**6, "files"),
}
