"""Sweeps: which runs they are made of, what is not repeated, and the table."""

import csv
import json
import os
import signal
import statistics

import pytest
import tiny

from cnn.commands import sweep
from cnn.errors import ConfigError
from cnn.training.loop import Trainer


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with images and a config of one epoch."""
    monkeypatch.chdir(tmp_path)
    tiny.write_images(tmp_path / "images", train=10, test=6)
    config = tiny.write_config(tmp_path / "tiny.toml", "images")
    text = config.read_text().replace("epochs = 3", "epochs = 1").replace("warmup_epochs = 0.5", "")
    config.write_text(text)
    return tmp_path


def table(folder):
    with open(folder / "sweep.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0.1", ["0.1"]),
        ("0.1, 0.2,3", ["0.1", "0.2", "3"]),
        ("[1,2],[3, 4]", ["[1,2]", "[3, 4]"]),
        ('[{ type = "Cutout", size = 2 }, {a = "x]"}]', ['[{ type = "Cutout", size = 2 }, {a = "x]"}]']),
        ('"a,b",c', ['"a,b"', "c"]),
        ("'a,\\',b", ["'a,\\'", "b"]),
        ('"a\\",b",c', ['"a\\",b"', "c"]),
    ],
)
def test_values_are_split_at_the_commas_outside(text, parts):
    assert sweep.split_values(text) == parts


@pytest.mark.parametrize(
    ("text", "numbers"), [("0..2", [0, 1, 2]), ("4..4", [4]), ("7", [7]), ("3,1", [3, 1])]
)
def test_seeds(text, numbers):
    assert sweep.seeds(text) == numbers


@pytest.mark.parametrize("text", ["2..0", "a", "1..", "-1", "0,,1", ""])
def test_seeds_that_are_none(text):
    with pytest.raises(ConfigError, match="--seeds: found"):
        sweep.seeds(text)


def test_different_settings_have_different_folders():
    settings = [("a.b=1",), ("a.b=[1]",), ("a.b={1}",), ("a.b=" + 90 * "1",), ("a.b=" + 91 * "1",), ()]
    names = [sweep.folder_name(setting) for setting in settings]
    assert len(set(names)) == len(names)
    assert names[0] == "a.b=1"
    assert all("/" not in name and len(name) < 100 for name in names)


def test_every_setting_is_trained_with_every_seed(here, capsys):
    lr, sizes = "optimizer.lr=0.05,0.2", "model.layers[0].kernel_size=[3,3]"
    code, out, err = tiny.run(
        capsys, "sweep", "tiny.toml", "--seeds", "0..1", "--set", lr, "--set", sizes, "--set", "tta.flip=true"
    )
    assert (code, err) == (0, "")
    folder = here / "runs" / "tiny-sweep"
    rows = table(folder)
    assert [row["optimizer.lr"] for row in rows] == ["0.05", "0.2"]
    for row in rows:
        parts = [result(folder / f"optimizer.lr={row['optimizer.lr']}" / f"seed{seed}") for seed in (0, 1)]
        for name, key in {"": "test_accuracy", "tta_": "tta_accuracy", "val_": "val_accuracy"}.items():
            values = [part[key] for part in parts]
            assert float(row[f"{name}mean"]) == pytest.approx(statistics.fmean(values), rel=1e-5)
            assert float(row[f"{name}std"]) == pytest.approx(statistics.stdev(values), rel=1e-5)
        tests = [part["test_accuracy"] for part in parts]
        assert (float(row["min"]), float(row["max"])) == pytest.approx((min(tests), max(tests)), rel=1e-5)
        assert (row["n"], row["failed"]) == ("2", "0")
    assert out.endswith((folder / "sweep.md").read_text())
    assert f"| {'0.05 | 2 | '}" in out
    # each is the run that `cnn train` makes
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "one", "--set", "seed=1", "--set", sizes,
                    "--set", "optimizer.lr=0.2", "--set", "tta.flip=true")[0] == 0  # fmt: skip
    alone, swept = result(here / "one"), result(folder / "optimizer.lr=0.2" / "seed1")
    assert {**alone, "seconds": 0} == {**swept, "seconds": 0}


def test_a_finished_run_is_not_repeated(here, capsys, monkeypatch):
    assert tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0,1", "--out", "s")[0] == 0
    before = tiny.files(here / "s")
    fitted = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: fitted.append(self.config.seed) or fit(self))
    assert tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0,1", "--out", "s")[0] == 0
    assert (tiny.files(here / "s"), fitted) == (before, [])
    code, out, _ = tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0..2", "--out", "s")
    assert (code, fitted) == (0, [2])
    assert out.count("finished before") == 2
    assert table(here / "s")[0]["n"] == "3"
    for change, key in (("optimizer.lr=0.3", "optimizer.lr"), ("train.epochs=2", "train.epochs")):
        code, _, err = tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0", "--out", "s", "--set", change)
        assert code == 2
        assert f"{key}: found" in err


def test_ctrl_c_saves_says_how_to_go_on_and_the_bits_are_the_same(here, capsys, monkeypatch):
    assert tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0..1", "--out", "straight")[0] == 0
    step, steps = Trainer._step, []

    def interrupting(self, x, labels):
        steps.append(self.config.seed)
        if steps.count(1) == 1 and steps[-1] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, x, labels)

    monkeypatch.setattr(Trainer, "_step", interrupting)
    code, _, err = tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0..1", "--out", "s")
    assert code == 130
    assert err == "cnn: sweep interrupted in run 2 of 2; the same command goes on in s\n"
    assert table(here / "s")[0]["n"] == "1"
    monkeypatch.setattr(Trainer, "_step", step)
    code, out, _ = tiny.run(capsys, "sweep", "tiny.toml", "--seeds", "0..1", "--out", "s")
    assert code == 0
    assert "resuming after epoch 0, step 1" in out
    for seed in (0, 1):
        folders = (here / name / f"seed{seed}" for name in ("straight", "s"))
        one, two = ((folder / "best.safetensors").read_bytes() for folder in folders)
        assert one == two


def test_a_setting_that_diverges_is_counted_and_the_others_go_on(here, capsys):
    code, out, _ = tiny.run(
        capsys, "sweep", "tiny.toml", "--seeds", "0", "--set", "optimizer.lr=1e30,0.1", "--out", "s"
    )
    assert code == 5
    bad, good = table(here / "s")
    assert (bad["n"], bad["failed"], bad["mean"]) == ("0", "1", "")
    assert (good["n"], good["failed"]) == ("1", "0")
    assert "| 1e30 | 0, 1 failed | - |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "seed=1,2"], "chosen with --seeds"),
        (["--set", "optimizer.lr=0.1,-1"], "optimizer.lr: found -1"),
        (["--set", "optimizer.lr=0.1,0.1"], "listed twice"),
        (["--seeds", "x"], "--seeds: found 'x'"),
    ],
)
def test_mistakes_are_found_before_the_first_run(here, capsys, arguments, message):
    code, out, err = tiny.run(capsys, "sweep", "tiny.toml", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not (here / "runs").exists()
