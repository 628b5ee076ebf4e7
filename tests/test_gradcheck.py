"""The gradient check passes what is right: every layer, mode and backend; kinks are not called bugs."""

import json

import numpy as np
import pytest

from cnn.backend import use_backend
from cnn.cli import main
from cnn.errors import ConfigError, ShapeError
from cnn.gradcheck import BUG, KINK, OK, ROUNDING, check_layer, check_loss, check_network
from cnn.layers import (
    ELU,
    GELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Concat,
    Conv2d,
    ConvTranspose2d,
    CrossEntropy,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Graph,
    GroupNorm,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LayerNorm,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2d,
    PReLU,
    ReLU,
    ReLU6,
    Residual,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    SoftmaxCrossEntropy,
    Softplus,
    Tanh,
    Unflatten,
    Upsample,
    ZeroPad2d,
    layer_types,
)
from cnn.network import Network

IMAGE, ROW = (4, 7, 6), (9,)
LAYERS = {
    "Conv2d": (lambda: Conv2d(6, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), IMAGE),
    "Conv2d_same": (lambda: Conv2d(3, (4, 3), padding="same", bias=False), IMAGE),
    "ConvTranspose2d": (lambda: ConvTranspose2d(6, 3, stride=2, padding=1, output_padding=1), IMAGE),
    "MaxPool2d": (lambda: MaxPool2d(3, stride=2, padding=1), IMAGE),
    "AvgPool2d": (lambda: AvgPool2d((3, 2), stride=1, padding=1, count_include_pad=False), IMAGE),
    "GlobalAvgPool2d": (GlobalAvgPool2d, IMAGE),
    "GlobalMaxPool2d": (GlobalMaxPool2d, IMAGE),
    "Linear": (lambda: Linear(5), ROW),
    "Flatten": (Flatten, IMAGE),
    "ReLU": (ReLU, IMAGE),
    "LeakyReLU": (lambda: LeakyReLU(0.1), IMAGE),
    "GELU": (GELU, IMAGE),
    "GELU_tanh": (lambda: GELU("tanh"), IMAGE),
    "SiLU": (SiLU, IMAGE),
    "Sigmoid": (Sigmoid, IMAGE),
    "Tanh": (Tanh, IMAGE),
    "Softmax": (Softmax, ROW),
    "BatchNorm2d": (BatchNorm2d, IMAGE),
    "BatchNorm1d": (BatchNorm1d, ROW),
    "Dropout": (lambda: Dropout(0.4), IMAGE),
    "Scale": (lambda: Scale(-0.3), IMAGE),
    "ELU": (lambda: ELU(0.7), IMAGE),
    "Softplus": (lambda: Softplus(2.0), IMAGE),
    "PReLU": (lambda: PReLU(4), IMAGE),
    "GroupNorm": (lambda: GroupNorm(2), IMAGE),
    "LayerNorm": (LayerNorm, IMAGE),
    "Upsample": (lambda: Upsample(scale_factor=2), IMAGE),
    "ZeroPad2d": (lambda: ZeroPad2d((1, -1, 2, 0)), IMAGE),
    "Unflatten": (lambda: Unflatten((1, 3, 3)), ROW),
    "ReLU6": (ReLU6, IMAGE),
    "Hardtanh": (lambda: Hardtanh(-0.5, 0.8), IMAGE),
    "Hardsigmoid": (Hardsigmoid, IMAGE),
    "Hardswish": (Hardswish, IMAGE),
    "LogSoftmax": (LogSoftmax, ROW),
    "LocalResponseNorm": (lambda: LocalResponseNorm(3, 0.5, 0.75, 0.7), IMAGE),
    "Graph": (
        lambda: Graph(
            [[Conv2d(4, 3, padding=1)], [AvgPool2d(IMAGE[1:]), Sigmoid()], [], [Tanh()], []],
            [(0,), (1,), (1, 2), (0, 3, 1), (4, 1, 0)],
            ["", "", "mul", "concat", "concat"],
        ),
        IMAGE,
    ),
    "MaxPool2d_dilated": (lambda: MaxPool2d(2, 2, 1, dilation=2, ceil_mode=True), IMAGE),
    "AvgPool2d_ceil": (lambda: AvgPool2d(3, 2, ((0, 1), (1, 0)), ceil_mode=True), IMAGE),
    "Sequential": (lambda: Sequential([Conv2d(3, 3), Tanh()]), IMAGE),
    "Residual": (lambda: Residual([Conv2d(4, 3, padding=1), BatchNorm2d(), GELU()]), IMAGE),
    "Concat": (lambda: Concat([[Conv2d(2, 1)], [], [AvgPool2d(3, 1, padding=1)]]), IMAGE),
}


def built(layer, shape, dtype=np.float64):
    layer.build(shape, rng=np.random.default_rng(1), dtype=dtype)
    return layer


def batch(shape, n=3, seed=2):
    return np.random.default_rng(seed).standard_normal((n, *shape))


def kinds(entries):
    return {entry.kind for entry in entries}


def test_every_layer_type_has_a_case():
    assert set(layer_types()) <= {name.split("_")[0] for name in LAYERS}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_right_gradients_pass(name, training, backend):
    make, shape = LAYERS[name]
    layer = built(make(), shape)
    entries = check_layer(layer, batch(shape), training=training, backend=backend)
    assert kinds(entries) <= {OK, KINK, ROUNDING}, [e for e in entries if e.kind == BUG]
    assert sum(e.kind == OK for e in entries) >= 0.7 * len(entries)
    assert {e.tensor.split(".")[-1] for e in entries} == {"x", *(p.name for p in layer.parameters())}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_passes(reduction, smoothing, backend):
    loss = SoftmaxCrossEntropy(label_smoothing=smoothing, reduction=reduction, class_weight=[1, 2, 0.5, 1, 3])
    labels = np.array([0, 4, 2])
    assert kinds(check_loss(loss, batch((5,)), labels, backend=backend)) <= {OK, ROUNDING}
    rows = np.random.default_rng(0).random((3, 5))  # that do not sum to one
    assert kinds(check_loss(loss, batch((5,)), rows, backend=backend)) <= {OK, ROUNDING}
    probabilities = np.random.default_rng(1).uniform(0.1, 1, (3, 5))
    assert kinds(check_loss(CrossEntropy(reduction), probabilities, rows, backend=backend)) <= {OK, ROUNDING}


def small_network(dtype=np.float64):
    network = Network(
        [
            Conv2d(4, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Residual([Conv2d(4, 3, padding=1, bias=False), BatchNorm2d(), ReLU(), Dropout(0.3)]),
            Concat([[Conv2d(2, 1)], [AvgPool2d(3, 1, padding=1)]]),
            Flatten(),
            Linear(5),
        ]
    )
    network.build((2, 6, 6), rng=np.random.default_rng(0), dtype=dtype)
    return network


LABELS = np.array([1, 0, 4])


def test_a_network_passes_layer_by_layer_and_is_what_it_was_before():
    network = small_network()
    rng = np.random.default_rng(3)
    for p in network.parameters():
        p.grad = rng.standard_normal(p.shape)
    x = batch((2, 6, 6))
    given, before = x.copy(), {name: a.copy() for name, a in network.state().items()}
    gradients, logits = network.grad.copy(), network.predict(x).copy()
    report = check_network(network, x, LABELS)
    assert report.ok, str(report)
    assert report.exit_code == 0
    checked = {e.layer for e in report.entries}
    assert checked == {*(name for name, _ in network.walk()), "loss", "network"}
    assert {(e.layer, e.mode) for e in report.entries} >= {("3.body.1", "train"), ("3.body.1", "eval")}
    assert {e.backend for e in report.entries} == {"reference", "numba"}
    np.testing.assert_array_equal(x, given)
    np.testing.assert_array_equal(network.grad, gradients)
    np.testing.assert_array_equal(network.predict(x), logits)
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_layers_receive_the_activations_that_reach_them_in_the_network():
    network, seen = small_network(), []
    layer = network.layers[1]
    original = layer.forward
    layer.forward = lambda x, training=False: (seen.append(np.array(x)), original(x, training))[1]
    check_network(network, batch((2, 6, 6)), LABELS, layer="2", backends=("reference",))
    # only the two passes that move the statistics and the two that record came through the layer before
    assert len(seen) == 4


def test_one_layer_one_backend_and_the_same_numbers_from_the_same_seed():
    reports = [
        check_network(
            small_network(), batch((2, 6, 6)), LABELS, layer="3.body.0", backends=("numba",), seed=seed
        )
        for seed in (0, 0, 1)
    ]
    assert {(e.layer, e.backend) for e in reports[0].entries} == {("3.body.0", "numba")}
    assert reports[0].to_json() == reports[1].to_json()
    assert reports[0].to_json() != reports[2].to_json()


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ConfigError, match="expected a network built in float64, found float32"):
        check_network(small_network(np.float32), batch((2, 6, 6)), LABELS)
    with pytest.raises(ConfigError, match=r'found "3.body.9", expected one of .*Did you mean "3.body'):
        check_network(small_network(), batch((2, 6, 6)), LABELS, layer="3.body.9")
    with pytest.raises(ShapeError):
        check_layer(built(BatchNorm1d(), (4,)), batch((4,), n=1))


# -- kinks and rounding --------------------------------------------------------------------------


def test_a_relu_that_switches_within_the_step_is_a_kink(backend):
    x = np.full((3, 2, 4, 4), 4e-6)  # h = 1e-5 crosses zero
    x[::2] *= -1
    assert kinds(check_layer(ReLU(), x, backend=backend)) == {KINK}


def test_a_relu_at_exactly_zero_is_a_kink(backend):
    x = np.maximum(batch((2, 5, 5)), 0)
    entries = check_layer(ReLU(), x, backend=backend, entries=40)
    assert kinds(entries) == {OK, KINK}
    assert all(e.kind == KINK for e in entries if e.where.startswith("direction"))


@pytest.mark.parametrize("layer", [MaxPool2d(2), MaxPool2d(3, 1, padding=1), GlobalMaxPool2d()], ids=repr)
def test_ties_under_a_max_pool_are_kinks(layer, backend):
    x = np.maximum(batch((2, 6, 6)) - 1.5, 0)
    x[0] = 0
    entries = check_layer(built(layer, (2, 6, 6)), x, backend=backend, entries=40)
    assert KINK in kinds(entries)
    assert BUG not in kinds(entries)


def test_a_pool_winner_that_changes_within_the_step_is_a_kink(backend):
    x = batch((1, 4, 4))
    x[:, :, 0, 0] = 5.0
    x[:, :, 0, 1] = 5.0 - 3e-6
    entries = check_layer(built(MaxPool2d(2), (1, 4, 4)), x, backend=backend, entries=48)
    by_place = {e.where: e.kind for e in entries}
    assert by_place["[0, 0, 0, 0]"] == KINK
    assert by_place["[0, 0, 0, 1]"] == KINK
    assert BUG not in kinds(entries)


def test_kinks_inside_a_container_are_kinks(backend):
    body = [Conv2d(2, 3, padding=1, bias_init="zeros"), ReLU(), MaxPool2d(3, 1, padding=1)]
    layer = built(Residual(body), (2, 6, 6))
    x = np.maximum(batch((2, 6, 6)), 0)
    x[:, :, :4, :4] = 0  # so the convolution gives exact zeros
    entries = check_layer(layer, x, backend=backend, entries=20)
    assert KINK in kinds(entries)
    assert BUG not in kinds(entries)


def test_a_gradient_below_the_noise_is_rounding(backend):
    """The bias in front of a BatchNorm has gradient zero, and backward gives 1e-17."""
    layer = built(Sequential([Conv2d(3, 3), BatchNorm2d()]), IMAGE)
    entries = [e for e in check_layer(layer, batch(IMAGE), backend=backend) if e.tensor == "0.bias"]
    assert kinds(entries) <= {ROUNDING, OK}
    assert ROUNDING in kinds(entries)


def test_strong_curvature_is_rounding_not_a_bug(backend):
    layer = built(BatchNorm1d(eps=1e-12), (3,))
    entries = check_layer(layer, 2e-4 * batch((3,), n=8), backend=backend, entries=24)
    assert ROUNDING in kinds(entries)
    assert BUG not in kinds(entries)


def test_dropout_draws_the_same_mask_at_every_point_and_goes_on_where_it_was():
    layer = built(Dropout(0.5), (3, 8, 8))
    state = layer.buffers()["state"].copy()
    with use_backend("numba"):
        assert kinds(check_layer(layer, batch((3, 8, 8)))) == {OK}
    np.testing.assert_array_equal(layer.buffers()["state"], state)


# -- the command -----------------------------------------------------------------------------------

CONFIG = """
name = "small"
[data]
dataset = "sample"
batch_size = 10
[model]
layers = [
  { type = "Conv2d", out_channels = 3, kernel_size = 5, stride = 2 },
  { type = "BatchNorm2d" }, { type = "ReLU" }, { type = "MaxPool2d", kernel_size = 2 },
  { type = "Flatten" }, { type = "Linear", out_features = 10 },
]
[optimizer]
type = "SGD"
lr = 0.05
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def test_the_command_prints_a_table_writes_json_and_returns_0(config, capsys):
    target = config.parent / "report.json"
    assert main(["gradcheck", str(config), "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "BatchNorm2d" in printed
    assert "passed" in printed
    report = json.loads(target.read_text())
    assert report["ok"] is True
    assert {entry["layer"] for entry in report["entries"]} == {*"012345", "loss", "network"}
    assert {entry["backend"] for entry in report["entries"]} == {"reference", "numba"}


def test_the_command_returns_5_and_names_the_layer_when_a_gradient_is_wrong(config, capsys, monkeypatch):
    import cnn.fast.kernels

    right = cnn.fast.kernels.batch_norm_backward

    def wrong(*arguments):
        return 1.001 * np.asarray(right(*arguments))

    monkeypatch.setattr(cnn.fast.kernels, "batch_norm_backward", wrong)
    assert main(["gradcheck", str(config)]) == 5
    captured = capsys.readouterr()
    assert "BUG in layer 1 (BatchNorm2d), x, train, numba" in captured.out
    assert "analytic = numeric × 1.001" in captured.out
    assert "FAILED" in captured.out
    assert "wrong gradients, in layer 1" in captured.err
    assert main(["gradcheck", str(config), "--backend", "reference"]) == 0


def test_the_command_refuses_a_layer_that_does_not_exist(config, capsys):
    assert main(["gradcheck", str(config), "--layer", "9"]) == 2
    assert "expected one of 0, 1, 2" in capsys.readouterr().err
