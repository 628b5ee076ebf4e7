"""Pooling kernels: every geometry equals the reference; ties, NaN, ReLU in front, tail lanes."""

import numpy as np
import pytest

from cnn import reference
from cnn.fast.kernels import elementwise, global_pool, pool

WINDOWS = {
    "tiles": ((2, 2), (2, 2), ((0, 0), (0, 0))),
    "tiles of three": ((3, 3), (3, 3), ((0, 0), (0, 0))),
    "overlaps, padded": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "uneven": ((3, 2), (1, 2), ((1, 0), (0, 1))),
    "leaves pixels out": ((2, 2), (3, 4), ((0, 0), (0, 0))),
    "large": ((5, 4), (1, 1), ((2, 2), (1, 2))),
}


def _images(rng, n, dtype):
    """Shuffled distinct numbers of both signs: no ties, no kinks."""
    values = rng.permutation(n * 3 * 9 * 11).reshape(n, 3, 9, 11) / 100.0
    return (values - values.mean()).astype(dtype)


def _close(ours, expected):
    ours = np.asarray(ours)
    tolerance = 1e-5 if ours.dtype == np.float32 else 1e-12
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("n", [1, 16, 19, 33])
def test_pools_equal_the_reference(name, n, dtype):
    window, rng = WINDOWS[name], np.random.default_rng(n)
    x = _images(rng, n, dtype)
    y, argmax = pool.max_pool2d_forward(x, *window)
    expected, winners = reference.max_pool2d_forward(x, *window)
    _close(y, expected)
    dy = rng.standard_normal(expected.shape).astype(dtype)
    dx = pool.max_pool2d_backward(dy, argmax, x.shape, *window)
    _close(dx, reference.max_pool2d_backward(dy, winners, x.shape, *window))
    assert not dx.buffer[-1, ..., (n - 1) % 16 + 1 :].any()
    for include in (True, False):
        _close(
            pool.avg_pool2d_forward(x, *window, include), reference.avg_pool2d_forward(x, *window, include)
        )
        _close(
            pool.avg_pool2d_backward(dy, x.shape, *window, include),
            reference.avg_pool2d_backward(dy, x.shape, *window, include).astype(dtype),
        )


@pytest.mark.parametrize("name", WINDOWS)
def test_relu_in_the_same_pass_equals_relu_before(name):
    window, rng = WINDOWS[name], np.random.default_rng(1)
    x = _images(rng, 19, np.float32)
    y, argmax = pool.max_pool2d_forward(x, *window, relu=True)
    expected, winners = reference.max_pool2d_forward(reference.relu_forward(x), *window)
    _close(y, expected)
    dy = rng.standard_normal(expected.shape).astype(np.float32)
    behind = reference.max_pool2d_backward(dy, winners, x.shape, *window)
    _close(pool.max_pool2d_backward(dy, argmax, x.shape, *window), reference.relu_backward(behind, x))


@pytest.mark.parametrize("name", WINDOWS)
def test_of_equal_values_the_first_in_row_major_order_wins(name):
    window = WINDOWS[name]
    x = np.random.default_rng(2).integers(0, 2, (17, 2, 9, 11)).astype(np.float32)
    _, argmax = pool.max_pool2d_forward(x, *window)
    _, winners = reference.max_pool2d_forward(x, *window)
    np.testing.assert_array_equal(np.asarray(argmax), winners)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_nan_wins_and_the_first_nan_gets_the_gradient(name):
    window = WINDOWS[name]
    x = _images(np.random.default_rng(3), 17, np.float32)
    x[0, 0, 4, 4:6] = np.nan
    y, argmax = pool.max_pool2d_forward(x, *window)
    expected, winners = reference.max_pool2d_forward(x, *window)
    np.testing.assert_array_equal(np.asarray(y), expected)
    np.testing.assert_array_equal(np.asarray(argmax), winners)
    relu, _ = pool.max_pool2d_forward(x, *window, relu=True)
    np.testing.assert_array_equal(np.isnan(np.asarray(relu)), np.isnan(expected))


def test_a_window_of_more_than_255_cells():
    window = ((17, 17), (17, 17), ((0, 0), (0, 0)))
    x = np.random.default_rng(4).standard_normal((3, 1, 34, 34))
    y, argmax = pool.max_pool2d_forward(x, *window)
    expected, winners = reference.max_pool2d_forward(x, *window)
    _close(y, expected)
    np.testing.assert_array_equal(np.asarray(argmax), winners)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 16, 19])
def test_global_pools_equal_the_reference(n, dtype):
    rng = np.random.default_rng(n)
    x, dy = _images(rng, n, dtype), rng.standard_normal((n, 3)).astype(dtype)
    _close(global_pool.global_avg_pool_forward(x), reference.global_avg_pool_forward(x))
    _close(global_pool.global_avg_pool_backward(dy, x.shape), reference.global_avg_pool_backward(dy, x.shape))
    y, argmax = global_pool.global_max_pool_forward(x)
    expected, winners = reference.global_max_pool_forward(x)
    _close(y, expected)
    dx = global_pool.global_max_pool_backward(dy, argmax, x.shape)
    _close(dx, reference.global_max_pool_backward(dy, winners, x.shape))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tiles", "overlaps, padded", "large"])
def test_the_winners_sum_is_the_channel_sum_of_the_whole_gradient(name, dtype):
    window, rng = WINDOWS[name], np.random.default_rng(2)
    x = _images(rng, 19, dtype) - dtype(1.0)  # most windows of some images are dead
    y, argmax = pool.max_pool2d_forward(x, *window, relu=True)
    dy = rng.standard_normal(y.shape).astype(dtype)
    whole, part = np.ones(3, dtype), np.ones(3, dtype)
    elementwise.channel_sum(pool.max_pool2d_backward(dy, argmax, x.shape, *window), whole)
    pool.winners_channel_sum(dy, argmax, window[0], part)
    np.testing.assert_allclose(part, whole, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert not np.allclose(part, 1 + dy.sum((0, 2, 3)))  # the dead windows have a part in this one
