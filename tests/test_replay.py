"""Replayed passes are the passes they stand for: same bits, same errors, nothing shared with the caller."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest

import cnn
from cnn.backend import use_backend
from cnn.fast import replay
from cnn.fast.kernels import normalize_pixels
from cnn.fast.machine.jit import Recording
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
def test_a_replayed_training_run_has_the_bits_of_the_plain_one(name, dtype, monkeypatch):
    batches = [19, 19, 19, 7, 19, 7, 19, 7, 7, 19]
    replayed = _train(name, batches, dtype)
    monkeypatch.setattr(replay, "LARGEST", 0)
    for a, b in zip(replayed, _train(name, batches, dtype), strict=True):
        np.testing.assert_array_equal(a, b)


def _replaying(name="lenet", n=18):
    """A network whose last forward was replayed, and its input."""
    network, x = _network(name), np.random.default_rng(2).standard_normal((n, 2, 12, 13), dtype=np.float32)
    for _ in range(3):
        y = network.forward(x, training=True)
        network.backward(np.ones_like(y))
    assert network._replay.current is not None
    return network, x


def test_one_replayed_forward_serves_many_backwards():
    network, x = _replaying()
    y = network.forward(x, training=True)
    network.zero_grad()
    first = network.backward(np.ones_like(y))
    once = network.grad.copy()
    np.testing.assert_array_equal(network.backward(np.ones_like(y)), first)
    np.testing.assert_array_equal(network.grad, 2 * once)


def test_a_plain_pass_between_two_replayed_ones_leaves_no_trace():
    network, x = _replaying()
    other = np.float32(0.5) * x[:5]
    expected = [np.asarray(network.forward(x, training=True)), None]
    expected[1] = network.backward(np.ones((18, 5), np.float32))
    network.forward(other)
    y = network.forward(x, training=True)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(network.backward(np.ones((18, 5), np.float32)), expected[1])


def test_a_replayed_forward_serves_a_backward_that_is_not_replayed():
    network, x = _replaying()
    dy = np.ones((18, 5), np.float32)
    network.forward(x, training=True)
    expected = network.backward(dy)
    for _ in range(3):
        network.forward(x[:5], training=True)
    network.forward(x, training=True)
    np.testing.assert_array_equal(np.asarray(network.backward(dy.astype(np.float64))), expected)


def test_parameters_that_moved_are_recorded_anew():
    network, x = _replaying()
    larger = cnn.Network([network.body, Linear(3)])
    larger.build((2, 12, 13), rng=np.random.default_rng(5))  # the layers are in both now, with new parameters
    network.zero_grad()
    y = network.forward(x, training=True)
    with cnn.use_backend("reference"):
        np.testing.assert_allclose(y, network.forward(x), rtol=1e-4, atol=1e-5)
    y = network.forward(x, training=True)
    network.backward(np.ones_like(y))
    assert np.abs(network.parameters()[0].grad).max() > 0


def test_a_frozen_parameter_is_left_out_and_comes_back():
    network, x = _replaying()
    weight, seen = network.layers[3].weight, []
    for trainable in (True, False, True, False):
        weight.trainable = trainable
        y = network.forward(x, training=True)
        network.zero_grad()
        network.backward(np.ones_like(y))
        seen.append(bool(weight.grad.any()))
        assert network.layers[0].weight.grad.any()
    assert seen == [True, False, True, False]


def test_a_copy_starts_without_the_recorded_addresses():
    network, x = _replaying()
    y = network.forward(x, training=True)
    network.predict(x[:1])  # forgets what cannot be copied
    twin = copy.deepcopy(network)
    for _ in range(3):
        twin.parameters()[0].data[...] *= 0.5
        assert np.abs(twin.forward(x) - y).max() > 0
    np.testing.assert_array_equal(network.forward(x, training=True), y)


def test_backward_after_predict_and_with_a_wrong_shape_is_refused():
    network, x = _replaying()
    network.forward(x, training=True)
    with pytest.raises(cnn.errors.ShapeError, match="backward expected dy of shape"):
        network.backward(np.ones((17, 5), np.float32))
    network.predict(x)
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        network.backward(np.ones((18, 5), np.float32))


def test_a_network_that_predicted_and_trained_dies_with_its_last_name():
    network, x = _replaying()
    network.predict(x)
    network.predict(x[:1])
    body, _ = weakref.ref(network.body), gc.disable()
    try:
        del network
        assert body() is None, "a cycle keeps the activations until the garbage collector comes"
    finally:
        gc.enable()


def test_what_another_thread_launches_is_not_recorded():
    images, rows = np.full((3, 1, 2, 2), 9, np.uint8), np.arange(3)
    table = np.arange(256, dtype=np.float32)[None]
    mine, other = np.zeros((2, *images.shape), np.float32)
    with Recording() as recording:
        thread = threading.Thread(target=normalize_pixels, args=(images, rows, table, other))
        thread.start()
        thread.join()
        normalize_pixels(images, rows, table, mine)
    mine[...], other[...] = 0, 0
    recording.run()
    assert (mine == 9).all()
    assert (other == 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_train_as_their_numbers_do(name, dtype):
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((2, 256)).astype(dtype) for _ in range(2)]
    networks, loss = [_network(name), _network(name)], SoftmaxCrossEntropy()
    for step in range(8):  # the first as layers, then recorded, then replayed, for either table
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
