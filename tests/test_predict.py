"""Prediction is the forward pass in evaluation mode, whatever is folded or packed on the way."""

import copy

import numpy as np
import pytest
from test_steps import NETWORKS

import cnn
from cnn import backend
from cnn.fast import engine
from cnn.fast.machine.fingerprint import Fingerprint
from cnn.layers import (
    GELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
)
from cnn.optimizers import SGD

MORE = {
    "strided, dilated": lambda: [
        Conv2d(20, 3, stride=2, padding=1), BatchNorm2d(affine=False), Conv2d(5, 3, dilation=2, padding=2),
        Tanh(), AvgPool2d(3, stride=2, padding=1, count_include_pad=False), Flatten(), Linear(33),
        BatchNorm1d(), Sigmoid(), Linear(4, bias=False),
    ],
    "rectangles": lambda: [
        Conv2d(17, (1, 3), padding="same", bias=False), MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0)),
        BatchNorm2d(), LeakyReLU(0.1), Sequential([Dropout(0.5), Conv2d(64, 1), BatchNorm2d(), ReLU()]),
        Residual([Conv2d(64, 3, padding=1), BatchNorm2d()], shortcut=[Conv2d(64, 1)]), GlobalMaxPool2d(),
    ],
    "not for few": lambda: [
        Conv2d(6, 3, groups=3), BatchNorm2d(), ReLU(), ConvTranspose2d(4, 2, stride=2), GELU(),
        GlobalAvgPool2d(),
    ],
    "wide": lambda: [
        Conv2d(20, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(70, 3), BatchNorm2d(),
        Conv2d(33, 3, padding=2), ReLU(), MaxPool2d(2),
        Residual([Conv2d(33, 3, padding=1), BatchNorm2d(), Tanh()]), Flatten(), Linear(5),
    ],
    "few channels": lambda: [Conv2d(1, 2), Residual([BatchNorm2d(), GELU(), Conv2d(1, 1)]), ReLU()],
}  # fmt: skip
ALL = NETWORKS | MORE


def _network(name, dtype=np.float32):
    rng = np.random.default_rng(4)
    network = cnn.Network(ALL[name]())
    network.build((3, 11, 12), rng=np.random.default_rng(1), dtype=dtype)
    for _, layer in network.walk():
        if isinstance(layer, (BatchNorm1d, BatchNorm2d)):
            layer.running_mean[...] = rng.standard_normal(layer.running_mean.shape)
            layer.running_var[...] = rng.uniform(0.5, 2, layer.running_var.shape)
            if layer.affine:
                layer.weight.data[...] = rng.standard_normal(layer.weight.shape)
    return network


def _forward(network, x):
    with cnn.use_backend("reference"):
        return np.asarray(network.forward(x))


@pytest.mark.parametrize("images", [1, 3, 8, 9])
@pytest.mark.parametrize("name", ALL)
def test_prediction_equals_the_reference(name, images):
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 1e-4)):
        network = _network(name, dtype)
        for seed in range(3):  # lowered once, run three times
            x = np.random.default_rng(seed).standard_normal((images, 3, 11, 12)).astype(dtype)
            y, expected = network.predict(x), _forward(network, x)
            assert y.dtype == dtype
            np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("images", [2, 19])
def test_prediction_follows_every_step_of_training(images):
    network = _network("rectangles")
    loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.1, momentum=0.9)
    rng, before = np.random.default_rng(0), None
    x = rng.standard_normal((images, 3, 11, 12), dtype=np.float32)
    for _ in range(4):
        y = network.predict(x)
        np.testing.assert_allclose(y, _forward(network, x), rtol=1e-3, atol=1e-3)
        assert before is None or np.abs(y - before).max() > 1e-3
        before = y
        loss.forward(np.asarray(network.forward(x, training=True)), rng.integers(0, 64, images))
        network.backward(loss.backward())
        optimizer.step()
        network.zero_grad()


def test_a_moved_running_statistic_alone_is_noticed():
    network, x = _network("rectangles"), np.ones((2, 3, 11, 12), np.float32)
    for _ in range(2):
        network.predict(x)
    next(layer for _, layer in network.walk() if isinstance(layer, BatchNorm2d)).running_mean[3] += 1
    np.testing.assert_allclose(network.predict(x), _forward(network, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [2, 19])
def test_values_that_nobody_could_write_to_are_not_read_again(monkeypatch, images):
    network, x = _network("rectangles"), np.ones((images, 3, 11, 12), np.float32)
    size, reads, changed = network.data.size, [], Fingerprint.changed
    for _ in range(2):  # the first one makes the folded weights, which asks for values
        network.predict(x)

    def counted(self):
        reads.append(sum(a.size for a in self._arrays) == size)
        return changed(self)

    monkeypatch.setattr(Fingerprint, "changed", counted)
    for _ in range(3):
        network.predict(x)
    assert not any(reads)
    weight = network.parameters()[0].data  # from here on somebody could
    for _ in range(3):
        network.predict(x)
    assert sum(reads) == 3
    del weight
    for _ in range(3):
        network.predict(x)
    assert sum(reads) == 4  # until it was let go of


_KEPT = {
    "parameter": lambda network: network.parameters()[0].data,
    "part": lambda network: network.parameters()[0].data[:1][0],
    "all": lambda network: network.data,
    "buffer": lambda network: network.parameters()[0].buffer.data,
    "view of other numbers": lambda network: network.data.view(np.int32)[:4],
    "memory": lambda network: np.frombuffer(memoryview(network.data).cast("B"), np.float32),
    "state": lambda network: network.state()["0.weight"],
}


@pytest.mark.parametrize("how", _KEPT)
def test_what_is_written_through_an_array_kept_from_before_is_noticed(how):
    network, x = _network("rectangles"), np.ones((2, 3, 11, 12), np.float32)
    kept = _KEPT[how](network)
    for turn in range(4):
        network.predict(x)
        kept.flat[0] += 1 << turn
        np.testing.assert_allclose(network.predict(x), _forward(network, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", _KEPT)
def test_what_is_written_through_an_array_asked_for_in_between_is_noticed(how):
    network, x = _network("rectangles"), np.ones((2, 3, 11, 12), np.float32)
    for turn in range(4):
        for _ in range(2):
            network.predict(x)
        _KEPT[how](network).flat[0] += 1 << turn
        np.testing.assert_allclose(network.predict(x), _forward(network, x), rtol=1e-4, atol=1e-4)


def test_what_another_network_writes_to_shared_layers_is_noticed():
    network, x = _network("rectangles"), np.ones((2, 3, 11, 12), np.float32)
    network.predict(x)
    other = cnn.Network(network.layers[:1])
    other.build((3, 11, 12))
    for turn in range(3):
        other.data[0] += 1 << turn
        np.testing.assert_allclose(network.predict(x), _forward(network, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [2, 19])
def test_predictions_share_no_memory(images):
    network, rng = _network("rectangles"), np.random.default_rng(0)
    batches = rng.standard_normal((5, images, 3, 11, 12), dtype=np.float32)
    kept = [network.predict(x) for x in batches]
    for x, y in zip(batches, kept, strict=True):
        np.testing.assert_allclose(y, _forward(network, x), rtol=1e-4, atol=1e-4)
    together = network.predict(np.concatenate(batches), batch_size=images)
    np.testing.assert_array_equal(together, np.concatenate(kept))


@pytest.mark.parametrize("images", [1, 19])
def test_nan_stays_visible(images):
    network = _network("few channels")
    x = np.zeros((images, 3, 11, 12), np.float32)
    x[-1, 1, 5, 5] = np.nan
    for _ in range(3):
        assert np.isnan(network.predict(x)[-1]).any()


def test_few_images_have_kernels_of_their_own():
    network = _network("rectangles")
    x = np.random.default_rng(0).standard_normal((engine.FEW + 1, 3, 11, 12), dtype=np.float32)
    few, many = network.predict(x[:-1]), network.predict(x)[:-1]
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-4)
    assert (few != many).any()  # the sums have another order


@pytest.mark.parametrize("images", [1, 4])
def test_a_few_images_use_winograd_while_it_is_switched_on(images):
    network = _network("wide")
    x = np.random.default_rng(0).standard_normal((images, 3, 11, 12), dtype=np.float32)
    results = []
    try:
        for enabled in (True, False, True, False):
            backend.set_winograd(enabled)
            results.append(network.predict(x))
    finally:
        backend.set_winograd(True)
    expected = _forward(network, x)
    for y in results:
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert (results[0] != results[1]).any()
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[3])


def test_without_parameters_running_statistics_are_watched_all_the_same():
    network = cnn.Network([BatchNorm2d(affine=False), ReLU(), AvgPool2d(2)])
    network.build((3, 4, 4), rng=np.random.default_rng(0))
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    for mean in (0.5, -0.5):
        network.layers[0].running_mean[1] = mean
        np.testing.assert_allclose(network.predict(x), _forward(network, x), rtol=1e-5, atol=1e-5)


def test_parameters_may_move_to_a_buffer_shared_with_another_network():
    network, other = _network("rectangles"), _network("few channels")
    x = np.ones((2, 3, 11, 12), np.float32)
    network.predict(x)
    SGD([*other.parameters(), *network.parameters()], lr=0.1)
    network.parameters()[0].data[...] *= 3
    np.testing.assert_allclose(network.predict(x), _forward(network, x), rtol=1e-4, atol=1e-4)


def test_a_copy_predicts_with_its_own_weights():
    network, x = _network("rectangles"), np.ones((1, 3, 11, 12), np.float32)
    y = network.predict(x)
    twin = copy.deepcopy(network)
    for p in twin.parameters():
        p.data[...] *= 0.5
    assert np.abs(twin.predict(x) - y).max() > 1e-3
    np.testing.assert_array_equal(network.predict(x), y)
