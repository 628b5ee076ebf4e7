"""Tests of the test: gradients that are wrong in a known way are called BUG, by layer, tensor and cause."""

import json

import numpy as np
import pytest

import cnn.fast.kernels
import cnn.reference
from cnn.gradcheck import BUG, KINK, check_layer, check_loss, check_network
from cnn.gradcheck.difference import judge
from cnn.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SoftmaxCrossEntropy,
    Tanh,
)
from cnn.network import Network

IMAGE = (4, 8, 7)


def change_dx(function):
    """Return a mistake in what backward returns."""

    def plant(layer):
        right = layer.backward
        layer.backward = lambda dy: function(np.array(right(dy)))

    return plant


def change_grad(name, function):
    """Return a mistake in what one backward adds to a parameter's gradient."""

    def plant(layer):
        right, parameter = layer.backward, {p.name: p for p in layer.parameters()}[name]

        def backward(dy):
            before = parameter.grad.copy()
            dx = right(dy)
            parameter.grad = before + function(parameter.grad - before)
            return dx

        layer.backward = backward

    return plant


def overwrite(layer):
    right = layer.backward

    def backward(dy):
        layer.zero_grad()
        return right(dy)

    layer.backward = backward


def keep_first_cache(layer):
    right, kept = layer.backward, []

    def forward(x, training=False):
        y = type(layer).forward(layer, x, training)
        kept.append(layer._cache)
        return y

    def backward(dy):
        layer._cache = kept[0]
        return right(dy)

    layer.forward, layer.backward = forward, backward


def spoil_cache(layer):
    right = layer.backward

    def backward(dy):
        dx = right(dy)
        kept = layer._cache  # the arrays of either backend, and other things
        layer._cache = tuple(0.5 * np.asarray(part) if hasattr(part, "__array__") else part for part in kept)
        return dx

    layer.backward = backward


def write_into_input(layer):
    right = layer.forward

    def forward(x, training=False):
        y = right(x, training)
        x *= 0.5
        return y

    layer.forward = forward


def give_nan(layer):
    right = layer.forward
    layer.forward = lambda x, training=False: np.array(right(x, training)) / np.array(0.0)


def raise_error(dx):
    raise IndexError("index 3 is out of bounds")


def wrong_at(index, factor=1.01):
    def function(gradient):
        gradient[index] *= factor
        return gradient

    return function


def shifted(gradient):
    moved = np.zeros_like(gradient)
    moved[:, :, 1:, 1:] = gradient[:, :, :-1, :-1]
    return moved


MISTAKES = {  # name: (layer, input shape, mistake, tensor, hint)
    "dx_0.1_percent": (Conv2d(5, 3, padding=1), IMAGE, change_dx(lambda g: 1.001 * g), "x", "× 1.001"),
    "dx_sign": (Tanh(), IMAGE, change_dx(np.negative), "x", "sign flipped"),
    "dx_twice": (ReLU(), IMAGE, change_dx(lambda g: 2 * g), "x", "factor 2"),
    "dx_half": (ReLU(), IMAGE, change_dx(lambda g: g / 2), "x", "factor 1/2"),
    "dx_zero": (Linear(5), (6,), change_dx(np.zeros_like), "x", "zero: this gradient is never written"),
    "dx_nan": (Tanh(), IMAGE, change_dx(lambda g: g * np.nan), "x", "NaN"),
    "dx_one_nan": (Tanh(), IMAGE, change_dx(wrong_at((1, 2, 3, 4), np.nan)), "x", "NaN"),
    "dx_one_inf": (Tanh(), IMAGE, change_dx(wrong_at((1, 2, 3, 4), np.inf)), "x", "Inf"),
    "dx_shifted": (Conv2d(4, 3, padding=1), IMAGE, change_dx(shifted), "x", "off by one"),
    "dx_flipped": (Conv2d(4, 3), IMAGE, change_dx(lambda g: g[:, :, ::-1, ::-1]), "x", "180 degrees"),
    "dx_float32": (ReLU(), IMAGE, change_dx(lambda g: g.astype(np.float32)), "x", "expected float64"),
    "dx_shape": (Conv2d(4, 3), IMAGE, change_dx(lambda g: g[:, :, 1:]), "x", "expected float64 .3, 4"),
    "dx_raises": (Conv2d(4, 3), IMAGE, change_dx(raise_error), "x", "raised IndexError: index 3"),
    "dx_one_entry": (Conv2d(4, 3), IMAGE, change_dx(wrong_at((2, 1, 3, 3))), "x", "wrong at 1 of"),
    "pool_divisor": (AvgPool2d(3, 2), IMAGE, change_dx(lambda g: 9 * g), "x", "1/N is missing .*9 cells"),
    "pool_twice_divided": (AvgPool2d(4, 2), IMAGE, change_dx(lambda g: g / 16), "x", "divided by N once too"),
    "weight_0.1_percent": (Linear(5), (6,), change_grad("weight", lambda g: 1.001 * g), "weight", "× 1.001"),
    "weight_sign": (Conv2d(4, 3), IMAGE, change_grad("weight", np.negative), "weight", "sign flipped"),
    "weight_zero": (Conv2d(4, 3), IMAGE, change_grad("weight", np.zeros_like), "weight", "never written"),
    "weight_not_meaned": (Linear(5), (6,), change_grad("weight", lambda g: 3 * g), "weight", "N = 3 images"),
    "weight_sign_and_n": (Linear(5), (6,), change_grad("weight", lambda g: -3 * g), "weight", "sign.*1/N"),
    "weight_transposed": (Linear(6), (6,), change_grad("weight", np.transpose), "weight", "transposed"),
    "weight_laid_out": (
        Linear(5), (6,), change_grad("weight", lambda g: g.T.reshape(g.shape)), "weight", "transposed",
    ),
    "weight_rotated": (
        Conv2d(4, 3), IMAGE, change_grad("weight", lambda g: g[:, :, ::-1, ::-1]), "weight", "180 degrees",
    ),
    "weight_axes": (
        Conv2d(5, 3), IMAGE, change_grad("weight", lambda g: g.swapaxes(2, 3)), "weight", "height and width",
    ),
    "weight_tap": (
        Conv2d(4, 5), IMAGE, change_grad("weight", lambda g: np.roll(g, 1, 3)), "weight", "one column",
    ),
    "weight_one_entry": (
        Conv2d(16, 5), IMAGE, change_grad("weight", wrong_at((11, 2, 3, 1), 1.05)), "weight", "wrong at 1 of",
    ),
    "weight_channels": (Conv2d(6, 3), IMAGE, change_grad("weight", lambda g: g[::-1]), "weight", "reversed"),
    "bias_zero": (Conv2d(4, 3), IMAGE, change_grad("bias", np.zeros_like), "bias", "never written"),
    "bias_positions": (Conv2d(4, 3), IMAGE, change_grad("bias", lambda g: g / 56), "bias", "56 positions"),
    "overwritten": (Conv2d(4, 3), IMAGE, overwrite, "weight", "overwritten instead of accumulated"),
    "stale_cache_weight": (Linear(5), (6,), keep_first_cache, "weight", "stale cache"),
    "stale_cache_dx": (Tanh(), IMAGE, keep_first_cache, "x", "stale cache"),
    "cache_spoilt_weight": (Linear(5), (6,), spoil_cache, "weight", "disturbs the cache"),
    "cache_spoilt_dx": (Tanh(), IMAGE, spoil_cache, "x", "disturbs the cache"),
    "input_overwritten": (ReLU(), IMAGE, write_into_input, "x", "writes into its caller's array"),
    "forward_nan": (Tanh(), IMAGE, give_nan, "x", "forward gives NaN"),
    "fresh_dropout_mask": (
        Dropout(0.5), IMAGE, change_dx(lambda g: np.roll(g, 1, 0)), "x", "along the first axis",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_a_bug_with_the_right_hint(mistake, backend):
    import copy
    import re

    layer, shape, plant, tensor, hint = MISTAKES[mistake]
    layer = copy.deepcopy(layer)
    layer.build(shape, rng=np.random.default_rng(1), dtype=np.float64)
    x = np.random.default_rng(2).standard_normal((3, *shape))
    assert not [e for e in check_layer(layer, x, backend=backend) if e.kind == BUG]
    plant(layer)
    bugs = [e for e in check_layer(layer, x, backend=backend) if e.kind == BUG]
    assert bugs
    said = {(e.tensor, e.hint) for e in bugs}
    assert any(name == tensor and re.search(hint, text) for name, text in said), said
    assert all(not np.isfinite(e.error) or e.error > 0 for e in bugs)


def test_a_single_wrong_number_is_located():
    layer = Conv2d(16, 5)
    layer.build(IMAGE, rng=np.random.default_rng(1), dtype=np.float64)
    change_grad("weight", wrong_at((11, 2, 3, 1), 1.05))(layer)
    x = np.random.default_rng(2).standard_normal((3, *IMAGE))
    wrong = [e for e in check_layer(layer, x) if e.kind == BUG and not e.where.startswith("direction")]
    assert [e.where for e in wrong] == ["[11, 2, 3, 1]"]
    assert wrong[0].analytic == pytest.approx(1.05 * wrong[0].numeric, rel=1e-6)


OPERATIONS = {  # name of the operation: (what it returns instead, the layer that uses it)
    "relu_backward": (lambda f: lambda dy, x: np.where(np.asarray(x) <= 0, dy, 0.0), "1"),
    "max_pool2d_backward": (lambda f: lambda dy, *rest: 0.999 * np.asarray(f(dy, *rest)), "2"),
    "batch_norm_backward": (lambda f: lambda *args: f(*args[:-1], False), "3.body.1"),  # a term is missing
    "conv2d_backward_input": (lambda f: lambda dy, w, *rest: f(dy, w[:, :, ::-1], *rest), "0"),
    "channel_sum": (lambda f: lambda dy, dbias: f(np.asarray(dy)[:2], dbias), "0"),
    "linear_backward_input": (lambda f: lambda dy, w: np.asarray(f(dy, w)) + 1e-4, "5"),
    "add": (lambda f: lambda a, b: np.asarray(f(a, b)) + 0.01 * np.asarray(b) ** 2, "3"),
    "unflatten": (lambda f: lambda dy, shape: np.asarray(dy).reshape(shape)[::-1].copy(), "4"),
    "softmax_cross_entropy_backward": (lambda f: lambda p, y, factor: f(p, y, 3 * factor), "loss"),
}


def make_network():
    network = Network(
        [
            Conv2d(3, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Residual([Conv2d(3, 3, padding=1), BatchNorm2d()]),
            Flatten(),
            Linear(5),
        ]
    )
    network.build((2, 6, 6), rng=np.random.default_rng(0), dtype=np.float64)
    return network


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("broken", "module"),
    [("reference", cnn.reference), ("numba", cnn.fast.kernels)],
    ids=["reference", "numba"],
)
def test_a_broken_operation_is_found_in_the_layers_that_use_it(operation, broken, module, monkeypatch):
    make, layer = OPERATIONS[operation]
    x, labels = np.random.default_rng(2).standard_normal((3, 2, 6, 6)), np.array([1, 0, 4])
    monkeypatch.setattr(module, operation, make(getattr(module, operation)))
    report = check_network(make_network(), x, labels, backends=(broken,), entries=3, directions=1)
    assert not report.ok
    wrong = {e.layer for e in report.bugs}
    assert layer in wrong
    # the Numba network runs Conv2d, ReLU and MaxPool2d as one fused step, without the single operations
    assert "network" in wrong or broken == "numba"
    kind = {e.layer: e.type for e in report.entries}
    users = {kind[layer], "Linear"} if operation == "channel_sum" else {kind[layer]}
    alike = {name for name in kind if kind[name] in users}
    assert wrong <= alike | {"network", "3", "3.body"}
    assert f"BUG in layer {layer} (" in str(report)


def test_a_failed_report_says_so_everywhere(monkeypatch):
    monkeypatch.setattr(cnn.fast.kernels, "unflatten", lambda dy, shape: np.asarray(dy).reshape(shape)[::-1])
    x, labels = np.random.default_rng(2).standard_normal((3, 2, 6, 6)), np.array([1, 0, 4])
    report = check_network(make_network(), x, labels, layer="4")
    assert report.exit_code == 5
    assert {(e.layer, e.backend) for e in report.bugs} == {("4", "numba")}
    assert "reversed along the first axis" in str(report)
    assert "FAILED" in str(report)
    rows = json.loads(json.dumps(report.to_json()))
    assert rows["ok"] is False
    assert rows["counts"]["BUG"] == len(report.bugs) == sum(e["kind"] == BUG for e in rows["entries"])


def test_a_missing_mean_in_the_loss_is_named():
    class Summed(SoftmaxCrossEntropy):
        def backward(self):
            return 3 * super().backward()

    entries = check_loss(Summed(), np.random.default_rng(0).standard_normal((3, 7)), np.array([0, 6, 2]))
    assert {e.kind for e in entries} == {BUG}
    assert all("analytic = numeric × 3: the 1/N is missing (N = 3 images)" in e.hint for e in entries)


@pytest.mark.parametrize("layer", [ReLU(), MaxPool2d(2)], ids=["relu", "pool"])
def test_kinks_do_not_hide_a_bug(layer, backend):
    """Where zeros tie and masks switch, a backward that is 0.1 % off is still a BUG."""
    x = np.maximum(np.random.default_rng(0).standard_normal((3, 2, 6, 6)), 0)
    layer = type(layer)(2) if isinstance(layer, MaxPool2d) else ReLU()
    layer.build((2, 6, 6), dtype=np.float64)
    change_dx(lambda g: 1.001 * g)(layer)
    entries = check_layer(layer, x, backend=backend, entries=30)
    assert all(e.kind == BUG for e in entries if e.analytic != 0 and not e.where.startswith("dir"))
    assert all(e.kind == BUG for e in entries if e.where.startswith("direction"))


def test_a_relu_with_the_wrong_side_is_a_bug_even_at_zero(backend):
    class Wrong(Layer):
        def forward(self, x, training=False):
            self._cache = x
            return np.maximum(x, 0)

        def backward(self, dy):
            return np.where(self._cache > 0, dy, 0.3 * dy)

    x = np.zeros((3, 2, 4, 4))
    kinds = {e.kind for e in check_layer(Wrong(), x, backend=backend)}
    assert BUG in kinds
    x = np.full((3, 2, 4, 4), -1.0)
    assert {e.kind for e in check_layer(Wrong(), x, backend=backend)} == {BUG}
    assert KINK not in {e.kind for e in check_layer(Wrong(), x, backend=backend)}


def test_a_mistake_in_evaluation_mode_only_is_found():
    network = make_network()
    norm = network.layers[3].body.layers[1]
    right = norm.backward
    norm.backward = lambda dy: np.asarray(right(dy)) * (1.0 if norm._cache[-1] else 1.01)
    x, labels = np.random.default_rng(2).standard_normal((3, 2, 6, 6)), np.array([1, 0, 4])
    report = check_network(network, x, labels, layer="3.body.1")
    assert {(e.layer, e.mode) for e in report.bugs} == {("3.body.1", "eval")}


def test_forward_that_is_not_reproducible_is_a_bug():
    class Noisy(Layer):
        def forward(self, x, training=False):
            return x + np.random.default_rng().standard_normal(x.shape)

        def backward(self, dy):
            return dy

    entries = check_layer(Noisy(), np.ones((3, 4)))
    assert any(e.kind == BUG and "two forward passes" in e.hint for e in entries)


@pytest.mark.parametrize(("analytic", "numeric"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan)])
def test_a_number_that_is_not_finite_is_a_bug(analytic, numeric):
    class Slope:
        def slope(self, h):
            return numeric, 0.0

    assert judge(Slope(), analytic, 1e-5, None, ())[1] == BUG
