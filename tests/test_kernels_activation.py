"""Vector forms of exp, tanh, erf and log1p keep their stated error; kernels keep the promises about lanes."""

import math

import numpy as np
import pytest

from cnn import reference
from cnn.fast import blocked, kernels
from cnn.fast.machine import special
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import launch, table, task
from cnn.fast.machine.tables import integers, pointer


def _apply(function):
    """``function`` of every number of a float32 array whose size is a multiple of 16."""

    @task
    def loop(index, thread, params):
        a = integers(params)
        x, y = pointer(a[0], 4), pointer(a[1], 4)
        v.store(y, index * 16, function(v.load(x, index * 16)))

    def run(x):
        y = np.empty_like(x)
        launch(loop, x.size // 16, table([x.ctypes.data, y.ctypes.data]))
        return y

    return run


def _numbers(low, high):
    """A dense sweep and, around zero, powers of two down to the smallest normal number."""
    tiny = 2.0 ** np.arange(-126, 0, dtype=np.float32)
    sweep = np.linspace(low, high, 1 << 16, dtype=np.float32)
    return np.concatenate([sweep, tiny, -tiny, np.zeros(4, np.float32)])


def test_exp_is_within_its_stated_error():
    x = _numbers(-87.3, 88.7)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(_apply(special.exp)(x) / exact - 1).max() < 2e-7


def test_exp_vanishes_below_and_overflows_above():
    x = np.array([-np.inf, -1e4, -87.4, 88.8, 1e4, np.inf, np.nan, 0.0] * 2, np.float32)
    y = _apply(special.exp)(x)[:8]
    np.testing.assert_array_equal(y, [0, 0, 0, np.inf, np.inf, np.inf, np.nan, 1])


def test_tanh_is_within_its_stated_error():
    x = _numbers(-20, 20)
    exact = np.tanh(x.astype(np.float64))
    y = _apply(special.tanh)(x)
    nonzero = exact != 0
    assert np.abs(y[nonzero] / exact[nonzero] - 1).max() < 4e-7
    assert (y[~nonzero] == 0).all()


def test_erf_is_within_its_stated_error():
    x = _numbers(-10, 10)
    exact = np.array([math.erf(a) for a in x])
    assert np.abs(_apply(special.erf)(x) - exact).max() < 3e-7


def test_log1p_is_within_its_stated_error():
    x = np.abs(_numbers(0, 1))
    exact = np.log1p(x.astype(np.float64))
    y = _apply(special.log1p)(x)
    assert (y[x == 0] == 0).all()
    assert np.abs(y[x != 0] / exact[x != 0] - 1).max() < 3e-7


FORWARD = {
    "relu": (), "leaky_relu": (0.1,), "sigmoid": (), "tanh": (), "silu": (),
    "gelu": (False,), "gelu tanh": (True,), "softmax": (),
    "elu": (0.7,), "softplus": (1.5, 3.0), "hardsigmoid": (), "hardswish": (),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORWARD)
def test_activation_equals_the_reference_and_keeps_tail_lanes_clean(name, dtype):
    rng = np.random.default_rng(0)
    options, kind = FORWARD[name], name.split()[0]
    for shape in ((19, 3, 5, 7), (33, 11)):
        x = (rng.standard_normal(shape) * 4).astype(dtype)
        dy = rng.standard_normal(shape).astype(dtype)
        y = getattr(kernels, f"{kind}_forward")(x, *options)
        expected = getattr(reference, f"{kind}_forward")(x, *options)
        saved = expected if kind in ("sigmoid", "tanh", "softmax") else x
        dx = getattr(kernels, f"{kind}_backward")(dy, saved, *options)
        tolerance = 2e-6 if dtype == np.float32 else 1e-13
        np.testing.assert_allclose(np.asarray(y), expected, rtol=tolerance, atol=tolerance)
        expected = getattr(reference, f"{kind}_backward")(dy, saved, *options)
        np.testing.assert_allclose(np.asarray(dx), expected, rtol=2 * tolerance, atol=2 * tolerance)
        assert np.isfinite(y.buffer).all()
        assert not dx.buffer[-1, ..., (shape[0] - 1) % 16 + 1 :].any()


@pytest.mark.parametrize("name", FORWARD)
def test_nan_stays_visible_and_alone(name):
    x = np.random.default_rng(0).standard_normal((18, 2, 3, 3)).astype(np.float32)
    x[17, 1, 2, 2] = np.nan
    y = np.asarray(getattr(kernels, f"{name.split()[0]}_forward")(x, *FORWARD[name]))
    assert np.isnan(y[17, 1, 2, 2])
    assert np.isfinite(y[:17]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_logits_of_a_thousand(dtype):
    x = np.array([[1000, 0, -1000], [-1000, -1000, -1000], [0, 0, 1000]], dtype)
    np.testing.assert_array_equal(np.asarray(kernels.softmax_forward(x)), reference.softmax_forward(x))


def test_a_plain_array_comes_back_blocked():
    assert isinstance(kernels.relu_forward(np.ones((2, 3), np.float32)), blocked.BlockedArray)


@pytest.mark.parametrize("images", [1, 16, 19])
def test_gradients_of_operations_on_planes_vanish_in_tail_lanes(images):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, images, 4, 6, 6))
    blocks = blocked.as_blocked(x)
    tail = np.s_[-1, ..., (images - 1) % 16 + 1 :]
    blocks.buffer[tail] = 1e3  # whatever is there, as long as it is finite
    weight = rng.standard_normal(4)
    _, mean, rstd = kernels.group_norm_forward(blocks, 2, None, None, 1e-5)
    even = ((0, 0), (0, 0))
    _, argmax = kernels.max_pool2d_forward(blocks, (3, 3), (2, 2), even, (1, 1), True)
    gradients = [
        kernels.prelu_backward(dy, blocks, weight, np.zeros(4)),
        kernels.group_norm_backward(dy, blocks, mean, rstd, 2, weight, np.zeros(4), np.zeros(4)),
        kernels.upsample_nearest_backward(dy, (2, 3)),
        kernels.pad2d_backward(dy, ((1, -1), (2, 0))),
        kernels.max_pool2d_backward(dy[:, :, :3, :3], argmax, x.shape, (3, 3), (2, 2), even),
        kernels.avg_pool2d_backward(dy[:, :, :3, :3], x.shape, (3, 3), (2, 2), even, True),
        kernels.dropout_backward(dy, 0.5, np.array([1, 2])),
    ]
    for dx in gradients:
        assert np.isfinite(dx.buffer).all()
        assert not dx.buffer[tail].any()
