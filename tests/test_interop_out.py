"""Exported files say the same as the network, to the programs that they are for."""

import json
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tiny

from cnn import layers
from cnn.data import read_image
from cnn.errors import ConfigError, MissingExtra
from cnn.interop.card import About
from cnn.interop.export import export
from cnn.interop.extras import require
from cnn.layers import BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Residual, layer_types
from cnn.network import Network
from cnn.training import experiment

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from random_networks import random_images, random_network

ABOUT = About(classes=["corner", "row", "column"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the tiny config whose images are cropped from 8x8 to 6x7."""
    folder = tmp_path_factory.mktemp("export")
    tiny.write_images(folder / "images")
    config = tiny.write_config(folder / "tiny.toml", folder / "images")
    crop = "data.augment=[{type='RandomCrop', size=[6, 7]}]"
    assert tiny.main(["train", str(config), "--run", str(folder / "run"), "--set", crop]) == 0
    return folder


def onnx_answer(path, feed):
    """Return what onnxruntime says."""
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    return session.run(None, feed)[0]


def write_onnx(network, path):
    """Export and return the path."""
    pytest.importorskip("onnx")
    return export(network, About(), "onnx", path)[0]


def torch_module(source, arrays):
    """Return the module of a written source with these weights, in evaluation mode."""
    torch = pytest.importorskip("torch")
    names = {}
    exec(source, names)
    module = names["Model"]()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return module.eval()


@pytest.mark.parametrize("chunk", range(4))
def test_onnxruntime_says_the_same_of_random_networks(chunk, tmp_path):
    for network, rng in helpers.geometries("export_onnx", random_network, chunk):
        x = random_images(network, rng)
        y = onnx_answer(write_onnx(network, tmp_path / "f.onnx"), {"input": x})
        expected = network.predict(x)
        assert np.abs(y - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), network


@pytest.mark.parametrize("chunk", range(2))
def test_the_written_module_says_the_same_of_random_networks(chunk):
    torch = pytest.importorskip("torch")
    from cnn.interop.torch_write import module_source, state_dict

    for network, rng in helpers.geometries("export_torch", random_network, chunk):
        x = random_images(network, rng)
        module = torch_module(module_source(network, About()), state_dict(network))
        expected = network.predict(x)
        y = module(torch.from_numpy(x)).detach().numpy()
        assert np.abs(y - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), network


@pytest.mark.parametrize(
    "layer",
    [
        layers.ELU(0.7),
        layers.GroupNorm(2),
        layers.GroupNorm(4, affine=False),
        layers.LayerNorm(bias=False),
        layers.PReLU(4, init=0.3),
        layers.PReLU(),
        layers.Softplus(),
        layers.Upsample(scale_factor=(2, 3)),
        layers.ZeroPad2d((1, 0, 2, -1)),
        layers.Sequential([layers.GlobalAvgPool2d(), layers.Unflatten((4, 1, 1)), layers.Conv2d(3, 1)]),
        layers.ReLU6(),
        layers.Hardtanh(-0.5, 0.8),
        layers.Hardtanh(-0.5, float("inf")),
        layers.Hardsigmoid(),
        layers.Hardswish(),
        layers.LogSoftmax(),
        layers.LocalResponseNorm(3, 0.5),
        layers.Graph(
            [[layers.Conv2d(4, 3, padding=1)], [layers.AvgPool2d((7, 6)), layers.Sigmoid()], [], [], []],
            [(0,), (1,), (1, 2), (3, 0, 1), (4, 1, 4)],
            ["", "", "mul", "add", "concat"],
        ),
        layers.MaxPool2d(3, stride=2, padding=((1, 0), (0, 1)), ceil_mode=True),
        layers.MaxPool2d(2, stride=2, dilation=2),
        layers.Conv2d(3, kernel_size=3, stride=2, padding=((0, 1), (2, 1))),
    ],
    ids=lambda layer: repr(layer)[:40],
)
def test_single_layers_say_the_same_in_onnx_and_torch(layer, tmp_path, rng):
    torch = pytest.importorskip("torch")
    from cnn.interop.torch_write import module_source, state_dict

    network = Network([layer])
    network.build((4, 7, 6), rng=rng)
    x = random_images(network, rng)
    expected = network.predict(x)
    path = write_onnx(network, tmp_path / "f.onnx")
    assert np.abs(onnx_answer(path, {"input": x}) - expected).max() < 1e-5
    assert np.abs(Network.from_onnx(path).predict(x) - expected).max() < 1e-5
    if isinstance(layer, layers.MaxPool2d) and layer.padding != ((0, 0), (0, 0)):
        with pytest.raises(ConfigError, match="PyTorch pads both sides alike"):
            module_source(network, About())
        return
    module = torch_module(module_source(network, About()), state_dict(network))
    assert np.abs(module(torch.from_numpy(x)).detach().numpy() - expected).max() < 1e-5


def test_an_onnx_file_takes_any_number_of_images_and_keeps_the_names(tmp_path, rng):
    onnx = pytest.importorskip("onnx")
    network = Network([Residual([Conv2d(2, 3, padding=1), BatchNorm2d()]), ReLU(), Flatten(), Linear(3)])
    network.build((2, 5, 5))
    path = write_onnx(network, tmp_path / "f.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {t.name for t in model.graph.initializer} == set(network.state())
    assert {node.name for node in model.graph.node} >= {"0.body.0", "0.body.1", "0", "1", "2", "3"}
    for count in (1, 100):
        x = random_images(network, rng, count)
        assert np.abs(onnx_answer(path, {"input": x}) - network.predict(x)).max() < 1e-5


def test_the_command_puts_preprocessing_classes_and_card_into_the_file(trained, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "tiny.onnx"
    code, printed, _ = tiny.run(
        capsys, "export", trained / "run", "--format", "onnx", "--out", out, "--with-preprocessing"
    )
    assert code == 0
    assert str(out) in printed
    files = sorted((trained / "images" / "test").rglob("*.png"))
    pixels = np.stack([read_image(file, mode="L") for file in files])
    answer = onnx_answer(out, {"images": pixels})
    printed = tiny.run(capsys, "predict", trained / "run", *files, "--json")[1]
    expected = [list(entry["probabilities"].values()) for entry in json.loads(printed)]
    assert np.abs(answer - expected).max() < 1e-5
    properties = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert json.loads(properties["cnn.classes"]) == ["column", "corner", "row"]
    assert "accuracy" in properties["cnn.card"]


def test_an_onnx_file_is_explained_and_predicts_as_its_run_does(trained, tmp_path, capsys):
    pytest.importorskip("onnx")
    out, page = tmp_path / "tiny.onnx", tmp_path / "page.html"
    assert tiny.run(capsys, "export", trained / "run", "--format", "onnx", "--out", out)[0] == 0
    image = next((trained / "images" / "test").rglob("*.png"))
    answers = [
        json.loads(tiny.run(capsys, "predict", source, image, "--json")[1])[0]["probabilities"]
        for source in (trained / "run", out)
    ]
    assert answers[1] == pytest.approx(answers[0], abs=1e-6)
    assert tiny.run(capsys, "explain", out, "--image", image, "--out", page)[0] == 0
    assert "Conv2d" in page.read_text("utf-8")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_command_writes_a_state_dict_and_its_module(trained, tmp_path, capsys, suffix):
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file

    out = tmp_path / f"tiny{suffix}"
    assert tiny.run(capsys, "export", trained / "run", "--format", "torch", "--out", out)[0] == 0
    if suffix == ".pt":
        arrays = {k: v.numpy() for k, v in torch.load(out, weights_only=True).items()}
    else:
        arrays = load_file(out)
    module = torch_module(out.with_suffix(".py").read_text("utf-8"), arrays)
    network = experiment.load_trained(trained / "run")[0]
    x = random_images(network, np.random.default_rng(0))
    assert np.abs(module(torch.from_numpy(x)).detach().numpy() - network.predict(x)).max() < 1e-5


def test_the_command_writes_a_folder_for_a_hub(trained, tmp_path, capsys):
    from safetensors import safe_open

    out = tmp_path / "hub"
    assert tiny.run(capsys, "export", trained / "run", "--format", "safetensors", "--out", out)[0] == 0
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "config.json", "README.md", "model.py"}
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["num_classes"] == 3
    assert config["id2label"]["1"] == "corner"
    assert config["pretrained_cfg"]["input_size"] == [1, 6, 7]
    with safe_open(out / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    before = tiny.files(out)
    assert tiny.run(capsys, "export", trained / "run", "--format", "safetensors", "--out", out)[0] == 2
    assert tiny.files(out) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--format", "keras", "--out", "f"), "expected one of onnx, torch, safetensors, c"),
        (("--format", "c", "--out", "nowhere/f.c"), "expected a file in a folder that exists"),
        (("--format", "torch", "--out", "f.h5"), "ends with .safetensors or .pt"),
        (("--format", "torch", "--out", "f.pt", "--with-preprocessing"), "it is for --format onnx"),
        (("--format", "safetensors", "--out", "f.safetensors"), "expected a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(trained, capsys, arguments, expected):
    code, _, error = tiny.run(capsys, "export", trained / "run", *arguments)
    assert code == 2
    assert expected in error
    assert error.count("\n") == 1


def test_a_missing_package_is_a_line_that_names_the_extra():
    with pytest.raises(MissingExtra, match=r'ONNX needs the package no_such: pip install "cnn\[onnx\]"'):
        require("no_such.part", "onnx", "ONNX")


def test_a_users_own_layer_is_refused_by_name(tmp_path):
    class MyReLU(ReLU):
        pass

    network = Network([Flatten(), MyReLU(), Linear(2)])
    network.build((1, 2, 2))
    for kind, name in (("onnx", "f.onnx"), ("torch", "f.safetensors"), ("c", "f.c")):
        with pytest.raises(ConfigError, match=r"MyReLU \(layer 1\)"):
            export(network, About(), kind, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_every_layer_has_a_rule_in_every_format():
    from cnn.interop.onnx_write import exported_kinds
    from cnn.interop.torch_write import _CALLS

    containers = {"Sequential", "Residual", "Concat", "Graph"}
    assert set(layer_types()) - containers <= exported_kinds()
    assert set(layer_types()) <= set(_CALLS)
