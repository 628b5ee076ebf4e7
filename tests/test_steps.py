"""Fused steps compute what their layers compute one after the other."""

import numpy as np
import pytest

import cnn
from cnn.fast.step import Context
from cnn.fast.steps import plan
from cnn.layers import (
    GELU,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SiLU,
    SoftmaxCrossEntropy,
)

NETWORKS = {
    "conv relu pool": lambda: [Conv2d(5, 3), ReLU(), MaxPool2d(2), Conv2d(4, 2), ReLU(), MaxPool2d(3, 2, 1)],
    "conv relu": lambda: [Conv2d(5, 3, bias=False), ReLU(), Conv2d(4, 2), ReLU()],
    "linear relu": lambda: [Flatten(), Linear(9), ReLU(), Linear(7, bias=False), ReLU(), Linear(4)],
    "norm relu": lambda: [Conv2d(6, 3), BatchNorm2d(), ReLU(), MaxPool2d(2), Conv2d(4, 3), BatchNorm2d()],
    "norm gelu": lambda: [
        Conv2d(6, 3), MaxPool2d(2), BatchNorm2d(), GELU(), BatchNorm2d(affine=False), GELU("tanh"),
    ],
    "norm others": lambda: [BatchNorm2d(), SiLU(), Conv2d(3, 3), BatchNorm2d(), LeakyReLU(0.1)],
    "norm of features": lambda: [Flatten(), Linear(6), BatchNorm1d(), ReLU(), Dropout(0.3), Linear(4)],
    "norm relu conv": lambda: [
        Conv2d(16, 3), BatchNorm2d(), ReLU(), Conv2d(17, 3, padding=1), BatchNorm2d(affine=False), ReLU(),
        Conv2d(18, 5, padding=(0, 2), bias=False), BatchNorm2d(), ReLU(), Conv2d(4, 3, stride=2, groups=2),
        BatchNorm2d(), ReLU(), Conv2d(5, 1), ReLU(),
    ],
    "residual": lambda: [
        Conv2d(6, 3, padding=1), BatchNorm2d(), ReLU(),
        Residual([Conv2d(6, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(6, 3, padding=1), BatchNorm2d()]),
        ReLU(),
        Residual(
            [
                Conv2d(8, 3, stride=2, padding=1), BatchNorm2d(), ReLU(),
                Conv2d(8, 3, padding=1), BatchNorm2d(),
            ],
            shortcut=[Conv2d(8, 1, stride=2), BatchNorm2d()],
        ), ReLU(),
        Residual([Conv2d(8, 3, padding=1)]), ReLU(), GlobalAvgPool2d(), Linear(4),
    ],
}  # fmt: skip


def _run(layers, planned, training, dtype, images=19):
    """Two steps of a network, fused or not: output, dx, gradients, state."""
    rng = np.random.default_rng(7)
    network = cnn.Network(layers)
    network.build((3, 11, 12), rng=np.random.default_rng(1), dtype=dtype)
    for _, layer in network.walk():
        if isinstance(layer, (BatchNorm1d, BatchNorm2d)):
            layer.running_mean[...] = rng.standard_normal(layer.running_mean.shape)
            layer.running_var[...] = rng.uniform(0.5, 2, layer.running_var.shape)
    runner, results = (network if planned else network.body), []
    for _ in range(2):
        x = rng.standard_normal((images, 3, 11, 12)).astype(dtype)
        y = runner.forward(x, training=training)
        dy = rng.standard_normal(y.shape).astype(dtype)
        results += [np.asarray(y), np.asarray(runner.backward(dy)), network.grad.copy()]
    return results + [array.copy() for array in network.state().values()]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_steps_equal_the_layers_one_by_one(name, training):
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-4)):
        together = _run(NETWORKS[name](), True, training, dtype)
        alone = _run(NETWORKS[name](), False, training, dtype)
        for a, b in zip(together, alone, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_here_contains_a_fused_step(name):
    assert any(len(step.layers) > 1 for step in plan(NETWORKS[name](), Context(None)))


def test_the_layers_of_a_network_stay_what_was_written():
    layers = NETWORKS["residual"]()
    network = cnn.Network(layers)
    network.build((3, 11, 12))
    network.forward(np.zeros((2, 3, 11, 12), np.float32), training=True)
    assert network.layers == layers


def test_one_forward_serves_many_backwards():
    network = cnn.Network(NETWORKS["residual"]())
    network.build((3, 11, 12), dtype=np.float64)
    rng = np.random.default_rng(0)
    y = network.forward(rng.standard_normal((17, 3, 11, 12)), training=True)
    dy = rng.standard_normal(y.shape)
    first = np.asarray(network.backward(dy))
    grad = network.grad.copy()
    np.testing.assert_array_equal(np.asarray(network.backward(dy)), first)
    np.testing.assert_allclose(network.grad, 2 * grad, rtol=1e-14)


def test_backward_can_leave_out_the_gradient_of_the_images():
    grads = []
    for wanted in (True, False):
        network, loss = (
            cnn.Network([*NETWORKS["conv relu pool"](), Flatten(), Linear(4)]),
            SoftmaxCrossEntropy(),
        )
        network.build((3, 11, 12), rng=np.random.default_rng(0))
        x = np.random.default_rng(1).standard_normal((5, 3, 11, 12))
        loss.forward(network.forward(x, training=True), np.arange(5) % 4)
        dx = network.backward(loss.backward(), input_gradient=wanted)
        assert (dx is not None) == wanted
        grads.append(network.grad.copy())
    np.testing.assert_array_equal(*grads)


def test_switching_the_backend_keeps_the_numbers():
    network = cnn.Network(NETWORKS["residual"]())
    network.build((3, 11, 12), dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((3, 3, 11, 12))
    outputs = []
    for backend in ("numba", "reference", "numba"):
        with cnn.use_backend(backend):
            outputs.append(np.asarray(network.forward(x)))
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-10)
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_an_activation_that_the_convolution_behind_it_computes_again_is_not_kept():
    def kept(**last):
        layers = [Conv2d(32, 1, bias=False), BatchNorm2d(), ReLU(), Conv2d(16, **last), BatchNorm2d()]
        network = cnn.Network(layers)
        network.build((3, 32, 32))
        return network._engine().memory((16, 3, 32, 32))[0]

    assert kept(kernel_size=1) - kept(kernel_size=3, padding=1) >= 32 * 32 * 32 * 16 * 4


def test_parameters_that_are_not_trained_get_no_gradient_from_a_fused_step():
    layers = NETWORKS["norm relu conv"]()
    network = cnn.Network(layers)
    network.build((3, 11, 12), rng=np.random.default_rng(0))
    for layer in (layers[0], layers[1], layers[3]):
        for parameter in layer.parameters():
            parameter.trainable = False
    y = network.forward(np.random.default_rng(1).standard_normal((5, 3, 11, 12)), training=True)
    network.backward(np.ones_like(y), input_gradient=False)
    for layer in layers:
        for parameter in layer.parameters():
            assert parameter.grad.any() == parameter.trainable
