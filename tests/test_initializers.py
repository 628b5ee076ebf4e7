"""Initializers: fans, spread, and PyTorch's bounds."""

import numpy as np
import pytest

from cnn.errors import ConfigError
from cnn.layers.initializers import INITIALIZERS, fans, initialize

SHAPE = (64, 32, 3, 3)  # fan_in 288, fan_out 576
DEVIATIONS = {
    "he_normal": np.sqrt(2 / 288),
    "he_uniform": np.sqrt(2 / 288),
    "xavier_normal": np.sqrt(2 / (288 + 576)),
    "xavier_uniform": np.sqrt(2 / (288 + 576)),
    "pytorch_uniform": np.sqrt(1 / 3 / 288),
}


@pytest.mark.parametrize("shape", [(5, 3), (7, 4, 3, 5), (8, 1, 3, 3)])
def test_fans_are_those_of_pytorch(shape):
    torch = pytest.importorskip("torch")
    assert fans(shape) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


@pytest.mark.parametrize("name", DEVIATIONS)
def test_the_spread_is_the_formulas(name):
    weight = initialize(name, SHAPE, np.random.default_rng(0), np.float64)
    assert weight.shape == SHAPE
    assert weight.std() == pytest.approx(DEVIATIONS[name], rel=0.02)
    assert abs(weight.mean()) < 4 * DEVIATIONS[name] / np.sqrt(weight.size)
    largest = np.abs(weight).max() / DEVIATIONS[name]
    if name.endswith("uniform"):
        assert np.sqrt(3) * 0.995 < largest < np.sqrt(3)
    else:
        assert 3 < largest < 6


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_bias_takes_the_fan_in_of_its_weight(name):
    bias = initialize(name, (20000,), np.random.default_rng(0), np.float64, fan_in=50)
    fan_out = 20000
    expected = {"he": 2 / 50, "xavier": 2 / (50 + fan_out), "pytorch": 1 / 3 / 50}[name.split("_")[0]]
    assert bias.std() == pytest.approx(np.sqrt(expected), rel=0.03)


def test_pytorch_uniform_has_the_bounds_of_pytorchs_own_layers():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for layer in (torch.nn.Conv2d(8, 400, 3), torch.nn.Linear(72, 4000)):
        for tensor in (layer.weight, layer.bias):
            ours = initialize("pytorch_uniform", tuple(tensor.shape), np.random.default_rng(0), fan_in=72)
            assert np.abs(ours).max() == pytest.approx(tensor.abs().max().item(), rel=0.02)


def test_constants_need_no_generator():
    np.testing.assert_array_equal(initialize("zeros", (2, 3), None), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(initialize("ones", (4,), None), np.ones(4, np.float32))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_one_seed_gives_both_dtypes_the_same_numbers(name):
    single, double = (initialize(name, SHAPE, np.random.default_rng(3), t) for t in (np.float32, np.float64))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("shape", [(16, 6, 3, 3), (6, 16, 3, 3), (5, 5, 2, 4), (4, 1, 1, 1)])
def test_dirac_overwrites_the_first_filters_as_pytorch_does(shape):
    torch = pytest.importorskip("torch")
    expected = torch.tensor(initialize("pytorch_uniform", shape, np.random.default_rng(3)))
    torch.nn.init.dirac_(expected[: shape[1]])
    found = initialize("dirac", shape, np.random.default_rng(3))
    np.testing.assert_array_equal(found, expected.numpy())


def test_dirac_gives_each_group_its_own_identity():
    torch = pytest.importorskip("torch")
    expected = torch.nn.init.dirac_(torch.empty(6, 2, 3, 3, dtype=torch.float64), groups=3)
    found = initialize("dirac", (6, 2, 3, 3), np.random.default_rng(0), np.float64, groups=3)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("name", ["dirac", "whitening"])
def test_filters_are_for_convolutions(name):
    with pytest.raises(ConfigError, match=f'initializer "{name}": expected the weight of a convolution'):
        initialize(name, (6, 4), np.random.default_rng(0))


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"'he_norml'\. Did you mean .he_normal."):
        initialize("he_norml", SHAPE, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="fan_in"):
        initialize("he_normal", (3,), np.random.default_rng(0))
