"""Normalisation, ReLU and 2x2 maxima in one pass, against the reference one by one."""

import numpy as np
import pytest

from cnn import reference
from cnn.fast.blocked import as_blocked, converted
from cnn.fast.kernels import activation, norm, norm_pool
from cnn.fast.machine.bf16 import BFLOAT16
from cnn.reference import bfloat16 as twin

SHAPES = {
    "even": (17, 3, 6, 8),
    "odd": (5, 4, 7, 5),
    "whole blocks": (32, 2, 4, 4),
    "one window": (1, 3, 2, 3),
}
WINDOW = (2, 2), (2, 2), ((0, 0), (0, 0))
STORED = {"float64": (np.float64, 1e-12), "float32": (np.float32, 2e-5), "bfloat16": (np.float32, 2e-2)}


def _case(shape, dtype):
    rng = np.random.default_rng(0)
    n, c, h, w = shape
    x, dy = (twin.rounded(rng.standard_normal(s)) for s in (shape, (n, c, h // 2, w // 2)))
    numbers = [rng.uniform(*ends, c) for ends in ((-1, 1), (0.5, 1.5), (-2, 2), (-1, 1))]
    return x.astype(dtype), dy.astype(dtype), [values.astype(dtype) for values in numbers]


def _apart(x, dy, numbers, training):
    mean, rstd, weight, _ = numbers
    z = reference.batch_norm_forward(x, *numbers)
    y, winners = reference.max_pool2d_forward(np.maximum(z, 0), *WINDOW)
    g = reference.max_pool2d_backward(dy, winners, x.shape, *WINDOW)
    sums = np.zeros((2, len(mean)), x.dtype)
    g = reference.relu_backward(g, z)
    return y, reference.batch_norm_backward(g, x, mean, rstd, weight, *sums, training), *sums


def _together(x, dy, numbers, training, bring):
    mean, rstd, weight, _ = numbers
    x, sums = bring(x), np.zeros((2, len(mean)), x.dtype)
    y, argmax = norm_pool.norm_relu_pool_forward(x, *numbers)
    assert y.itemsize == x.itemsize
    dx = norm_pool.norm_relu_pool_backward(bring(dy), argmax, x, mean, rstd, weight, *sums, training)
    return y, dx, *sums


def _bring(stored):
    return (lambda x: converted(as_blocked(x), BFLOAT16)) if stored == "bfloat16" else as_blocked


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", SHAPES)
def test_one_pass_equals_normalisation_relu_and_pool(name, stored, training):
    dtype, tolerance = STORED[stored]
    case = _case(SHAPES[name], dtype)
    found = _together(*case, training, _bring(stored))
    for a, b in zip(found, _apart(*case, training), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()))


def test_lanes_past_the_batch_get_no_gradient():
    x, dy, (mean, rstd, weight, bias) = _case(SHAPES["odd"], np.float32)
    x = as_blocked(x)
    _, argmax = norm_pool.norm_relu_pool_forward(x, mean, rstd, weight, bias)
    dx = norm_pool.norm_relu_pool_backward(dy, argmax, x, mean, rstd, weight, None, None, True)
    assert dx.buffer[0][..., :5].any()
    assert not dx.buffer[0][..., 5:].any()


def test_the_maxima_have_the_bits_of_the_passes_apart():
    x, _, numbers = _case((19, 5, 9, 6), np.float32)
    y, argmax = norm_pool.norm_relu_pool_forward(x, *numbers)
    a = norm.batch_norm_forward(x, *numbers, activation.RELU)
    np.testing.assert_array_equal(np.asarray(y), reference.max_pool2d_forward(np.asarray(a), *WINDOW)[0])
    assert set(np.unique(np.asarray(argmax))) == {0, 1, 2, 3, 4}


def test_a_nan_wins_and_of_equals_the_first():
    x, _, _ = _case((1, 1, 2, 8), np.float32)
    x[...] = [[0, np.nan, 2, 2, -1, -2, 1, 3], [5, np.nan, 1, 2, -3, 0, 3, 2]]
    ones, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    y, argmax = norm_pool.norm_relu_pool_forward(x, none, ones, ones, none)
    np.testing.assert_array_equal(np.asarray(y).ravel(), [np.nan, 2, 0, 3])
    np.testing.assert_array_equal(np.asarray(argmax).ravel(), [1, 0, 4, 1])
