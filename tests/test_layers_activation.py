"""Activations against PyTorch, at ordinary and at extreme values."""

import numpy as np
import pytest
from helpers import BACKENDS, CHUNKS, assert_forward, geometries, naming, run, values
from helpers_torch import check, tensor, torch

from cnn.errors import ConfigError
from cnn.layers import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh

F = torch.nn.functional

ACTIVATIONS = {
    "relu": (ReLU, F.relu),
    "leaky_relu": (LeakyReLU, F.leaky_relu),
    "leaky_relu_03": (lambda: LeakyReLU(0.3), lambda x: F.leaky_relu(x, 0.3)),
    "leaky_relu_minus": (lambda: LeakyReLU(-0.5), lambda x: F.leaky_relu(x, -0.5)),
    "sigmoid": (Sigmoid, torch.sigmoid),
    "tanh": (Tanh, torch.tanh),
    "silu": (SiLU, F.silu),
    "gelu": (GELU, F.gelu),
    "gelu_tanh": (lambda: GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "softmax": (Softmax, lambda x: F.softmax(x, dim=1)),
}


def draw(rng):
    axes = int(rng.choice([1, 3]))
    shape = (int(rng.choice([1, 1, 2, 16, 17])), *(int(v) for v in rng.integers(1, 9, axes)))
    return str(rng.choice(list(ACTIVATIONS))), float(rng.choice([0.01, 1.0, 1.0, 8.0, 60.0])), shape


@pytest.mark.parametrize("chunk", CHUNKS)
def test_activations_are_those_of_pytorch(chunk):
    for (name, scale, shape), rng in geometries("activation", draw, chunk):
        with naming(name, "values times", scale, "input", shape):
            make, oracle = ACTIVATIONS[name]
            check(make(), oracle, scale * values(shape, rng), rng, floor=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_on_many_values(name, rng):
    make, oracle = ACTIVATIONS[name]
    for dtype in (np.float64, np.float32):
        for scale in (1.0, 5.0):
            check(make(), oracle, scale * rng.standard_normal((17, 3, 20, 21)), rng, dtype)
            check(make(), oracle, scale * rng.standard_normal((33, 100)), rng, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_large_values_neither_overflow_nor_warn(name, dtype):
    """Warnings are errors here, so an overflow inside of the reference would show as well."""
    make, oracle = ACTIVATIONS[name]
    x = np.array([[0.0, -0.0, 1e3, -1e3, 90.0, -90.0, 710.0, -710.0, 1e-30, -1e-30, 1e-8]], dtype)
    leaf = tensor(x, grad=True)
    expected = oracle(leaf)
    expected.backward(torch.ones_like(expected))
    for backend in BACKENDS:
        with naming(backend):
            y, dx, _ = run(make(), x, np.ones_like(x), backend=backend)
            scale = 1 if name != "gelu" else 1 / (1 + 1e-12)
            assert_forward(y * scale, expected.detach().numpy(), dtype)
            assert np.abs(dx - leaf.grad.numpy()).max() <= (1e-10 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_infinities_have_their_limits(name, dtype, backend):
    make, oracle = ACTIVATIONS[name]
    x = np.array([[np.inf, -np.inf, 1.0]], dtype)
    leaf = tensor(x, grad=True)
    expected = oracle(leaf)
    expected.backward(torch.ones_like(expected))
    layer = make()
    np.testing.assert_allclose(np.asarray(layer.forward(x)), expected.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(layer.backward(np.ones_like(x))), leaf.grad.numpy(), rtol=1e-5)


def test_relu_blocks_even_an_infinite_gradient(backend):
    layer = ReLU()
    layer.forward(np.array([[-1.0, 0.0, 2.0]]))
    dx = np.asarray(layer.backward(np.array([[np.inf, -np.inf, np.inf]])))
    np.testing.assert_array_equal(dx, [[0.0, 0.0, np.inf]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_nan_stays_visible(name, dtype, backend, rng):
    make, _ = ACTIVATIONS[name]
    x = rng.standard_normal((18, 40)).astype(dtype)
    x[17, 39] = np.nan
    found = np.isnan(np.asarray(make().forward(x)))
    assert found[17, 39]
    assert not found[:17].any()
    if name != "softmax":
        assert not found[17, :39].any()


def test_relu_passes_nothing_back_at_zero(backend):
    layer = ReLU()
    layer.forward(np.array([[-0.0, 0.0, 1e-300, -1e-300]]))
    dx = np.asarray(layer.backward(np.array([[1.0, 1.0, 1.0, 1.0]])))
    np.testing.assert_array_equal(dx, [[0.0, 0.0, 1.0, 0.0]])


def test_softmax_adds_up_to_one_and_ignores_a_shift(backend, rng):
    x = rng.standard_normal((5, 7, 3, 2))
    y = np.array(Softmax().forward(x))
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-13)
    np.testing.assert_allclose(np.asarray(Softmax().forward(x + 1000)), y, rtol=1e-11)


def test_softmax_backward_is_its_full_jacobian(backend, rng):
    """dS_i/dx_j = S_i (delta_ij - S_j), entry by entry."""
    layer = Softmax()
    y = np.array(layer.forward(rng.standard_normal((1, 6))))[0]
    jacobian = np.diag(y) - np.outer(y, y)
    for i in range(6):
        row = np.asarray(layer.backward(np.eye(6)[i : i + 1]))[0]
        np.testing.assert_allclose(row, jacobian[i], rtol=1e-12, atol=1e-16)


def test_gelu_refuses_an_unknown_approximation():
    with pytest.raises(ConfigError, match='expected "none" or "tanh", found \'sigmoid\''):
        GELU("sigmoid")
