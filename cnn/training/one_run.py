"""A run in a given folder: begun, gone on with, or finished before, whatever is found there."""

import json
from types import NoneType

from cnn.config import load_config
from cnn.errors import CheckpointError, ConfigError
from cnn.terminal import say
from cnn.training import run_folder
from cnn.training.loop import Trainer
from cnn.training.resume import check_same_experiment


def train_in(folder, config, callbacks=()):
    """Train a run in its folder, or resume it, unless it is finished; return its result (a dict).

    Raises what ``Trainer.fit`` raises, ConfigError when the run began with another config, CheckpointError
    when its result is damaged.
    """
    run = run_folder.RunFolder(folder)
    begun = run.config.exists()
    if begun:
        check_same_run(config, load_config(run.config), folder)
        if run.result.exists():
            say("finished before")
            return read_result(run.result)
    trainer = Trainer(config, callbacks=callbacks)
    trainer.run = run if begun else run_folder.create(folder, config.name)
    if begun:
        trainer.restore()
    return trainer.fit()


def read_result(path):
    """Return the dict in a result.json; CheckpointError when it is damaged."""
    try:
        result = json.loads(path.read_text("utf-8"))
        sound = isinstance(result, dict) and all(
            isinstance(value, (int, float, str, NoneType)) for value in result.values()
        )
    except (OSError, ValueError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(
            f"{path}: expected the result of a run, found a damaged file; delete it to test again"
        )
    return result


def check_same_run(config, began, folder):
    """Raise ConfigError when the run in ``folder`` began with another config than is asked for now."""
    try:
        check_same_experiment(config.plain(), began.plain())
    except ConfigError as error:
        raise ConfigError(f"{folder}: {str(error).removeprefix('--resume: ')} (--out)") from error
    if config.train.epochs != began.train.epochs:
        raise ConfigError(
            f"{folder}: train.epochs: found {config.train.epochs}, expected {began.train.epochs} as the run "
            "began; start a new run to change it (--out)"
        )
