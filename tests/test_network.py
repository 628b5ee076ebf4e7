"""Network: one flat buffer, names, state, summary; whole networks are in test_network_gradients.py."""

import numpy as np
import pytest

import cnn
from cnn.backend import use_backend
from cnn.errors import CheckpointError, ConfigError, ShapeError
from cnn.fast.blocked import as_blocked
from cnn.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
)


def lenet():
    return [
        Conv2d(6, 5, padding=2),
        ReLU(),
        MaxPool2d(2),
        Conv2d(16, 5),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(120),
        ReLU(),
        Linear(84),
        ReLU(),
        Linear(10),
    ]


def nested():
    """A network with every container, statistics and dropout."""
    return [
        Conv2d(4, 3, padding=1),
        Residual([Conv2d(4, 3, padding=1), BatchNorm2d(), ReLU()]),
        Concat([[Conv2d(2, 1)], [AvgPool2d(3, stride=1, padding=1), Conv2d(3, 1)], []]),
        Sequential([Dropout(0.3), Residual([Conv2d(5, 1)], shortcut=[Conv2d(5, 1)])]),
        GlobalAvgPool2d(),
        Linear(3),
    ]


def build(layers, shape=(2, 8, 8), seed=0, dtype=np.float32):
    network = cnn.Network(layers)
    network.build(shape, rng=np.random.default_rng(seed), dtype=dtype)
    return network


def test_parameters_and_gradients_are_views_of_two_flat_buffers(rng):
    network = build(nested())
    assert network.data.ndim == network.grad.ndim == 1
    assert network.data.size == sum(p.size for p in network.parameters())
    position = 0
    for p in network.parameters():
        assert np.shares_memory(p.data, network.data)
        assert np.shares_memory(p.grad, network.grad)
        np.testing.assert_array_equal(network.data[position : position + p.size], p.data.ravel())
        position += p.size
    network.data[...] = 7
    assert all((p.data == 7).all() for p in network.parameters())
    network.parameters()[1].grad[...] = 3
    assert (network.grad == 3).sum() == network.parameters()[1].size
    network.zero_grad()
    assert not network.grad.any()


def test_the_parameters_keep_the_values_of_a_layer_built_alone():
    """Gathering into one buffer moves values, it does not draw or change them."""
    alone, network = Conv2d(6, 5, padding=2), build(lenet(), (1, 28, 28))
    alone.build((1, 28, 28), np.random.default_rng(0))
    np.testing.assert_array_equal(network.layers[0].weight.data, alone.weight.data)


def test_nested_layers_are_named_by_their_place():
    network = build(nested())
    names = [name for name, _ in network.walk()]
    assert names == [
        *("0", "1", "1.body", "1.body.0", "1.body.1", "1.body.2", "1.shortcut"),
        *("2", "2.branches.0", "2.branches.0.0", "2.branches.1", "2.branches.1.0", "2.branches.1.1"),
        *(
            "2.branches.2",
            "3",
            "3.0",
            "3.1",
            "3.1.body",
            "3.1.body.0",
            "3.1.shortcut",
            "3.1.shortcut.0",
            "4",
            "5",
        ),
    ]
    for name, layer in network.walk():
        assert layer.name == name


def test_state_has_every_parameter_and_every_statistic_as_live_views(rng):
    network = build(nested())
    state = network.state()
    assert list(state) == [
        *("0.weight", "0.bias", "1.body.0.weight", "1.body.0.bias"),
        *("1.body.1.weight", "1.body.1.bias", "1.body.1.running_mean", "1.body.1.running_var"),
        *("2.branches.0.0.weight", "2.branches.0.0.bias", "2.branches.1.1.weight", "2.branches.1.1.bias"),
        *(
            "3.0.state",
            "3.1.body.0.weight",
            "3.1.body.0.bias",
            "3.1.shortcut.0.weight",
            "3.1.shortcut.0.bias",
        ),
        *("5.weight", "5.bias"),
    ]
    before = {name: array.copy() for name, array in state.items()}
    network.data[...] += 1
    network.forward(rng.standard_normal((4, 2, 8, 8)), training=True)
    for name, array in state.items():
        assert (array != before[name]).any(), name


def test_a_state_that_was_loaded_gives_the_same_outputs(backend, rng):
    source, target = build(nested()), build(nested(), seed=1)
    x = rng.standard_normal((4, 2, 8, 8))
    source.forward(x, training=True)
    target.load_state({name: array.copy() for name, array in source.state().items()})
    np.testing.assert_array_equal(target.predict(x), source.predict(x))
    first = np.array(source.forward(x, training=True))
    np.testing.assert_array_equal(np.asarray(target.forward(x, training=True)), first)  # the same dropout


def test_a_state_that_does_not_fit_changes_nothing():
    network = build(nested())
    good = {name: array.copy() for name, array in network.state().items()}
    other = {name: array + 1 for name, array in good.items()}
    with pytest.raises(CheckpointError, match=r'lacks "0.bias"'):
        network.load_state({name: array for name, array in other.items() if name != "0.bias"})
    with pytest.raises(CheckpointError, match=r'no entry "0.biass". Did you mean "0.bias"'):
        network.load_state({**other, "0.biass": np.zeros(4)})
    with pytest.raises(CheckpointError, match=r'"5.weight": expected shape \(3, 5\), found \(5, 3\)'):
        network.load_state({**other, "5.weight": other["5.weight"].T})
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, good[name])


def test_summary_counts_what_a_hand_counts():
    """LeNet-5: 61,706 parameters and 416,520 multiply-adds (LeCun 1998 with C3 fully connected)."""
    network = build(lenet(), (1, 28, 28))
    summary = network.summary()
    assert summary.parameters == 156 + 2416 + 48120 + 10164 + 850 == 61706
    assert summary.macs == 117600 + 240000 + 48000 + 10080 + 840 == 416520
    outputs = 2 * 6 * 28 * 28 + 6 * 14 * 14 + 2 * 16 * 10 * 10 + 400 + 400 + 2 * 120 + 2 * 84 + 10
    assert summary.activation_bytes == 4 * outputs
    batch = network.summary(batch_size=32)
    assert batch.parameters == summary.parameters
    assert batch.macs == 32 * summary.macs
    assert batch.activation_bytes == 32 * summary.activation_bytes
    row = summary.rows[3]
    assert (row.name, row.type, row.output_shape, row.parameters, row.macs) == (
        *("3", "Conv2d", (16, 10, 10)),
        *(2416, 240000),
    )


def test_summary_of_containers_counts_each_output_once():
    network = build([Residual([Conv2d(2, 1)]), Concat([[ReLU()], []])], (2, 4, 4))
    summary = network.summary()
    plane = 4 * 4 * 4  # bytes
    # Residual's convolution and sum, the branch's ReLU, and the joined channels; an empty branch is x itself
    assert summary.activation_bytes == 2 * plane + 2 * plane + 2 * plane + 4 * plane
    assert summary.parameters == network.data.size == 6


def test_summary_is_a_table():
    text = str(build(nested()).summary(batch_size=2))
    lines = text.splitlines()
    assert lines[0] == "input 2 x 8 x 8, batch of 2"
    assert lines[1].split() == ["layer", "type", "output", "parameters", "MACs", "activations"]
    assert any(line.split()[:2] == ["3.1.shortcut.0", "Conv2d"] for line in lines)
    assert lines[-2].startswith("total")
    with pytest.raises(RuntimeError, match="summary needs build"):
        cnn.Network(nested()).summary()


def test_predict_is_forward_in_evaluation_batch_by_batch(backend, rng):
    network = build(nested(), dtype=np.float64)
    x = rng.standard_normal((11, 2, 8, 8))
    whole = np.array(network.forward(x))
    for batch_size in (1, 4, 11, 256):
        np.testing.assert_allclose(network.predict(x, batch_size), whole, rtol=1e-12)
    assert network.predict(x[:0]).shape == (0, 3)
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        network.backward(np.ones((1, 3)))


def test_build_and_forward_errors_name_the_layer_and_the_shapes():
    layers = [Conv2d(4, 3), Sequential([MaxPool2d(2), Conv2d(4, 9)])]
    with pytest.raises(ShapeError, match=r"Conv2d \(layer 1\.1\): the window of 9x9 .* \(4, 3, 3\)"):
        build(layers)
    with pytest.raises(
        ShapeError, match=r"Linear \(layer 1\): expected an input of shape \(F\), found \(4, 6, 6\)"
    ):
        build([Conv2d(4, 3), Linear(3)])
    with pytest.raises(
        ShapeError, match=r"Residual \(layer 0\): body returns shape \(3, 8, 8\), shortcut \(2, 8, 8\)"
    ):
        build([Residual([Conv2d(3, 1)])])
    with pytest.raises(ShapeError, match=r"Concat \(layer 0\): branches return shapes .*channels only"):
        build([Concat([[Conv2d(3, 3)], []])])
    network = build([Conv2d(4, 3)])
    with pytest.raises(ShapeError, match=r"expected images of shape \(2, 8, 8\), found \(2, 9, 8\)"):
        network.forward(np.zeros((1, 2, 9, 8)))
    with pytest.raises(RuntimeError, match=r"forward was called before build\(input_shape\)"):
        cnn.Network([ReLU()]).forward(np.zeros((1, 3)))


def test_one_layer_object_cannot_stand_in_two_places():
    shared = ReLU()
    for layers in ([shared, shared], [shared, Residual([shared])], [Concat([[shared], [shared]])]):
        with pytest.raises(ConfigError, match=r"stands in the list twice|one ReLU stands at two places"):
            cnn.Network(layers)
    with pytest.raises(ConfigError, match="Sequential: expected layers, found 'ReLU'"):
        cnn.Network(["ReLU"])


def test_building_again_keeps_what_was_learnt_until_a_reset():
    network = build(nested())
    first = network.data.copy()
    network.data[...] = 0
    network.build((2, 8, 8), rng=np.random.default_rng(0))
    assert not network.data.any()
    network.body.reset()
    network.build((2, 8, 8), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(network.data, first)
    assert network.build((2, 10, 10)) == (3,)
    assert network.input_shape == (2, 10, 10)
    assert network.output_shape == (3,)


def test_a_list_is_a_batch_too(backend):
    network = build([Linear(2)], (3,))
    assert np.asarray(network.forward([[1.0, 2.0, 3.0]])).shape == (1, 2)


def test_a_network_without_parameters_works(backend, rng):
    network = build([MaxPool2d(2), Flatten()], (1, 4, 4))
    assert network.data.size == network.grad.size == 0
    network.zero_grad()
    assert np.asarray(network.forward(rng.standard_normal((2, 1, 4, 4)))).shape == (2, 4)
    assert network.summary().parameters == 0


def test_repr_shows_the_layers():
    assert repr(cnn.Network([Flatten(), Linear(10)])) == "Network([Flatten(), Linear(10)])"


def overfit(network, x, labels, steps, lr):
    """Plain gradient descent; returns the number of wrong predictions."""
    loss = SoftmaxCrossEntropy()
    for _ in range(steps):
        loss.forward(network.forward(x, training=True), labels)
        network.zero_grad()
        network.backward(loss.backward())
        network.data[...] -= lr * network.grad
    return int((network.predict(x).argmax(axis=1) != labels).sum())


def test_a_small_network_learns_64_random_images_by_heart(backend):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 1, 12, 12)).astype(np.float32)
    labels = rng.integers(0, 10, 64)
    layers = [
        Conv2d(8, 3, padding=1),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Linear(32),
        BatchNorm1d(),
        ReLU(),
        Linear(10),
    ]
    network = build(layers, (1, 12, 12))
    assert overfit(network, x, labels, 60, 0.5) == 0


def test_one_step_against_the_gradient_lowers_the_loss(backend, rng):
    network, loss = build(nested(), dtype=np.float64), SoftmaxCrossEntropy()
    x, labels = rng.standard_normal((8, 2, 8, 8)), rng.integers(0, 3, 8)
    before = loss.forward(network.forward(x), labels)
    network.backward(loss.backward())
    network.data[...] -= 0.01 * network.grad
    after = loss.forward(network.forward(x), labels)
    predicted = before - 0.01 * float(np.vdot(network.grad, network.grad))
    assert after < before
    np.testing.assert_allclose(after, predicted, rtol=1e-3)


def test_the_same_seed_gives_the_same_bits(rng):
    x, labels = rng.standard_normal((40, 2, 8, 8)), rng.integers(0, 3, 40)
    with use_backend("numba"):
        first, second = (build(nested()) for _ in range(2))
        for network in (first, second):
            overfit(network, x, labels, 5, 0.1)
    np.testing.assert_array_equal(first.data, second.data)


@pytest.mark.parametrize("images", [3, 19])
def test_training_backward_gives_back_what_forward_kept(images):
    network = cnn.Network([Conv2d(4, 3), BatchNorm2d(), ReLU(), Flatten(), Linear(3)])
    network.build((1, 6, 6))
    x = np.ones((images, 1, 6, 6), np.float32)
    for _ in range(3):
        y = network.forward(x, training=True)
        network.backward(np.ones_like(np.asarray(y)), input_gradient=False)
        with pytest.raises(RuntimeError, match="backward was called before forward"):
            network.backward(np.ones_like(np.asarray(y)))


def test_the_gradients_of_training_are_those_of_backward():
    x, gradients = np.random.default_rng(0).standard_normal((19, 2, 8, 8)).astype(np.float32), []
    for wanted in (True, False):
        network = cnn.Network([
            Conv2d(4, 3), BatchNorm2d(), ReLU(), MaxPool2d(2), BatchNorm2d(), ReLU(),
            Residual([Conv2d(4, 3, padding=1), BatchNorm2d()]), ReLU(),
            Flatten(), Linear(3), BatchNorm1d(), ReLU(),
        ])  # fmt: skip
        network.build((2, 8, 8), rng=np.random.default_rng(1))
        y = network.forward(x, training=True)
        kept = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
        dy = as_blocked(kept)
        network.backward(dy, input_gradient=wanted)
        np.testing.assert_array_equal(np.asarray(dy), kept)
        gradients.append(network.grad.copy())
    np.testing.assert_array_equal(*gradients)


def test_kernels_refuse_other_axes_than_those_of_images_and_features():
    network = cnn.Network([ReLU()])
    network.build((4, 5))
    with use_backend("numba"), pytest.raises(ValueError, match=r"\(N, C, H, W\) or \(N, F\)"):
        network.predict(np.ones((2, 4, 5), np.float32))
