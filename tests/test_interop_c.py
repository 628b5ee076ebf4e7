"""The exported C file compiles without a warning and says what the network says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tiny

from cnn import layers
from cnn.config import load_config
from cnn.data import read_image
from cnn.interop.c_write import exported_kinds, to_c
from cnn.interop.card import About
from cnn.layers import Concat, Conv2d, Dropout, Flatten, Linear, ReLU, Residual, layer_types
from cnn.network import Network
from cnn.training import experiment

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from random_networks import random_images, random_network

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
CONFIGS = Path(__file__).parents[1] / "configs"


def compiled(source, folder):
    """Compile without warnings; return the program."""
    path = folder / "network.c"
    path.write_text(source, encoding="utf-8")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    done = subprocess.run(
        [COMPILER, *flags, str(path), "-o", str(folder / "program"), "-lm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "program"


def answers(program, path):
    """Return (the numbers of each image, the classes of the first) that the program prints."""
    done = subprocess.run([str(program), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    blocks = [block.splitlines() for block in done.stdout.split("\n\n") if block.strip()]
    numbers = [[[float(n) for n in line.split(" ")[:2]] for line in block] for block in blocks]
    return np.array(numbers), [line.split(" ", 2)[2] for line in blocks[0]]


def logits(network, x, folder):
    """Return what the compiled network says of x."""
    program = compiled(to_c(network, About()), folder)
    x.astype("<f4").tofile(folder / "x.f32")
    return answers(program, folder / "x.f32")[0][..., 0]


@pytest.mark.parametrize("chunk", range(1))
def test_random_networks_say_the_same_in_c(chunk, tmp_path):
    for network, rng in helpers.geometries("export_c", random_network, chunk):
        x = random_images(network, rng)
        expected = network.predict(x)
        y = logits(network, x, tmp_path)
        assert np.abs(y - expected.reshape(y.shape)).max() <= 3e-6 * max(1, np.abs(expected).max()), network


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist_lenet.toml", (1, 28, 28)), ("cifar10_resnet20.toml", (3, 32, 32))]
)
def test_lenet_and_resnet_in_c_are_right_to_a_millionth(name, shape, tmp_path, rng):
    config = load_config(CONFIGS / name)
    network = experiment.build_network(config, shape, 10)
    for place, array in network.state().items():
        if place.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
    precise = Network(experiment.from_config(experiment.layer_specs(config)))
    precise.build(shape, dtype=np.float64)
    precise.load_state(network.state())
    x = random_images(network, rng, 3)
    expected = precise.predict(x.astype(np.float64))
    assert np.abs(logits(network, x, tmp_path) - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_every_newer_layer_says_the_same_in_c(tmp_path, rng):
    gate = [layers.AvgPool2d((9, 8)), Conv2d(6, 1), layers.Hardsigmoid()]
    network = Network(
        [
            Conv2d(6, 3, padding=((1, 0), (2, 1))), layers.ELU(0.7), layers.GroupNorm(3), layers.Hardswish(),
            layers.PReLU(6, init=0.3), layers.LayerNorm(), layers.LocalResponseNorm(4, 0.5, k=0.7),
            layers.ZeroPad2d((1, -1, 2, 0)),
            layers.Graph([[], gate, [], [layers.ReLU6()], []], [(0,), (1,), (1, 2), (3, 1, 0), (4, 0)],
                         ["", "", "mul", "add", "concat"]),
            layers.Upsample(scale_factor=(2, 1)), layers.Softplus(2.0, 3.0),
            layers.MaxPool2d(2, 2, 1, dilation=2, ceil_mode=True),
            layers.AvgPool2d(3, 2, ((0, 1), (1, 0)), ceil_mode=True), layers.Hardtanh(-0.5, float("inf")),
            layers.GroupNorm(4, affine=False), layers.LogSoftmax(), layers.PReLU(),
            layers.GlobalAvgPool2d(), layers.Unflatten((3, 2, 2)), Flatten(), layers.LayerNorm(), Linear(5),
            layers.LogSoftmax(),
        ]
    )  # fmt: skip
    network.build((2, 8, 7), rng=rng)
    for parameter in network.parameters():
        parameter.data = parameter.data + 0.2 * rng.standard_normal(parameter.shape).astype(np.float32)
    x = random_images(network, rng)
    expected = network.predict(x)
    assert np.abs(logits(network, x, tmp_path) - expected).max() <= 3e-6 * max(1, np.abs(expected).max())


def test_the_c_program_reads_an_image_as_training_did(tmp_path, capsys):
    tiny.write_images(tmp_path / "images")
    config = tiny.write_config(tmp_path / "tiny.toml", tmp_path / "images")
    crop = "data.augment=[{type='RandomCrop', size=[6, 7]}]"
    assert tiny.main(["train", str(config), "--run", str(tmp_path / "run"), "--set", crop]) == 0
    out = tmp_path / "tiny.c"
    assert tiny.run(capsys, "export", tmp_path / "run", "--format", "c", "--out", out)[0] == 0
    program = compiled(out.read_text("utf-8"), tmp_path)
    file = next((tmp_path / "images" / "test").rglob("*.png"))
    pixels = read_image(file, mode="L")
    (tmp_path / "f.pgm").write_bytes(b"P5\n# a comment\n8 8\n255\n" + pixels.tobytes())
    numbers, classes = answers(program, tmp_path / "f.pgm")
    assert classes == ["column", "corner", "row"]
    printed = tiny.run(capsys, "predict", tmp_path / "run", file, "--json")[1]
    expected = list(json.loads(printed)[0]["probabilities"].values())
    assert np.abs(numbers[0, :, 1] - expected).max() < 2e-6
    for content in (b"P5\n9 8\n255\n" + bytes(72), b"P5\n8 8\n255\n" + bytes(63), b"GIF89a", b""):
        (tmp_path / "bad.pgm").write_bytes(content)
        done = subprocess.run([str(program), str(tmp_path / "bad.pgm")], capture_output=True, text=True)
        assert done.returncode == 3
        assert "no image that this network takes" in done.stderr


def test_activations_that_do_not_live_together_share_their_memory():
    network = Network([layer for _ in range(20) for layer in (Conv2d(4, 3, padding=1), ReLU())])
    network.build((4, 8, 8))
    assert "static float memory[512];" in to_c(network, About())


def test_branches_do_not_overwrite_each_other(tmp_path, rng):
    inner = Concat([[], [Dropout(0.5), ReLU()], [Residual([ReLU()], [Conv2d(3, 1)])]])
    network = Network([inner, Residual([], []), Flatten(), Linear(4)])
    network.build((3, 4, 4))
    x = random_images(network, rng)
    assert np.abs(logits(network, x, tmp_path) - network.predict(x)).max() < 1e-5


def test_any_class_name_and_card_is_valid_c(tmp_path, rng):
    network = Network([Flatten(), Linear(3)])
    network.build((1, 1, 2))
    names = ['say "a\\b"', "??/ trigraph", "Größe %s"]
    about = About(name="*/ int", classes=names, card="\\ a line that goes on \\\n*/ #error")
    program = compiled(to_c(network, about), tmp_path)
    np.zeros(2, "<f4").tofile(tmp_path / "x.f32")
    assert answers(program, tmp_path / "x.f32")[1] == names


def test_every_layer_has_c_code():
    assert set(layer_types()) - {"Sequential", "Residual", "Concat", "Graph"} <= exported_kinds()
