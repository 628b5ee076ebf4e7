"""The folder of one run: which files it has, and how they are written so that a crash cannot spoil them."""

from datetime import datetime
from pathlib import Path

from cnn.errors import CheckpointError, ConfigError
from cnn.files import write_atomically
from cnn.terminal import ReaderLeft, say

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
    """Paths inside a run folder, and its log and metrics."""

    def __init__(self, path):
        self.path = Path(path)
        self.reader_left = False
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.csv"
        self.log_file = self.path / "log.txt"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.curves = self.path / "curves.png"
        self.result = self.path / "result.json"
        self.gradients = self.path / "gradients.csv"
        self.report = self.path / "report.html"
        self.snapshots = self.path / "snapshots"

    def log(self, line):
        """Append a line to log.txt with the time, and print it; a progress bar stays below it.

        When the reader of the output has left, ``reader_left`` is set from then on, and log.txt goes on.
        """
        with open(self.log_file, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
        try:
            say(line)
        except ReaderLeft:
            self.reader_left = True

    def write_metrics(self, history):
        """Write metrics.csv: one row an epoch, the columns of COLUMNS."""
        rows = [
            ",".join(COLUMNS),
            *(",".join("" if row[c] is None else str(row[c]) for c in COLUMNS) for row in history),
        ]
        write_atomically(self.metrics, ("\n".join(rows) + "\n").encode())


def create(path, name):
    """Make and return a new RunFolder: ``path``, or else runs/<name>, runs/<name>-2 and so on.

    Raises ConfigError when the folder cannot be made, and when ``path`` has files already.
    """
    if path is None:
        return _create_numbered(Path("runs"), name)
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = next(path.iterdir(), None)
        if taken is None:
            _check_writable(path)
    except OSError as error:
        raise _cannot_create(path, error) from error
    if taken is not None:
        raise ConfigError(
            f'--run {path}: the folder has files already ("{taken.name}"), expected a new or empty folder; '
            "--resume continues a run"
        )
    return RunFolder(path)


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
    """Return the RunFolder to resume: ``path``, or else the newest of runs/<name>, runs/<name>-2 and so on.

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
