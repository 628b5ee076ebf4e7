"""What the command line does for people with habits from elsewhere: hints, help, quiet, new configs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from cnn.commands import COMMANDS
from cnn.config import option_for
from cnn.errors import did_you_mean


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--epochs", "5"], "--set train.epochs=5"),
        (["--epochs=5"], "--set train.epochs=5"),
        (["--lr", "0.1"], "--set optimizer.lr=0.1"),
        (["--learning-rate", "0.1"], "--set optimizer.lr=0.1"),
        (["--batch-size", "32"], "--set data.batch_size=32"),
        (["--imgsz", "64"], "--set data.image_size=64"),
        (["--seed", "3"], "--set seed=3"),
        (["--train.epochs", "3"], "--set train.epochs=3"),
        (["--weight_decay"], "--set optimizer.weight_decay=VALUE"),
        (["--resum"], "--resume"),
    ],
)
def test_an_option_that_is_a_key_of_the_config_is_explained(capsys, argv, meant):
    code, _, err = tiny.run(capsys, "train", *argv)
    assert code == 2
    assert f'Did you mean "{meant}"?' in err


def test_a_command_without_a_config_gets_no_such_hint(capsys):
    assert "--set" not in tiny.run(capsys, "predict", "run", "--epochs", "5")[2]
    assert option_for("--nonsense", "3") is None


@pytest.mark.parametrize(
    ("word", "options", "meant"),
    [
        ("learning_rate", ["lr", "lr_scale"], "lr"),
        ("filters", ["out_channels", "kernel_size"], "out_channels"),
        ("units", ["out_features", "bias"], "out_features"),
        ("Dense", ["Linear", "Dropout"], "Linear"),
        ("strid", ["stride"], "stride"),
    ],
)
def test_what_other_tools_call_it_is_the_nearest(word, options, meant):
    assert did_you_mean(word, options) == f' Did you mean "{meant}"?'


def test_keras_names_in_a_config_are_explained(capsys):
    layers = 'model.layers=[{type="Conv2d", filters=3, kernel_size=3}, {type="Dense", units=3}]'
    code, _, err = tiny.run(capsys, "summary", "--set", layers)
    assert code == 2
    assert 'model.layers[0].filters: unknown argument of Conv2d. Did you mean "out_channels"?' in err
    assert 'Did you mean "Linear"?' in err
    assert (
        '"optimizer.lr"' in err
        or "lr" in tiny.run(capsys, "summary", "--set", "optimizer.learning_rate=1")[2]
    )


@pytest.mark.parametrize("command", ["train", "new", "completion"])
def test_help_of_a_command(capsys, command):
    assert tiny.run(capsys, "help", command) == tiny.run(capsys, command, "--help")


def test_quiet_prints_the_result_only_and_verbose_where_data_come_from(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_config(tmp_path / "tiny.toml", tiny.write_images(tmp_path / "images"))
    code, out, err = tiny.run(capsys, "train", "tiny.toml", "-q", "--set", "train.epochs=1")
    assert (code, err) == (0, "")
    assert out.startswith("test accuracy ")
    assert len(out.splitlines()) == 1
    assert len((tmp_path / "runs/tiny/log.txt").read_text().splitlines()) >= 3
    code, out, err = tiny.run(capsys, "train", "tiny.toml", "-v", "--set", "train.epochs=1")
    assert "cnn: folder: read from " in err
    assert "epoch 1/1" in out
    assert tiny.run(capsys, "train", "tiny.toml", "--set", "train.epochs=1")[2] == ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_that_knows_commands_and_options(capsys, shell):
    pytest.importorskip("shtab")
    code, out, _ = tiny.run(capsys, "completion", shell)
    assert code == 0
    for word in (*COMMANDS, "--resume", "--language"):
        assert word in out
    if shell == "bash":
        done = subprocess.run(["bash", "-n"], input=out, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_completion_without_its_extra_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = tiny.run(capsys, "completion", "bash")
    assert code == 3
    assert 'pip install "cnn[completion]"' in err


def test_a_shipped_config_is_written_where_one_stands_and_overwrites_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = tiny.run(capsys, "config")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} >= {"sample", "mnist_lenet", "folder_example"}
    assert tiny.run(capsys, "config", "mnist_lenet")[0] == 0
    shipped = Path(__file__).parents[1] / "configs" / "mnist_lenet.toml"
    assert Path("mnist_lenet.toml").read_bytes() == shipped.read_bytes()
    code, _, err = tiny.run(capsys, "config", "sample", "mnist_lenet.toml")
    assert code == 2
    assert "mnist_lenet.toml: found a file, expected none" in err
    assert Path("mnist_lenet.toml").read_bytes() == shipped.read_bytes()
    assert 'Did you mean "mnist_lenet"?' in tiny.run(capsys, "config", "mnist_lente")[2]


def photos(root, counts, size, colour=True):
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            pixels = rng.integers(0, 120, (*size, 3) if colour else size, dtype=np.uint8)
            pixels[: size[0] // 2 + label * 3] += 100
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")


def test_a_new_config_fits_the_photos_and_trains(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "my photos", {"cat": 30, "dog": 8}, (40, 60))
    (tmp_path / "my photos" / "cat" / "x.cr2").write_bytes(b"x")
    code, out, err = tiny.run(capsys, "new", "my photos")
    assert (code, err) == (0, "")
    assert "my photos: 2 classes: cat, dog" in out
    assert "sizes: 40x60 to 40x60, median 40x60" in out
    assert "not read: 1 .cr2 files" in out
    config = tomllib.loads(Path("my_photos.toml").read_text())
    assert config["data"]["image_size"] == 32
    assert config["data"]["fit"] == "crop"
    assert config["data"]["mode"] == "RGB"
    assert config["model"]["layers"][-1]["out_features"] == 2
    assert config["loss"]["class_weight"] == pytest.approx([30 / (2 * 24), 30 / (2 * 6)], abs=1e-3)
    options = ("--set", "train.epochs=2", "--set", "train.backend=reference")
    assert tiny.run(capsys, "train", "my_photos.toml", *options)[0] == 0
    assert tiny.run(capsys, "new", "my photos")[0] == 2


def test_a_new_config_for_grey_squares_has_no_colour(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "grey", {"a": 5, "b": 5}, (28, 28), colour=False)
    assert tiny.run(capsys, "new", "grey", "--out", "g.toml")[0] == 0
    text = Path("g.toml").read_text()
    assert 'mode = "L"' in text
    assert "ColorJitter" not in text
    assert "fit =" not in text
    assert "class_weight" not in text
