"""MaxPool2d, AvgPool2d and the global pools against PyTorch."""

import numpy as np
import pytest
from helpers import CHUNKS, geometries, naming, values
from helpers_torch import check, torch

from cnn.errors import ConfigError, ShapeError
from cnn.layers import AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d

F = torch.nn.functional


def draw_window(rng):
    """Return (arguments, input shape) of a pool that fits; a quarter takes its stride from kernel_size."""
    kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    arguments = {"kernel_size": kernel, "padding": padding}
    if rng.random() < 0.75:
        arguments["stride"] = tuple(int(s) for s in rng.integers(1, 5, 2))
    height, width = (
        int(max(1, k - 2 * p) + extra)
        for k, p, extra in zip(kernel, padding, rng.integers(0, 9, 2), strict=True)
    )
    return arguments, (int(rng.choice([1, 1, 2, 3, 16, 17])), int(rng.integers(1, 5)), height, width)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_max_pool2d_is_that_of_pytorch(chunk):
    for (arguments, shape), rng in geometries("max", draw_window, chunk):
        with naming("MaxPool2d", arguments, "input", shape):
            check(
                MaxPool2d(**arguments), lambda x, a=arguments: F.max_pool2d(x, **a), values(shape, rng), rng
            )


@pytest.mark.parametrize("chunk", CHUNKS)
def test_avg_pool2d_is_that_of_pytorch(chunk):
    for (arguments, shape), rng in geometries("avg", draw_window, chunk):
        arguments = arguments | {"count_include_pad": bool(rng.random() < 0.5)}
        with naming("AvgPool2d", arguments, "input", shape):
            check(
                AvgPool2d(**arguments), lambda x, a=arguments: F.avg_pool2d(x, **a), values(shape, rng), rng
            )


def draw_planes(rng):
    shape = (int(rng.choice([1, 1, 2, 17])), *(int(v) for v in rng.integers(1, 12, 3)))
    return bool(rng.random() < 0.5), shape


@pytest.mark.parametrize("chunk", CHUNKS)
def test_global_pools_are_those_of_pytorch(chunk):
    for (largest, shape), rng in geometries("global", draw_planes, chunk):
        layer = GlobalMaxPool2d() if largest else GlobalAvgPool2d()
        pool = F.adaptive_max_pool2d if largest else F.adaptive_avg_pool2d
        with naming(type(layer).__name__, "input", shape):
            check(layer, lambda x, pool=pool: pool(x, 1).flatten(1), values(shape, rng), rng)


@pytest.mark.parametrize("chunk", range(4))
def test_pools_in_float32(chunk):
    for (arguments, shape), rng in geometries("pool32", draw_window, chunk):
        with naming("pools", arguments, "input", shape):
            x = values(shape, rng)
            check(MaxPool2d(**arguments), lambda x, a=arguments: F.max_pool2d(x, **a), x, rng, np.float32)
            check(AvgPool2d(**arguments), lambda x, a=arguments: F.avg_pool2d(x, **a), x, rng, np.float32)
            check(GlobalAvgPool2d(), lambda x: x.mean(dim=(2, 3)), x, rng, np.float32)
            check(
                GlobalMaxPool2d(),
                lambda x: x.amax(dim=(2, 3)),
                rng.permuted(x + rng.random(shape)),
                rng,
                np.float32,
            )


@pytest.mark.parametrize(("pool", "oracle"), [(MaxPool2d, F.max_pool2d), (AvgPool2d, F.avg_pool2d)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(33, 6, 28, 28), (16, 16, 10, 10), (2, 24, 31, 31)])
def test_two_by_two_pools_at_the_sizes_of_real_networks(pool, oracle, shape, dtype, rng):
    check(pool(2), lambda x: oracle(x, 2), rng.standard_normal(shape), rng, dtype)


def test_global_average_of_a_large_plane_in_float32(rng):
    check(GlobalAvgPool2d(), lambda x: x.mean(dim=(2, 3)), 3 + rng.random((2, 3, 224, 224)), rng, np.float32)


def test_padding_never_beats_a_negative_value(backend):
    pool = MaxPool2d(3, stride=1, padding=1)
    pool.build((1, 2, 2))
    x = np.array([[[[-5.0, -3.0], [-9.0, -7.0]]]])
    np.testing.assert_array_equal(np.asarray(pool.forward(x)), np.full((1, 1, 2, 2), -3.0))
    dx = np.asarray(pool.backward(np.ones((1, 1, 2, 2))))
    np.testing.assert_array_equal(dx, [[[[0.0, 4.0], [0.0, 0.0]]]])


def test_the_first_of_equal_values_in_row_major_order_wins(backend):
    pool = MaxPool2d((2, 3))
    pool.build((1, 2, 3))
    x = np.array([[[[0.0, 7.0, 7.0], [7.0, 1.0, 7.0]]]])
    pool.forward(x)
    dx = np.asarray(pool.backward(np.full((1, 1, 1, 1), 2.5)))
    np.testing.assert_array_equal(dx, [[[[0.0, 2.5, 0.0], [0.0, 0.0, 0.0]]]])


def test_minus_infinity_ties_with_padding_and_still_wins(backend):
    """The gradient goes to the first pixel inside of the image, as in PyTorch, and is not lost."""
    pool = MaxPool2d(2, padding=1)
    pool.build((1, 2, 2))
    x = np.full((1, 1, 2, 2), -np.inf)
    assert (np.asarray(pool.forward(x)) == -np.inf).all()
    dx = np.asarray(pool.backward(np.array([[[[1.0, 2.0], [3.0, 4.0]]]])))
    np.testing.assert_array_equal(dx, [[[[1.0, 2.0], [3.0, 4.0]]]])


@pytest.mark.parametrize(
    "layer", [MaxPool2d(3, stride=1, padding=1), MaxPool2d(2), GlobalMaxPool2d()], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_stays_visible_and_receives_the_gradient(layer, dtype, backend, rng):
    x = rng.standard_normal((17, 3, 6, 6)).astype(dtype)
    x[16, 1, 3, 2] = np.nan
    layer.build(x.shape[1:], dtype=dtype)
    y = np.array(layer.forward(x))
    windows = np.isnan(y)
    assert windows[16, 1].any()
    assert windows.sum() == windows[16, 1].sum()
    dy = rng.random(y.shape).astype(dtype)
    dx = np.asarray(layer.backward(dy))
    np.testing.assert_allclose(dx[16, 1, 3, 2], dy[windows].sum(), rtol=1e-6)
    np.testing.assert_allclose(dx.sum(), dy.sum(), rtol=1e-5)


def test_an_average_shows_a_nan_too(backend):
    x = np.zeros((2, 1, 4, 4), np.float32)
    x[1, 0, 0, 0] = np.nan
    for layer in (AvgPool2d(2), GlobalAvgPool2d()):
        layer.build((1, 4, 4))
        y = np.asarray(layer.forward(x)).reshape(2, -1)
        assert np.isnan(y[1, 0])
        assert np.isfinite(y[0]).all()


def test_windows_that_overlap_add_their_gradients(backend):
    pool = MaxPool2d(2, stride=1)
    pool.build((1, 3, 3))
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1.0
    pool.forward(x)
    dx = np.asarray(pool.backward(np.array([[[[1.0, 2.0], [4.0, 8.0]]]])))
    np.testing.assert_array_equal(dx[0, 0], [[0, 0, 0], [0, 15, 0], [0, 0, 0]])


@pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d])
def test_a_wrong_window_is_refused(pool):
    kind = pool.__name__
    with pytest.raises(ConfigError, match=rf"{kind}: padding 2 exceeds half of kernel_size \(3, 3\)"):
        pool(3, padding=2)
    with pytest.raises(ConfigError, match=f"{kind} kernel_size: expected an integer >= 1"):
        pool(0)
    with pytest.raises(ConfigError, match=f"{kind} stride: expected an integer >= 1"):
        pool(2, stride=0)
    with pytest.raises(
        ShapeError, match=rf"{kind}: the window of 5x5 .* 4x9 pixels, input shape \(2, 4, 9\)"
    ):
        pool(5).build((2, 4, 9))
    with pytest.raises(ShapeError, match=rf"{kind}: expected an input of shape \(C, H, W\), found \(8,\)"):
        pool(2).build((8,))


def test_stride_is_kernel_size_unless_given():
    assert MaxPool2d((2, 3)).stride == (2, 3)
    assert AvgPool2d(3, stride=1).stride == (1, 1)
