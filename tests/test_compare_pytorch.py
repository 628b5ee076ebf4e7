"""The script that trains one recipe in both frameworks: what it writes, and that it goes on."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from cnn.config import load_config
from cnn.training.loop import Trainer
from cnn.training.run_folder import RunFolder

pytest.importorskip("torch")
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.append(str(SCRIPTS))
import compare_pytorch  # noqa: E402
import compare_worker  # noqa: E402
from compare_report import write_report  # noqa: E402

# float64 has no place in training, so a gentle recipe: two float32 trainings then part late
SETTINGS = [
    "optimizer.lr=0.02",
    "model.layers[5].p=0.0",
    "train.epochs=1.5",
    "tta.translate=1",
    "data.mixup=0.3",
    'optimizer.groups=[{match="0.*", until_epoch=0.5}]',
    'average={type="ema", decay=0.8}',
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    tiny.write_images(folder / "images")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    return folder


def compare(place, *arguments):
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}
    command = [sys.executable, str(SCRIPTS / "compare_pytorch.py"), "tiny.toml", *settings, "--threads", "1"]
    return subprocess.run(
        [*command, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_both_train_alike_and_a_second_call_goes_on(place):
    done = compare(place, "--seeds", "0", "--out", "out")
    assert done.returncode == 0, done.stderr
    rows = read(place / "out" / "rows.csv")
    assert tuple(rows[0]) == compare_pytorch.COLUMNS
    assert [(row["framework"], row["epoch"]) for row in rows] == [
        ("cnn", "1"), ("cnn", "2"), ("torch", "1"), ("torch", "2"),
    ]  # fmt: skip
    for ours, theirs in zip(rows[:2], rows[2:], strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-3)
        # two of 30 images may fall differently
        assert float(ours["test_accuracy"]) == pytest.approx(float(theirs["test_accuracy"]), abs=0.07)
    for first, last in (rows[:2], rows[2:]):
        assert first["tta_accuracy"] == ""  # after the last epoch only
        assert float(last["tta_accuracy"]) == pytest.approx(float(rows[1]["tta_accuracy"]), abs=0.07)
    assert {row["clock"] for row in rows} == {"wall"}
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"])
    summary = (place / "out" / "summary.md").read_text()
    assert "| cnn |  | 1 | 1 | 2 |" in summary
    assert "| PyTorch | eager channels_last | 1 | 1 | 2 |" in summary
    assert (place / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    # a run that was killed after its first epoch is repeated, the others are kept
    text = (place / "out" / "rows.csv").read_text().splitlines(keepends=True)
    (place / "out" / "rows.csv").write_text("".join([*text[:1], *text[2:]]))
    again = compare(place, "--seeds", "0", "--out", "out")
    assert "torch, seed 0: done already" in again.stdout
    after = read(place / "out" / "rows.csv")
    assert [(row["framework"], row["epoch"]) for row in after] == [
        ("torch", "1"), ("torch", "2"), ("cnn", "1"), ("cnn", "2"),
    ]  # fmt: skip
    assert {**after[2], "seconds": 0} == {**rows[0], "seconds": 0}
    other = compare(place, "--out", "out", "--set", "optimizer.lr=0.3")
    assert other.returncode == 2
    assert "another recipe was compared here" in other.stderr


def test_timing_takes_turns(place):
    done = compare(place, "--timing-only", "2", "--rounds", "2", "--cpu-time")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["PyTorch eager NCHW", "PyTorch eager channels_last"]
    assert lines[-1].startswith("  PyTorch / cnn")


def test_the_recorded_trainer_is_the_real_one(place, tmp_path):
    config = load_config(place / "tiny.toml", [*SETTINGS, "train.epochs=2"])
    rows = []
    recorded = compare_worker.Recorded(
        config, lambda row: rows.append(row), time.perf_counter, RunFolder(tmp_path / "a")
    )
    plain = Trainer(config, RunFolder(tmp_path / "b"))
    for trainer in (recorded, plain):
        trainer.run.path.mkdir()
        result = trainer.fit()
    assert np.array_equal(recorded.network.data, plain.network.data)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in plain.history]
    assert rows[result["epoch"] - 1]["test_accuracy"] == result["test_accuracy"]
    assert rows[0]["tta_accuracy"] is None
    assert result["epoch"] == 2
    assert rows[1]["tta_accuracy"] == result["tta_accuracy"]
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] <= recorded.progress.seconds


def test_the_summary_has_mean_spread_and_ratio(tmp_path):
    rows = [
        {
            "framework": framework, "variant": "", "threads": "2", "clock": "wall", "seed": str(seed),
            "epoch": str(epoch), "seconds": str(30 * epoch * (1 + (framework == "torch"))),
            "train_loss": "1.5", "test_accuracy": str(0.8 + 0.02 * seed), "tta_accuracy": "",
        }
        for framework, epochs in {"cnn": 2, "torch": 2}.items()
        for seed in (0, 1)
        for epoch in range(1, 1 + epochs - (framework == "torch" and seed == 1))
    ]  # fmt: skip
    write_report(tmp_path, rows, "name")
    summary = (tmp_path / "summary.md").read_text()
    assert "| cnn |  | 2 | 2 | 2 | 81.00 ± 1.41 | - | 1.5000 ± 0.0000 | 60.0 ± 0.0 |" in summary
    assert "| PyTorch |  | 2 | 1 | 2 | 80.00 | - | 1.5000 | 120.0 |" in summary  # the unfinished seed is out
    assert "Time of cnn / time of PyTorch: 0.50" in summary


@pytest.mark.parametrize(("text", "numbers"), [("0..2", [0, 1, 2]), ("4", [4]), ("3,1", [3, 1])])
def test_seeds(text, numbers):
    assert compare_pytorch.seeds(text) == numbers
