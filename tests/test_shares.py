"""Shares of a batch: any number of processes, here threads, compute the bits of one."""

import threading

import numpy as np
import pytest
from test_layers_contract import IMAGE, LAYERS

import cnn
from cnn.backend import use_backend
from cnn.errors import ConfigError, ShapeError
from cnn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GroupNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
)
from cnn.parallel.micro import MicroBatches
from cnn.parallel.share import Share
from cnn.parallel.sums import TreeSum
from cnn.parallel.team import Alone

WAIT = 60  # seconds until a thread that waits for others gives up


class Threads(Alone):
    """One of some threads that tell each other what processes tell each other by MPI."""

    def __init__(self, rank, barrier, told):
        super().__init__(launched=True)
        self.rank, self.size, self._barrier, self._told = rank, barrier.parties, barrier, told
        self.hosts = [f"node{k}" for k in range(self.size)]

    def _all(self, mine):
        self._told[self.rank] = mine
        self._barrier.wait(WAIT)
        found = list(self._told)
        self._barrier.wait(WAIT)
        return found

    def gather(self, array, rows):
        ends = np.cumsum(rows)
        mine = array[ends[self.rank] - rows[self.rank] : ends[self.rank]].copy()
        array[...] = np.concatenate(self._all(mine))

    def total(self, sums, segments):
        tree = TreeSum()
        for theirs, found in zip(segments, self._all([array.copy() for array in sums]), strict=True):
            for (first, count), array in zip(theirs, found, strict=False):
                tree.add(first, count, array.copy())
        sums[0][...] = tree.total()

    def follow_first(self, arrays):
        for array, first in zip(arrays, self._all([array.copy() for array in arrays])[0], strict=True):
            array[...] = first


def train(make, shape, images, processes, steps=2, size=16, dtype=np.float32, **options):
    """Return what each of some processes has found after some steps: results of gradient, and state."""
    barrier, told, found = threading.Barrier(processes), [None] * processes, [None] * processes

    def work(rank):
        try:
            rng = np.random.default_rng(0)
            network = cnn.Network(make())
            network.build(shape, rng=rng, dtype=dtype)
            x = rng.standard_normal((images, *shape)).astype(dtype)
            labels = rng.integers(0, network.output_shape[0], images)
            team = Threads(rank, barrier, told) if processes > 1 else Alone()
            micro, results = MicroBatches(network, SoftmaxCrossEntropy(), size, team, **options), []
            for _ in range(steps):
                results += micro.gradient(x, labels)
                network.data[...] -= 0.1 * network.grad
            found[rank] = results, {name: array.copy() for name, array in network.state().items()}
        except BaseException as error:
            found[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return found


def assert_one_result(make, shape, images, counts=(3,), **options):
    """All ranks of all counts of processes have the results and the state of one alone, bit for bit."""
    ((results, state),) = train(make, shape, images, 1, **options)
    for processes in counts:
        for theirs, arrays in train(make, shape, images, processes, **options):
            assert theirs == results
            for name, array in state.items():
                np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def around(name):
    """Return what makes the layers of a network around the layer of a name, and its input shape."""
    make, shape = LAYERS[name]
    if shape == IMAGE:
        return lambda: [Conv2d(4, 3, padding=1), make(), Flatten(), Linear(3)], (2, 7, 6)
    return lambda: [Linear(9), make(), Flatten(), Linear(3)], (6,)


@pytest.mark.parametrize("name", LAYERS)
def test_any_number_of_processes_trains_a_layer_to_the_bits_of_one(name):
    assert_one_result(*around(name), 75)


def residual():
    """A ResNet with all that is fused, two forms of Winograd's convolution and dropout."""
    body = [
        Conv2d(16, 3, padding=1, bias=False),
        BatchNorm2d(),
        ReLU(),
        Conv2d(16, 3, padding=1),
        BatchNorm2d(),
    ]
    shortcut = [Conv2d(16, 1), BatchNorm2d()]
    return [
        Conv2d(16, 5, padding=2),
        ReLU(),
        MaxPool2d(2),
        Residual(Sequential(body), Sequential(shortcut)),
        ReLU(),
        Conv2d(24, 5, padding=2),
        BatchNorm2d(),
        ReLU(),
        Dropout(0.3),
        Flatten(),
        Linear(20),
        BatchNorm1d(),
        ReLU(),
        Linear(10),
    ]


@pytest.mark.parametrize("images", [16, 33, 112])
def test_a_network_of_all_forms_has_the_bits_of_one(images):
    assert_one_result(residual, (3, 16, 16), images, (2, 5))


@pytest.mark.parametrize("size", [32, 64])
def test_larger_micro_batches_too(size):
    assert_one_result(residual, (3, 16, 16), 112, size=size)


def test_double_precision_and_bfloat16_too():
    assert_one_result(residual, (3, 16, 16), 80, dtype=np.float64)

    class Narrow(cnn.Network):
        def __init__(self, layers):
            super().__init__(layers, "bf16")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnn, "Network", Narrow)
        assert_one_result(residual, (3, 16, 16), 80)


def test_the_gradient_is_that_of_the_batch_with_its_statistics():
    rng, network = np.random.default_rng(1), cnn.Network(residual())
    network.build((3, 16, 16), rng=rng, dtype=np.float64)
    twin = cnn.Network(residual())
    twin.build((3, 16, 16), dtype=np.float64)
    twin.load_state(network.state())
    x, labels = rng.standard_normal((75, 3, 16, 16)), rng.integers(0, 10, 75)
    loss = SoftmaxCrossEntropy()
    value = loss.forward(twin.forward(x, training=True), labels)
    twin.zero_grad()
    twin.backward(loss.backward(), input_gradient=False)
    found, _, _ = MicroBatches(network, loss, 16, Alone()).gradient(x, labels)
    np.testing.assert_allclose(found, value, rtol=1e-7)
    np.testing.assert_allclose(network.grad, twin.grad, rtol=1e-5, atol=1e-7 * np.abs(twin.grad).max())
    for name, array in twin.state().items():
        np.testing.assert_array_equal(network.state()[name], array, err_msg=name)


def test_statistics_of_each_process_are_not_those_of_the_batch():
    ((results, state),) = train(residual, (3, 16, 16), 64, 1, batch_norm="rank")
    assert results == train(residual, (3, 16, 16), 64, 1)[0][0]
    others = train(residual, (3, 16, 16), 64, 2, batch_norm="rank")
    assert others[0][0][0] == pytest.approx(results[0], rel=0.2)
    assert others[0][0][0] != results[0]
    for (_, arrays), (_, same) in zip(others, others[1:] + others[:1], strict=True):
        for name in state:
            np.testing.assert_array_equal(arrays[name], same[name], err_msg=name)


def test_one_image_that_is_alone_on_its_process_has_the_statistics_of_the_batch():
    def make():
        return [Linear(5), BatchNorm1d(), Linear(3)]

    assert_one_result(make, (4,), 17, (2,))
    with pytest.raises(ShapeError, match="more than one value per channel"):
        train(make, (4,), 1, 1)


def test_a_batch_of_another_size_and_a_frozen_layer_leave_no_old_sums():
    def gradients(network, team):
        micro, found = MicroBatches(network, SoftmaxCrossEntropy(), 16, team), []
        rng = np.random.default_rng(5)
        for images, trainable in ((112, True), (48, True), (112, False), (112, True)):
            for parameter in network[0].parameters():
                parameter.trainable = trainable
            x, labels = rng.standard_normal((images, 3, 8, 8), dtype=np.float32), rng.integers(0, 4, images)
            micro.gradient(x, labels)
            found.append(network.grad.copy())
        return found

    def made():
        network = cnn.Network([Conv2d(8, 3), GroupNorm(2), ReLU(), Flatten(), Linear(4)])
        network.build((3, 8, 8))
        return network

    alone, barrier, told, all_found = gradients(made(), Alone()), threading.Barrier(3), [None] * 3, {}

    def work(rank):
        all_found[rank] = gradients(made(), Threads(rank, barrier, told))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in all_found.values():
        for ours, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert not alone[2][: 8 * 27].any()
    assert len(all_found) == 3


class Doubled(ReLU):
    """A layer from outside."""


def test_what_cannot_be_taken_apart_is_refused_in_one_line():
    network = cnn.Network([Conv2d(4, 3), Doubled(), Flatten(), Linear(3)])
    network.build((1, 6, 6))
    loss = SoftmaxCrossEntropy()
    with pytest.raises(ConfigError, match=r"layer 1 \(Doubled\) is not pure"):
        MicroBatches(network, loss, 16, Alone())
    plain = cnn.Network([Conv2d(4, 3), Flatten(), Linear(3)])
    plain.build((1, 6, 6))
    with pytest.raises(ConfigError, match="expected a multiple of 16, found 20"):
        MicroBatches(plain, loss, 20, Alone())
    with pytest.raises(ConfigError, match='expected backend "numba", found "reference"'):
        MicroBatches(plain, loss, 16, Alone(), backend="reference")
    with use_backend("reference"), pytest.raises(ConfigError, match="a share of a batch"):
        plain.forward(np.zeros((16, 1, 6, 6)), training=True, share=Share(plain, 16, 16, Alone()))


def test_a_slow_process_is_named():
    network = cnn.Network([Linear(3)])
    network.build((4,))
    micro = MicroBatches(network, SoftmaxCrossEntropy(), 16, Threads(0, threading.Barrier(3), []))
    for seconds, expected in (
        (
            [1.0, 1.6, 1.0],
            ["slow: rank 1 of 3 on node1 computes 1.6 times as long as most, 1.6 s of this epoch"],
        ),
        ([1.0, 1.4, 1.2], []),
        ([0.0, 0.0, 0.0], []),
        ([0.1, 0.9, 0.1], []),
    ):
        micro._seconds += seconds
        micro._images += 32
        assert micro.slow_ranks() == expected
