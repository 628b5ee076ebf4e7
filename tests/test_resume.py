"""A run that was killed or stopped goes on bit for bit; so does the same run at any thread count."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import tiny

from cnn.training import checkpoint

# Each epoch has 6 steps, so this is step 4 of epoch 2.
STOP_AT = 10
SCRIPT = """
import os, signal, sys
from cnn.cli import main
from cnn.training.loop import Trainer

step, count = Trainer._step, 0

def stopping_step(self, x, labels):
    global count
    count += 1
    loss = step(self, x, labels)
    if count == {stop_at}:
        os.kill(os.getpid(), {signum})
    return loss

Trainer._step = stopping_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with images, a config and one uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    tiny.write_images(folder / "images")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    assert tiny.main(["train", str(folder / "tiny.toml"), "--run", str(folder / "whole")]) == 0
    return folder


def stop(workplace, run, signum, *options, at=STOP_AT):
    """Train in a new process that sends itself a signal after so many steps; return the process."""
    script = SCRIPT.format(stop_at=at, signum=int(signum))
    command = [sys.executable, "-c", script, "train", "tiny.toml", "--run", run, *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def steady_rows(run):
    """Return metrics.csv without the two columns that hold times."""
    with open(run / "metrics.csv", encoding="utf-8") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(file)
        ]


def assert_same_run(one, two):
    """Compare every bit of weights, buffers, optimizer, progress, best and metrics."""
    for name in ("last.safetensors", "best.safetensors"):
        (a, meta_a), (b, meta_b) = checkpoint.load(one / name), checkpoint.load(two / name)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].tobytes() == b[key].tobytes(), f"{name}: {key}"
        assert meta_a["epoch"] == meta_b["epoch"]
        assert meta_a.get("score") == meta_b.get("score")
    progress_a, progress_b = (checkpoint.load(run / "last.safetensors")[1]["progress"] for run in (one, two))
    assert progress_a["best"] == progress_b["best"]
    assert steady_rows(one) == steady_rows(two)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_resume_gives_the_same_bits(workplace, capsys, signum, code):
    run = workplace / signum.name
    process = stop(workplace, run.name, signum)
    assert process.returncode == code
    assert len(process.stderr.splitlines()) == 1
    assert f"epoch 2, step {STOP_AT - 6} of 6" in process.stderr
    assert checkpoint.load(run / "last.safetensors")[1]["progress"]["step"] == STOP_AT - 6
    assert len(steady_rows(run)) == 1
    code, out, err = tiny.run(capsys, "train", "--resume", "--run", run)
    assert (code, err) == (0, "")
    assert f"resuming after epoch 1, step {STOP_AT - 6}" in out
    assert_same_run(workplace / "whole", run)


def test_after_sigkill_resume_goes_on_from_the_last_epoch(workplace, capsys):
    run = workplace / "killed"
    assert stop(workplace, run.name, signal.SIGKILL).returncode == -signal.SIGKILL
    assert checkpoint.load(run / "last.safetensors")[1]["epoch"] == 1
    assert tiny.run(capsys, "train", "--resume", "--run", run)[0] == 0
    assert_same_run(workplace / "whole", run)


def test_after_sigkill_resume_goes_on_from_a_checkpoint_in_mid_epoch(workplace, capsys):
    run, often = workplace / "killed-often", "train.checkpoint_minutes=1e-9"
    assert stop(workplace, run.name, signal.SIGKILL, "--set", often).returncode == -signal.SIGKILL
    assert checkpoint.load(run / "last.safetensors")[1]["progress"]["step"] == STOP_AT - 6 - 1
    assert tiny.run(capsys, "train", "--resume", "--run", run)[0] == 0
    assert_same_run(workplace / "whole", run)


def test_rows_after_the_checkpoint_are_dropped(workplace, capsys):
    run, rarely = workplace / "rarely", "train.checkpoint_every=3"
    assert stop(workplace, run.name, signal.SIGKILL, "--set", rarely, at=16).returncode == -signal.SIGKILL
    assert len(steady_rows(run)) == 2
    code, out, _ = tiny.run(capsys, "train", "--resume", "--run", run)
    assert code == 0
    assert "resuming after epoch 1, step 0" in out  # there is no best.safetensors without a last.safetensors
    assert_same_run(workplace / "whole", run)


def test_resuming_a_finished_run_changes_no_weight_and_prints_the_result(workplace, capsys):
    before = tiny.files(workplace / "whole")
    code, out, _ = tiny.run(capsys, "train", "--resume", "--run", workplace / "whole")
    assert code == 0
    assert "test accuracy" in out
    after = tiny.files(workplace / "whole")
    for name in ("last.safetensors", "best.safetensors", "metrics.csv", "config.toml", "result.json"):
        assert before[name] == after[name]


def test_resume_without_run_takes_the_newest_folder_of_that_name(workplace, capsys, monkeypatch):
    monkeypatch.chdir(workplace)
    for _ in range(2):
        assert tiny.run(capsys, "train", "tiny.toml", "--set", "train.epochs=1")[0] == 0
    code, out, _ = tiny.run(capsys, "train", "tiny.toml", "--resume", "--set", "train.epochs=1")
    assert code == 0
    assert "runs/tiny-2" in out


def test_more_epochs_may_be_asked_for_on_resume(workplace, capsys):
    run = workplace / "longer"
    begin = ("train", workplace / "tiny.toml", "--run", run, "--set", "train.epochs=1")
    assert tiny.run(capsys, *begin)[0] == 0
    assert tiny.run(capsys, "train", "--resume", "--run", run, "--set", "train.epochs=2")[0] == 0
    assert [row["epoch"] for row in steady_rows(run)] == ["1", "2"]
    assert "epochs = 2" in (run / "config.toml").read_text()


def test_resume_refuses_other_images(workplace, capsys, tmp_path):
    tiny.write_images(tmp_path / "images", train=39)
    run = workplace / "SIGTERM-data"
    assert tiny.run(capsys, "train", workplace / "tiny.toml", "--run", run, "--set", "train.epochs=1")[0] == 0
    elsewhere = f"data.root={(tmp_path / 'images').as_posix()}"
    code, _, err = tiny.run(capsys, "train", "--resume", "--run", run, "--set", elsewhere)
    assert code == 4
    assert "changed since the run began" in err


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_the_same_seed_gives_the_same_bits_again_and_at_any_thread_count(
    workplace, capsys, tmp_path, backend
):
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS), 1):
        run = tmp_path / f"{threads}-{len(list(tmp_path.iterdir()))}"
        options = ("--set", f"train.backend={backend}", "--threads", threads, "--run", run)
        assert tiny.run(capsys, "train", workplace / "tiny.toml", *options)[0] == 0
    first, *others = sorted(tmp_path.iterdir())
    for other in others:
        assert_same_run(first, other)


def test_another_seed_gives_another_network(workplace, capsys, tmp_path):
    assert (
        tiny.run(capsys, "train", workplace / "tiny.toml", "--run", tmp_path / "a", "--set", "seed=4")[0] == 0
    )
    a, b = (checkpoint.load(run / "best.safetensors")[0] for run in (workplace / "whole", tmp_path / "a"))
    assert not np.array_equal(a["network/0.weight"], b["network/0.weight"])


def test_resume_with_another_model_names_the_layer_and_the_argument(workplace, capsys):
    for override, line in {
        "model.layers[0].out_channels=8": "model.layers[0].out_channels: found 8, expected 4",
        "model.layers[5].p=0.2": "model.layers[5].p: found 0.2, expected 0.1",
        "data.augment=[]": "data.augment, entries: found 0, expected 2",
    }.items():
        code, _, err = tiny.run(capsys, "train", "--resume", "--run", workplace / "whole", "--set", override)
        assert code == 2
        assert f"--resume: {line} as the run began" in err
        assert len(err) < 200
