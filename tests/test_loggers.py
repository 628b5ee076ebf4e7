"""JSON lines and trackers: the numbers of metrics.csv reach them, and one that fails costs no training."""

import csv
import json
import sys
import types

import pytest
import tiny

from cnn.training.loggers import numbers_of, parameters_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_config(tmp_path / "tiny.toml", tiny.write_images(tmp_path / "images", 10, 4))
    return tmp_path


def train(capsys, *options):
    return tiny.run(capsys, "train", "tiny.toml", "--run", "run", *options)


def rows(place):
    return list(csv.DictReader((place / "run/metrics.csv").read_text().splitlines()))


def test_json_lines_have_every_epoch_and_the_result_also_after_a_resume(place, capsys):
    assert train(capsys, "--set", "train.epochs=2")[0] == 0
    first = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert [record.get("epoch") for record in first] == [1, 2, None]
    assert first[-1]["result"] == json.loads((place / "run/result.json").read_text())
    assert tiny.run(capsys, "train", "--resume", "--run", "run", "--set", "train.epochs=3")[0] == 0
    records = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert [record.get("epoch") for record in records] == [1, 2, 3, None]
    for record, row in zip(records, rows(place), strict=False):
        assert record["train_loss"] == float(row["train_loss"])
        assert record["val_accuracy"] == float(row["val_accuracy"])


def test_tensorboard_gets_the_numbers(place, capsys):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    assert train(capsys, "--set", "train.epochs=2", "--set", 'train.loggers=["tensorboard"]')[0] == 0
    (file,) = (place / "run/tensorboard").iterdir()
    content, found = file.read_bytes(), {}
    while content:  # records of TFRecord: length, its checksum, an event, its checksum
        size = int.from_bytes(content[:8], "little")
        event, content = Event.FromString(content[12 : 12 + size]), content[16 + size :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    for epoch, row in enumerate(rows(place), 1):
        assert found["train/loss", epoch] == pytest.approx(float(row["train_loss"]), rel=1e-6)
        assert found["val/accuracy", epoch] == pytest.approx(float(row["val_accuracy"]), rel=1e-6)
    result = json.loads((place / "run/result.json").read_text())
    assert found["test/accuracy", result["epoch"]] == pytest.approx(result["test_accuracy"])


class Recorder(types.ModuleType):
    """A package that writes down what it is called with."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *values, **named: self.calls.append((name, values, named))


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("mlflow", ["set_experiment", "start_run", "log_params", *["log_metrics"] * 3, "end_run"]),
        ("trackio", ["init", *["log"] * 3, "finish"]),
    ],
)
def test_a_tracker_gets_config_epochs_and_result(place, capsys, monkeypatch, package, names):
    recorder = Recorder(package)
    monkeypatch.setitem(sys.modules, package, recorder)
    assert train(capsys, "--set", "train.epochs=2", "--set", f'train.loggers=["{package}"]')[0] == 0
    assert [name for name, _, _ in recorder.calls] == names
    steps = [named.get("step") for name, _, named in recorder.calls if name in ("log", "log_metrics")]
    assert steps == [1, 2, None]
    losses = [list(v[0].values())[1] for name, v, named in recorder.calls if "step" in named]
    assert losses == [float(row["train_loss"]) for row in rows(place)]


def test_mlflow_itself_takes_the_calls(place, capsys, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (place / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    code, _, err = train(capsys, "--set", "train.epochs=2", "--set", 'train.loggers=["mlflow"]')
    assert (code, "given up" in err) == (0, False)
    mlflow.set_tracking_uri((place / "mlruns").as_uri())
    (found,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("tiny").experiment_id])
    assert found.data.params["optimizer.lr"] == "0.1"
    assert found.data.metrics["train_loss"] == pytest.approx(float(rows(place)[-1]["train_loss"]))


def test_a_tracker_that_fails_is_given_up_with_one_line(place, capsys, monkeypatch):
    broken = Recorder("trackio")
    broken.log = lambda *values, **named: 1 / 0
    monkeypatch.setitem(sys.modules, "trackio", broken)
    code, out, err = train(capsys, "--set", "train.epochs=3", "--set", 'train.loggers=["trackio"]')
    assert code == 0
    assert err.count("trackio is given up, the training goes on: ZeroDivisionError") == 1
    assert "epoch 3/3" in out


def test_a_tracker_that_is_not_there_names_its_extra(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, _, err = train(capsys, "--set", 'train.loggers=["tensorboard"]')
    assert code == 3
    assert 'pip install "cnn[tensorboard]"' in err
    code, _, err = train(capsys, "--set", 'train.loggers=["tensorbord"]')
    assert code == 2
    assert 'Did you mean "tensorboard"?' in err


def test_the_names_of_numbers_and_parameters():
    row = {"epoch": 1, "step": 6, "lr": 0.1, "train_loss": 1.0, "val_loss": None, "images_per_second": 5.0}
    assert numbers_of(row) == {"lr": 0.1, "train/loss": 1.0, "images_per_second": 5.0}
    assert parameters_of({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {"a.b": 1, "a.c": "[1, 2]", "d": "x"}
