"""The commands as a person uses them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

import cnn
from cnn.commands import COMMANDS
from cnn.errors import during


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images, a config and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.write_images(folder / "images")
    config = tiny.write_config(folder / "tiny.toml", folder / "images")
    assert tiny.main(["train", str(config), "--run", str(folder / "run"), "--set", "train.epochs=6"]) == 0
    return folder


def test_the_overview_names_every_command(capsys):
    for argv in ([], ["--help"], ["help"]):
        code, out, _ = tiny.run(capsys, *argv)
        assert code == 0
        assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = tiny.run(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"usage: cnn {command}")
    assert "--debug" in out


def test_the_version(capsys):
    assert tiny.run(capsys, "--version") == (0, f"cnn {cnn.__version__}\n", "")


def test_evaluate_prints_a_table_and_the_totals(trained, capsys):
    code, out, err = tiny.run(capsys, "evaluate", trained / "run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["class", "images", "right", "recall", "precision"]
    assert [line.split()[:2] for line in lines[1:4]] == [["column", "10"], ["corner", "10"], ["row", "10"]]
    right = sum(int(line.split()[2]) for line in lines[1:4])
    assert lines[-1].startswith("test: 30 images, loss ")
    assert lines[-1].endswith(f"accuracy {100 * right / 30:.2f} %")


def test_evaluate_takes_a_checkpoint_and_another_split(trained, capsys):
    code, out, _ = tiny.run(capsys, "evaluate", trained / "run/last.safetensors", "--split", "validation")
    assert code == 0
    assert "validation: 24 images" in out
    assert "train: 96 images" in tiny.run(capsys, "evaluate", trained / "run", "--split", "train")[1]


def test_predict_knows_the_classes(trained, capsys):
    images = [trained / f"images/test/{name}/00.png" for name in ("row", "corner", "column")]
    code, out, err = tiny.run(capsys, "predict", trained / "run", *images)
    assert (code, err) == (0, "")
    assert [re.search(r"\.png +(\w+) ", line)[1] for line in out.splitlines()] == ["row", "corner", "column"]


def test_predict_takes_any_size_and_mode(trained, capsys, tmp_path):
    pixels = np.asarray(
        Image.open(trained / "images/test/row/00.png").resize((64, 64), Image.Resampling.NEAREST)
    )
    for mode, name in (("RGB", "a.jpg"), ("RGBA", "b.png"), ("P", "c.gif"), ("1", "d.png"), ("L", "e.bmp")):
        Image.fromarray(pixels).convert(mode).save(tmp_path / name)
    code, out, _ = tiny.run(capsys, "predict", trained / "run", *sorted(tmp_path.iterdir()), "--top", "1")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["row"] * 5


def test_predict_prints_all_probabilities_as_json(trained, capsys):
    image = trained / "images/test/row/00.png"
    code, out, _ = tiny.run(capsys, "predict", trained / "run", image, "--json")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry["image"] == str(image)
    assert entry["probabilities"].keys() == {"column", "corner", "row"}
    assert sum(entry["probabilities"].values()) == pytest.approx(1)


def test_predict_sees_what_evaluate_sees_when_images_are_cropped(trained, capsys, tmp_path):
    crop = "data.augment=[{type='RandomCrop', size=6}]"
    options = ("--set", crop, "--set", "train.epochs=1", "--run", tmp_path / "run")
    assert tiny.run(capsys, "train", trained / "tiny.toml", *options)[0] == 0
    _, out, _ = tiny.run(capsys, "evaluate", tmp_path / "run")
    names = ("column", "corner", "row")
    images = [trained / f"images/test/{name}/{i:02}.png" for name in names for i in range(10)]
    entries = json.loads(tiny.run(capsys, "predict", tmp_path / "run", *images, "--json")[1])
    answers = [max(e["probabilities"], key=e["probabilities"].get) for e in entries]
    right = sum(answer == names[k // 10] for k, answer in enumerate(answers))
    assert f"accuracy {100 * right / 30:.2f} %" in out


def test_summary_reads_no_data_set(trained, capsys):
    code, out, _ = tiny.run(capsys, "summary", "--set", "data.dataset=CIFAR10", "--set", "data.root=nowhere")
    assert code == 0
    assert out.startswith("input 3 x 32 x 32, batch of")
    folder = tiny.run(capsys, "summary", trained / "tiny.toml", "--batch-size", "7")[1]
    assert folder.startswith("input 1 x 8 x 8, batch of 7")


def test_data_describes_the_sample(capsys):
    code, out, _ = tiny.run(capsys, "data", "sample")
    assert code == 0
    assert "train 4,000 images, 400 to 400 a class" in out


def test_the_schema_is_json(capsys):
    code, out, _ = tiny.run(capsys, "train", "--schema")
    assert code == 0
    assert json.loads(out)["title"] == "Config"


def test_train_without_arguments_takes_the_bundled_sample(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = tiny.run(capsys, "train", "--dry-run")
    assert code == 0
    assert "sample: 3,600 training, 400 validation, 1,000 test images" in out


def test_python_m_cnn_is_the_same_command():
    process = subprocess.run(
        [sys.executable, "-m", "cnn", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout == f"cnn {cnn.__version__}\n"


def test_a_reader_that_leaves_early_ends_the_program_without_a_word():
    script = "import sys; from cnn.cli import main; sys.exit(main(['train', '--schema']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert errors == b""


def test_an_unforeseen_exception_says_what_was_done_and_where_its_traceback_is(capsys, monkeypatch):
    def broken(_):
        with during("reading a.bin"):
            raise ZeroDivisionError("float division\x1b[31m by zero")

    monkeypatch.setattr("cnn.commands.data.run", broken)
    code, _, err = tiny.run(capsys, "data", "sample", "--mode", "L")
    assert code == 70
    first, second, third = err.splitlines()
    assert first == r"cnn: unforeseen ZeroDivisionError: float division\x1b[31m by zero"
    assert second == "while running cnn data sample --mode L; reading a.bin"
    path = Path(re.search(r"the traceback is in (\S+\.txt);", third)[1])
    text = path.read_text("utf-8")
    path.unlink()
    assert "Traceback" in text
    assert "reading a.bin" in text
    assert f"cnn {cnn.__version__}, Python" in text


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (KeyboardInterrupt(), 130, "cnn: interrupted\n"),
        (MemoryError(), 2, "cnn: not enough memory: try a smaller data.batch_size\n"),
        (PermissionError(13, "Permission denied", "x.csv"), 2, "cnn: x.csv: Permission denied\n"),
    ],
)
def test_trouble_from_outside_takes_one_line(capsys, monkeypatch, error, code, expected):
    def trouble(_):
        raise error

    monkeypatch.setattr("cnn.commands.data.run", trouble)
    assert tiny.run(capsys, "data", "sample") == (code, "", expected)


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys; from cnn.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'matplotlib', 'pydantic', 'PIL') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.endswith("[]\n")
