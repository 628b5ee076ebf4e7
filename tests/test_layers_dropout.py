"""Dropout: how much it drops, that backward drops the same, and that every backend and thread agrees."""

import numpy as np
import pytest
from helpers import BACKENDS

from cnn.backend import get_threads, set_threads, use_backend
from cnn.errors import ConfigError
from cnn.layers import Dropout


def build(p, shape=(3, 8, 8), seed=0, dtype=np.float64):
    layer = Dropout(p)
    layer.build(shape, np.random.default_rng(seed), dtype)
    return layer


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_the_share_of_dropped_values_is_p_and_the_mean_is_kept(p, backend):
    layer = build(p, (100, 10, 10))
    y = np.asarray(layer.forward(np.ones((20, 100, 10, 10)), training=True))
    deviation = np.sqrt(p * (1 - p) / y.size)
    assert abs((y == 0).mean() - p) < 5 * deviation
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-12)


def test_no_image_and_no_channel_is_dropped_more_than_others(backend):
    layer = build(0.5, (40, 10, 10))
    y = np.asarray(layer.forward(np.ones((40, 40, 10, 10)), training=True)) == 0
    for axes in ((1, 2, 3), (0, 2, 3)):
        assert np.abs(y.mean(axis=axes) - 0.5).max() < 5 * np.sqrt(0.25 / 4000)


def test_neighbouring_images_get_unrelated_masks(backend):
    y = np.asarray(build(0.5, (1000,)).forward(np.ones((50, 1000)), training=True)) == 0
    agreement = (y[1:] == y[:-1]).mean()
    assert abs(agreement - 0.5) < 5 * np.sqrt(0.25 / 49_000)


def test_backward_drops_what_forward_dropped(backend, rng):
    layer = build(0.4)
    x = rng.standard_normal((17, 3, 8, 8))
    y = np.array(layer.forward(x, training=True))
    dy = rng.standard_normal(x.shape)
    expected = np.where(y == 0, 0, dy / 0.6)
    for _ in range(2):
        np.testing.assert_allclose(np.asarray(layer.backward(dy)), expected, rtol=1e-12)


def test_each_training_forward_draws_a_new_mask_and_evaluation_draws_none(backend):
    layer, x = build(0.5), np.ones((2, 3, 8, 8))
    first = np.array(layer.forward(x, training=True))
    layer.forward(x)
    second = np.array(layer.forward(x, training=True))
    assert (first != second).any()
    again = build(0.5)
    np.testing.assert_array_equal(np.asarray(again.forward(x, training=True)), first)
    np.testing.assert_array_equal(np.asarray(again.forward(x, training=True)), second)


def test_another_seed_gives_another_mask(backend):
    x = np.ones((2, 3, 8, 8))
    masks = [np.array(build(0.5, seed=seed).forward(x, training=True)) for seed in (0, 1)]
    assert abs((masks[0] == masks[1]).mean() - 0.5) < 0.2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 5), (17, 3, 7, 5), (33, 100), (16, 2, 40, 40)])
def test_backends_drop_the_same_values_to_the_bit(shape, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    found = []
    for backend in BACKENDS:
        with use_backend(backend):
            layer = build(0.3, shape[1:], dtype=dtype)
            layer.forward(x, training=True)
            found.append(np.array(layer.forward(x, training=True)))
    np.testing.assert_array_equal(*found)


def test_a_whole_batch_has_the_mask_of_its_images(backend):
    """The mask of an image depends on its place in the batch alone: a longer batch begins alike."""
    x = np.ones((20, 30))
    long = np.array(build(0.5, (30,)).forward(x, training=True))
    short = np.array(build(0.5, (30,)).forward(x[:7], training=True))
    np.testing.assert_array_equal(long[:7], short)


def test_the_state_carries_the_sequence_of_masks(backend):
    layer, x = build(0.5), np.ones((2, 3, 8, 8))
    layer.forward(x, training=True)
    saved = layer.buffers()["state"].copy()
    expected = np.array(layer.forward(x, training=True))
    resumed = build(0.5, seed=99)
    resumed.buffers()["state"][...] = saved
    np.testing.assert_array_equal(np.asarray(resumed.forward(x, training=True)), expected)


def test_evaluation_changes_nothing(backend, rng):
    layer, x, dy = build(0.5), rng.standard_normal((2, 3, 8, 8)), rng.standard_normal((2, 3, 8, 8))
    np.testing.assert_array_equal(np.asarray(layer.forward(x)), x)
    np.testing.assert_array_equal(np.asarray(layer.backward(dy)), dy)


def test_p_of_zero_keeps_all_and_p_of_one_drops_all(backend, rng):
    x, dy = rng.standard_normal((2, 3, 8, 8)), rng.standard_normal((2, 3, 8, 8))
    keep, drop = build(0.0), build(1.0)
    np.testing.assert_array_equal(np.asarray(keep.forward(x, training=True)), x)
    np.testing.assert_array_equal(np.asarray(keep.backward(dy)), dy)
    np.testing.assert_array_equal(np.asarray(drop.forward(x, training=True)), np.zeros_like(x))
    np.testing.assert_array_equal(np.asarray(drop.backward(dy)), np.zeros_like(x))


def test_one_and_two_threads_drop_the_same():
    if get_threads() < 2:
        pytest.skip("one core")
    x, masks, before = np.ones((40, 3, 40, 40)), [], get_threads()
    for threads in (1, 2):
        set_threads(threads)
        masks.append(np.array(build(0.5, (3, 40, 40)).forward(x, training=True)))
    set_threads(before)
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_outside_of_zero_to_one_is_refused(p):
    with pytest.raises(ConfigError, match="Dropout p: expected a probability from 0 to 1, found"):
        Dropout(p)
