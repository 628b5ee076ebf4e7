"""A trained network in Python: loaded, asked with files and arrays, saved; layers and parameters by name."""

import copy
import json
import pickle

import numpy as np
import pytest
import tiny
from PIL import Image
from test_layers_contract import LAYERS

import cnn
from cnn.cli import main
from cnn.data import read_image
from cnn.errors import CheckpointError, ConfigError, DataError
from cnn.layers import Concat, Conv2d, Flatten, Layer, Linear, ReLU, Residual, from_config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, in grey and in colour, and a run of each."""
    folder = tmp_path_factory.mktemp("model")
    tiny.write_images(folder / "images")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    sets = ["--set", "train.epochs=2"]
    assert main(["train", str(folder / "tiny.toml"), *sets, "--run", str(folder / "run")]) == 0
    sets += ["--set", "data.mode=RGB", "--set", "tta.flip=true"]
    assert main(["train", str(folder / "tiny.toml"), *sets, "--run", str(folder / "rgb")]) == 0
    return folder


@pytest.fixture(scope="module")
def files(place):
    return [str(f) for f in sorted((place / "images/test").rglob("*.png"))][::5]


def test_three_lines_give_what_the_command_prints(place, files, capsys):
    model = cnn.load(place / "run")
    answers = model.predict(files)
    _, out, _ = tiny.run(capsys, "predict", place / "run", *files, "--json")
    printed = json.loads(out)
    assert answers.names == [row["image"] for row in printed] == files
    expected = [[row["probabilities"][name] for name in answers.classes] for row in printed]
    np.testing.assert_array_equal(answers.probabilities, expected)
    assert answers.classes == ("column", "corner", "row")
    assert list(answers.labels) == [answers.classes[k] for k in answers.probabilities.argmax(axis=1)]
    assert answers.top(2)[0][0] == (answers.labels[0], answers.probabilities[0].max())
    assert np.mean([name in file for name, file in zip(answers.labels, files, strict=True)]) > 0.8
    assert files[0] in repr(answers)
    assert "1x8x8 -> column, corner, row" in repr(model)


def torch_tensor(pixels):
    return pytest.importorskip("torch").from_numpy(pixels).float().div(255).requires_grad_()


FORMS = {
    "NCHW": lambda pixels: pixels,
    "NHWC": lambda pixels: pixels.transpose(0, 2, 3, 1),
    "NHW": lambda pixels: pixels[:, 0],
    "floats": lambda pixels: pixels / 255,
    "integers": lambda pixels: pixels.astype(np.int64),
    "lists": lambda pixels: pixels.tolist(),
    "a list of arrays": lambda pixels: list(pixels[:, 0]),
    "a list of one-image arrays with channels last": lambda pixels: list(pixels.transpose(0, 2, 3, 1)),
    "Pillow": lambda pixels: [Image.fromarray(p[0]) for p in pixels],
    "tensor": torch_tensor,
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_images_gets_the_same_answer(place, files, form):
    model = cnn.load(place / "run")
    pixels = np.stack([read_image(f, (8, 8), "L") for f in files])
    answers = model.predict(FORMS[form](pixels))
    np.testing.assert_array_equal(answers.probabilities, model.predict(files).probabilities)
    assert answers.names[:2] == ["image 0", "image 1"]


@pytest.mark.parametrize("last", [False, True])
def test_colour_arrays_of_either_order_and_any_size(place, last, rng):
    model = cnn.load(place / "rgb")
    pixels = rng.integers(0, 256, (2, 3, 20, 14), dtype=np.uint8)
    expected = model.predict([Image.fromarray(p.transpose(1, 2, 0)) for p in pixels]).probabilities
    given = pixels.transpose(0, 2, 3, 1) if last else pixels
    np.testing.assert_array_equal(model.predict(given).probabilities, expected)
    np.testing.assert_allclose(model.predict(given[0]).probabilities, expected[:1], rtol=1e-5)


def test_tta_is_that_of_evaluate(place, files):
    model = cnn.load(place / "rgb")
    flipped = [Image.open(f).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for f in files]
    logits = [np.log(model.predict(x).probabilities) for x in (files, flipped)]
    mean = np.exp(sum(logits) / 2)
    expected = mean / mean.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(files, tta=True).probabilities, expected, atol=1e-5)
    with pytest.raises(ConfigError, match=r"no \[tta\] section"):
        cnn.load(place / "run").predict(files, tta=True)


def test_a_folder_a_pattern_and_a_mixed_list(place, files):
    model, folder = cnn.load(place / "run"), place / "images/test/row"
    whole = model.predict(folder)
    assert whole.names == sorted(str(f) for f in folder.iterdir())
    assert model.predict(f"{folder}/*.png").names == whole.names
    mixed = model.predict([str(folder), files[0], Image.open(files[1])])
    assert mixed.names[-2:] == files[:2]
    expected = model.predict(files[:2]).probabilities
    np.testing.assert_allclose(mixed.probabilities[-2:], expected, rtol=1e-5)
    assert len(model.predict([])) == 0
    assert repr(model.predict([])) == "no images"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 5, 8, 8)), r"1 channels, \(N, 1, H, W\) or \(N, H, W, 1\), found \(2, 5, 8, 8\)"),
        (np.full((2, 1, 8, 8), 17.0), "floats from 0 to 1, found float64 from 17 to 17"),
        (np.full((2, 1, 8, 8), np.nan), "floats from 0 to 1"),
        (np.full((2, 1, 8, 8), 300), "integers from 0 to 255"),
        ([[1], [1, 2]], "a list of different ones"),
        (np.array(["x"]), "expected numbers"),
        ("no/such.png", "no such file"),
        ("no/*.png", "no file of this pattern"),
    ],
)
def test_what_is_no_image_is_refused_in_a_line(place, given, message):
    with pytest.raises(DataError, match=message):
        cnn.load(place / "run").predict(given)


# -- networks -------------------------------------------------------------------------------------


def small(**options):
    network = cnn.Network(
        [
            Conv2d(4, 3, padding=1, bias=False),
            Residual([Conv2d(4, 3, padding=((1, 1), (1, 1))), ReLU()]),
            Concat([[ReLU()], [Conv2d(2, 1)]]),
            Flatten(),
            Linear(3),
        ]
    )
    network.build((1, 6, 6), rng=np.random.default_rng(5), **options)
    return network


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saved_network_comes_back_bit_for_bit(tmp_path, dtype, rng):
    network, x = small(dtype=dtype), rng.normal(size=(3, 1, 6, 6)).astype(dtype)
    network.save(tmp_path / "n.safetensors")
    again = cnn.Network.load(tmp_path / "n.safetensors")
    assert repr(again) == repr(network)
    assert again.data.dtype == dtype
    assert again.data.tobytes() == network.data.tobytes()
    np.testing.assert_array_equal(again.predict(x), network.predict(x))
    again.forward(x, training=True)
    again.backward(np.ones((3, 3), dtype))
    assert again.grad.any()


def test_a_network_without_classes_answers_with_numbers_of_pixels_over_255(tmp_path, rng):
    network, pixels = small(), rng.integers(0, 256, (3, 1, 6, 6), dtype=np.uint8)
    network.save(tmp_path / "n.safetensors")
    answers = cnn.load(tmp_path / "n.safetensors").predict(pixels)
    logits = network.predict(pixels / np.float32(255)).astype(float)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers.probabilities, expected, rtol=1e-5)
    assert answers.classes == ("0", "1", "2")
    network.save(tmp_path / "named.safetensors", classes=["cat", "dog", "owl"])
    assert cnn.load(tmp_path / "named.safetensors").classes == ("cat", "dog", "owl")
    with pytest.raises(ConfigError, match="expected 3 names, found 1"):
        network.save(tmp_path / "wrong.safetensors", classes=["cat"])


class Doubling(Layer):
    """A layer of one's own whose attribute is not its argument."""

    def __init__(self, half: float = 1.0, table=None):
        self.factor, self.table = 2 * half, table

    def forward(self, x, training=False):
        return self._keep(x * np.float32(self.factor))

    def backward(self, dy):
        return self._saved(dy)[1] * np.float32(self.factor)


def test_a_layer_of_ones_own_is_saved_with_its_arguments(tmp_path):
    network = cnn.Network([Doubling(1.5), Flatten(), Linear(2)])
    network.build((1, 2, 2))
    network.save(tmp_path / "n.safetensors")
    assert cnn.Network.load(tmp_path / "n.safetensors").layers[0].factor == 3.0
    network = cnn.Network([Doubling(table=np.zeros(3)), Flatten(), Linear(2)])
    network.build((1, 2, 2))
    with pytest.raises(ConfigError, match=r"Doubling \(layer 0\): table: found ndarray, expected numbers"):
        network.save(tmp_path / "o.safetensors")
    assert [f.name for f in tmp_path.iterdir()] == ["n.safetensors"]


def test_saving_refuses_an_unbuilt_network_and_loading_what_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"save needs build"):
        cnn.Network([Linear(2)]).save(tmp_path / "n.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError):
        cnn.Network.load(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError):
        cnn.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_made_again_from_its_description(name, rng):
    make, shape = LAYERS[name]
    layer = make()
    spec = json.loads(json.dumps(layer.spec()))
    again = from_config([spec])[0]
    assert again.spec() == spec
    for one in (layer, again):
        one.build(shape, rng=np.random.default_rng(1), dtype=np.float64)
    assert json.loads(json.dumps(layer.spec())) == spec
    x = rng.normal(size=(2, *shape))
    np.testing.assert_array_equal(np.asarray(layer.forward(x)), np.asarray(again.forward(x)))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.spec() == layer.spec()


def test_a_description_follows_what_was_changed_later():
    network = cnn.Network([Residual([Conv2d(3, 3, padding=1), ReLU()])])
    network["0.body"].layers.append(ReLU())
    assert [spec["type"] for spec in network[0].spec()["body"]] == ["Conv2d", "ReLU", "ReLU"]
    conv = Conv2d(3, 3)
    assert conv.spec() == {"type": "Conv2d", "out_channels": 3, "kernel_size": 3}
    conv.groups = 3
    assert conv.spec()["groups"] == 3


def test_layers_and_parameters_have_names():
    network = small()
    names = [name for name, _ in network.named_parameters()]
    assert names == ["0.weight", "1.body.0.weight", "1.body.0.bias", "2.branches.1.0.weight",
                     "2.branches.1.0.bias", "4.weight", "4.bias"]  # fmt: skip
    assert all(network[name] is p for name, p in network.named_parameters())
    assert [p for _, p in network.named_parameters()] == network.parameters()
    assert network["1.body.0"] is network[1].body.layers[0]
    assert network[-1] is network.layers[-1] is network["4"]
    assert len(network) == 5
    assert list(network) == network.layers
    with pytest.raises(KeyError, match=r'no layer or parameter "4.wieght". Did you mean "4.weight"\?'):
        network["4.wieght"]
    with pytest.raises(IndexError):
        network[5]
