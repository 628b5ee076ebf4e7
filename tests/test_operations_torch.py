"""Operations against PyTorch, values and gradients, under both backends."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import error_of

from cnn import reference
from cnn.errors import ShapeError
from cnn.fast import kernels
from cnn.geometry import output_shape

DTYPES = [np.float64, np.float32]
ALLOWED = {np.float64: 1e-11, np.float32: 5e-6}


@pytest.fixture(params=[reference, kernels], ids=["reference", "numba"])
def ops(request):
    return request.param


def tensor(array, grad=True):
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def same(found, expected, allowed=None):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    found = np.asarray(found)
    assert found.dtype == expected.dtype
    allowed = allowed or ALLOWED[expected.dtype.type]
    assert error_of(found, expected.astype(np.float64), floor=1.0) <= allowed


ACTIVATIONS = {
    "elu": [((1.0,), lambda x: F.elu(x)), ((0.3,), lambda x: F.elu(x, 0.3))],
    "softplus": [
        ((1.0, 20.0), lambda x: F.softplus(x)),
        ((2.5, 3.0), lambda x: F.softplus(x, beta=2.5, threshold=3.0)),
    ],
    "hardsigmoid": [((), F.hardsigmoid)],
    "hardswish": [((), F.hardswish)],
    "relu6": [((), F.relu6)],
    "hardtanh": [((-0.5, 0.8), lambda x: F.hardtanh(x, -0.5, 0.8))],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_pytorch(ops, name, dtype, rng):
    # 20.5 and -120: softplus is x itself there, and exp(x) underflows
    numbers = [*np.linspace(-30, 30, 95), -3.0, 3.0, 0.0, -0.0, 20.5, -120.0, 1e-7, -1e-7, 90.0]
    x = rng.permutation(np.array(numbers, dtype)).reshape(4, 2, 1, 13)
    dy = rng.standard_normal(x.shape).astype(dtype)
    for arguments, function in ACTIVATIONS[name]:
        leaf = tensor(x)
        y = function(leaf)
        y.backward(tensor(dy, False))
        same(getattr(ops, f"{name}_forward")(x, *arguments), y)
        # PyTorch's 1/6 of hardsigmoid has the digits of a float32
        allowed = 1e-8 if (name, dtype) == ("hardsigmoid", np.float64) else None
        same(getattr(ops, f"{name}_backward")(dy, x, *arguments), leaf.grad, allowed)


def test_elu_and_softplus_lose_no_digits_near_zero_and_far_below(rng):
    x = np.array([[1e-6, -1e-6, -3e-4, 2e-3]], np.float32)
    np.testing.assert_allclose(np.asarray(kernels.elu_forward(x, 1.0)), np.where(x > 0, x, np.expm1(x)), 1e-6)
    x = np.array([[-80.0, -30.0, -10.0, -1.0, 0.5]], np.float32)
    expected = np.log1p(np.exp(x.astype(np.float64)))
    np.testing.assert_allclose(np.asarray(kernels.softplus_forward(x, 1.0, 20.0)), expected, 1e-6)


def test_a_nan_stays_a_nan(ops):
    x = np.full((2, 3), np.nan, np.float32)
    for name, cases in ACTIVATIONS.items():
        for arguments, _ in cases:
            assert np.isnan(np.asarray(getattr(ops, f"{name}_forward")(x, *arguments))).all(), name
    assert np.isnan(np.asarray(ops.prelu_forward(x, np.ones(1, np.float32)))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3])
def test_prelu_is_that_of_pytorch(ops, dtype, count, rng):
    x, dy = (rng.standard_normal((18, 3, 4, 5)).astype(dtype) for _ in range(2))
    weight, before = rng.standard_normal(count).astype(dtype), rng.standard_normal(count).astype(dtype)
    leaf, slope = tensor(x), tensor(weight)
    y = F.prelu(leaf, slope)
    y.backward(tensor(dy, False))
    dweight = before.copy()
    same(ops.prelu_forward(x, weight), y)
    same(ops.prelu_backward(dy, x, weight, dweight), leaf.grad)
    same(dweight / 10, (before + slope.grad.numpy()) / 10)  # sums of hundreds of numbers


NORMS = {
    "one group": (1, (6,), lambda x, w, b: F.group_norm(x, 1, w, b, 1e-3)),
    "three groups": (3, (6,), lambda x, w, b: F.group_norm(x, 3, w, b, 1e-3)),
    "instance": (6, (6,), lambda x, w, b: F.group_norm(x, 6, w, b, 1e-3)),
    "layer": (1, (6, 4, 5), lambda x, w, b: F.layer_norm(x, (6, 4, 5), w, b, 1e-3)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORMS)
def test_group_and_layer_normalisation_are_those_of_pytorch(ops, name, dtype, rng):
    groups, shape, function = NORMS[name]
    x = (3 + 2 * rng.standard_normal((17, 6, 4, 5))).astype(dtype)
    dy = rng.standard_normal(x.shape).astype(dtype)
    weight, bias = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    leaf, w, b = tensor(x), tensor(weight), tensor(bias)
    y = function(leaf, w, b)
    y.backward(tensor(dy, False))
    found, mean, rstd = ops.group_norm_forward(x, groups, weight, bias, 1e-3)
    dweight, dbias = np.zeros_like(weight), np.zeros_like(bias)
    same(found, y)
    same(ops.group_norm_backward(dy, x, mean, rstd, groups, weight, dweight, dbias), leaf.grad)
    same(dweight / 10, w.grad / 10)
    same(dbias / 10, b.grad / 10)


def test_layer_normalisation_of_features_is_that_of_pytorch(ops, rng):
    x, dy = rng.standard_normal((19, 7)) + 5, rng.standard_normal((19, 7))
    weight, bias = rng.standard_normal(7), rng.standard_normal(7)
    leaf, w, b = tensor(x), tensor(weight), tensor(bias)
    y = F.layer_norm(leaf, (7,), w, b)
    y.backward(tensor(dy, False))
    found, mean, rstd = ops.group_norm_forward(x, 1, weight, bias, 1e-5)
    dweight, dbias = np.zeros(7), np.zeros(7)
    same(found, y)
    same(ops.group_norm_backward(dy, x, mean, rstd, 1, weight, dweight, dbias), leaf.grad)
    same(dweight, w.grad)
    same(dbias, b.grad)


def test_statistics_of_a_group_do_not_cancel_far_from_zero(rng):
    x = (1e4 + rng.standard_normal((16, 4, 30, 30))).astype(np.float32)
    y, _, _ = kernels.group_norm_forward(x, 2, None, None, 1e-5)
    expected = F.group_norm(torch.from_numpy(x.astype(np.float64)), 2).numpy()
    assert error_of(np.asarray(y), expected) < 5e-4  # the mean itself is rounded to float32


@pytest.mark.parametrize("scale", [(1, 1), (2, 2), (3, 1), (2, 5)])
def test_upsampling_is_that_of_pytorch(ops, scale, rng):
    x = rng.standard_normal((17, 3, 4, 5))
    leaf = tensor(x)
    y = F.interpolate(leaf, scale_factor=scale, mode="nearest")
    dy = rng.standard_normal(y.shape)
    y.backward(tensor(dy, False))
    same(ops.upsample_nearest_forward(x, scale), y)
    same(ops.upsample_nearest_backward(dy, scale), leaf.grad)


@pytest.mark.parametrize(
    "padding", [((1, 2), (0, 3)), ((0, 0), (0, 0)), ((-1, 2), (3, -2)), ((-2, -1), (0, 0))]
)
def test_padding_and_cropping_are_those_of_pytorch(ops, padding, rng):
    x = rng.standard_normal((17, 3, 6, 5))
    leaf = tensor(x)
    y = F.pad(leaf, (*padding[1], *padding[0]))
    dy = rng.standard_normal(y.shape)
    y.backward(tensor(dy, False))
    same(ops.pad2d_forward(x, padding), y)
    same(ops.pad2d_backward(dy, padding), leaf.grad)


def pool_geometries(rng, count=40):
    """Yield (shape, kernel_size, stride, padding, dilation) that PyTorch takes: padding <= half a window."""
    while count:
        kernel, stride, dilation = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(3))
        extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        plane = [
            int(max(1, e - 2 * p) + more)
            for e, p, more in zip(extent, padding, rng.integers(0, 8, 2), strict=True)
        ]
        yield (int(rng.integers(1, 19)), 2, *plane), kernel, stride, padding, dilation
        count -= 1


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pools_are_those_of_pytorch(ops, ceil_mode, rng):
    for shape, kernel, stride, padding, dilation in pool_geometries(rng):
        x = rng.standard_normal(shape)
        leaf = tensor(x)
        y = F.max_pool2d(leaf, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
        pads = tuple((p, p) for p in padding)
        assert output_shape(*shape[2:], kernel, stride, pads, dilation, ceil_mode) == y.shape[2:]
        found, argmax = ops.max_pool2d_forward(x, kernel, stride, pads, dilation, ceil_mode)
        y, found = y.detach().numpy(), np.asarray(found)
        assert (np.isinf(y) == np.isinf(found)).all()
        same(np.where(np.isinf(found), 0, found), np.where(np.isinf(y), 0, y))
        if np.isinf(y).any():
            continue  # PyTorch sends the gradient of a window without a pixel somewhere
        dy = rng.standard_normal(y.shape)
        F.max_pool2d(leaf, kernel, stride, padding, dilation, ceil_mode=ceil_mode).backward(tensor(dy, False))
        same(ops.max_pool2d_backward(dy, argmax, shape, kernel, stride, pads, dilation), leaf.grad)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_average_pools_are_those_of_pytorch(ops, ceil_mode, include, rng):
    for shape, kernel, stride, padding, _ in pool_geometries(rng):
        x = rng.standard_normal(shape)
        leaf = tensor(x)
        y = F.avg_pool2d(leaf, kernel, stride, padding, ceil_mode, include)
        dy = rng.standard_normal(y.shape)
        y.backward(tensor(dy, False))
        call = kernel, stride, tuple((p, p) for p in padding), include
        same(ops.avg_pool2d_forward(x, *call, ceil_mode), y)
        same(ops.avg_pool2d_backward(dy, shape, *call), leaf.grad)


def test_uneven_padding_of_a_max_pool_is_that_of_pytorch(ops, rng):
    x = rng.standard_normal((3, 2, 6, 7))
    padded = F.pad(torch.from_numpy(x), (1, 0, 0, 2), value=-np.inf)
    same(ops.max_pool2d_forward(x, (3, 2), (2, 1), ((0, 2), (1, 0)))[0], F.max_pool2d(padded, (3, 2), (2, 1)))
    padded = F.pad(torch.from_numpy(x), (1, 0, 0, 2))
    call = (3, 2), (2, 1), ((0, 2), (1, 0)), True
    same(ops.avg_pool2d_forward(x, *call), F.avg_pool2d(padded, (3, 2), (2, 1)))


def test_a_window_without_pixels_gets_no_gradient(ops):
    call = (2, 2), (1, 1), ((1, 0), (0, 0)), (3, 1)
    y, argmax = ops.max_pool2d_forward(np.ones((1, 1, 3, 2)), *call)
    assert np.asarray(y).tolist() == [[[[1.0]]]]
    call = (2, 1), (1, 1), ((1, 2), (0, 0)), (3, 1)
    y, argmax = ops.max_pool2d_forward(np.ones((1, 1, 1, 1)), *call)
    assert np.asarray(y).tolist() == [[[[-np.inf]]]]
    dx = ops.max_pool2d_backward(np.ones((1, 1, 1, 1)), argmax, (1, 1, 1, 1), *call)
    assert np.asarray(dx).item() == 0


def test_with_ceil_mode_a_window_that_starts_beyond_the_image_is_left_out():
    assert output_shape(3, 3, (1, 1), (2, 2), ((0, 1), (0, 1)), ceil_mode=True) == (2, 2)
    assert output_shape(4, 5, (2, 2), (3, 3), ((0, 0), (0, 0)), ceil_mode=True) == (2, 2)
    with pytest.raises(ShapeError):
        output_shape(1, 1, (3, 3), (1, 1), ((0, 0), (0, 0)), ceil_mode=True)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_are_those_of_pytorch(ops, momentum, rng):
    x = rng.standard_normal((20, 3, 2, 2)) + 4
    twin = torch.nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64)
    running_mean, running_var = np.zeros(3), np.ones(3)
    twin(torch.from_numpy(x))
    ops.batch_norm_train(x, running_mean, running_var, momentum, 1e-5)
    same(running_mean, twin.running_mean)
    same(running_var, twin.running_var)


def test_momentum_one_leaves_exactly_the_statistics_of_the_batch(ops, rng):
    x = (1e-4 * rng.standard_normal((64, 3))).astype(np.float32)
    running_mean, running_var = np.full(3, 5, np.float32), np.ones(3, np.float32)
    ops.batch_norm_train(x, running_mean, running_var, 1.0, 1e-5)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(running_mean, wide.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(running_var, wide.var(axis=0, ddof=1), rtol=1e-6)
