"""Losses of numbers and of pixels against PyTorch, differences and loops; configs that ask for them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
from helpers import BACKENDS
from helpers_torch import tensor, torch

import cnn
from cnn.backend import use_backend
from cnn.config import load_config
from cnn.data.augmentation import Augmentation
from cnn.errors import ConfigError, DataError, ShapeError
from cnn.gradcheck import Report, check_loss, check_network
from cnn.layers import (
    BCEWithLogitsLoss,
    Conv2d,
    L1Loss,
    Loss,
    MSELoss,
    ReLU,
    SoftmaxCrossEntropy,
)
from cnn.optimizers import SGD
from cnn.training.loop import Trainer

F = torch.nn.functional
SHAPES = [(1, 1), (5, 3), (4, 3, 2, 5), (7,)]


def loops(kind, z, y, w):
    """Return the sum of the losses by plain loops over numbers, from the definition."""
    total = 0.0
    for place in np.ndindex(z.shape):
        a, b = float(z[place]), float(y[place])
        if kind is MSELoss:
            total += (a - b) * (a - b)
        elif kind is L1Loss:
            total += abs(a - b)
        else:
            p = 1 / (1 + math.exp(-a))
            weight = w[place[1]] if len(place) > 1 else 1
            total -= weight * b * math.log(p) + (1 - b) * math.log(1 - p)
    return total


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [MSELoss, L1Loss, BCEWithLogitsLoss])
def test_losses_of_numbers_are_pytorchs_and_their_definition(rng, kind, shape, reduction, dtype):
    z, y = rng.normal(size=shape).astype(dtype), rng.random(shape).astype(dtype)
    functions = {MSELoss: F.mse_loss, L1Loss: F.l1_loss}
    functions[BCEWithLogitsLoss] = F.binary_cross_entropy_with_logits
    options, theirs, w = {}, {}, np.ones(99)
    if kind is BCEWithLogitsLoss and len(shape) > 1:
        w = rng.uniform(0.2, 4, shape[1])
        options = {"pos_weight": w}
        theirs = {"pos_weight": tensor(w.astype(dtype)).reshape(-1, *[1] * (len(shape) - 2))}
    leaf = tensor(z, grad=True)
    expected = functions[kind](leaf, tensor(y), reduction=reduction, **theirs)
    expected.backward()
    loss = kind(reduction=reduction, **options)
    value = loss.forward(z, y)
    close = {"rtol": 1e-12 if dtype == np.float64 else 2e-6, "atol": 1e-12 if dtype == np.float64 else 1e-6}
    assert isinstance(value, float)
    np.testing.assert_allclose(value, expected.item(), **close)
    np.testing.assert_allclose(loss.backward(), leaf.grad.numpy(), **close)
    assert loss.backward().dtype == dtype
    factor = z.size if reduction == "mean" else 1
    np.testing.assert_allclose(value * factor, loops(kind, z, y, w), rtol=1e-5)


@pytest.mark.parametrize("kind", [MSELoss, L1Loss, BCEWithLogitsLoss, SoftmaxCrossEntropy])
def test_their_gradients_agree_with_finite_differences(rng, kind):
    z, y = rng.normal(size=(6, 4)), rng.random((6, 4))
    options = {"pos_weight": [0.3, 1, 2, 5]} if kind is BCEWithLogitsLoss else {}
    for targets in (y, rng.integers(0, 4, 6)):
        entries = check_loss(kind(**options), z, targets, rng=rng)
        assert len(entries) > 4
        assert {entry.kind for entry in entries} == {"OK"}, Report(entries)


def test_the_sigmoid_stays_exact_at_logits_of_a_thousand():
    z, y = np.array([[1000.0, -1000.0, 1000.0, -1000.0]], np.float32), np.array([[1, 0, 0, 1]])
    loss = BCEWithLogitsLoss(reduction="sum")
    assert loss.forward(z, y) == 2000
    np.testing.assert_array_equal(loss.backward(), [[0, 0, 1, -1]])
    np.testing.assert_array_equal(loss.answers(z), [[1, 0, 1, 0]])


def test_the_absolute_error_has_slope_0_where_it_is_0():
    loss = L1Loss()
    loss.forward(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    np.testing.assert_array_equal(loss.backward(), [0, -0.5])


@pytest.mark.parametrize("kind", [MSELoss, L1Loss, BCEWithLogitsLoss])
def test_class_indices_are_one_hot_rows(rng, kind):
    z, labels = rng.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    one, two = kind(), kind()
    assert one.forward(z, labels) == two.forward(z, np.eye(3)[labels])
    np.testing.assert_array_equal(one.backward(), two.backward())
    with pytest.raises(DataError, match="labels from 0 to 2, found 3 at image 4"):
        kind().forward(z, np.array([0, 2, 1, 1, 3]))
    with pytest.raises(ShapeError, match=r"expected targets of shape \(5, 3\), found \(5, 1\)"):
        kind().forward(z, np.zeros((5, 1)))  # broadcasting would hide a mistake
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        kind().backward()
    with pytest.raises(ConfigError, match="reduction"):
        kind(reduction="none")


# -- a class for each pixel --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (7, 4)])
def test_pixels_and_ignored_labels_are_pytorchs(rng, shape, reduction, weighted, smoothing, backend):
    z = rng.normal(size=shape) * 5
    y = rng.integers(0, 4, (shape[0], *shape[2:]))
    y.ravel()[::3] = 255
    weight = rng.uniform(0.2, 3, 4) if weighted and not smoothing else None
    leaf = tensor(z, grad=True)
    options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": 255}
    w = None if weight is None else tensor(weight)
    expected = F.cross_entropy(leaf, torch.tensor(y), w, **options)
    expected.backward()
    with use_backend(backend):
        loss = SoftmaxCrossEntropy(class_weight=weight, **options)
        assert loss.forward(z, y) == pytest.approx(expected.item(), rel=1e-9)
        dz = loss.backward()
        np.testing.assert_allclose(dz, leaf.grad.numpy(), rtol=1e-9, atol=1e-12)
        assert dz.shape == loss.probabilities.shape == shape
        assert not np.moveaxis(dz, 1, -1)[y == 255].any()
        np.testing.assert_allclose(loss.probabilities, torch.softmax(tensor(z), 1).numpy(), rtol=1e-9)


def test_rows_of_pixels_are_targets_too(rng):
    z, y = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    one, two = SoftmaxCrossEntropy(), SoftmaxCrossEntropy()
    assert one.forward(z, y) == pytest.approx(two.forward(z, np.moveaxis(np.eye(3)[y], -1, 1)), rel=1e-12)
    np.testing.assert_allclose(one.backward(), two.backward(), atol=1e-15)
    with pytest.raises(ShapeError, match=r"expected targets of shape \(2, 4, 5\) or \(2, 3, 4, 5\)"):
        one.forward(z, y[:, 0])
    with pytest.raises(DataError, match=r"labels from 0 to 2, found [789]"):
        one.forward(z, y + 7)


def test_where_nothing_counts_the_mean_is_nan_as_pytorchs():
    loss = SoftmaxCrossEntropy(ignore_index=1)
    assert math.isnan(loss.forward(np.zeros((2, 3)), np.array([1, 1])))
    loss = SoftmaxCrossEntropy(ignore_index=1, reduction="sum")
    assert loss.forward(np.zeros((2, 3)), np.array([1, 1])) == 0
    assert not loss.backward().any()


def test_a_network_of_pixels_is_right_as_a_whole_and_learns(rng):
    x = rng.normal(size=(6, 1, 8, 8))
    y = (x[:, 0] > 0).astype(np.int64) + 2 * (x[:, 0] > 1)
    y[y == 3], y[:, 0] = 2, 255
    network = cnn.Network([Conv2d(8, 3, padding=1), ReLU(), Conv2d(3, 1)])
    network.build((1, 8, 8), rng=rng, dtype=np.float64)
    loss = SoftmaxCrossEntropy(ignore_index=255)
    assert check_network(network, x, y, loss=loss).ok
    network = cnn.Network([Conv2d(8, 3, padding=1), ReLU(), Conv2d(3, 1)])
    network.build((1, 8, 8), rng=rng)
    optimizer, values = SGD(network.parameters(), lr=0.3, momentum=0.9), []
    for _ in range(60):
        values.append(loss.forward(network.forward(x, training=True), y))
        network.zero_grad()
        network.backward(loss.backward())
        optimizer.step()
    assert values[-1] < 0.4 * values[0]


# -- configs ------------------------------------------------------------------------------------------


class Hinge(Loss):
    """A loss of one's own: max(0, margin - z_y + z_k), summed over the wrong classes k, mean over images."""

    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def forward(self, outputs, targets):
        rows = np.arange(len(targets))
        self._slack = outputs - outputs[rows, targets][:, None] + self.margin
        self._slack[rows, targets] = 0
        self._targets, self._rows = targets, rows
        return float(np.maximum(self._slack, 0).sum() / len(targets))

    def backward(self):
        dz = (self._slack > 0).astype(self._slack.dtype)
        dz[self._rows, self._targets] = -dz.sum(axis=1)
        return dz / np.float32(len(dz))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("losses")
    tiny.write_images(folder / "images")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    return folder


LOSSES = ["MSELoss", "L1Loss", "BCEWithLogitsLoss", "test_losses:Hinge"]


@pytest.mark.parametrize("name", LOSSES)
def test_a_config_trains_with_every_loss(workplace, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    sets = ["--set", f"loss={{type='{name}'}}", "--set", "train.epochs=8"]
    code, out, err = tiny.run(capsys, "train", workplace / "tiny.toml", *sets, "--run", "r")
    assert (code, err) == (0, "")
    result = json.loads(Path("r/result.json").read_text())
    assert result["test_accuracy"] >= (0.6 if name == "L1Loss" else 0.8)
    assert name in Path("r/config.toml").read_text()
    code, out, _ = tiny.run(capsys, "evaluate", "r")
    assert f"loss {result['test_loss']:.4f}" in out
    model = cnn.load("r")
    test = sorted((workplace / "images/test").rglob("*.png"))
    outputs = model.predict(list(map(str, test))).probabilities
    labels = np.repeat(np.arange(3), 10)
    assert np.mean(outputs.argmax(axis=1) == labels) == result["test_accuracy"]
    if name == "BCEWithLogitsLoss":
        expected = -np.log(np.where(np.eye(3)[labels], outputs, 1 - outputs)).mean()
        assert result["test_loss"] == pytest.approx(expected, rel=1e-4)
        code, out, _ = tiny.run(capsys, "explain", "r", "--image", "0")
        assert (code, "MB, tells " in out) == (0, True)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("{type='MSELos'}", r'loss.type: found "MSELos", expected one of .*Did you mean "MSELoss"'),
        ("{type='MSELoss', label_smoothing=0.1}", r"loss.label_smoothing: unknown key"),
        ("{label_smoothing=2.0}", r"loss.label_smoothing: found 2.0, expected at most 1"),
        ("{ignore_index=0.5}", r"loss.ignore_index: found 0.5, expected an integer"),
        ("{type='BCEWithLogitsLoss', pos_weight=[-1.0]}", r"loss.pos_weight\[0\]: found -1.0"),
        ("{type='test_losses:Hinge', margn=1}", r'loss.margn: unknown argument .*Did you mean "margin"'),
        ("{type='test_losses:nothing'}", "expected a subclass of Loss"),
        ("{type='no.such:Loss'}", "cannot import no.such"),
    ],
)
def test_mistakes_in_a_loss_are_named(workplace, loss, message):
    with pytest.raises(ConfigError, match=message):
        load_config(workplace / "tiny.toml", [f"loss={loss}"])


def test_a_weight_for_each_class_is_asked_for_before_anything_is_written(workplace):
    with pytest.raises(ConfigError, match="pos_weight: expected 3 numbers"):
        Trainer(load_config(workplace / "tiny.toml", ["loss={type='BCEWithLogitsLoss', pos_weight=[1, 2]}"]))


def test_the_default_is_written_into_the_config_and_the_doctor_knows_the_others(workplace, capsys):
    config = load_config(workplace / "tiny.toml", ["loss={}"])
    assert config.loss.type == "SoftmaxCrossEntropy"
    _, out, _ = tiny.run(capsys, "doctor", workplace / "tiny.toml", "--set", "loss={type='MSELoss'}")
    assert "0.333 if nothing is known" in out


class Blink:
    """No augmentation: has no base class."""


def test_an_augmentation_of_ones_own_is_named_by_its_path(workplace):
    spec = "data.augment=[{type='test_losses:Shade', by=3}]"
    trainer = Trainer(load_config(workplace / "tiny.toml", [spec]))
    assert trainer.batches.augment[0].by == 3
    images = np.full((2, 1, 8, 8), 10, np.uint8)
    np.testing.assert_array_equal(trainer.batches.augment[0].apply(images, None, None, 0), images + 3)
    for wrong, message in (("Blink", "subclass of Augmentation"), ("Shde", "expected a subclass")):
        with pytest.raises(ConfigError, match=message):
            load_config(workplace / "tiny.toml", [f"data.augment=[{{type='test_losses:{wrong}'}}]"])


class Shade(Augmentation):
    """An augmentation of one's own."""

    def __init__(self, by: int = 1):
        self.by = by

    def apply(self, images, rng, indices, epoch):
        return images + np.uint8(self.by)
