"""Searches: what is drawn, trials shared by many workers, killed ones taken up again, none doubled."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from cnn.config import load_config
from cnn.errors import ConfigError, MissingExtra
from cnn.training.loop import Trainer

SEARCH = """
[sweep]
trials = 6
startup = 2
sampler = "SAMPLER"

[sweep.space]
optimizer.lr = { low = 0.001, high = 1.0, log = true }
data.batch_size = { choices = [8, 16] }
"model.layers[0].out_channels" = { low = 2, high = 6, step = 2 }
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with images and a config to search."""
    monkeypatch.chdir(tmp_path)
    tiny.write_images(tmp_path / "images", train=16, test=4)
    write(tmp_path)
    return tmp_path


def write(folder, sampler="random", text=SEARCH):
    path = tiny.write_config(folder / "tiny.toml", "images")
    path.write_text(path.read_text() + text.replace("SAMPLER", sampler))


def table(folder):
    with open(Path(folder) / "sweep.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def finished_once(folder, count):
    """Whether there are ``count`` results with all numbers, each recorded by one line of the journal."""
    rows = table(folder)
    assert [int(row["trial"]) for row in rows] == list(range(count))
    lines = [json.loads(line) for line in (Path(folder) / "journal.log").read_text().splitlines()]
    told = [line["trial_id"] for line in lines if line["op_code"] == 6 and line["state"] in (1, 2, 3)]
    assert sorted(told) == list(range(count))
    assert all((Path(folder) / f"trial-{k:04}/result.json").exists() for k in range(count))
    return rows


# -- the section ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("optimizer.lr = { low = 1.0 }", "sweep.space.optimizer.lr: expected low and high, or choices"),
        ("optimizer.lr = { low = 1, high = 0.5 }", "low: found 1, expected less than high = 0.5"),
        ("optimizer.lr = { low = 0, high = 1, log = true }", "log: expected low above 0"),
        ("optimizer.lr = { choices = [1, 2], log = true }", "expected no log and no step beside choices"),
        ("optimizer.lr = { low = 1, high = 3, step = 0.5 }", "step: found 0.5, expected an integer"),
        (
            "optimizer.lr = { low = 1, hihg = 3 }",
            'space.optimizer.lr.hihg: unknown key. Did you mean "high"?',
        ),
        ('"optimizer.lr" = { low = "a", high = 3 }', 'sweep.space.optimizer.lr.low: found "a", expected '),
        ("optimizer.lr = 3", "sweep.space.optimizer.lr: found 3, expected a table"),
        ("", "sweep.space: missing"),
    ],
)
def test_a_space_that_is_none(here, space, message):
    write(here, text=f"[sweep]\n{'[sweep.space]' if space else ''}\n{space}\n")
    with pytest.raises(ConfigError, match="sweep") as error:
        load_config("tiny.toml")
    assert message in str(error.value)


def test_a_run_knows_nothing_of_the_search(here, capsys):
    assert "sweep" not in load_config("tiny.toml").plain()
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "r", "--set", "train.epochs=1")[0] == 0
    assert "sweep" not in (here / "r/config.toml").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "0..1"], "--seeds: tiny.toml has a [sweep] section"),
        (["--set", "optimizer.lr=1,2"], "--set optimizer.lr: tiny.toml has a [sweep] section"),
        (["--set", "sweep.space.optimizer.lr.low=-1.0", "--set", "sweep.space.optimizer.lr.log=false"],
         "optimizer.lr: found -1"),
        (["--set", "sweep.space={'model.layers[9].p'={choices=[1,2]}}"], "expected 0 to 6"),
        (["--set", "data.validation=0"], "expected data.validation above 0"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_the_first_trial(here, capsys, argv, message):
    pytest.importorskip("optuna")
    code, _, err = tiny.run(capsys, "sweep", "tiny.toml", "--out", "s", *argv)
    assert (code, message in err) == (2, True), err
    assert not list(here.glob("s/trial*"))


def test_without_optuna_the_extra_is_named(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = tiny.run(capsys, "sweep", "tiny.toml")
    assert code == MissingExtra.exit_code
    assert 'pip install "cnn[sweep]"' in err


# -- trials --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_trial_is_the_run_that_train_makes_with_its_values(here, capsys, sampler):
    pytest.importorskip("optuna")
    write(here, sampler)
    code, out, err = tiny.run(capsys, "sweep", "tiny.toml", "--out", "s", "--set", "sweep.pruner=none")
    assert (code, err) == (0, "")
    rows = finished_once("s", 6)
    for row in rows:
        assert 0.001 <= float(row["optimizer.lr"]) <= 1
        assert row["data.batch_size"] in ("8", "16")
        assert row["model.layers[0].out_channels"] in ("2", "4", "6")
        assert (row["state"], row["epochs"], row["attempts"]) == ("complete", "3", "1")
    assert len({row["optimizer.lr"] for row in rows}) == 6
    keys = ("optimizer.lr", "data.batch_size", "model.layers[0].out_channels")
    settings = [part for key in keys for part in ("--set", f"{key}={rows[2][key]}")]
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "alone", *settings)[0] == 0
    names = ("alone", "s/trial-0002")
    weights = [(here / name / "best.safetensors").read_bytes() for name in names]
    assert weights[0] == weights[1]
    best = max(float(row["val_accuracy"]) for row in rows)
    assert f"{100 * best:.2f}" in out.split("# tiny")[1].splitlines()[4]


def test_random_trials_depend_on_seed_and_number_alone(here, capsys):
    pytest.importorskip("optuna")
    options = ("--set", "train.epochs=1", "--set", "schedule.warmup_epochs=0", "--set", "sweep.trials=3")
    for name in ("a", "b"):
        assert tiny.run(capsys, "sweep", "tiny.toml", "--out", name, *options)[0] == 0
    first, second = ([{**row, "seconds": 0} for row in table(name)] for name in ("a", "b"))
    assert first == second


def test_more_trials_may_be_asked_for_and_another_search_is_refused(here, capsys):
    pytest.importorskip("optuna")
    few = ("sweep", "tiny.toml", "--out", "s", "--set", "sweep.trials=2")
    assert tiny.run(capsys, *few)[0] == 0
    before = tiny.files(here / "s/trial-0001")
    assert tiny.run(capsys, *few[:-1], "sweep.trials=3")[0] == 0
    finished_once("s", 3)
    assert tiny.files(here / "s/trial-0001") == before
    for change, key in (("sweep.sampler=tpe", "sweep.sampler"), ("train.epochs=2", "train")):
        code, _, err = tiny.run(capsys, *few, "--set", change)
        assert (code, f"began as a search with another {key};" in err) == (2, True), err


def test_hopeless_trials_are_pruned_and_diverging_ones_recorded(here, capsys):
    pytest.importorskip("optuna")
    rates = "sweep.space={'optimizer.lr'={choices=[0.1, 0.11, 1e-7, 1e30]}}"
    options = ("--set", rates, "--set", "sweep.trials=12", "--set", "sweep.metric=val_loss")
    assert tiny.run(capsys, "sweep", "tiny.toml", "--out", "s", *options)[0] == 0
    rows = table("s")
    states = {
        rate: [row["state"] for row in rows if row["optimizer.lr"] == rate]
        for rate in ("0.1", "1e-07", "1e+30")
    }
    assert len(rows) == 12
    assert "complete" in states["0.1"]
    assert "complete" not in states["1e-07"][3:]
    assert set(states["1e+30"]) == {"failed"}
    assert "pruned" in states["1e-07"]
    assert all(row["epochs"] == "2" for row in rows if row["state"] == "pruned")
    page = (here / "s/sweep.html").read_text()
    assert page.count("<polyline") >= sum(row["state"] != "failed" for row in rows)
    assert "stroke-dasharray" in page
    assert "http" not in page
    assert "<html lang=en>" in page
    assert tiny.run(capsys, "sweep", "tiny.toml", "--out", "s", *options, "--language", "zh")[0] == 0
    chinese = (here / "s/sweep.html").read_text(encoding="utf-8")
    assert "<html lang=zh-CN>" in chinese
    for english, word in {
        "Parallel coordinates": "平行坐标",
        ">pruned<": ">提前终止<",
        "trials": "次试验",
    }.items():
        assert english in page
        assert word in chinese
        assert english not in chinese


def test_a_trial_killed_between_pruning_and_its_record_ends_as_pruned(here, capsys, monkeypatch):
    pytest.importorskip("optuna")
    from cnn.tuning import study

    class Killed(BaseException):
        pass

    def dying(*_):
        raise Killed

    rates = "sweep.space={'optimizer.lr'={choices=[0.1, 0.11, 1e-7]}}"
    command = ("sweep", "tiny.toml", "--out", "s", "--set", rates, "--set", "sweep.trials=9")
    command += ("--set", "sweep.metric=val_loss")
    finish, restarts = study.SharedStudy.finish, 0
    monkeypatch.setattr(
        study.SharedStudy,
        "finish",
        lambda self, claim, value, found, state: dying() if state == "PRUNED" and not claim.again
        else finish(self, claim, value, found, state),
    )  # fmt: skip
    while True:
        try:
            assert tiny.run(capsys, *command)[0] == 0
            break
        except Killed:
            restarts += 1
            assert restarts < 9
    rows = finished_once("s", 9)
    assert restarts == sum(row["state"] == "pruned" for row in rows) > 0


def test_an_interrupted_trial_is_taken_up_again_with_the_same_bits(here, capsys, monkeypatch):
    pytest.importorskip("optuna")
    options = ("--set", "sweep.pruner=none", "--set", "sweep.trials=2")
    assert tiny.run(capsys, "sweep", "tiny.toml", "--out", "straight", *options)[0] == 0
    step, count = Trainer._step, []

    def interrupting(self, x, labels):
        count.append(1)
        if len(count) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, labels)

    monkeypatch.setattr(Trainer, "_step", interrupting)
    code, _, err = tiny.run(capsys, "sweep", "tiny.toml", "--out", "s", *options)
    assert (code, err) == (143, "cnn: sweep interrupted in trial 0; the same command goes on in s\n")
    code, out, _ = tiny.run(capsys, "sweep", "tiny.toml", "--out", "s", *options)
    assert code == 0
    assert "trial-0000 (taken up again)" in out
    assert [row["attempts"] for row in finished_once("s", 2)] == ["2", "1"]
    for k in (0, 1):
        one, two = (
            (here / name / f"trial-{k:04}/best.safetensors").read_bytes() for name in ("straight", "s")
        )
        assert one == two


def test_three_workers_one_killed_twice_lose_and_double_nothing(here):
    """Separate processes and the system's SIGKILL, while a trial is under way."""
    pytest.importorskip("optuna")
    trials = 8
    command = [sys.executable, "-m", "cnn", "sweep", "tiny.toml", "--out", "s", "--threads", "1"]
    for option in (f"sweep.trials={trials}", "train.epochs=8", "sweep.pruner=none"):
        command += ["--set", option]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    victim = start()
    others = [start(), start()]
    for _ in range(2):
        deadline = time.monotonic() + 100
        for line in victim.stdout:
            assert time.monotonic() < deadline
            if line.startswith("epoch"):
                break
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        victim = start()
    for process in [*others, victim]:
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0, out
    rows = finished_once("s", trials)
    assert sum(int(row["attempts"]) - 1 for row in rows) >= 1
    assert all(row["state"] == "complete" and row["epochs"] == "8" for row in rows)
