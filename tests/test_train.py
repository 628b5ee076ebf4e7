"""What a run writes, which weights it keeps, and that it learns."""

import csv
import json
import os
import threading
import time

import numba
import numpy as np
import pytest
import tiny

from cnn.backend import get_threads, set_threads
from cnn.config import load_config
from cnn.data import Batches
from cnn.errors import NumericError
from cnn.training import checkpoint, experiment, run_folder
from cnn.training.loop import Trainer
from cnn.training.warm_up import warm_up

COLUMNS = "epoch,step,lr,train_loss,train_accuracy,val_loss,val_accuracy,images_per_second,seconds"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with images and a config."""
    folder = tmp_path_factory.mktemp("train")
    tiny.write_images(folder / "images")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    return folder


@pytest.fixture
def here(workplace, tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trainer(workplace, folder, *overrides):
    (folder / "run").mkdir()
    return Trainer(load_config(workplace / "tiny.toml", overrides), run_folder.RunFolder(folder / "run"))


def rows(run):
    with open(run / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_learns_and_writes_its_whole_folder(workplace, here, capsys):
    code, out, err = tiny.run(capsys, "train", workplace / "tiny.toml", "--set", "train.epochs=6")
    assert (code, err) == (0, "")
    run = here / "runs" / "tiny"
    assert {path.name for path in run.iterdir()} == {
        "best.safetensors",
        "config.toml",
        "curves.png",
        "split.csv",
        "gradients.csv",
        "last.safetensors",
        "log.txt",
        "metrics.csv",
        "metrics.jsonl",
        "report.html",
        "result.json",
        "snapshots",
    }
    assert (run / "metrics.csv").read_text().splitlines()[0] == COLUMNS
    table = rows(run)
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in table] == ["6", "12", "18", "24", "30", "36"]
    assert float(table[-1]["train_loss"]) < 0.6 * float(table[0]["train_loss"])
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((run / "result.json").read_text())
    assert result["test_accuracy"] >= 0.9
    assert f"test accuracy {100 * result['test_accuracy']:.2f} %" in out
    assert len(out.splitlines()) == 8  # what is trained, six epochs, the result
    assert [
        line.partition(" ")[2][9:] for line in (run / "log.txt").read_text().splitlines()
    ] == out.splitlines()


def test_the_written_config_trains_the_same_network_again(workplace, here, capsys):
    assert tiny.run(capsys, "train", workplace / "tiny.toml", "--set", "seed=11", "--run", "one")[0] == 0
    assert tiny.run(capsys, "train", "one/config.toml", "--run", "two")[0] == 0
    assert (here / "one/config.toml").read_bytes() == (here / "two/config.toml").read_bytes()
    one, two = (checkpoint.load(here / run / "last.safetensors")[0] for run in ("one", "two"))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_a_second_run_gets_a_folder_of_its_own(workplace, here, capsys):
    for name in ("tiny", "tiny-2", "tiny-3"):
        code, out, _ = tiny.run(capsys, "train", workplace / "tiny.toml", "--set", "train.epochs=1")
        assert code == 0
        assert out.rstrip().endswith(f"runs/{name}")


def test_a_dry_run_checks_everything_and_writes_nothing(workplace, here, capsys):
    code, out, err = tiny.run(capsys, "train", workplace / "tiny.toml", "--dry-run")
    assert (code, err) == (0, "")
    assert "96 training, 24 validation, 30 test images of 1x8x8" in out
    assert "Conv2d" in out
    assert list(here.iterdir()) == []


def test_without_validation_images_the_last_epoch_is_the_best(workplace, here, capsys):
    code, out, _ = tiny.run(
        capsys,
        "train",
        workplace / "tiny.toml",
        "--set",
        "data.validation=0",
        "--set",
        "train.epochs=2",
        "--run",
        "r",
    )
    assert code == 0
    assert "weights of epoch 2 (the last: validation = 0)" in out
    assert [row["val_loss"] for row in rows(here / "r")] == ["", ""]


def test_no_epochs_keep_the_first_weights(workplace, here, capsys):
    code, out, _ = tiny.run(capsys, "train", workplace / "tiny.toml", "--set", "train.epochs=0", "--set",
                            "schedule.warmup_epochs=0", "--run", "r")  # fmt: skip
    assert code == 0
    assert "weights of epoch 0" in out
    assert rows(here / "r") == []


def test_a_fractional_epoch_has_that_part_of_its_steps(workplace, here, capsys):
    sets = ("--set", "train.epochs=2.4", "--set", "schedule={type='linear'}")  # 6 steps an epoch: 14.4
    code, out, _ = tiny.run(capsys, "train", workplace / "tiny.toml", *sets, "--run", "r")
    assert code == 0
    assert "2.4 epochs of 6 steps" in out
    table = rows(here / "r")
    assert [row["step"] for row in table] == ["6", "12", "15"]
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    # the schedule knows that there are 15 steps: the last one is step 14
    assert [float(row["lr"]) for row in table] == pytest.approx([0.1 * (15 - t) / 15 for t in (5, 11, 14)])
    assert "epochs = 2.4" in (here / "r/config.toml").read_text()
    _, meta = checkpoint.load(here / "r/last.safetensors")
    assert meta["progress"]["epoch"] == 3
    assert "epoch 3/3" in out


@pytest.mark.parametrize(("epochs", "steps"), [(0.1, 3), (0.11, 4), (0, 0), (2, 60), (1.001, 31)])
def test_the_steps_of_a_run_are_rounded_up(workplace, epochs, steps):
    config = load_config(workplace / "tiny.toml", [f"train.epochs={epochs}", "schedule={type='constant'}"])
    assert experiment.total_steps(config, 30) == steps


def test_drop_last_leaves_out_the_small_batch(workplace, tmp_path):
    assert len(trainer(workplace, tmp_path, "data.batch_size=40", "data.drop_last=true").batches) == 2


def test_the_best_has_the_highest_accuracy_then_the_lowest_loss(workplace, tmp_path):
    run = trainer(workplace, tmp_path)
    assert run._is_best({"val_accuracy": 0.1, "val_loss": 9.0})
    run.progress.best = {"epoch": 1, "accuracy": 0.5, "loss": 1.0}
    assert run._is_best({"val_accuracy": 0.6, "val_loss": 2.0})
    assert run._is_best({"val_accuracy": 0.5, "val_loss": 0.9})
    assert not run._is_best({"val_accuracy": 0.5, "val_loss": 1.0})
    assert not run._is_best({"val_accuracy": 0.4, "val_loss": 0.1})


def test_the_test_images_are_judged_with_the_best_weights(workplace, here, capsys):
    assert tiny.run(capsys, "train", workplace / "tiny.toml", "--run", "r")[0] == 0
    result = json.loads((here / "r/result.json").read_text())
    best = max(rows(here / "r"), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert result["epoch"] == int(best["epoch"])
    assert result["val_accuracy"] == float(best["val_accuracy"])
    _, out, _ = tiny.run(capsys, "evaluate", "r")
    assert f"loss {result['test_loss']:.4f}, accuracy {100 * result['test_accuracy']:.2f} %" in out


def test_the_training_columns_are_averages_over_the_images(workplace, tmp_path, monkeypatch):
    run = trainer(workplace, tmp_path, "data.batch_size=40", "train.epochs=1", "schedule.warmup_epochs=0")
    losses, step = [], run._step

    def noting(x, labels):
        losses.append((step(x, labels), len(labels)))
        return losses[-1][0]

    monkeypatch.setattr(run, "_step", noting)
    run.fit()
    assert [count for _, count in losses] == [40, 40, 16]
    mean = sum(loss * count for loss, count in losses) / 96
    assert run.history[0]["train_loss"] == pytest.approx(mean, rel=1e-12)


def test_warming_up_changes_nothing(workplace, tmp_path):
    run = trainer(workplace, tmp_path, "train.backend=numba", "optimizer={type='AdamW', weight_decay=0.1}")
    before = {k: v.copy() for k, v in {**run.network.state(), **run.optimizer.state()}.items()}
    warm_up(run)
    after = {**run.network.state(), **run.optimizer.state()}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not run.network.grad.any()


def test_broken_weights_are_never_saved(workplace, tmp_path):
    run = trainer(workplace, tmp_path)
    run.save_last()
    good = run.run.last.read_bytes()
    run.network.data[3] = np.nan
    with pytest.raises(NumericError, match=r"network/0\.weight holds NaN in 1 of 36"):
        run.save_last()
    assert run.run.last.read_bytes() == good


def test_a_long_epoch_is_saved_by_the_minute(workplace, tmp_path, monkeypatch):
    run = trainer(
        workplace, tmp_path, "train.epochs=1", "train.checkpoint_minutes=1", "schedule.warmup_epochs=0"
    )
    clock, saved = [time.perf_counter()], []
    monkeypatch.setattr("cnn.training.loop.time.perf_counter", lambda: clock[0])
    step, save = run._step, run.save_last

    def slow_step(x, labels):
        clock[0] += 25
        return step(x, labels)

    def noting_save():
        saved.append(run.progress.step)
        save()

    monkeypatch.setattr(run, "_step", slow_step)
    monkeypatch.setattr(run, "save_last", noting_save)
    run.fit()
    assert saved == [3, 6, 0]  # after 75 s, after 150 s, at the end of the epoch


def test_a_terminal_gets_a_progress_bar_and_a_file_gets_lines(workplace, here, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, out, err = tiny.run(capsys, "train", workplace / "tiny.toml", "--set", "train.epochs=2")
    assert code == 0
    for part in ("epoch 1/2", "loss", "accuracy", "lr", "images/s", "left"):
        assert part in err
    assert "\r" not in out


@pytest.mark.parametrize("optimizer", ["Muon", "Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "one_cycle"])
def test_every_optimizer_and_schedule_trains_from_a_config(workplace, here, capsys, optimizer, schedule):
    options = [f"optimizer={{type='{optimizer}', lr=0.01, clip_norm=5.0}}", f"schedule={{type='{schedule}'}}"]
    sets = [part for option in options for part in ("--set", option)]
    code, _, err = tiny.run(capsys, "train", workplace / "tiny.toml", *sets, "--run", "r")
    assert (code, err) == (0, "")
    table = rows(here / "r")
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])


def test_class_weights_and_milestones_train_from_a_config(workplace, here, capsys):
    sets = ("--set", "loss.class_weight=[1, 2, 3.5]", "--set", "schedule={type='step', milestones=[1, 2.5]}")
    assert tiny.run(capsys, "train", workplace / "tiny.toml", *sets, "--run", "r")[0] == 0
    assert [float(row["lr"]) for row in rows(here / "r")] == pytest.approx([0.1, 0.01, 0.001])


def test_a_failed_start_leaves_no_folder(workplace, here, capsys):
    code, _, _ = tiny.run(capsys, "train", workplace / "tiny.toml", "--set", "model.layers[6].out_features=4")
    assert code == 2
    assert os.listdir(here) == []


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two cores")
def test_batches_come_from_a_thread_where_a_core_is_left_for_it(workplace, here, monkeypatch):
    names, images_of = [], Batches._images_of

    def look(*arguments):
        names.append(threading.current_thread().name)
        return images_of(*arguments)

    training, before = trainer(workplace, here, "train.epochs=1"), get_threads()
    monkeypatch.setattr(Batches, "_images_of", look)
    states = []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            set_threads(threads)
            names.clear()
            folder = here / str(threads)
            folder.mkdir()
            training = Trainer(training.config, run_folder.RunFolder(folder))
            training.fit()
            states.append((training.network.data.tobytes(), "cnn-batches" in names))
    finally:
        set_threads(before)
    assert [thread for _, thread in states] == [True, False]
    assert states[0][0] == states[1][0]
