"""Networks in threads give the bits of a lone call; so do copies, forked children and changed layers."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest

import cnn
from cnn.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SoftmaxCrossEntropy,
)
from cnn.optimizers import SGD


def _network(seed=0):
    network = cnn.Network([
        Conv2d(24, 3, padding=1), ReLU(), MaxPool2d(2),
        Residual([Conv2d(24, 3, padding=1), BatchNorm2d()]), ReLU(), Conv2d(8, 1), Flatten(), Linear(10),
    ])  # fmt: skip
    network.build((3, 16, 16), rng=np.random.default_rng(seed))
    return network


def _images(n=64, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, 16, 16), dtype=np.float32)


def _together(*works):
    """Run functions in threads of their own; return what they returned."""
    results, errors = [None] * len(works), []

    def run(index):
        try:
            results[index] = works[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return results


def _differs(run, x, expected, times=40):
    return sum(not np.array_equal(run(x), expected) for _ in range(times))


@pytest.mark.parametrize("images", [2, 64])
def test_two_networks_in_two_threads_give_their_own_bits(images):
    networks, x = [_network(0), _network(1)], _images(images)
    for name in ("forward", "predict"):
        works = []
        for network in networks:
            run = getattr(network, name)
            works.append(partial(_differs, run, x, run(x)))
        assert _together(*works) == [0, 0]


@pytest.mark.parametrize("images", [1, 20])
def test_one_network_answers_many_threads(images):
    network = _network()
    batches = [_images(images, seed) for seed in range(4)]
    works = [partial(_differs, network.predict, x, network.predict(x)) for x in batches]
    assert _together(*works) == [0] * 4


def _train(network, x, labels, steps=25):
    loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        value = loss.forward(network.forward(x, training=True), labels)
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
        network.zero_grad()
    return value


def test_a_training_beside_the_predictions_of_another_network_has_its_own_bits():
    x, labels = _images(40), np.arange(40) % 10
    alone, beside, other = _network(), _network(), _network(1)
    expected = _train(alone, x, labels)
    found, wrong = _together(
        lambda: _train(beside, x, labels),
        partial(_differs, other.predict, x, other.predict(x)),
    )
    assert found == expected
    assert wrong == 0
    np.testing.assert_array_equal(beside.data, alone.data)


def test_layers_used_alone_in_threads_share_nothing():
    def work(seed):
        conv = Conv2d(16, 3, padding=1)
        conv.build((16, 12, 12), rng=np.random.default_rng(seed))
        x = np.random.default_rng(seed).standard_normal((20, 16, 12, 12), dtype=np.float32)
        y = np.asarray(conv.forward(x))
        dx = np.asarray(conv.backward(y))
        wrong = 0
        for _ in range(30):
            wrong += not np.array_equal(np.asarray(conv.forward(x)), y)
            wrong += not np.array_equal(np.asarray(conv.backward(y)), dx)
        return wrong

    assert _together(lambda: work(0), lambda: work(1), lambda: work(2)) == [0, 0, 0]


@pytest.mark.parametrize(
    "make", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))], ids=["copy", "pickle"]
)
def test_a_copy_trains_as_the_original_and_leaves_it_alone(make):
    original, x, labels = _network(), _images(20), np.arange(20) % 10
    original.forward(x, training=True)
    before = original.data.copy()
    twin = make(original)
    again = make(original)
    first = SoftmaxCrossEntropy().forward(twin.predict(x), labels)
    assert _train(twin, x, labels) < first / 2
    np.testing.assert_array_equal(original.data, before)
    _train(again, x, labels)
    np.testing.assert_array_equal(again.data, twin.data)
    again.load_state(original.state())
    np.testing.assert_array_equal(again.predict(x), original.predict(x))


def test_a_changed_layer_takes_effect(backend):
    x = _images(5)

    def check(network):
        with cnn.use_backend("reference"):
            fresh = np.asarray(network.body.forward(x))
            network.body.forget()
        np.testing.assert_allclose(network.forward(x), fresh, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(network.predict(x), fresh, rtol=1e-4, atol=1e-4)

    network = cnn.Network([
        Conv2d(4, 3), BatchNorm2d(), LeakyReLU(0.1), Residual([Conv2d(4, 1)]), Dropout(0.5), Flatten(),
        Linear(3),
    ])  # fmt: skip
    network.build((3, 16, 16))
    check(network)
    network.layers[2].negative_slope = 0.7
    check(network)
    network.layers[1].eps = 0.5
    check(network)
    network.layers[2] = ReLU()
    network.layers[2].build((4, 14, 14))
    check(network)
    inner = Conv2d(4, 1)
    inner.build((4, 14, 14), np.random.default_rng(3))
    network.layers[3].body.layers.append(inner)
    check(network)
    network.layers.pop()
    network.body.output_shape = network.layers[-1].output_shape
    check(network)


def _predicts_in_child(queue, network, x):
    queue.put(network.predict(x))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_predicts_what_its_parent_does():
    network, x = _network(), _images(20)
    expected = network.predict(x)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_predicts_in_child, args=(queue, network, x))
    child.start()
    found = queue.get(timeout=60)
    child.join()
    np.testing.assert_array_equal(found, expected)


def test_calls_take_turns_where_the_threading_layer_cannot_take_two():
    code = (
        "import test_threads as t\n"
        "t.test_two_networks_in_two_threads_give_their_own_bits(64)\n"
        "import numba; print(numba.threading_layer())"
    )
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue"}
    here = os.path.dirname(__file__)
    environment["PYTHONPATH"] = os.pathsep.join([here, os.path.dirname(here)])
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "workqueue\n", done.stderr
