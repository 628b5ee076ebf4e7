"""What ends a run in the middle: a number that overflows, an exception; the files stay whole."""

import numpy as np
import pytest
import tiny

from cnn.config import load_config
from cnn.errors import NumericError
from cnn.optimizers import SGD
from cnn.training import checkpoint, finite, run_folder
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
        steps.append(trainer.network.data.copy())
        if len(steps) == 5:
            trainer.network.grad[:], trainer.optimizer.lr = 3e38, 1e3

    trainer.network.backward = enormous
    expected = r"epoch 2, step [12] of 3: after the update, which is taken back, \d\.\w+ holds (NaN|Inf)"
    with pytest.raises(NumericError, match=expected):
        trainer.fit()
    assert len(steps) == 5
    np.testing.assert_array_equal(trainer.network.data, steps[-1])
    files = list(trainer.run.path.rglob("*.safetensors"))
    assert len(files) > 3
    assert all(np.isfinite(a).all() for path in files for a in checkpoint.load(path)[0].values())


OPTIMIZERS = [
    "{type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4}",
    "{type='SGD', lr=1000, momentum=0.9999, nesterov=true, weight_decay=1000, decay_all=true}",
    "{type='Muon', lr=0.02, momentum=0.9, weight_decay=0.1}",
    "{type='Adam', lr=1000, weight_decay=1000, eps=1e-12}",
    "{type='AdamW', lr=1000, betas=[0.9, 0.5], weight_decay=1000}",
    "{type='RMSprop', lr=1000, alpha=0.1, weight_decay=1000}",
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_counts_as_ordinary_never_overflows(optimizer, tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    trainer = Trainer(load_config("tiny.toml", [f"optimizer={optimizer}", "train.backend=reference"]))
    network, rng = trainer.network, np.random.default_rng(0)
    guard, copies, state = finite.Guard(trainer.optimizer, network), [], finite.gradient
    monkeypatch.setattr(finite, "gradient", lambda network: copies.append(1) or state(network))
    start = network.data.copy()
    with np.errstate(all="ignore"):
        for size in (1.8e19, 1e-25, 1.8e19, 1e10, 1e-38, 1e-45, 1.8e19, 0.0):
            network.grad[:] = rng.choice([-size, size], network.grad.shape)
            network.data[:] = rng.choice([-1.8e19, 1.8e19, 0], start.shape)
            assert guard.step() is None
            assert np.isfinite(network.data).all()
        assert not copies
        network.grad[:] = 1.9e19  # larger: the weights are copied first
        network.data[:] = start
        guard.step()
        assert copies
        assert np.isfinite(network.data).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_never_take_what_is_not_finite(value, tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    trainer = Trainer(load_config("tiny.toml", ["optimizer={type='SGD', lr=1e3}", "train.backend=reference"]))
    network, before = trainer.network, trainer.network.data.copy()
    network.grad[7] = value
    with np.errstate(all="ignore"):
        found = finite.Guard(trainer.optimizer, network).step()
    assert ("after the update" in found) == (value == 3e38)
    assert "holds" in found
    np.testing.assert_array_equal(network.data, before)


def test_an_optimizer_that_does_not_say_so_is_watched(tmp_path, monkeypatch):
    class Mine(SGD):
        def _update(self, data, grad, *rest):
            data[3] = np.nan

    prepare(tmp_path, monkeypatch)
    network = Trainer(load_config("tiny.toml", ["train.backend=reference"])).network
    before = network.data.copy()
    assert "holds NaN in 1 of" in finite.Guard(Mine(network.parameters(), lr=0.1), network).step()
    np.testing.assert_array_equal(network.data, before)


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
