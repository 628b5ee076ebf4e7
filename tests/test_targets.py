"""Targets other than classes: numbers, labels and masks, learned from the command line to a good value."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import helpers_explain
import numpy as np
import onnxruntime
import pytest
import tiny
from PIL import Image

import cnn

TRUNK = """
  { type = "Conv2d", out_channels = 8, kernel_size = 3, padding = 1 },
  { type = "BatchNorm2d" },
  { type = "ReLU" },
"""
HEAD = """
  { type = "MaxPool2d", kernel_size = 2 },
  { type = "Conv2d", out_channels = 16, kernel_size = 3, padding = 1 },
  { type = "ReLU" },
  { type = "Flatten" },
  { type = "Linear", out_features = OUTPUTS },
"""
PIXELS = """
  { type = "Conv2d", out_channels = 8, kernel_size = 3, padding = 1 },
  { type = "ReLU" },
  { type = "Conv2d", out_channels = 3, kernel_size = 1 },
"""
CONFIG = """
name = "KIND"
seed = 1

[data]
dataset = "folder"
root = "ROOT"
targets = "KIND"
batch_size = 16
validation = 0.15
augment = [AUGMENT]

[model]
layers = [LAYERS]

[optimizer]
type = "AdamW"
lr = 0.01

[schedule]
type = "one_cycle"

[train]
epochs = EPOCHS
backend = "reference"
"""
SIDE, COUNT = 12, 160


def write_numbers(root):
    """A bright square on a dark ground: where it is, in pixels, and how bright, of any size of numbers."""
    rng, rows = np.random.default_rng(0), []
    for i in range(COUNT):
        pixels = rng.integers(0, 40, (SIDE, SIDE))
        top, left, value = *rng.integers(0, SIDE - 4, 2), rng.integers(80, 250)
        pixels[top : top + 4, left : left + 4] = value
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i:03}.png")
        rows.append([f"{i:03}.png", 1000 + 50 * top, left, round(value / 255, 4)])
    write_table(root / "metadata.csv", ["file_name", "price", "left", "brightness"], rows)
    return 'columns = ["price", "left"]'


def write_labels(root):
    """A corner, a row and a column may be bright, each for itself."""
    rng, rows = np.random.default_rng(0), []
    areas = {"corner": np.s_[:4, :4], "row": np.s_[8:10, 4:], "column": np.s_[:8, 8:10]}
    for i in range(COUNT):
        pixels, given = rng.integers(0, 60, (SIDE, SIDE)), rng.random(3) < 0.4
        for area in (a for a, yes in zip(areas.values(), given, strict=True) if yes):
            pixels[area] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i:03}.png")
        rows.append([f"{i:03}.png", " ".join(n for n, yes in zip(areas, given, strict=True) if yes)])
    write_table(root / "metadata.csv", ["file_name", "tags"], rows)
    return ""


def write_masks(root):
    """Ground, a bright square and a striped one; the rim of the picture does not count."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(60):
        pixels, mask = rng.integers(0, 40, (SIDE, SIDE)), np.zeros((SIDE, SIDE), np.uint8)
        for k, value in ((1, np.full((4, 4), 200)), (2, np.tile([90, 160], (4, 2)))):
            top, left = rng.integers(1, SIDE - 5, 2)
            pixels[top : top + 4, left : left + 4], mask[top : top + 4, left : left + 4] = value, k
        mask[:, 0] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"images/{i:03}.jpg", quality=100)
        Image.fromarray(mask).save(root / f"masks/{i:03}.png")
    (root / "classes.txt").write_text("ground\nsquare\nstripes\n")
    return ""


def write_table(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


MADE = {"numbers": (write_numbers, 2), "labels": (write_labels, 3), "masks": (write_masks, 3)}
AUGMENT = {"masks": '{ type = "RandomHorizontalFlip" }, { type = "RandomTranslate", pixels = 1 }'}
EPOCHS = {"numbers": "10", "labels": "10", "masks": "40"}
GOOD = {"numbers": ("test_r2", 0.9), "labels": ("test_f1", 0.95), "masks": ("test_mean_iou", 0.85)}


@pytest.fixture(scope="module", params=list(MADE))
def trained(request, tmp_path_factory):
    """The folder of images, the config and the run of each kind, trained from the command line."""
    kind, place = request.param, tmp_path_factory.mktemp(request.param)
    root = place / "images"
    root.mkdir()
    write, outputs = MADE[kind]
    more = write(root)
    layers = PIXELS if kind == "masks" else HEAD.replace("OUTPUTS", str(outputs))
    text = CONFIG.replace("KIND", kind).replace("ROOT", root.as_posix()).replace("LAYERS", TRUNK + layers)
    text = text.replace("AUGMENT", AUGMENT.get(kind, "")).replace("EPOCHS", EPOCHS[kind])
    text = text.replace("batch_size", f"{more}\nbatch_size")
    (place / "config.toml").write_text(text)
    assert tiny.main(["train", str(place / "config.toml"), "--run", str(place / "run"), "-q"]) == 0
    return kind, place


def test_each_kind_is_learned(trained):
    kind, place = trained
    result = json.loads((place / "run/result.json").read_text())
    key, least = GOOD[kind]
    assert result[key] > least
    assert ("test_accuracy" in result) == (kind != "numbers")
    rows = table(place / "run/metrics.csv")
    assert (rows[-1]["val_accuracy"] == "") == (kind == "numbers")
    assert float(rows[-1]["val_loss"]) < 0.5 * float(rows[0]["val_loss"])


def test_doctor_finds_nothing_wrong(trained, capsys):
    _, place = trained
    code, out, _ = tiny.run(capsys, "doctor", place / "config.toml")
    assert code == 0, out
    assert "FAIL" not in out.split("\n\n")[1]


def test_evaluate_says_what_the_run_said(trained, capsys):
    kind, place = trained
    args = ("--json", place / "e.json", "--predictions", place / "p.csv")
    code, out, _ = tiny.run(capsys, "evaluate", place / "run", *args)
    assert code == 0
    told = json.loads((place / "e.json").read_text())
    result = json.loads((place / "run/result.json").read_text())
    assert told["loss"] == result["test_loss"]
    key = GOOD[kind][0].removeprefix("test_")
    assert told[key] == result[f"test_{key}"]
    names = {"numbers": ["price", "left"], "labels": ["column", "corner", "row"]}
    assert list(told["outputs"]) == names.get(kind, ["ground", "square", "stripes"])
    assert out.splitlines()[-1].startswith(f"test: {told['images']} images, loss ")
    rows = table(place / "p.csv")
    assert len(rows) == told["images"]
    if kind == "numbers":  # right and told agree as the error says, in units of their own
        off = np.mean([abs(float(r["right price"]) - float(r["told price"])) for r in rows])
        assert off == pytest.approx(told["outputs"]["price"]["mae"], rel=1e-4)
        assert 1 < off < 60


def test_predict_and_python_give_the_same(trained, capsys, tmp_path):
    kind, place = trained
    folder = place / "images/images" if kind == "masks" else place / "images"
    files = sorted(map(str, folder.iterdir()))[:5]
    files = [f for f in files if not f.endswith(".csv")]
    code, out, _ = tiny.run(capsys, "predict", place / "run", *files, "--json")
    assert code == 0
    told, answers = json.loads(out), cnn.load(place / "run").predict(files)
    if kind == "numbers":
        np.testing.assert_array_equal([list(t["values"].values()) for t in told], answers.values)
        right = {r["file_name"]: float(r["price"]) for r in table(folder / "metadata.csv")}
        expected = [right[Path(f).name] for f in files]
        np.testing.assert_allclose(answers.values[:, 0], expected, atol=80)
    elif kind == "labels":
        assert [t["labels"] for t in told] == answers.labels
        right = {r["file_name"]: r["tags"].split() for r in table(folder / "metadata.csv")}
        assert sum(sorted(right[Path(f).name]) == a for f, a in zip(files, answers.labels, strict=True)) >= 4
    else:
        code, out, _ = tiny.run(capsys, "predict", place / "run", *files, "--masks", tmp_path / "told")
        for file, mask, row in zip(files, answers.masks, told, strict=True):
            written = np.asarray(Image.open(tmp_path / "told" / f"{Path(file).stem}.png"))
            np.testing.assert_array_equal(written, mask)
            right = np.asarray(Image.open(place / "images/masks" / f"{Path(file).stem}.png"))
            assert (mask == right)[right != 255].mean() > 0.9
            assert row["shares"]["ground"] == (mask == 0).mean()


def table(path):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_tables_have_the_columns_of_the_kind(trained, capsys, tmp_path):
    kind, place = trained
    folder = place / "images/images" if kind == "masks" else place / "images"
    code, *_ = tiny.run(capsys, "predict", place / "run", folder, "--out", tmp_path / "t.csv")
    assert code == 0
    rows = table(tmp_path / "t.csv")
    expected = {
        "numbers": ["price", "left"],
        "labels": ["labels", "p_column", "p_corner", "p_row"],
        "masks": ["share_ground", "share_square", "share_stripes"],
    }
    assert list(rows[0]) == ["image", *expected[kind], "remarks", "error"]
    assert len(rows) == (60 if kind == "masks" else COUNT)


def test_a_run_that_was_stopped_resumes_to_the_same_bits(trained, tmp_path):
    _, place = trained
    short = ["--set", "train.epochs=2", "--set", "schedule.type=constant", "-q"]
    config = str(place / "config.toml")
    assert tiny.main(["train", config, "--run", str(tmp_path / "whole"), *short]) == 0
    half = ["train", config, "--run", str(tmp_path / "half"), *short, "--set", "train.epochs=1"]
    assert tiny.main(half) == 0
    again = ["train", "--resume", "--run", str(tmp_path / "half"), "--set", "train.epochs=2", "-q"]
    assert tiny.main(again) == 0
    results = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("whole", "half"))
    whole, resumed = results
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}


def test_exports_answer_in_units_of_their_own(trained, capsys, tmp_path):
    """ONNX with its preprocessing, and the C program, say what `predict` says."""
    kind, place = trained
    folder = place / "images/images" if kind == "masks" else place / "images"
    files = sorted(str(f) for f in folder.iterdir() if f.suffix in (".png", ".jpg"))[:4]
    pixels = np.stack([np.asarray(Image.open(f)) for f in files])
    expected = cnn.load(place / "run").predict(files)
    options = ("--format", "onnx", "--with-preprocessing", "--out", tmp_path / "m.onnx")
    assert tiny.run(capsys, "export", place / "run", *options)[0] == 0
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (told,) = session.run(None, {"images": pixels[:, None]})
    assert session.get_outputs()[0].name == ("values" if kind == "numbers" else "probabilities")
    if kind == "masks":
        np.testing.assert_array_equal(told.argmax(axis=1), expected.masks)
    else:
        np.testing.assert_allclose(told, expected.answers, rtol=2e-4, atol=1e-4)
    assert tiny.run(capsys, "export", place / "run", "--format", "onnx", "--out", tmp_path / "p.onnx")[0] == 0
    again = cnn.load(tmp_path / "p.onnx").predict(files)
    assert again.targets == kind
    np.testing.assert_allclose(again.answers, expected.answers, rtol=2e-4, atol=1e-4)
    assert tiny.run(capsys, "export", place / "run", "--format", "c", "--out", tmp_path / "m.c")[0] == 0
    if shutil.which("gcc") is None:
        return
    program, source, image = (tmp_path / name for name in ("m", "m.c", "one.pgm"))
    subprocess.run(["gcc", "-O2", "-Werror", "-Wall", source, "-o", program, "-lm"], check=True)
    Image.fromarray(pixels[0]).save(image)
    said = subprocess.run([program, image], check=True, capture_output=True, text=True).stdout
    if kind == "masks":
        rows = [line.split() for line in said.split("\n")[:SIDE]]
        np.testing.assert_array_equal(rows, expected.masks[0].astype(str))
    else:
        found = [float(line.split()[1]) for line in said.strip().splitlines()]
        np.testing.assert_allclose(found, expected.answers[0], rtol=2e-4, atol=1e-4)


LABELS = {"numbers": ("1200, 3", "1200,3,4"), "labels": ("row, corner", "rom"), "masks": (None, "1")}


def test_explain_shows_the_loss_of_the_kind(trained, capsys, tmp_path):
    kind, place = trained
    given, wrong = LABELS[kind]
    out = tmp_path / "page.html"
    code, said, _ = tiny.run(capsys, "explain", place / "run", "--image", "0", "--out", out)
    assert code == 0
    assert "tells " in said
    page = helpers_explain.manifest(out.read_text(encoding="utf-8"))
    ends = {"numbers": "MSELoss", "labels": "BCEWithLogitsLoss", "masks": "PixelLoss"}
    assert page["nodes"][-1]["kind"] == ends[kind]
    assert page["about"]["known"]
    file = next(f for f in sorted((place / "images").rglob("*")) if f.suffix in (".png", ".jpg"))
    options = () if given is None else ("--label", given)
    assert tiny.run(capsys, "explain", place / "run", "--image", file, "--out", out, *options)[0] == 0
    page = helpers_explain.manifest(out.read_text(encoding="utf-8"))
    assert page["about"]["known"] == (given is not None)
    args = ("explain", place / "run", "--image", file, "--out", out, "--label", wrong)
    code, _, error = tiny.run(capsys, *args)
    assert code == 2
    assert "--label" in error
    code, _, error = tiny.run(capsys, "explain", place / "run", "--images", "0..3", "--out", out)
    assert (code, "it is for classes" in error) == (2, True)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_tells_of_the_kind(trained, language, capsys):
    kind, place = trained
    said = {
        "numbers": {"en": ("test MAE", "Largest errors"), "zh": ("测试 MAE", "误差最大")},
        "labels": {"en": ("test F-score", "Each label"), "zh": ("测试 F 值", "每个标签")},
        "masks": {"en": ("test mean IoU", "Worst masks"), "zh": ("测试平均 IoU", "最差的掩码")},
    }
    run = place / f"run-{language}"
    options = ("--set", "train.epochs=1", "--language", language)
    assert tiny.run(capsys, "train", place / "config.toml", "--run", run, *options)[0] == 0
    page = (run / "report.html").read_text()
    for text in said[kind][language]:
        assert text in page
