"""Parameter groups: against PyTorch's, and what freezing promises."""

import importlib

import numpy as np
import pytest

import cnn
from cnn.backend import operations, use_backend
from cnn.errors import ConfigError
from cnn.layers import (
    BatchNorm2d,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SoftmaxCrossEntropy,
)
from cnn.optimizers import SGD, Adam
from cnn.optimizers.groups import Groups

BACKENDS = ("reference", "numba")


def small(dtype=np.float64):
    """Two convolutions with a residual block between them, and a head."""
    network = cnn.Network(
        [
            Conv2d(4, 3, padding=1),
            BatchNorm2d(),
            ReLU(),
            Residual([Conv2d(4, 3, padding=1), BatchNorm2d()]),
            ReLU(),
            Conv2d(5, 3),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear(3),
        ]
    )
    network.build((2, 8, 8), rng=np.random.default_rng(0), dtype=dtype)
    return network


def gradient(network, **options):
    """Fill the gradients from one batch; return what backward returned."""
    rng, loss = np.random.default_rng(1), SoftmaxCrossEntropy()
    logits = network.forward(rng.standard_normal((6, 2, 8, 8)), training=True)
    loss.forward(np.asarray(logits), rng.integers(0, 3, 6))
    network.zero_grad()
    return network.backward(loss.backward(), **options)


def by_name(network):
    return {
        f"{name}.{p.name}": p
        for name, layer in network.walk()
        if not layer.children()
        for p in layer.parameters()
    }


def test_the_later_group_wins_key_by_key_and_case_does_not_count():
    network = small()
    Groups(
        network,
        [
            {"match": "conv*.weight", "lr_scale": 2.0, "weight_decay": 0.5},
            {"match": "5.*", "lr_scale": 3.0},
            {"match": "3.body.?.weight", "trainable": False},
            {"match": "3.body.0.weight", "trainable": True},
        ],
    )
    found = {name: (p.lr_scale, p.weight_decay, p.trainable) for name, p in by_name(network).items()}
    assert found == {
        "0.weight": (2.0, 0.5, True),
        "0.bias": (1.0, None, True),
        "1.weight": (1.0, None, True),
        "1.bias": (1.0, None, True),
        "3.body.0.weight": (2.0, 0.5, True),
        "3.body.0.bias": (1.0, None, True),
        "3.body.1.weight": (1.0, None, False),
        "3.body.1.bias": (1.0, None, True),
        "5.weight": (3.0, 0.5, True),
        "5.bias": (3.0, None, True),
        "9.weight": (1.0, None, True),
        "9.bias": (1.0, None, True),
    }


def test_epochs_freeze_and_thaw():
    network = small()
    groups = Groups(
        network,
        [{"match": "0.bias", "until_epoch": 0.5}, {"match": "9.*", "from_epoch": 1.0, "until_epoch": 2.0}],
    )
    parameters = by_name(network)
    for epoch, bias, head in [
        (0, 1, 0),
        (0.49, 1, 0),
        (0.5, 0, 0),
        (1, 0, 1),
        (1.99, 0, 1),
        (2, 0, 0),
        (0, 1, 0),
    ]:
        groups.at(epoch)
        assert (parameters["0.bias"].trainable, parameters["9.weight"].trainable) == (bias, head), epoch
        assert parameters["5.weight"].trainable


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"match": "7.weight"}],
            r'groups\[0\].match: found "7.weight", which matches no parameter. Did you',
        ),
        (
            [{"match": "0.*"}, {"match": "*", "lrscale": 1}],
            r'groups\[1\].lrscale: unknown key. Did you mean "lr_s',
        ),
        ([{"match": "*", "trainable": False}], "every parameter is frozen"),
        (
            [{"match": "0.bias", "until_epoch": 1}, {"match": "*.bias", "from_epoch": 1.5}],
            "0.bias would be trained from epoch 1.5 until epoch 1",
        ),
    ],
)
def test_mistakes_are_named(groups, message):
    with pytest.raises(ConfigError, match=message):
        Groups(small(), groups)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rates_and_decay_are_those_of_pytorchs_parameter_groups(backend):
    """PyTorch skips a parameter without a gradient; its momentum waits as ours does."""
    torch = pytest.importorskip("torch")
    network = small()
    groups = Groups(
        network,
        [
            {"match": "BatchNorm2d.bias", "lr_scale": 8.0, "weight_decay": 0.02},
            {"match": "BatchNorm2d.weight", "trainable": False},
            {"match": "0.bias", "until_epoch": 3},
            {"match": "9.weight", "from_epoch": 2},
        ],
    )
    named = by_name(network)
    theirs = {name: torch.tensor(p.data.copy(), requires_grad=True) for name, p in named.items()}
    norm_biases = [t for name, t in theirs.items() if name in ("1.bias", "3.body.1.bias")]
    others = [t for name, t in theirs.items() if name not in ("1.bias", "3.body.1.bias")]
    other = torch.optim.SGD(
        [
            {"params": norm_biases, "lr": 0.8, "weight_decay": 0.02},
            {"params": others, "lr": 0.1, "weight_decay": 0.05},
        ],
        momentum=0.85,
        nesterov=True,
    )
    with use_backend(backend):
        mine = SGD(
            network.parameters(),
            lr=0.1,
            momentum=0.85,
            nesterov=True,
            weight_decay=0.05,
            decay_all=True,
            clip_norm=1.5,
        )
        for epoch in range(5):
            groups.at(epoch)
            rng = np.random.default_rng(epoch)
            for name, p in named.items():
                p.grad = rng.standard_normal(p.shape)
                theirs[name].grad = torch.tensor(p.grad) if p.trainable else None
            torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)
            mine.step()
            other.step()
    for name, p in named.items():
        np.testing.assert_allclose(
            p.data, theirs[name].detach().numpy(), rtol=1e-12, atol=1e-13, err_msg=name
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_adam_counts_the_steps_of_each_parameter(backend):
    torch = pytest.importorskip("torch")
    network = small()
    groups = Groups(network, [{"match": "9.weight", "from_epoch": 3}])
    weight = by_name(network)["9.weight"]
    theirs = torch.tensor(weight.data.copy(), requires_grad=True)
    other = torch.optim.Adam([theirs], lr=0.01)
    with use_backend(backend):
        mine = Adam(network.parameters(), lr=0.01)
        for epoch in range(6):
            groups.at(epoch)
            weight.grad = np.random.default_rng(epoch).standard_normal(weight.shape)
            theirs.grad = torch.tensor(weight.grad) if epoch >= 3 else None
            mine.step()
            other.step()
    np.testing.assert_allclose(weight.data, theirs.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "frozen",
    [
        ["0.*"],
        ["0.*", "1.*"],
        ["0.*", "1.*", "3.*"],
        ["0.weight"],
        ["*.weight"],
        ["0.*", "1.*", "3.*", "5.*"],
        ["9.*"],
        ["3.body.0.*"],
        ["[0135].*", "3.body.[01].*", "9.weight"],
    ],
    ids=" ".join,
)
def test_what_is_trained_gets_the_gradients_it_would_get_anyway(backend, frozen):
    with use_backend(backend):
        network = small()
        expected_dx = np.asarray(gradient(network))
        expected = {name: p.grad.copy() for name, p in by_name(network).items()}
        groups = Groups(network, [{"match": match, "trainable": False} for match in frozen])
        for input_gradient in (True, False):
            dx = gradient(network, input_gradient=input_gradient)
            for name, p in by_name(network).items():
                if p.trainable:
                    np.testing.assert_array_equal(p.grad, expected[name], err_msg=name)
                    assert p.grad.any() or not expected[name].any()
                elif not name.startswith(("1.", "3.body.1.")):  # both sums of a norm are part of its dx
                    assert not p.grad.any(), name
            if input_gradient:
                np.testing.assert_array_equal(np.asarray(dx), expected_dx)
        groups.at(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_ends_at_the_first_layer_that_is_trained(backend, monkeypatch):
    with use_backend(backend):
        network = small()
        gradient(network, input_gradient=False)
        Groups(network, [{"match": "[01].*", "trainable": False}, {"match": "3.*", "trainable": False}])

        def never(*arguments, **options):
            raise AssertionError("backward went on below the last layer that learns")

        # all normalisations lie below the first layer that learns
        for module in (operations(), importlib.import_module("cnn.fast.kernels.norm")):
            monkeypatch.setattr(module, "batch_norm_backward", never)
        with pytest.raises(AssertionError, match="went on below"):
            gradient(network, input_gradient=True)
        network.zero_grad()
        gradient(network, input_gradient=False)
        assert by_name(network)["5.weight"].grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrap", [lambda c: Residual([c, Conv2d(2, 1)]), lambda c: Concat([[c], []])])
def test_a_container_that_comes_first_hands_the_end_on(backend, wrap, monkeypatch):
    """Its branches leave out the gradient of the input too."""
    inner = Conv2d(2, 3, padding=1)
    network = cnn.Network([wrap(inner), Flatten(), Linear(3)])
    network.build((2, 4, 4), dtype=np.float64)
    with use_backend(backend):
        x, dy = np.random.default_rng(0).standard_normal((3, 2, 4, 4)), np.ones((3, 3))
        network.forward(x, training=True)
        network.backward(dy)
        expected = network.grad.copy()
        network.zero_grad()
        monkeypatch.setattr(inner, "backward", None)
        network.backward(dy, input_gradient=False)
    np.testing.assert_array_equal(network.grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "arguments"), [(Conv2d, (3, 3)), (ConvTranspose2d, (3, 3)), (Linear, (4,))]
)
def test_a_frozen_weight_costs_no_kernel(kind, arguments, backend, monkeypatch):
    with use_backend(backend):
        layer = kind(*arguments)
        shape = (7,) if isinstance(layer, Linear) else (2, 6, 6)
        network = cnn.Network([layer])
        network.build(shape)
        layer.weight.trainable = False
        y = np.asarray(network.forward(np.ones((2, *shape), np.float32), training=True))
        ops = cnn.backend.operations()
        for name in ("conv2d_backward_weight", "linear_backward_weight"):
            monkeypatch.setattr(ops, name, None)
        dx = np.asarray(network.backward(np.ones_like(y)))
        assert dx.shape == (2, *shape)
        assert layer.bias.grad.any()
        layer.bias.trainable = False
        network.zero_grad()
        network.backward(np.ones_like(y))
        assert not network.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_parameter_keeps_its_values_and_its_velocity(backend):
    with use_backend(backend):
        network = small(np.float32)
        groups = Groups(network, [{"match": "5.*", "until_epoch": 1}])
        optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, decay_all=True)
        gradient(network)
        optimizer.step()
        groups.at(1)
        weight = by_name(network)["5.weight"]
        part = slice(weight.start, weight.stop)
        before = weight.data.copy(), optimizer.state()["velocity"][part].copy()
        weight.grad = np.full(weight.shape, np.nan)
        optimizer.step()
        np.testing.assert_array_equal(weight.data, before[0])
        np.testing.assert_array_equal(optimizer.state()["velocity"][part], before[1])
        assert before[1].any()


def test_nothing_trainable_is_a_step_that_changes_nothing():
    network = small()
    Groups(network, [{"match": "*", "from_epoch": 1}])
    before = network.data.copy()
    gradient(network, input_gradient=False)
    assert SGD(network.parameters(), lr=0.1, clip_norm=1.0).step() == 0
    np.testing.assert_array_equal(network.data, before)
