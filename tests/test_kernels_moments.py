"""The moments of each channel that a convolution takes of its tiles, for the normalisation behind it."""

import numpy as np
import pytest

import cnn
from cnn import backend
from cnn.fast.blocked import as_blocked, as_stored, converted
from cnn.fast.conv import winograd, winograd_ranges
from cnn.fast.kernels import conv, norm, tile_sums
from cnn.fast.machine.bf16 import BFLOAT16
from cnn.fast.machine.owner import Arena, Lowering, lower_into, precision
from cnn.fast.step import Context, enter
from cnn.fast.steps import plan
from cnn.layers import BatchNorm2d, Conv2d, ReLU, Residual
from cnn.reference import bfloat16 as twin

# images, channels in, channels out, h, w, padding, taps
GEOMETRIES = {
    "one tile": (1, 16, 16, 4, 4, 1, 3),
    "whole tiles": (32, 16, 24, 12, 16, 1, 3),
    "narrow tiles": (5, 17, 35, 9, 7, 1, 3),
    "cut tiles": (19, 16, 18, 5, 6, 1, 3),
    "no padding, many channels": (20, 24, 130, 9, 9, 0, 3),
    "many tiles": (33, 16, 16, 28, 32, 1, 3),
    "five taps": (18, 16, 24, 8, 12, 2, 5),
    "five taps, narrow tiles": (5, 20, 18, 9, 7, 2, 5),
}


def _problem(n, c, k, h, w, padding, taps):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, h, w)).astype(np.float32)
    weight = (rng.standard_normal((k, c, taps, taps)) / np.sqrt(c * taps**2)).astype(np.float32)
    return x, weight, rng.standard_normal(k).astype(np.float32), ((padding, padding), (padding, padding))


def _convolve(x, weight, bias, padding, measured=True):
    return conv.conv2d_forward(x, weight, bias, (1, 1), padding, (1, 1), 1, measured=measured)


def _of_blocks(y):
    """Mean and sum of squares about it of each block of sixteen images and channel, in float64."""
    y = np.asarray(y).astype(np.float64)
    parts = [y[first : first + 16] for first in range(0, len(y), 16)]
    mean = np.array([part.mean(axis=(0, 2, 3)) for part in parts])
    squares = [((p - m[:, None, None]) ** 2).sum(axis=(0, 2, 3)) for p, m in zip(parts, mean, strict=True)]
    return np.stack([mean, np.array(squares)], axis=-1)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_moments_are_those_of_the_result_which_keeps_its_bits(name):
    x, weight, bias, padding = _problem(*GEOMETRIES[name])
    y, plain = _convolve(x, weight, bias, padding), _convolve(x, weight, bias, padding, measured=False)
    np.testing.assert_array_equal(np.asarray(y), np.asarray(plain))
    assert plain.moments is None
    np.testing.assert_allclose(y.moments.values, _of_blocks(y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["whole tiles", "narrow tiles", "five taps, narrow tiles"])
def test_a_large_mean_costs_no_digits_of_the_variance(name):
    x, weight, bias, padding = _problem(*GEOMETRIES[name])
    y = _convolve(x, weight, bias + 1000, padding)
    wanted = _of_blocks(y)
    assert wanted[..., 0].min() > 990
    np.testing.assert_allclose(y.moments.values, wanted, rtol=2e-5)
    running = np.zeros((2, len(weight)), np.float32)
    mean, rstd = norm.batch_norm_train(y, *running, 1.0, 1e-5)
    exact = np.asarray(y).astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=2e-7)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(exact.var(axis=(0, 2, 3)) + 1e-5), rtol=2e-5)


def test_one_pixel_far_from_all_others_stands_for_its_tile():
    """The pivot of a tile is its first pixel, here the worst that there is."""
    x = np.zeros((16, 16, 4, 4), np.float32)
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    x[0, :, 0, 0] = 1000
    weight = np.zeros((16, 16, 3, 3), np.float32)
    weight[range(16), range(16), 1, 1] = 1
    y = _convolve(x, weight, None, ((1, 1), (1, 1)))
    np.testing.assert_allclose(y.moments.values, _of_blocks(y), rtol=1e-4)


def test_lanes_past_the_batch_are_left_out():
    x, weight, bias, padding = _problem(*GEOMETRIES["cut tiles"])
    x = as_blocked(x)
    x.buffer[-1, ..., 3:] = np.nan
    y = _convolve(x, weight, bias, padding)
    np.testing.assert_allclose(y.moments.values, _of_blocks(y), rtol=1e-5, atol=1e-6)


def test_a_nan_of_one_image_stays_visible_in_its_channels():
    x, weight, bias, padding = _problem(*GEOMETRIES["narrow tiles"])
    x[2, 3, 8, 6] = np.nan
    assert np.isnan(_convolve(x, weight, bias, padding).moments.values).all()
    x, weight, bias, padding = _problem(*GEOMETRIES["whole tiles"])
    weight[5] = np.inf
    found = _convolve(x, weight, bias, padding).moments.values
    assert np.isnan(found[:, 5]).all()
    assert np.isfinite(np.delete(found, 5, axis=1)).all()


def test_a_block_has_the_same_bits_alone_and_at_any_number_of_threads():
    x, weight, bias, padding = _problem(*GEOMETRIES["many tiles"])
    threads, found = backend.get_threads(), []
    try:
        for count in {1, threads}:
            backend.set_threads(count)
            found.append(_convolve(x, weight, bias, padding).moments.values)
    finally:
        backend.set_threads(threads)
    for block, first in enumerate(range(0, len(x), 16)):
        alone = _convolve(x[first : first + 16], weight, bias, padding).moments.values[0]
        for values in found:
            np.testing.assert_array_equal(values[block], alone)


@pytest.mark.parametrize("name", ["whole tiles", "many tiles", "five taps"])
def test_in_bf16_they_are_those_of_the_sums_before_rounding(name):
    n, c, k, h, w, padding, taps = GEOMETRIES[name]
    x, weight, bias, border = _problem(n, c, k, h, w, padding, taps)
    x = twin.rounded(x)
    with precision("bf16"):
        y = _convolve(converted(as_blocked(x), BFLOAT16), weight, bias, border)
    assert as_stored(y).itemsize == 2
    outputs = winograd.outputs_of(taps)
    tiles = [[t[:2] for t in winograd_ranges.axis_tiles(size, outputs)] for size in y.shape[2:]]
    sums = twin.winograd_forward(x, weight, *tiles, padding, padding) + bias[:, None, None]
    np.testing.assert_allclose(y.moments.values, _of_blocks(sums), rtol=2e-4, atol=2e-4)
    assert np.abs(_of_blocks(y) - _of_blocks(sums)).max() > 1e-3  # rounded as it is stored, it has others


def test_other_forms_and_dtypes_leave_it_to_the_normalisation():
    x, weight, bias, padding = _problem(4, 8, 16, 9, 9, 1, 3)
    assert _convolve(x, weight, bias, padding).moments is None
    x, weight, bias, padding = (
        v.astype(np.float64) if isinstance(v, np.ndarray) else v for v in _problem(4, 16, 16, 9, 9, 1, 3)
    )
    assert _convolve(x, weight, bias, padding).moments is None


def _network():
    return [
        Conv2d(16, 3, padding=1), BatchNorm2d(), ReLU(),
        Residual([
            Conv2d(16, 3, padding=1, bias=False), BatchNorm2d(), ReLU(),
            Conv2d(16, 3, padding=1), BatchNorm2d(affine=False),
        ]),
        ReLU(),
    ]  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_computes_what_its_layers_do_one_by_one(dtype, frozen):
    rng, found = np.random.default_rng(3), []
    x, dy = (rng.standard_normal((19, c, 10, 9)).astype(dtype) for c in (3, 16))
    for name in ("numba", "reference"):
        with cnn.use_backend(name):
            network = cnn.Network(_network())
            network.build((3, 10, 9), rng=np.random.default_rng(1), dtype=dtype)
            for _, layer in network.walk():
                if isinstance(layer, BatchNorm2d):
                    layer.frozen = frozen
            y = np.asarray(network.forward(x + 3, training=True))
            dx = np.asarray(network.backward(dy))
            found.append([y, dx, network.grad.copy(), *(a.copy() for a in network.state().values())])
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, abs(theirs).max()))


def _launches(training, frozen=False):
    """How often a network's forward pass reads an array for its statistics alone, and adds up tiles."""
    network = cnn.Network(_network())
    network.build((3, 10, 9), rng=np.random.default_rng(1))
    for _, layer in network.walk():
        if isinstance(layer, BatchNorm2d):
            layer.frozen = frozen
    lowering = Lowering(Arena())
    with lower_into(lowering):
        x = enter((19, 3, 10, 9), np.float32)
        for step in plan(network.layers, Context(None)):
            x = step.forward(x, training)
    tasks = [task for task, *_ in lowering.entries]
    return tasks.count(norm._statistics_task(4)), tasks.count(tile_sums._blocks_task)


def test_only_what_no_tile_has_measured_is_read_again():
    assert _launches(training=True) == (1, 2)  # the first convolution has three channels
    assert _launches(training=True, frozen=True) == (0, 0)
    assert _launches(training=False) == (0, 0)
