"""Callbacks are told everything in order; and no kernel is loaded inside of a timed validation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from cnn.config import load_config
from cnn.training import checkpoint, run_folder
from cnn.training.callbacks import Callback
from cnn.training.loop import Trainer


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with images and a config."""
    tiny.write_images(tmp_path / "images")
    tiny.write_config(tmp_path / "tiny.toml", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def on_fit_begin(self, trainer):
        self.told.append("fit")

    def on_epoch_begin(self, trainer):
        self.told.append(f"epoch {trainer.progress.epoch}")

    def on_step_end(self, trainer, loss):
        self.told.append(round(loss, 12))

    def on_epoch_end(self, trainer, row):
        self.told.append(row)

    def on_fit_end(self, trainer, result):
        self.told.append(result)


def trained(name, *callbacks, overrides=()):
    run = run_folder.create(name, "tiny")
    trainer = Trainer(load_config("tiny.toml", overrides), run, callbacks)
    return trainer, trainer.fit()


def test_a_callback_is_told_every_moment_in_order(place):
    notes = Notes()
    trainer, result = trained("a", notes)
    steps, rows = len(trainer.batches), trainer.history
    expected = ["fit"]
    for epoch in range(3):
        expected += [f"epoch {epoch}", *[float] * steps, rows[epoch]]
    expected.append(result)
    assert [float if isinstance(told, float) else told for told in notes.told] == expected
    losses = [told for told in notes.told if isinstance(told, float)]
    assert sum(losses[:steps]) / steps == pytest.approx(rows[0]["train_loss"], rel=1e-9)


def test_what_a_class_does_not_define_it_is_not_told(place):
    class OnlyEpochs:
        rows = 0

        def on_epoch_end(self, trainer, row):
            self.rows += 1

    one = OnlyEpochs()
    trained("a", one)
    assert one.rows == 3


def test_callbacks_change_no_bit(place):
    trained("a", Notes())
    trained("b")
    one, two = (checkpoint.load(Path(name) / "last.safetensors")[0] for name in "ab")
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_a_callback_may_stop_a_run_and_a_resume_goes_on_with_the_same_bits(place):
    class Stop(Callback):
        def on_epoch_end(self, trainer, row):
            if row["epoch"] == 1:
                trainer.stop("enough for now")

    trainer, result = trained("a", Stop(), overrides=["train.checkpoint_every=5"])
    assert [row["epoch"] for row in trainer.history] == [1]
    assert result["epoch"] == 1
    assert "stopped after epoch 1: enough for now" in Path("a/log.txt").read_text()
    again = Trainer(trainer.config, run_folder.RunFolder("a"))
    again.restore()
    again.fit()
    trained("b")
    one, two = (checkpoint.load(Path(name) / "last.safetensors")[0] for name in "ab")
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


LOADS = """
import json, sys
from cnn.backend import compile_report, use_backend
from cnn.config import load_config
from cnn.training import run_folder
from cnn.training.loop import Trainer
from cnn.training.warm_up import warm_up
trainer = Trainer(load_config("tiny.toml", ["train.backend=numba", "data.validation=0.05"]))
trainer.run = run_folder.create("r", "tiny")
with use_backend("numba"):
    warm_up(trainer)
    before = compile_report()
    trainer._validate()
    print(json.dumps([len(trainer.images.validation), before, compile_report()]))
"""


def test_no_kernel_is_loaded_or_compiled_inside_of_a_timed_validation(place):
    root = str(Path(__file__).parents[1])
    environ = {**os.environ, "PYTHONPATH": root}
    answer = subprocess.run(
        [sys.executable, "-c", LOADS], capture_output=True, text=True, check=True, env=environ
    ).stdout
    count, before, after = json.loads(answer.splitlines()[-1])
    assert count <= 8  # so few have kernels of their own
    assert before == after
