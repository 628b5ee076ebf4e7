"""Linear, Flatten and Scale against PyTorch."""

import math

import numpy as np
import pytest
from helpers import CHUNKS, geometries, naming, values
from helpers_torch import check, torch

from cnn.errors import ConfigError, ShapeError
from cnn.layers import Flatten, Linear, Scale

F = torch.nn.functional


def draw_linear(rng):
    arguments = {"out_features": int(rng.integers(1, 40)), "bias": bool(rng.random() < 0.7)}
    return arguments, (int(rng.choice([1, 1, 2, 5, 15, 16, 17, 33])), int(rng.integers(1, 70)))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_linear_is_that_of_pytorch(chunk):
    for (arguments, shape), rng in geometries("linear", draw_linear, chunk):
        with naming("Linear", arguments, "input", shape):
            check(Linear(**arguments), F.linear, values(shape, rng), rng)


@pytest.mark.parametrize("chunk", range(4))
def test_linear_in_float32(chunk):
    for (arguments, shape), rng in geometries("linear32", draw_linear, chunk):
        with naming("Linear", arguments, "input", shape):
            check(Linear(**arguments), F.linear, values(shape, rng), rng, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("outputs", "shape"), [(120, (64, 400)), (10, (128, 84)), (64, (33, 3136))])
def test_linear_at_the_sizes_of_real_networks(outputs, shape, dtype, rng):
    check(Linear(outputs), F.linear, rng.standard_normal(shape), rng, dtype)


def draw_shape(rng):
    axes = int(rng.choice([1, 3]))
    return (int(rng.choice([1, 2, 17])), *(int(v) for v in rng.integers(1, 8, axes)))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_flatten_and_scale_are_those_of_pytorch(chunk):
    for shape, rng in geometries("shape", draw_shape, chunk):
        factor = float(rng.standard_normal())
        with naming("Flatten, Scale", factor, "input", shape):
            x = values(shape, rng)
            check(Flatten(), lambda x: x.flatten(1), x, rng)
            check(Scale(factor), lambda x, factor=factor: factor * x, x, rng)
            check(Scale(factor), lambda x, factor=factor: factor * x, x, rng, np.float32)


def test_flatten_is_row_major_so_that_it_agrees_with_pytorchs_weights(backend):
    flatten = Flatten()
    assert flatten.build((2, 2, 3)) == (12,)
    x = np.arange(24.0).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(np.asarray(flatten.forward(x)), np.arange(24.0).reshape(2, 12))


def test_linear_on_images_asks_for_flatten():
    with pytest.raises(
        ShapeError, match=r"Linear: expected an input of shape \(F\), found \(3, 4, 4\). Put Flatten"
    ):
        Linear(3).build((3, 4, 4))


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="Linear out_features: expected an integer >= 1, found 0"):
        Linear(0)
    for factor in (math.nan, math.inf):
        with pytest.raises(ConfigError, match="Scale factor: expected a finite number"):
            Scale(factor)


def test_initial_values_are_those_of_pytorch():
    layer = Linear(200)
    layer.build((50,), np.random.default_rng(0), np.float64)
    bound = 1 / math.sqrt(50)
    for parameter in layer.parameters():
        assert np.abs(parameter.data).max() <= bound
        np.testing.assert_allclose(parameter.data.std(), bound / math.sqrt(3), rtol=0.1)


def test_a_seed_gives_both_dtypes_the_same_weights():
    single, double = Linear(7), Linear(7)
    single.build((5,), np.random.default_rng(3), np.float32)
    double.build((5,), np.random.default_rng(3), np.float64)
    np.testing.assert_array_equal(single.weight.data, double.weight.data.astype(np.float32))
