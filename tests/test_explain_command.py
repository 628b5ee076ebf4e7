"""``cnn explain`` from the command line."""

import base64
import json
import threading
import urllib.error
import urllib.request

import helpers_explain as h
import pytest
import tiny
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of the tiny network; its config says label smoothing 0.05."""
    root = tmp_path_factory.mktemp("explained")
    tiny.write_images(root / "images")
    config = tiny.write_config(root / "tiny.toml", root / "images")
    from cnn.cli import main

    assert main(["train", str(config), "--run", str(root / "run"), "--set", "train.epochs=1"]) == 0
    return root / "run"


def test_an_image_of_the_test_split_becomes_a_page(trained, tmp_path, capsys):
    out = tmp_path / "page.html"
    code, printed, _ = tiny.run(capsys, "explain", trained, "--image", 12, "--out", out)
    assert code == 0
    assert str(out) in printed
    page = h.manifest(out)
    assert page["title"] == "tiny"
    assert page["classes"] == ["column", "corner", "row"]
    assert page["about"]["label"] == 1  # ten of each class, in order
    assert page["about"]["source"] == "folder, test #12"
    assert [node["kind"] for node in page["nodes"]] == [
        "Input", "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Flatten", "Dropout", "Linear", "Loss"
    ]  # fmt: skip


def test_the_page_shows_what_predict_says(trained, tmp_path, capsys):
    file = trained.parent / "images" / "test" / "row" / "03.png"
    code, printed, _ = tiny.run(capsys, "predict", trained, file, "--json")
    assert code == 0
    probabilities = json.loads(printed)[0]["probabilities"]
    guess = max(probabilities, key=probabilities.get)
    code, printed, _ = tiny.run(capsys, "explain", trained, "--image", file, "--out", tmp_path / "p.html")
    assert code == 0
    assert f"predicts {guess}, no true class was given" in printed


def test_targets_are_one_hot_whatever_the_run_smoothed(trained, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert tiny.run(capsys, "explain", trained, "--image", 0, "--out", out)[0] == 0
    about = h.manifest(out)["about"]
    assert about["smoothing"] == 0.05  # a switch on the page
    assert about["known"] is True
    assert about["training"] is False


def test_a_page_brings_training_images_of_every_class_along(trained, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert tiny.run(capsys, "explain", trained, "--image", 0, "--out", out)[0] == 0
    samples = h.manifest(out)["samples"]
    assert len(base64.b64decode(samples["pixels"])) == len(samples["labels"]) * 64
    assert sorted(set(samples["labels"][:3])) == [0, 1, 2]


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_picture_unlike_the_training_images_is_said_to_be_so(trained, tmp_path, capsys, command):
    Image.new("L", (8, 8), 250).save(tmp_path / "white.png")
    arguments = [tmp_path / "white.png"]
    if command == "explain":
        arguments = ["--image", *arguments, "--out", tmp_path / "page.html"]
    code, _, errors = tiny.run(capsys, command, trained, *arguments)
    assert code == 0
    assert f"{tmp_path / 'white.png'}: is almost of one colour" in errors
    if command == "explain":
        assert h.manifest(tmp_path / "page.html")["about"]["remarks"] == ["blank"]
        assert h.manifest(tmp_path / "page.html")["about"]["known"] is False


def test_invert_and_center_are_for_files(trained, capsys):
    code, _, errors = tiny.run(capsys, "explain", trained, "--image", 0, "--invert")
    assert code == 2
    assert "they are for image files" in errors


@pytest.mark.parametrize("label", ["row", "2"])
def test_a_label_is_a_name_or_a_number(trained, tmp_path, capsys, label):
    out = tmp_path / "page.html"
    assert tiny.run(capsys, "explain", trained, "--image", 0, "--label", label, "--out", out)[0] == 0
    assert h.manifest(out)["about"]["label"] == 2


def test_a_file_of_another_size_and_mode_is_brought_to_the_network_s(trained, tmp_path, capsys):
    Image.new("RGB", (31, 20), (200, 30, 90)).save(tmp_path / "photo.png")
    out = tmp_path / "page.html"
    assert tiny.run(capsys, "explain", trained, "--image", tmp_path / "photo.png", "--out", out)[0] == 0
    assert h.manifest(out)["nodes"][0]["shape"] == [1, 8, 8]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--image", 999], 2, "--image: found 999, expected 0 to 29"),
        (["--image", "missing.png"], 3, "missing.png"),
        (["--image", 0, "--label", "rwo"], 2, 'Did you mean "row"?'),
        (["--image", 0, "--label", 3], 2, "from 0 to 2"),
        (["--image", 0, "--max-mb", 0.01], 2, "--max-mb 1"),
        (["--image", 0, "--out", "no/such/folder/page.html"], 2, "expected a file in a folder that exists"),
        ([], 2, "--image"),
    ],
)
def test_mistakes_are_told_in_a_line(trained, capsys, arguments, code, says):
    found, _, errors = tiny.run(capsys, "explain", trained, *arguments)
    assert found == code
    assert says in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_page_that_is_not_written_leaves_no_file(trained, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert tiny.run(capsys, "explain", trained, "--image", 0, "--max-mb", 0.01, "--out", out)[0] == 2
    assert not out.exists()


def test_serve_answers_on_this_machine_only_with_the_page():
    from cnn.explain.serve import serve

    addresses, ready = [], threading.Event()

    def announce(address):
        addresses.append(address)
        ready.set()

    threading.Thread(target=serve, args=(b"<p>page</p>", announce), daemon=True).start()
    assert ready.wait(10)
    assert addresses[0].startswith("http://127.0.0.1:")
    assert urllib.request.urlopen(addresses[0]).read() == b"<p>page</p>"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(addresses[0] + "other")
