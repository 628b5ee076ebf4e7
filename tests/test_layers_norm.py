"""BatchNorm2d and BatchNorm1d against PyTorch: training, evaluation and the running statistics."""

import numpy as np
import pytest
from helpers import BACKENDS, CHUNKS, assert_forward, assert_gradient, geometries, layout, naming, run, values
from helpers_torch import tensor, torch

from cnn.backend import use_backend
from cnn.errors import ConfigError, ShapeError
from cnn.layers import BatchNorm1d, BatchNorm2d

F = torch.nn.functional


def draw(rng):
    arguments = {
        "eps": float(rng.choice([1e-5, 1e-3, 0.5])),
        "momentum": float(rng.choice([0.1, 0.0, 1.0, 0.35])),
        "affine": bool(rng.random() < 0.7),
    }
    shape = (int(rng.choice([2, 3, 15, 16, 17])), int(rng.integers(1, 6)))
    if rng.random() < 0.6:
        shape = (int(rng.choice([1, 2, 5, 17])), shape[1], *(int(v) for v in rng.integers(2, 8, 2)))
    return arguments, shape


def make(arguments, shape, rng, dtype):
    """Return a built layer with random parameters and running statistics."""
    layer = (BatchNorm1d if len(shape) == 2 else BatchNorm2d)(**arguments)
    layer.build(shape[1:], rng, dtype)
    for parameter in layer.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    layer.running_mean[...] = rng.standard_normal(shape[1])
    layer.running_var[...] = rng.random(shape[1]) + 0.2
    return layer


def check_batch_norm(arguments, shape, rng, dtype):
    """Two batches in training, one in evaluation: each time y, all gradients, the running statistics."""
    layer = make(arguments, shape, rng, dtype)
    start = {name: array.copy() for name, array in layer.buffers().items()}
    batches = [(values(shape, rng) * rng.uniform(0.5, 3) + rng.normal()).astype(dtype) for _ in range(3)]
    upstream = [rng.standard_normal(shape).astype(dtype) for _ in range(3)]
    for backend in BACKENDS:
        running = [tensor(array) for array in start.values()]
        for name, array in layer.buffers().items():
            array[...] = start[name]
        for step, (x, dy) in enumerate(zip(batches, upstream, strict=True)):
            training = step < 2
            leaf = tensor(x, grad=True)
            leaves = {p.name: tensor(p.data, grad=True) for p in layer.parameters()}
            mean, var = running
            expected = F.batch_norm(
                leaf,
                mean,
                var,
                leaves.get("weight"),
                leaves.get("bias"),
                training,
                arguments["momentum"],
                arguments["eps"],
            )
            expected.backward(tensor(dy))
            with naming("backend", backend, "training", training):
                y, dx, gradients = run(layer, layout(x, rng), layout(dy, rng), training, backend)
                assert_forward(y, expected.detach().numpy(), dtype)
                # with few values a channel dx nearly cancels: then its error is measured against its terms
                floor = 1.0 / np.sqrt(arguments["eps"]) if training else 0.0
                assert_gradient(dx, leaf.grad.numpy(), dtype, "dx", floor)
                for name, gradient in gradients.items():
                    assert_gradient(gradient, leaves[name].grad.numpy(), dtype, f"d{name}", 1.0)
                for array, wanted in zip(layer.buffers().values(), running, strict=True):
                    assert_forward(array, wanted.numpy(), dtype, "running statistics")


@pytest.mark.parametrize("chunk", CHUNKS)
def test_batch_norm_is_that_of_pytorch(chunk):
    for (arguments, shape), rng in geometries("norm", draw, chunk):
        with naming("BatchNorm", arguments, "input", shape):
            check_batch_norm(arguments, shape, rng, np.float64)


@pytest.mark.parametrize("chunk", range(4))
def test_batch_norm_in_float32(chunk):
    for (arguments, shape), rng in geometries("norm32", draw, chunk):
        with naming("BatchNorm", arguments, "input", shape):
            check_batch_norm(arguments, shape, rng, np.float32)


DEFAULTS = {"eps": 1e-5, "momentum": 0.1, "affine": True}


@pytest.mark.parametrize("shape", [(17, 3, 15, 16), (64, 24, 8, 8), (100, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_exact_relative_to_themselves(shape, dtype, backend, rng):
    """On ordinary data nothing cancels, so the strict relative tolerance holds."""
    layer = make(DEFAULTS, shape, rng, dtype)
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    leaf, weight, bias = tensor(x, grad=True), tensor(layer.weight.data, True), tensor(layer.bias.data, True)
    F.batch_norm(leaf, None, None, weight, bias, True, eps=layer.eps).backward(tensor(dy))
    _, dx, gradients = run(layer, x, dy, True, backend)
    assert_gradient(dx, leaf.grad.numpy(), dtype, "dx")
    assert_gradient(gradients["weight"], weight.grad.numpy(), dtype, "dweight")
    assert_gradient(gradients["bias"], bias.grad.numpy(), dtype, "dbias")


@pytest.mark.parametrize("offset", [1e3, -1e6])
def test_a_huge_mean_does_not_cancel(offset, backend, rng):
    """E[x^2] - E[x]^2 in float64 would lose 12 digits of the variance here."""
    x = rng.standard_normal((19, 2, 5, 5)) + offset
    layer = BatchNorm2d(momentum=1.0)
    layer.build((2, 5, 5), dtype=np.float64)
    y = np.asarray(layer.forward(x, training=True))
    exact = x.astype(np.longdouble)
    mean, var = exact.mean(axis=(0, 2, 3)), exact.var(axis=(0, 2, 3))
    expected = (exact - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    assert np.abs(y - expected).max() < 8 * np.spacing(abs(offset))
    # a mean near the offset is known to half a spacing, and so is the variance around it (which is about 1)
    tolerance = max(1e-12, np.spacing(abs(offset)))
    np.testing.assert_allclose(layer.running_var, (var * 475 / 474).astype(float), rtol=tolerance)


def test_a_huge_mean_in_float32_costs_no_more_than_its_rounding(backend, rng):
    x = (rng.standard_normal((64, 3, 8, 8)) + 1e4).astype(np.float32)
    layer = BatchNorm2d()
    layer.build((3, 8, 8))
    y = np.asarray(layer.forward(x, training=True))
    expected = F.batch_norm(tensor(x), None, None, training=True).numpy()
    assert np.abs(y - expected).max() < np.spacing(np.float32(1e4))  # the mean itself, rounded to float32
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), expected.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_constant_channel_gives_zero_and_a_finite_gradient(backend):
    layer = BatchNorm2d()
    layer.build((2, 3, 3), dtype=np.float64)
    x = np.full((4, 2, 3, 3), 7.25)
    y = np.array(layer.forward(x, training=True))
    np.testing.assert_array_equal(y, 0)
    dx = np.asarray(layer.backward(np.ones_like(x)))
    np.testing.assert_allclose(dx, 0, atol=1e-9)


def test_a_batch_of_one_value_per_channel_is_refused_in_training_only(backend):
    layer = BatchNorm1d()
    layer.build((3,))
    x = np.ones((1, 3), np.float32)
    assert np.asarray(layer.forward(x)).shape == (1, 3)
    with pytest.raises(
        ShapeError, match=r"BatchNorm1d: expected more than one value per channel .* \(1, 3\)"
    ):
        layer.forward(x, training=True)
    np.testing.assert_array_equal(layer.running_mean, 0)


def test_evaluation_neither_reads_the_batch_statistics_nor_moves_the_running_ones(backend, rng):
    layer = make(DEFAULTS, (4, 3, 2, 2), rng, np.float64)
    before = {name: array.copy() for name, array in layer.buffers().items()}
    x = rng.standard_normal((4, 3, 2, 2))
    whole = np.array(layer.forward(x))
    for name, array in layer.buffers().items():
        np.testing.assert_array_equal(array, before[name])
    for i in range(4):
        np.testing.assert_allclose(np.asarray(layer.forward(x[i : i + 1]))[0], whole[i], rtol=1e-14)


def test_training_moves_the_running_statistics_in_place(rng):
    """Checkpoints and the network's state() hold these very arrays."""
    layer = make(DEFAULTS, (4, 3, 2, 2), rng, np.float32)
    mean, var = layer.buffers().values()
    layer.forward(rng.standard_normal((4, 3, 2, 2)), training=True)
    assert layer.running_mean is mean
    assert layer.running_var is var


def test_backward_uses_the_mode_and_statistics_of_its_forward(backend, rng):
    """A later change of the running statistics must not reach the backward of an earlier forward."""
    layer = make(DEFAULTS, (4, 3, 2, 2), rng, np.float64)
    x, dy = rng.standard_normal((2, 4, 3, 2, 2))
    layer.forward(x)
    expected = np.array(layer.backward(dy))
    layer.running_mean[...] = 99.0
    layer.running_var[...] = 99.0
    np.testing.assert_array_equal(np.asarray(layer.backward(dy)), expected)


def test_dx_of_evaluation_is_a_plain_scale(backend, rng):
    layer = make(DEFAULTS, (4, 3, 2, 2), rng, np.float64)
    layer.forward(rng.standard_normal((4, 3, 2, 2)))
    dy = rng.standard_normal((4, 3, 2, 2))
    slope = layer.weight.data / np.sqrt(layer.running_var + layer.eps)
    np.testing.assert_allclose(np.asarray(layer.backward(dy)), dy * slope[:, None, None], rtol=1e-13)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [BatchNorm1d, BatchNorm2d])
def test_another_number_of_channels_is_refused(kind, affine, backend):
    layer = kind(affine=affine)
    tail = (2, 2) if kind is BatchNorm2d else ()
    layer.build((3, *tail))
    for channels in (1, 2, 5):
        with pytest.raises(ShapeError, match=f"{kind.__name__}: built for 3 .*, found an input of shape"):
            layer.forward(np.zeros((4, channels, *tail), np.float32))


@pytest.mark.parametrize("affine", [True, False])
def test_another_dtype_is_brought_to_that_of_build(affine, backend, rng):
    layer = BatchNorm2d(affine=affine)
    layer.build((3, 2, 2), dtype=np.float64)
    x = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    assert np.asarray(layer.forward(x, training=True)).dtype == np.float64


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="BatchNorm2d eps: expected a number above 0, found 0"):
        BatchNorm2d(eps=0)
    with pytest.raises(ConfigError, match=r"BatchNorm1d momentum: expected a number from 0 to 1, found 1.5"):
        BatchNorm1d(momentum=1.5)


def test_without_affine_there_is_nothing_to_train():
    layer = BatchNorm2d(affine=False)
    layer.build((3, 2, 2))
    assert layer.parameters() == []
    assert list(layer.buffers()) == ["running_mean", "running_var"]


def test_weight_decay_leaves_weight_and_bias_alone():
    layer = BatchNorm2d()
    layer.build((3, 2, 2))
    assert [p.decay for p in layer.parameters()] == [False, False]


def test_backends_agree_on_the_running_statistics_to_the_last_digits(rng):
    x = rng.standard_normal((33, 3, 7, 7)).astype(np.float32)
    found = []
    for backend in BACKENDS:
        with use_backend(backend):
            layer = BatchNorm2d()
            layer.build((3, 7, 7))
            layer.forward(x, training=True)
            found.append(np.concatenate(list(layer.buffers().values())))
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-8)
