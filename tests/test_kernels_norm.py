"""Batch normalisation and elementwise kernels against the reference; what tail lanes may and may not do."""

import numpy as np
import pytest

from cnn import reference
from cnn.fast import blocked
from cnn.fast.kernels import activation, elementwise, norm, residual

SHAPES = [(1, 3, 4, 5), (19, 5, 6, 7), (32, 4, 8, 8), (33, 17)]


def _setting(shape, dtype, offset=0.0):
    rng = np.random.default_rng(shape[0])
    x = (rng.standard_normal(shape) + offset).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = rng.standard_normal((2, shape[1])).astype(dtype)
    running = np.zeros((2, shape[1]), dtype)
    return x, dy, weight, bias, *reference.batch_norm_train(x, *running, 0.1, 1e-5)


def _tolerance(dtype):
    return 2e-5 if dtype == np.float32 else 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_leave_tail_lanes_out_and_do_not_cancel(shape, offset, dtype):
    x = (np.random.default_rng(0).standard_normal(shape) + offset).astype(dtype)
    blocks = blocked.as_blocked(x)
    blocks.buffer[-1, ..., (shape[0] - 1) % 16 + 1 :] = 1e6
    running_mean, running_var = np.zeros((2, shape[1]), dtype)
    mean, rstd = norm.batch_norm_train(blocks, running_mean, running_var, 1.0, 1e-5)
    exact, axes, t = x.astype(np.float64), (0, *range(2, x.ndim)), _tolerance(dtype)
    np.testing.assert_allclose(mean, exact.mean(axis=axes), rtol=t, atol=t)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(exact.var(axis=axes) + 1e-5), rtol=5 * t)
    np.testing.assert_allclose(running_mean, mean, rtol=t)
    np.testing.assert_allclose(running_var, exact.var(axis=axes, ddof=1), rtol=5 * t)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_first_row_far_from_all_others_costs_few_digits(dtype):
    x = np.random.default_rng(0).standard_normal((19, 3, 20, 7)).astype(dtype)
    x[:, :, 0] += 1e4  # planes are centred on its mean
    mean, rstd = norm.batch_norm_train(x, *np.zeros((2, 3), dtype), 1.0, 1e-5)
    exact, t = x.astype(np.float64), _tolerance(dtype)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=t)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(exact.var(axis=(0, 2, 3)) + 1e-5), rtol=t)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_equals_the_reference(shape, affine, training, dtype):
    x, dy, weight, bias, mean, rstd = _setting(shape, dtype)
    if not affine:
        weight = bias = None
    y = norm.batch_norm_forward(x, mean, rstd, weight, bias)
    t = _tolerance(dtype)
    np.testing.assert_allclose(
        np.asarray(y), reference.batch_norm_forward(x, mean, rstd, weight, bias), rtol=t, atol=t
    )
    ours, theirs = np.ones((2, 2, shape[1]), dtype)
    dx = norm.batch_norm_backward(dy, x, mean, rstd, weight, *ours, training)
    expected = reference.batch_norm_backward(dy, x, mean, rstd, weight, *theirs, training)
    np.testing.assert_allclose(np.asarray(dx), expected, rtol=t, atol=t)
    np.testing.assert_allclose(ours, theirs, rtol=10 * t, atol=10 * t)
    assert not dx.buffer[-1, ..., (shape[0] - 1) % 16 + 1 :].any()


@pytest.mark.parametrize("name", ["relu", "gelu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_activation_in_the_same_pass(shape, name):
    x, dy, weight, bias, mean, rstd = _setting(shape, np.float64)
    kind, options = (activation.RELU, ()) if name == "relu" else (activation.GELU, (False,))
    z = reference.batch_norm_forward(x, mean, rstd, weight, bias)
    forward = getattr(reference, f"{name}_forward")
    y = norm.batch_norm_forward(x, mean, rstd, weight, bias, kind)
    np.testing.assert_allclose(np.asarray(y), forward(z, *options), rtol=1e-12, atol=1e-12)
    y = norm.batch_norm_forward(x, mean, rstd, weight, bias, kind, other=dy)
    np.testing.assert_allclose(np.asarray(y), forward(z + dy, *options), rtol=1e-12, atol=1e-12)
    ours, theirs = np.zeros((2, 2, shape[1]))
    dx = norm.batch_norm_backward(dy, x, mean, rstd, weight, *ours, True, bias, kind)
    g = getattr(reference, f"{name}_backward")(dy, z, *options)
    expected = reference.batch_norm_backward(g, x, mean, rstd, weight, *theirs, True)
    np.testing.assert_allclose(np.asarray(dx), expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elementwise_equals_the_reference(shape, dtype):
    rng = np.random.default_rng(0)
    x, other, bias = (rng.standard_normal(s).astype(dtype) for s in (shape, shape, shape[1:2]))

    def check(ours, expected):
        assert ours.dtype == dtype
        np.testing.assert_array_equal(np.asarray(ours), expected)

    check(elementwise.add(x, other), x + other)
    check(elementwise.scale(x, 0.1), reference.scale(x, 0.1))
    check(elementwise.add_channel(x, bias), reference.add_channel(x, bias))
    check(elementwise.concat([x, other[:, :2]]), reference.concat([x, other[:, :2]]))
    for ours, expected in zip(elementwise.split(x, [1, shape[1] - 1]), np.split(x, [1], axis=1), strict=True):
        check(ours, expected)
    flat = elementwise.flatten(x)
    check(flat, reference.flatten(x))
    check(elementwise.unflatten(flat, shape), x)
    for array in (x, reference.flatten(x)):
        state, twin = np.array([[7, 2**32 - 1]] * 2)
        for _ in range(2):
            (ours, key), (expected, _) = (
                ops.dropout_forward(array, 0.3, numbers)
                for ops, numbers in ((elementwise, state), (reference, twin))
            )
            check(ours, expected)
            check(elementwise.dropout_backward(array, 0.3, key), expected)
        assert state.tolist() == twin.tolist() == [7, 2**32 + 1]
    sums, expected = np.ones((2, shape[1]), dtype)
    elementwise.channel_sum(x, sums)
    reference.channel_sum(x, expected)
    np.testing.assert_allclose(sums, expected, rtol=_tolerance(dtype), atol=_tolerance(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_end_of_a_residual_block_goes_back_in_one_pass_to_the_bits_of_three(dtype, parts):
    rng = np.random.default_rng(0)
    x, y, *gradients = (rng.standard_normal((19, 5, 6, 7)).astype(dtype) for _ in range(2 + parts))
    y, gradients = np.maximum(y, 0), [blocked.as_blocked(g) for g in gradients]
    mean, rstd, weight = (rng.uniform(0.5, 1.5, 5).astype(dtype) for _ in range(3))
    dy = elementwise.add(*gradients) if parts == 2 else gradients[0]
    g = activation.relu_backward(dy, blocked.as_blocked(y))
    wanted, found = ([np.zeros(5, dtype) for _ in range(2)] for _ in range(2))
    dx = norm.batch_norm_backward(g, blocked.as_blocked(x), mean, rstd, weight, *wanted, True)
    same, planes = residual.residual_backward(gradients, blocked.as_blocked(y), blocked.as_blocked(x), mean)
    other = norm.batch_norm_backward(
        same, blocked.as_blocked(x), mean, rstd, weight, *found, True, planes=planes
    )
    np.testing.assert_array_equal(np.asarray(same), np.asarray(g))
    np.testing.assert_array_equal(np.asarray(other), np.asarray(dx))
    np.testing.assert_array_equal(found, wanted)
    alone, nothing = residual.residual_backward(gradients, blocked.as_blocked(y))
    assert nothing is None
    np.testing.assert_array_equal(np.asarray(alone), np.asarray(g))
