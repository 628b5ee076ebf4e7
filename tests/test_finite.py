"""What ends a run in the middle: a number that overflows, an exception; the files stay whole."""

import numpy as np
import pytest
import tiny

from cnn.config import load_config
from cnn.errors import NumericError
from cnn.training import checkpoint, run_folder
from cnn.training.loop import Trainer


def prepare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    tiny.write_images(tmp_path / "images", train=16, test=4)
    tiny.write_config(tmp_path / "tiny.toml", "images")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_an_update_that_overflows_ends_the_run_in_its_step(tmp_path, monkeypatch, backend):
    prepare(tmp_path, monkeypatch)
    (tmp_path / "nan").mkdir()
    sets = [f"train.backend={backend}", "train.snapshots=9"]
    trainer = Trainer(load_config("tiny.toml", sets), run_folder.RunFolder(tmp_path / "nan"))
    backward, steps = trainer.network.backward, []

    def enormous(dy, **options):
        backward(dy, **options)
        steps.append(1)
        if len(steps) == 5:
            trainer.network.grad[:], trainer.optimizer.lr = 3e38, 1e3

    trainer.network.backward = enormous
    expected = r"epoch 2, step [12] of 3: after the update \d\.\w+ holds (NaN|Inf)"
    with pytest.raises(NumericError, match=expected):
        trainer.fit()
    files = list(trainer.run.path.rglob("*.safetensors"))
    assert len(files) > 3
    assert all(np.isfinite(a).all() for path in files for a in checkpoint.load(path)[0].values())


def test_an_unforeseen_exception_in_a_step_leaves_checkpoints_that_go_on(tmp_path, monkeypatch, capsys):
    prepare(tmp_path, monkeypatch)
    step, steps = Trainer._step, []

    def broken(self, x, labels):
        steps.append(1)
        if len(steps) == 8:
            raise ZeroDivisionError("in the third epoch")
        return step(self, x, labels)

    monkeypatch.setattr(Trainer, "_step", broken)
    code, _, err = tiny.run(capsys, "train", "tiny.toml", "--run", "run")
    assert code == 70
    assert "cnn train tiny.toml --run run; training in run, whose checkpoints are whole" in err
    assert checkpoint.load("run/last.safetensors")[1]["epoch"] == 2
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert tiny.run(capsys, "train", "--resume", "--run", "run")[0] == 0


@pytest.mark.parametrize("edit", [lambda text: text.replace("\n2,", "\n2000000000,"), lambda t: t + "x"])
def test_a_damaged_history_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys, edit):
    prepare(tmp_path, monkeypatch)
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "run", "--set", "train.epochs=2")[0] == 0
    metrics = tmp_path / "run" / "metrics.csv"
    text = metrics.read_text()
    metrics.write_text(edit(text))
    code, out, _ = tiny.run(capsys, "train", "--resume", "--run", "run", "--set", "train.epochs=3")
    assert code == 0
    assert ("metrics.csv: found 1 whole rows, expected 2" in out) == ("2000000000" in edit(text))
