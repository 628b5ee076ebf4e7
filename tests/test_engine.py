"""A program gives the same bits every time, and shares nothing with the caller or with other programs."""

import copy
import gc
import weakref

import numpy as np
import pytest

import cnn
from cnn.backend import use_backend
from cnn.fast import engine
from cnn.layers import (
    GELU,
    AvgPool2d,
    Conv2d,
    Flatten,
    GlobalMaxPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    SoftmaxCrossEntropy,
)
from cnn.layers.parameter import Parameter, flatten
from cnn.optimizers import SGD
from cnn.pixels import Pixels

NETWORKS = {
    "lenet": lambda: [
        Conv2d(6, 5, padding=2), ReLU(), MaxPool2d(2), Conv2d(16, 3, groups=2), ReLU(), MaxPool2d(2),
        Flatten(), Linear(20), ReLU(), Linear(5),
    ],
    "winograd": lambda: [
        Conv2d(16, 3, padding=1), ReLU(), Conv2d(17, 3, padding=1), GELU(), AvgPool2d(2), Conv2d(8, 1),
        GlobalMaxPool2d(), Linear(5),
    ],
}  # fmt: skip


def _network(name):
    network = cnn.Network(NETWORKS[name]())
    network.build((2, 12, 13), rng=np.random.default_rng(0))
    return network


def _train(name, batches, dtype=np.float32):
    """Losses, input gradients and final weights of a training run that keeps all its arrays to the end."""
    network, loss, kept = _network(name), SoftmaxCrossEntropy(), []
    optimizer, rng = SGD(network.parameters(), lr=0.05, momentum=0.9), np.random.default_rng(1)
    for i, n in enumerate(batches):
        x, labels = rng.standard_normal((n, 2, 12, 13)).astype(dtype), rng.integers(0, 5, n)
        logits = network.forward(x, training=True)
        kept += [logits, loss.forward(logits, labels)]
        dx = network.backward(loss.backward(), input_gradient=i % 3 != 1)
        kept += [0 if dx is None else dx]
        if i == 4:
            kept.append(network.predict(x))
        optimizer.step()
        network.zero_grad()
    return [np.asarray(array) for array in kept] + [network.data.copy()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_programs_of_many_shapes_train_as_one_by_one(name, dtype, monkeypatch):
    batches = [19, 19, 19, 7, 19, 7, 19, 7, 7, 19]
    kept = _train(name, batches, dtype)
    monkeypatch.setattr(engine, "KEPT", 1)  # every change of shape lowers anew
    for a, b in zip(kept, _train(name, batches, dtype), strict=True):
        np.testing.assert_array_equal(a, b)


def _trained(name="lenet", n=18):
    """A network that has made some passes, and its input."""
    network, x = _network(name), np.random.default_rng(2).standard_normal((n, 2, 12, 13), dtype=np.float32)
    for _ in range(3):
        y = network.forward(x, training=True)
        network.backward(np.ones_like(y))
    return network, x


def test_one_forward_serves_many_backwards():
    network, x = _trained()
    y = network.forward(x, training=True)
    network.zero_grad()
    first = network.backward(np.ones_like(y))
    once = network.grad.copy()
    np.testing.assert_array_equal(network.backward(np.ones_like(y)), first)
    np.testing.assert_array_equal(network.grad, 2 * once)


def test_a_pass_of_another_shape_in_between_leaves_no_trace():
    network, x = _trained()
    other = np.float32(0.5) * x[:5]
    expected = [np.asarray(network.forward(x, training=True)), None]
    expected[1] = network.backward(np.ones((18, 5), np.float32))
    network.forward(other)
    y = network.forward(x, training=True)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(network.backward(np.ones((18, 5), np.float32)), expected[1])


def test_a_gradient_of_another_dtype_is_taken():
    network, x = _trained()
    dy = np.ones((18, 5), np.float32)
    network.forward(x, training=True)
    expected = network.backward(dy)
    for _ in range(3):
        network.forward(x[:5], training=True)
    network.forward(x, training=True)
    np.testing.assert_array_equal(np.asarray(network.backward(dy.astype(np.float64))), expected)


def test_parameters_that_moved_are_lowered_anew():
    network, x = _trained()
    larger = cnn.Network([network.body, Linear(3)])
    larger.build((2, 12, 13), rng=np.random.default_rng(5))  # the layers are in both now, with new parameters
    network.zero_grad()
    y = network.forward(x, training=True)
    with cnn.use_backend("reference"):
        np.testing.assert_allclose(y, network.forward(x), rtol=1e-4, atol=1e-5)
    y = network.forward(x, training=True)
    network.backward(np.ones_like(y))
    assert np.abs(network.parameters()[0].grad).max() > 0


def test_a_parameter_that_moved_while_no_layer_was_set_is_lowered_anew():
    network, x = _trained()
    other = Parameter("other", np.zeros(7, np.float32))
    network.forward(x, training=True)
    network.predict(x)
    network.predict(x)
    weight = network.parameters()[0]
    flatten([other, weight])
    weight.data[...] *= -1
    _agrees_with_the_reference(network, x)
    flatten([other, *reversed(network.parameters())])  # all in one buffer, the last one first
    for _ in range(3):
        _agrees_with_the_reference(network, x)
        weight.data[...] *= -1


def _agrees_with_the_reference(network, x):
    y, predicted = network.forward(x), network.predict(x)
    with cnn.use_backend("reference"):
        expected = network.forward(x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_parameter_is_left_out_and_comes_back():
    network, x = _trained()
    weight, seen = network.layers[3].weight, []
    for trainable in (True, False, True, False):
        weight.trainable = trainable
        y = network.forward(x, training=True)
        network.zero_grad()
        network.backward(np.ones_like(y))
        seen.append(bool(weight.grad.any()))
        assert network.layers[0].weight.grad.any()
    assert seen == [True, False, True, False]


def test_a_copy_has_programs_of_its_own():
    network, x = _trained()
    y = network.forward(x, training=True)
    twin = copy.deepcopy(network)
    for _ in range(3):
        twin.parameters()[0].data[...] *= 0.5
        assert np.abs(twin.forward(x) - y).max() > 0
    np.testing.assert_array_equal(network.forward(x, training=True), y)


def test_backward_after_predict_and_with_a_wrong_shape_is_refused():
    network, x = _trained()
    network.forward(x, training=True)
    with pytest.raises(cnn.errors.ShapeError, match="backward expected dy of shape"):
        network.backward(np.ones((17, 5), np.float32))
    network.backward(np.ones((18, 5), np.float32), input_gradient=False)  # gives back what forward kept
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        network.backward(np.ones((18, 5), np.float32))
    network.forward(x, training=True)
    network.predict(x)
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        network.backward(np.ones((18, 5), np.float32))


def test_a_network_that_predicted_and_trained_dies_with_its_last_name():
    network, x = _trained()
    network.predict(x)
    network.predict(x[:1])
    body, _ = weakref.ref(network.body), gc.disable()
    try:
        del network
        assert body() is None, "a cycle keeps the activations until the garbage collector comes"
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_train_as_their_numbers_do(name, dtype):
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((2, 256)).astype(dtype) for _ in range(2)]
    networks, loss = [_network(name), _network(name)], SoftmaxCrossEntropy()
    for step in range(8):
        x = Pixels(rng.integers(0, 256, (20, 2, 12, 13), dtype=np.uint8), tables[step % 2])
        labels, seen = rng.integers(0, 5, 20), []
        for network, shown in zip(networks, (x, np.asarray(x)), strict=True):
            logits = network.forward(shown, training=True)
            loss.forward(logits, labels)
            network.zero_grad()
            network.backward(loss.backward(), input_gradient=False)
            seen.append((np.asarray(logits), network.grad.copy()))
        np.testing.assert_array_equal(seen[0][0], seen[1][0])
        np.testing.assert_array_equal(seen[0][1], seen[1][1])
    with use_backend("reference"):
        np.testing.assert_array_equal(networks[0].forward(x), networks[1].forward(np.asarray(x)))


class _Claims(ReLU):
    """Says to be pure, and computes in Python."""

    pure = True

    def forward(self, x, training=False):
        x = np.asarray(x)
        return self._keep(x * np.float32(2), x)

    def backward(self, dy):
        self._saved(dy)
        return 2 * np.asarray(dy)


class _ClaimsBackward(ReLU):
    """Says to be pure, and computes backward in Python."""

    pure = True

    def backward(self, dy):
        _, dy, x = self._saved(dy)
        return np.asarray(dy) * (np.asarray(x) > 0)


@pytest.mark.parametrize("kind", [_Claims, _ClaimsBackward])
def test_a_layer_that_wrongly_says_to_be_pure_is_right_all_the_same(kind):
    x, results = np.random.default_rng(0).standard_normal((20, 2, 6, 6), dtype=np.float32), []
    for backend in ("numba", "reference"):
        network = cnn.Network([Conv2d(4, 3), kind(), MaxPool2d(2), Flatten(), Linear(3)])
        network.build((2, 6, 6))
        with use_backend(backend):
            for _ in range(3):
                y = network.forward(x, training=True)
                dx = network.backward(y, input_gradient=True)
            for wanted in (False, True):
                network.forward(x, training=True)
                network.backward(y, input_gradient=wanted)
            results.append([y, dx, network.grad.copy(), network.predict(x), network.predict(x[:2])])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
