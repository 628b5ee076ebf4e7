"""What a check of an exercise found: trials, each passed or not, and the mistakes that were recognised."""

import traceback
from dataclasses import asdict, dataclass, field

import numpy as np

_TOLERANCE = 1e-8  # relative to the largest number of an array


@dataclass
class Trial:
    """One thing that was tried: ``message`` says what is wrong, ``mistake`` names a typical wrong answer."""

    what: str
    passed: bool
    message: str = ""
    mistake: str = ""


@dataclass
class Marks:
    """All trials of one file; ``status`` is "passed", "failed", or why nothing could be tried."""

    exercise: str
    file: str
    trials: list = field(default_factory=list)
    status: str = "failed"
    message: str = ""
    printed: str = ""

    @property
    def passed(self):
        """Whether every trial succeeded."""
        return self.status == "passed"

    @property
    def points(self):
        """How many trials succeeded."""
        return sum(trial.passed for trial in self.trials)

    @property
    def mistakes(self):
        """Names of the typical mistakes that were recognised, each once, the first one first."""
        return list(dict.fromkeys(trial.mistake for trial in self.trials if trial.mistake))

    def to_json(self):
        """Return plain data."""
        summary = {"passed": self.passed, "points": self.points, "of": len(self.trials)}
        return {**summary, "mistakes": self.mistakes, **asdict(self)}


class NotFilledIn(Exception):
    """The learner's file still raises NotImplementedError."""


class Sheet:
    """On which a judge notes its trials; ``file`` is the learner's, to find the line of an exception."""

    def __init__(self, file):
        self.file, self.trials = str(file), []

    def note(self, what, message="", mistake=""):
        """Note a trial: one without message or mistake succeeded."""
        self.trials.append(Trial(what, not (message or mistake), message, mistake))

    def call(self, what, function, *arguments):
        """Return (whether it worked, result) of the learner's function; an exception fails the trial.

        An argument that the function has changed fails it too.
        """
        before = [np.array(a) if isinstance(a, np.ndarray) else None for a in arguments]
        try:
            with np.errstate(all="ignore"):
                result = function(*arguments)
        except NotImplementedError:
            raise NotFilledIn from None
        except Exception as error:
            self.note(what, self._raised(error))
            return False, None
        for position, (argument, old) in enumerate(zip(arguments, before, strict=True), 1):
            if old is not None and not np.array_equal(argument, old, equal_nan=True):
                self.note(what, f"argument {position} was changed: work on a copy of it")
                return False, None
        return True, result

    def compare(self, what, function, arguments, expected, **mistakes):
        """Call the learner's function and compare what it returns.

        Parameters
        ----------
        expected : dict
            Name -> array, in the order in which the function returns them; each is a trial of its own.
        mistakes : dicts, or lists of dicts
            Name of a mistake (with _ for -) -> {name: array} that one who makes it would return.
        """
        first = f"{what}: {next(iter(expected))}"
        worked, result = self.call(first, function, *arguments)
        if not worked:
            return
        if len(expected) == 1 and not isinstance(result, tuple):
            result = (result,)
        if not isinstance(result, tuple | list) or len(result) != len(expected):
            names = ", ".join(expected)
            self.note(first, f"expected {names}, found {_kind(result)}")
            return
        for (name, right), found in zip(expected.items(), result, strict=True):
            wrong = [
                (key.replace("_", "-"), one[name])
                for key, values in mistakes.items()
                for one in (values if isinstance(values, list) else [values])
                if name in one
            ]
            self.values(f"{what}: {name}", found, right, wrong)

    def values(self, what, found, expected, mistakes):
        """Note whether an array is the expected one, or that of one of ``mistakes`` [(name, array)]."""
        try:
            found = np.asarray(found, np.float64)
        except (TypeError, ValueError):
            self.note(what, f"expected numbers, found {_kind(found)}")
            return
        expected = np.asarray(expected, np.float64)
        if same(found, expected):
            self.note(what)
            return
        for name, wrong in mistakes:
            wrong = np.asarray(wrong, np.float64)
            if not same(wrong, expected) and same(found, wrong):
                self.note(what, mistake=name)
                return
        self.note(what, _difference(found, expected))

    def _raised(self, error):
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == self.file]
        where = f" in line {lines[-1]}" if lines else ""
        return f"{type(error).__name__}{where}: {error}"


def same(found, expected):
    """Whether two arrays have one shape and agree to 1e-8 of the largest expected number; NaN equals NaN."""
    if found.shape != expected.shape:
        return False
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return False
    finite = np.isfinite(expected)
    size = np.abs(expected[finite]).max(initial=0) or 1.0
    return bool(np.abs(found[finite] - expected[finite]).max(initial=0) <= _TOLERANCE * size)


def _difference(found, expected):
    if found.shape != expected.shape:
        return f"expected shape {expected.shape}, found {found.shape}"
    if not np.isfinite(found).all():
        return f"found {np.size(found) - np.isfinite(found).sum()} numbers that are NaN or infinite"
    gap = np.abs(found - expected)
    at = np.unravel_index(gap.argmax(), gap.shape)
    where = f" at {[int(i) for i in at]}" if at else ""
    wrong = int((gap > _TOLERANCE * (np.abs(expected).max(initial=0) or 1.0)).sum())
    return f"{wrong} of {gap.size} numbers differ; expected {expected[at]:.6g}, found {found[at]:.6g}{where}"


def _kind(value):
    if isinstance(value, tuple | list):
        return f"{len(value)} values"
    return f"one {type(value).__name__}"
