"""Where the numbers of a training go beside metrics.csv: JSON lines always, trackers where a config names
them.

All are callbacks of one interface, `cnn.Callback`. A tracker that fails, as one on a network may, is given up
with one line of the log; the training goes on.
"""

import json
import logging
from pathlib import Path

from cnn.errors import MissingExtra
from cnn.files import write_atomically
from cnn.training.callbacks import Callback

__all__ = ["TRACKERS", "JsonLines", "MLflow", "TensorBoard", "Trackio", "numbers_of", "parameters_of"]

log = logging.getLogger("cnn.training")


class JsonLines(Callback):
    """Writes metrics.jsonl into the run folder: a line {"epoch": 1, "train_loss": ...} an epoch, then the
    result.

    The file is written whole each time, so that after a resume it holds what the history holds.
    """

    def on_epoch_end(self, trainer, row):
        """Write what the history holds."""
        self._write(trainer, trainer.history)

    def on_fit_end(self, trainer, result):
        """Add the result."""
        self._write(trainer, [*trainer.history, {"result": result}])

    def _write(self, trainer, records):
        if isinstance(trainer.run.path, Path):
            lines = [json.dumps(record, allow_nan=False) for record in records]
            write_atomically(trainer.run.path / "metrics.jsonl", ("\n".join(lines) + "\n").encode())


class _Tracker(Callback):
    """A tracker of another package; a subclass calls it in ``_begin``, ``_log`` and ``_end``."""

    package = extra = ""

    def __init__(self):
        try:
            self._module = __import__(self.package)
        except ImportError as error:
            name = f'train.loggers: "{self.extra}" needs {self.package}'
            raise MissingExtra(f'{name}: pip install "cnn[{self.extra}]"') from error
        self._given_up = False

    def on_fit_begin(self, trainer):
        self._try(self._begin, trainer)

    def on_epoch_end(self, trainer, row):
        self._try(self._log, numbers_of(row), row["epoch"])

    def on_fit_end(self, trainer, result):
        self._try(
            self._end, {name: value for name, value in result.items() if isinstance(value, int | float)}
        )

    def _try(self, call, *values):
        if self._given_up:
            return
        try:
            call(*values)
        except Exception as error:
            self._given_up = True
            problem = " ".join(str(error).split())[:200]
            log.warning(
                "%s is given up, the training goes on: %s: %s", self.extra, type(error).__name__, problem
            )


class TensorBoard(_Tracker):
    """Scalars for TensorBoard, in the folder tensorboard/ of the run, by tensorboardX."""

    package, extra = "tensorboardX", "tensorboard"

    def _begin(self, trainer):
        folder = str(trainer.run.path / "tensorboard")
        # what was logged after the checkpoint that a resume begins from is not shown
        self._writer = self._module.SummaryWriter(folder, purge_step=len(trainer.history) + 1)

    def _log(self, numbers, epoch):
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def _end(self, numbers):
        for name in (key for key in numbers if key.startswith("test_") and key != "test_images"):
            self._writer.add_scalar(name.replace("_", "/", 1), numbers[name], numbers["epoch"])
        self._writer.close()


class MLflow(_Tracker):
    """A run of MLflow with the config as its parameters; MLFLOW_TRACKING_URI says where."""

    package = extra = "mlflow"

    def _begin(self, trainer):
        self._module.set_experiment(trainer.config.name)
        self._module.start_run(run_name=trainer.run.path.name)
        self._module.log_params(parameters_of(trainer.config.plain()))

    def _log(self, numbers, epoch):
        self._module.log_metrics(
            {name.replace("/", "_"): value for name, value in numbers.items()}, step=epoch
        )

    def _end(self, numbers):
        self._module.log_metrics(numbers)
        self._module.end_run()


class Trackio(_Tracker):
    """A run of Trackio, which keeps its numbers on this machine unless told otherwise."""

    package = extra = "trackio"

    def _begin(self, trainer):
        config = parameters_of(trainer.config.plain())
        self._module.init(project=trainer.config.name, name=trainer.run.path.name, config=config)

    def _log(self, numbers, epoch):
        self._module.log(numbers, step=epoch)

    def _end(self, numbers):
        self._module.log(numbers)
        self._module.finish()


TRACKERS = {"tensorboard": TensorBoard, "mlflow": MLflow, "trackio": Trackio}


def numbers_of(row):
    """Return a row of metrics.csv as trackers group it: {"train/loss": 0.3, "lr": 0.1}."""
    names = {name: name.replace("_", "/", 1) for name in row if name.startswith(("train_", "val_"))}
    return {
        names.get(name, name): value
        for name, value in row.items()
        if value is not None and name not in ("epoch", "step")
    }


def parameters_of(plain, path=""):
    """Return a config as {"optimizer.lr": 0.1}; lists, such as the layers, as JSON."""
    if not isinstance(plain, dict):
        return {path: plain if isinstance(plain, str | int | float) else json.dumps(plain)[:500]}
    inside = (parameters_of(value, f"{path}.{key}".lstrip(".")) for key, value in plain.items())
    return {key: value for part in inside for key, value in part.items()}
