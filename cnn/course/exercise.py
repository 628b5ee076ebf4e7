"""What an exercise is: its texts stand in cnn/course/exercises/*.toml, its judge in cnn/course/judges.

A table there is one exercise; files and tables are in the order of the course:

    title, task     {en, zh}
    reads           the file to read afterwards, where the package does the same
    code            what the learner's file begins with
    hints           three {en, zh}, each saying more than the one before
    mistakes        {en, zh} by name: typical wrong answers, which the judge recognises by their numbers
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cnn.errors import ConfigError, did_you_mean
from cnn.language import current


@dataclass(frozen=True)
class Exercise:
    """One exercise; the texts are {"en": ..., "zh": ...}."""

    name: str
    title: dict
    task: dict
    reads: str
    code: str
    hints: tuple
    mistakes: dict

    @property
    def file(self):
        """The name of the file that a learner fills in."""
        return f"{self.name}.py"

    def stub(self, language=None):
        """Return the file to fill in: the task as a docstring, then functions without bodies."""
        language = language or current()
        opening = f"{self.title[language]}\n\n{self.task[language].strip()}\n"
        return f'"""{opening}"""\n{self.code}'


@cache
def exercises():
    """Return {name: Exercise} in the order of the course."""
    folder = resources.files("cnn.course").joinpath("exercises")
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
                found[name] = Exercise(name, **{**table, "hints": tuple(table["hints"])})
    return found


def find_exercise(name):
    """Return the exercise of this name, written with - or _; ConfigError with the nearest one otherwise."""
    known = exercises()
    found = known.get(name.replace("-", "_"))
    if found is None:
        raise ConfigError(f'found "{name}", which is not an exercise.{did_you_mean(name, known)}')
    return found
