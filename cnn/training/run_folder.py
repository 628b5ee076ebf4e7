"""The folder of one run: which files it has, and how they are written so that a crash cannot spoil them."""

import csv
import hashlib
import math
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cnn.config import to_toml
from cnn.errors import CheckpointError, ConfigError
from cnn.files import is_temporary, locked, remove_temporaries, write_atomically
from cnn.language import translate
from cnn.report import plots
from cnn.terminal import ReaderLeft, is_quiet, say
from cnn.training import parts, resume
from cnn.training.finish import finish
from cnn.training.interruption import Interrupted

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "images_per_second",
    "seconds",
)


class RunFolder:
    """Paths inside a run folder, and its log and metrics; ``quiet`` prints nothing of the log."""

    def __init__(self, path, quiet=False):
        self.path = Path(path)
        self.shows_progress = False if quiet else None  # on a terminal and in a notebook
        self._quiet = quiet
        self.reader_left = False
        self.config = self.path / "config.toml"
        self.parts = self.path / "split.csv"
        self.metrics = self.path / "metrics.csv"
        self.log_file = self.path / "log.txt"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.curves = self.path / "curves.png"
        self.result = self.path / "result.json"
        self.gradients = self.path / "gradients.csv"
        self.report = self.path / "report.html"
        self.snapshots = self.path / "snapshots"
        self.top = self.path / "top"
        self.reader_left = False  # nobody reads stdout any more, as after `cnn train | head`
        self._locked = False

    @contextmanager
    def locked(self):
        """While this holds, no other process writes into this folder; inside of itself it does nothing.

        What killed writers left behind is removed. Raises ConfigError when another process is at work here.
        """
        if self._locked:
            yield
            return
        with locked(self.path):
            self._locked = True
            try:
                remove_temporaries(self.path)
                yield
            finally:
                self._locked = False

    def has_state(self):
        """Whether there is a checkpoint from which a run can go on."""
        return self.last.exists()

    def begin(self, config, images):
        """Write config.toml, and split.csv where the images have names."""
        write_atomically(self.config, to_toml(config).encode())
        parts.write(self.parts, images)

    def save_last(self, trainer):
        """Write last.safetensors; see ``cnn.training.resume``."""
        resume.save_last(trainer)

    def save_best(self, trainer, score):
        """Write best.safetensors; see ``cnn.training.resume``."""
        resume.save_weights(trainer, self.best, score)

    def save_weights(self, trainer, path, score):
        """Write the weights alone to any file; see ``cnn.training.resume``."""
        resume.save_weights(trainer, path, score)

    def draw(self, trainer):
        """Draw curves.png."""
        if trainer.history:
            best = trainer.progress.best if len(trainer.images.validation) else None
            plots.curves(self.curves, trainer.history, trainer.config.name, best and best["epoch"])

    def finish(self, trainer):
        """Judge the best weights; write and return the result; see ``cnn.training.finish``."""
        return finish(trainer)

    def interrupted(self, message, signum):
        """Return what ends the training after a signal."""
        return Interrupted(message, signum)

    def log(self, line, result=False):
        """Append a line to log.txt, in English, with the time, and print it in the language of the command.

        Only the ``result`` is printed where no progress is wanted.
        Where the reader of stdout has left, ``reader_left`` says so. Raises CheckpointError when log.txt
        cannot be written.
        """
        try:
            with open(self.log_file, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
        except OSError as error:
            raise CheckpointError(f"{self.log_file}: cannot be written: {error.strerror or error}") from error
        if self._quiet:
            return
        try:
            if result or not is_quiet():
                say(translate(line))
        except ReaderLeft:
            self.reader_left = True

    def write_metrics(self, history):
        """Write metrics.csv: one row an epoch, the columns of COLUMNS."""
        write_atomically(self.metrics, _table(history))

    @staticmethod
    def digest(history):
        """Return the SHA-256 of metrics.csv for a history: tells a resume whether the file is as it was."""
        return hashlib.sha256(_table(history)).hexdigest()

    def read_metrics(self):
        """Return the rows of metrics.csv as ``write_metrics`` takes them, up to the first damaged one.

        Floats come back bit for bit.
        """
        rows = []
        try:
            with open(self.metrics, encoding="utf-8", newline="") as file:
                for number, row in enumerate(csv.DictReader(file), 1):
                    if row["epoch"] != str(number):  # charts have room for one row an epoch
                        break
                    rows.append({name: _number(name, row[name]) for name in COLUMNS})
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            pass
        return rows


def _table(history):
    rows = (",".join("" if row[c] is None else str(row[c]) for c in COLUMNS) for row in history)
    return "".join(f"{row}\n" for row in (",".join(COLUMNS), *rows)).encode()


def _number(column, text):
    if text == "" and (column.startswith("val_") or column == "train_accuracy"):
        return None
    value = int(text) if column in ("epoch", "step") else float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{column}: {text}")
    return value


def create(path, name):
    """Make and return a new RunFolder: ``path``, or else ``runs/<name>``, ``runs/<name>-2`` and so on.

    Raises ConfigError when the folder cannot be made, and when ``path`` has files already or is in use.
    """
    if path is None:
        return _create_numbered(Path("runs"), name)
    run = RunFolder(path)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        with run.locked():  # which removes what a killed run left
            taken = next((entry for entry in run.path.iterdir() if not is_temporary(entry)), None)
        if taken is None:
            _check_writable(run.path)
    except OSError as error:
        raise _cannot_create(run.path, error) from error
    if taken is not None:
        raise ConfigError(
            f'--run {path}: the folder has files already ("{taken.name}"), expected a new or empty folder; '
            "--resume continues a run"
        )
    return run


def _create_numbered(parent, name):
    """mkdir fails when somebody was faster, so two runs started together never share a folder."""
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            _check_writable(path)
            return RunFolder(path)
        except FileExistsError as error:
            if not parent.is_dir():
                raise _cannot_create(path, error) from error
            number += 1
        except OSError as error:
            raise _cannot_create(path, error) from error


def _check_writable(path):
    probe = path / ".writable"
    probe.touch()
    probe.unlink()


def _cannot_create(path, error):
    return ConfigError(
        f"{path}: the run folder cannot be written: {error.strerror or error}; choose one with --run DIR"
    )


def find(path, name):
    """Return the RunFolder to resume: ``path``, else the newest of ``runs/<name>``, ``runs/<name>-2`` ...

    Raises CheckpointError when there is none.
    """
    if path is None:
        numbered = {1: Path("runs") / name}
        for candidate in Path("runs").glob(f"{name}-*"):
            number = candidate.name.removeprefix(f"{name}-")
            if number.isdecimal():
                numbered[int(number)] = candidate
        existing = [numbered[n] for n in sorted(numbered) if numbered[n].is_dir()]
        path = existing[-1] if existing else numbered[1]
    run = RunFolder(path)
    if not run.config.is_file():
        raise CheckpointError(
            f"{run.path}: found no run to resume, expected a folder with config.toml of `cnn train`"
        )
    return run
