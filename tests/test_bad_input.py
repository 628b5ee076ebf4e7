"""Whatever is wrong: the right exit code, one to three clear lines, no traceback, nothing harmed."""

import os
import pickle
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import tiny

from cnn.training import checkpoint

USAGE, DATA, CHECKPOINT, NUMBERS = 2, 3, 4, 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images, a config and a finished run; each test works in a copy."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.write_images(folder / "images", train=8, test=4)
    tiny.write_config(folder / "tiny.toml", "images")
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert tiny.main(["train", "tiny.toml", "--set", "train.epochs=1"]) == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """The current folder of the test: a fresh copy of ``trained``."""
    shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def user_files(folder):
    """Return the content of all files."""
    return tiny.files(folder)


def refused(capsys, place, code, expected, *argv):
    """Run a command line that must fail with this code and words, and leave every file as it was."""
    before = user_files(place)
    found, out, err = tiny.run(capsys, *argv)
    lines = err.splitlines()
    assert found == code, err
    assert 1 <= len(lines) <= 3, err
    assert "Traceback" not in out + err
    assert expected in err
    assert all(len(line) < 400 for line in lines)
    assert user_files(place) == before


# -- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], 'found "trian", expected a command: train, sweep, compare, evaluate'),
        (["trian"], 'Did you mean "train"?'),
        (["train", "tiny.toml", "--epochs", "3"], 'unknown argument "--epochs"'),
        (["train", "tiny.toml", "--resum"], 'Did you mean "--resume"?'),
        (["train", "tiny.toml", "more"], 'unknown argument "more"'),
        (["evaluate"], "the following arguments are required: RUN_OR_CHECKPOINT"),
        (["predict", "runs/tiny"], "the following arguments are required: IMAGE"),
        (
            ["predict", "runs/tiny", "images/test/row/00.png", "--top", "0"],
            "--top: found 0, expected at least 1",
        ),
        (["train", "tiny.toml", "--threads", "0"], "threads: expected 1 to"),
        (["train", "tiny.toml", "--threads", "9999"], "threads: expected 1 to"),
        (["train", "tiny.toml", "--threads", "two"], "argument --threads: invalid int value: 'two'"),
        (["train", "tiny.toml", "--set", "train.epochs"], "expected KEY=VALUE"),
        (["train", "tiny.toml", "--set", "model.layers[9].bias=false"], "found index 9, expected 0 to 6"),
        (["summary", "tiny.toml", "--batch-size", "0"], "--batch-size: found 0"),
        (["evaluate", "runs/tiny", "--split", "tset"], "argument --split: invalid choice: 'tset'"),
    ],
)
def test_a_wrong_command_line(capsys, place, argv, expected):
    refused(capsys, place, USAGE, expected, *argv)


# -- the config --------------------------------------------------------------------------------


def test_a_missing_config_suggests_its_neighbour(capsys, place):
    refused(
        capsys, place, USAGE, 'No such file or directory. Did you mean "tiny.toml"?', "train", "tinny.toml"
    )


def test_a_folder_as_config(capsys, place):
    refused(capsys, place, USAGE, "Is a directory", "train", "images")


def test_a_config_that_is_not_toml(capsys, place):
    (place / "bad.toml").write_text("[data\ndataset = 3")
    refused(capsys, place, USAGE, "bad.toml: not valid TOML", "train", "bad.toml")


def test_a_config_that_is_not_text(capsys, place):
    (place / "bad.toml").write_bytes(bytes(range(128, 256)))
    refused(capsys, place, USAGE, "bad.toml: found bytes that are not UTF-8", "train", "bad.toml")


def test_a_config_in_utf16_is_said_to_be_so(capsys, place):
    (place / "bad.toml").write_bytes((place / "tiny.toml").read_text("utf-8").encode("utf-16"))
    refused(capsys, place, USAGE, "it looks like UTF-16: save it as UTF-8", "train", "bad.toml")


def test_a_config_with_a_byte_order_mark_and_a_hidden_name_is_read(capsys, place):
    (place / ".mine.toml").write_bytes(b"\xef\xbb\xbf" + (place / "tiny.toml").read_bytes())
    assert tiny.run(capsys, "summary", ".mine.toml")[0] == 0
    text = (place / "tiny.toml").read_text("utf-8").replace('name = "tiny"', "")
    (place / ".-.toml").write_text(text, "utf-8")
    assert tiny.run(capsys, "train", ".-.toml", "--dry-run")[1].startswith("config: ")


def test_a_device_as_config_fills_no_memory(capsys, place):
    refused(capsys, place, USAGE, "/dev/zero: found more than 4,000,000 bytes", "train", "/dev/zero")


@pytest.mark.parametrize(
    ("argv", "code", "expected"),
    [
        (["predict", "runs/tiny", "a\0.png"], USAGE, "found an argument with a NUL character"),
        (
            ["train", "tiny.toml", "--set", "data.root=caf\udce9"],
            USAGE,
            r"data.root=caf\xe9: found bytes that are",
        ),
        (["train", "tiny.toml", "--set", r'data.root="a\u0000b"'], USAGE, "a path with a NUL character"),
        (["train", "tiny.toml", "--set", "data.root=~nobody-there/x"], USAGE, "a path whose ~ leads nowhere"),
        (
            ["summary", "tiny.toml", "--set", "data.root=~nobody-there/x"],
            USAGE,
            "a path whose ~ leads nowhere",
        ),
        (["explain", "runs/tiny", "--image", "²"], DATA, "²: expected an image file, found no such file"),
        (["explain", "runs/tiny", "--image", "9" * 5000], DATA, "expected an image file"),
        (
            ["explain", "runs/tiny", "--image", "0", "--label", "²"],
            USAGE,
            '--label: found "²", expected a class',
        ),
        (["explain", "runs/tiny", "--image", "0", "--max-mb", "nan"], USAGE, "--max-mb"),
        (["sweep", "tiny.toml", "--seeds", "0..99999999999"], USAGE, "at most 10,000 of them"),
        (["sweep", "tiny.toml", "--seeds", "²"], USAGE, "--seeds: found '²'"),
        (["predict", "runs/tiny", "\x1b[31m\u202e.png"], DATA, r"\x1b[31m\u202e.png: expected an image file"),
    ],
)
def test_odd_arguments(capsys, place, argv, code, expected):
    refused(capsys, place, code, expected, *argv)


def test_an_empty_config(capsys, place):
    (place / "bad.toml").write_text("")
    refused(capsys, place, USAGE, "data: missing", "train", "bad.toml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.momentun=0.9", 'optimizer.momentun: unknown key. Did you mean "momentum"?'),
        ("train.epochs=many", 'train.epochs: found "many", expected a number'),
        ("train.epochs=-1", "train.epochs: found -1, expected at least 0"),
        ("optimizer.lr=-0.1", "optimizer.lr: found -0.1, expected a number above 0"),
        ("optimizer.momentum=1.5", "optimizer.momentum: found 1.5, expected a number below 1"),
        ("data.batch_size=0", "data.batch_size: found 0, expected at least 1"),
        (
            f"data.batch_size={2**63}",
            f"data.batch_size: found {2**63}, expected a number below {2**63}",
        ),
        ("data.validation=1.0", "data.validation: found 1.0, expected a number below 1"),
        ("data.validation=0.001", "would put 0 into validation"),
        ("data.dataset=MNITS", 'Did you mean "MNIST"?'),
        ("train.threads=0", "train.threads: found 0, expected at least 1"),
        (
            "model.layers[0].kernel_sise=3",
            'model.layers[0].kernel_sise: unknown argument of Conv2d. Did you mean "kernel_size"?',
        ),
        ("model.layers[0].type=Conv", 'Did you mean "Conv2d"?'),
        ("model.layers[0].kernel_size=11", "larger than its padded input"),
        ("model.layers[0].groups=3", "groups=3 does not divide out_channels=4"),
        ("model.layers[0].groups=2", "groups=2 does not divide the 1 input channels"),
        ("model.layers[0].weight_init=he", "he"),
        ("model.layers[3].kernel_size=9", "larger than its padded input"),
        ("model.layers[4].type=ReLU", "Put Flatten() before it"),
        ("model.layers[6].out_features=4", "the last layer gives 4 numbers, expected 3"),
        ("model.layers[6]={type='ReLU'}", "the last layer gives 64 numbers, expected 3"),
        ("model.layers=[{type='ReLU'}]", "the last layer gives (1, 8, 8), expected one number a class"),
        (
            "optimizer.groups=[{match='BatchNrm2d.bias', lr_scale=2}]",
            'optimizer.groups[0].match: found "BatchNrm2d.bias", which matches no parameter. Did you mean '
            '"BatchNorm2d.bias"? There are Conv2d.weight, Conv2d.bias, BatchNorm2d.weight',
        ),
        (
            "optimizer.groups=[{match='*', lr_scal=2}]",
            "optimizer.groups[0].lr_scal: unknown key. Did you mean",
        ),
        ("optimizer.groups=[{lr_scale=2}]", "optimizer.groups[0].match: missing, expected a value"),
        ("optimizer.groups=[{match='*', weight_decay=-1}]", "optimizer.groups[0].weight_decay: found -1"),
        ("optimizer.groups=[{match='*', trainable=false}]", "every parameter is frozen"),
        (
            "optimizer.groups=[{match='0.bias', from_epoch=2, until_epoch=2}]",
            "0.bias would be trained from epoch 2 until epoch 2",
        ),
        ("optimizer.groups=3", "optimizer.groups: found 3, expected a list"),
        ("average.type=emma", 'average.type: found "emma", expected one of "none", "lookahead", "ema"'),
        ("average={type='ema', decay=1.0}", "average.decay: found 1.0, expected a number below 1"),
        ("average={type='lookahead', evry=2}", 'average.evry: unknown key. Did you mean "every"?'),
        ("average={type='lookahead', every=0}", "average.every: found 0, expected at least 1"),
        ("optimizer.decoupled=1", "optimizer.decoupled: found 1, expected true or false"),
        ("data.drop_last=1", "data.drop_last: found 1, expected true or false"),
        (
            "model.layers[0].weight_init=whitening",
            "found out_channels=4, expected out_channels=18 (2 * 1 channels * 3 * 3 pixels) and groups=1",
        ),
        ("model.layers[0].whitening_eps=-1", "whitening_eps: expected a finite number above 0, found -1"),
        ("model.layers[0].bias_init=dirac", "expected the weight of a convolution"),
        (
            "model.layers=[{type='ReLU'}, {type='Conv2d', out_channels=8, kernel_size=2, "
            "weight_init='whitening'}, {type='Flatten'}, {type='Linear', out_features=3}]",
            "is for a Conv2d that sees the images",
        ),
        ("train.epochs=1e308", "train.epochs: found 1e+308, expected a number below 9"),
        ("loss.class_weight=[1, 2]", "loss.class_weight: found 2 numbers, expected 3"),
        ("data.augment=[{type='RandomCrop', size=20}]", "larger than the padded image"),
        ("data.augment=[{type='RandomTranslate', pixels=9, mode='reflect'}]", "reaches at most 7 pixels"),
    ],
)
def test_a_wrong_config(capsys, place, override, expected):
    refused(capsys, place, USAGE, expected, "train", "tiny.toml", "--set", override)


@pytest.mark.parametrize(
    "command", [("train", "--dry-run"), ("train",), ("summary",), ("sweep", "--out", "s")], ids=" ".join
)
@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("out_features = 3", "out_features = 4", "model.layers"),
        ('{ type = "Flatten" },', "", "model.layers"),
        ("kernel_size = 3", "kernel_size = 30", "model.layers"),
        ("padding = 1", 'padding = 1, weight_init = "whitening"', "model.layers"),
        ("padding = 1", "padding = 1, groups = 4", "model.layers"),
        ("padding = 1", 'padding = 1, weight_init = "he"', "model.layers"),
        ("out_channels = 4", "out_channels = 9223372036854775808", "model.layers"),
        ("padding = 1", "padding = 1000000", "model.layers"),
        ("padding = 1", "padding = 1000000000000", "model.layers"),
        ("batch_size = 16", 'batch_size = 16\nsplit = "letters"', "data"),
        ('dataset = "folder"', 'dataset = "folders"', "data.dataset"),
        ("pixels = 1", "pixels = 99, mode = 'reflect'", "data"),
        ("momentum = 0.9", "groups = [{ match = 'Linaer.bias' }]", "optimizer.groups[0].match"),
        ("label_smoothing = 0.05", "class_weight = [1, 2]", "loss.class_weight"),
        ("[schedule]", "[tta]\ntranslate = 20\n[schedule]", "tta.translate"),
        ("validation = 0.2", "validation = 0.0001", "data.validation"),
    ],
)
def test_what_is_found_after_the_file_was_read_names_it_and_the_key(capsys, place, command, old, new, key):
    later = ("class_weight", "translate", "0.0001", "Linaer", "split")  # what `summary` has no need of
    if command == ("summary",) and any(word in new for word in later):
        command = ("train", "--dry-run")
    text = (place / "tiny.toml").read_text()
    assert text.count(old) >= 1
    (place / "bad.toml").write_text(text.replace(old, new, 1))
    name, *options = command
    expected = f"cnn: bad.toml: {key}" if name != "sweep" else f"bad.toml: {key}"
    found, out, err = tiny.run(capsys, name, "bad.toml", *options)
    print(err, end="")
    assert (found, expected in err, len(err.splitlines())) == (USAGE, True, 1), (out, err)


def test_layers_that_cannot_learn(capsys, place):
    model = "model.layers=[{type='MaxPool2d', kernel_size=4}, {type='Flatten'}, {type='ReLU'}]"
    expected = "no layer has parameters"
    (place / "images/train/other").mkdir()
    (place / "images/test/other").mkdir()
    for part in ("train", "test"):
        shutil.copy("images/train/row/00.png", f"images/{part}/other/00.png")
    refused(capsys, place, USAGE, expected, "train", "tiny.toml", "--set", model)


# -- the data ----------------------------------------------------------------------------------


def mnist(root, images=20, labels=20, label=3, cut=0):
    """Write MNIST's four IDX files, ``cut`` bytes short."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = struct.pack(">IIII", 2051, images, 28, 28) + bytes(28 * 28 * images)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(pixels[: len(pixels) - cut])
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, labels) + bytes([label] * labels)
        )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cut": 100}, "train-images-idx3-ubyte"),
        ({"labels": 19}, "19"),
        ({"label": 11}, "expected labels 0 to 9, found 11 at index 0"),
    ],
)
def test_damaged_mnist_files(capsys, place, files, expected):
    mnist(place / "data", **files)
    options = ("--set", "data.dataset=MNIST", "--set", "data.root=data")
    refused(capsys, place, DATA, expected, "train", "tiny.toml", *options)


def test_torchvision_is_absent(capsys, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    refused(capsys, place, DATA, 'pip install "cnn[torchvision]"', "data", "CIFAR10", "--root", "data")


def test_the_data_folder_is_missing(capsys, place):
    refused(capsys, place, DATA, "nowhere", "train", "tiny.toml", "--set", "data.root=nowhere")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("images/train/row/00.png", b"\x89PNG\r\n\x1a\n", "images/train/row/00.png: expected an image"),
        ("images/test/row/zz.jpg", b"not an image", "images/test/row/zz.jpg: expected an image"),
        ("images/train/row/zz.png", None, "expected 8x8 pixels"),
    ],
)
def test_a_bad_image_file(capsys, place, name, content, expected):
    if content is None:
        tiny.Image.new("L", (5, 6)).save(place / name)
    else:
        (place / name).write_bytes(content)
    refused(capsys, place, DATA, expected, "train", "tiny.toml")


def test_an_image_cut_in_half(capsys, place):
    path = place / "images/train/row/00.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(capsys, place, DATA, "00.png: expected an image", "train", "tiny.toml")


def test_a_class_without_images(capsys, place):
    (place / "images/train/void").mkdir()
    (place / "images/test/void").mkdir()
    refused(capsys, place, DATA, "void: expected images", "train", "tiny.toml")


def test_a_class_that_only_the_test_images_have(capsys, place):
    (place / "images/test/void").mkdir()
    refused(capsys, place, DATA, "test/void", "train", "tiny.toml")


@pytest.mark.parametrize("image", ["nothing.png", "tiny.toml", "no*.png"])
def test_predicting_what_is_no_image(capsys, place, image):
    refused(capsys, place, DATA, f"{image}: expected an image", "predict", "runs/tiny", image)


def test_evaluating_on_other_classes(capsys, place):
    (place / "images/train/row").rename(place / "images/train/line")
    (place / "images/test/row").rename(place / "images/test/line")
    refused(capsys, place, DATA, "expected those of training: column, corner, row", "evaluate", "runs/tiny")


# -- run folders -------------------------------------------------------------------------------


def test_a_run_folder_with_files_is_not_overwritten(capsys, place):
    refused(capsys, place, USAGE, "--resume continues a run", "train", "tiny.toml", "--run", "runs/tiny")


def test_a_run_folder_that_cannot_be_made(capsys, place):
    refused(
        capsys,
        place,
        USAGE,
        "tiny.toml/run: the run folder cannot be",
        "train",
        "tiny.toml",
        "--run",
        "tiny.toml/run",
    )


def test_runs_is_a_file(capsys, place):
    shutil.rmtree(place / "runs")
    (place / "runs").write_text("mine")
    refused(capsys, place, USAGE, "the run folder cannot be written", "train", "tiny.toml")


def test_nothing_to_resume(capsys, place):
    refused(capsys, place, CHECKPOINT, "found no run to resume", "train", "--resume", "--run", "nowhere")


def test_resuming_with_another_learning_rate(capsys, place):
    options = ("--resume", "--run", "runs/tiny", "--set", "optimizer.lr=0.2")
    refused(capsys, place, USAGE, "optimizer.lr: found 0.2, expected 0.1 as the run began", "train", *options)


# -- checkpoints -------------------------------------------------------------------------------


class Bomb:
    """Unpickling this makes a folder called "exploded"."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("command", ["evaluate", "predict", "resume"])
@pytest.mark.parametrize("damage", ["half", "pickle", "zip", "empty", "foreign", "text"])
def test_a_damaged_checkpoint(capsys, place, command, damage):
    whole = (place / "runs/tiny/best.safetensors").read_bytes()
    content = {
        "half": whole[: len(whole) // 2],
        "pickle": pickle.dumps(Bomb()),
        "zip": b"PK\x03\x04" + bytes(200),
        "empty": b"",
        "foreign": safetensors.numpy.save({"a": np.zeros(3)}),
        "text": b"these are not the weights you are looking for",
    }[damage]
    for name in ("best", "last"):
        (place / f"runs/tiny/{name}.safetensors").write_bytes(content)
    argv = {
        "evaluate": ["evaluate", "runs/tiny"],
        "predict": ["predict", "runs/tiny/best.safetensors", "images/test/row/00.png"],
        "resume": ["train", "--resume", "--run", "runs/tiny"],
    }[command]
    refused(capsys, place, CHECKPOINT, ".safetensors:", *argv)
    assert not (place / "exploded").exists()


@pytest.mark.parametrize("path", ["nothing.safetensors", "images"])
def test_there_is_no_checkpoint(capsys, place, path):
    refused(capsys, place, CHECKPOINT, path, "evaluate", path)


def test_a_checkpoint_whose_arrays_do_not_fit_its_network(capsys, place):
    path = place / "runs/tiny/best.safetensors"
    tensors, meta = checkpoint.load(path)
    tensors["network/0.weight"] = np.zeros((4, 1, 5, 5), np.float32)
    checkpoint.save(path, tensors, meta)
    refused(
        capsys,
        place,
        CHECKPOINT,
        'the layers need a parameter of shape (4, 1, 3, 3), the file has none',
        "evaluate",
        path,
    )


def test_best_weights_hold_nothing_to_resume(capsys, place):
    shutil.copy(place / "runs/tiny/best.safetensors", place / "runs/tiny/last.safetensors")
    refused(capsys, place, CHECKPOINT, "holds no state to resume", "train", "--resume", "--run", "runs/tiny")


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_diverging_run_stops_and_keeps_its_last_good_checkpoint(capsys, place, backend):
    options = ("--set", "optimizer.lr=1e30", "--set", f"train.backend={backend}", "--run", "diverged")
    code, out, err = tiny.run(capsys, "train", "tiny.toml", *options)
    assert code == NUMBERS
    assert len(err.splitlines()) == 2
    assert "the loss is" in err
    assert "lower optimizer.lr" in err
    assert "Traceback" not in out + err
    assert not list((place / "diverged").glob(".*"))


# -- the same through a real process -----------------------------------------------------------


def test_a_process_shows_no_traceback_and_no_warning(place):
    for argv, code in ((["train", "nothing.toml"], USAGE), (["evaluate", "tiny.toml"], CHECKPOINT)):
        process = subprocess.run(
            [sys.executable, "-m", "cnn", *argv], capture_output=True, text=True, check=False
        )
        assert process.returncode == code
        assert process.stdout == ""
        assert len(process.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(capsys, place):
    code, _, err = tiny.run(capsys, "train", "nothing.toml", "--debug")
    assert code == USAGE
    assert "Traceback" in err
