"""Winograd's form against the direct one, and when it is used."""

import numpy as np
import pytest

from cnn import backend
from cnn.fast.blocked import as_blocked, empty
from cnn.fast.conv import blocking, winograd_ranges
from cnn.fast.conv import direct as conv_direct
from cnn.fast.conv import weight as conv_weight
from cnn.fast.conv import winograd as conv_winograd
from cnn.fast.conv import winograd_weight as conv_winograd_weight
from cnn.fast.conv.geometry import Window
from cnn.fast.kernels import activation, conv, norm, pool
from cnn.fast.machine import simd
from cnn.fast.machine.owner import owner

# images, channels in, channels out, h, w, padding, taps
GEOMETRIES = {
    "one tile": (1, 16, 16, 4, 4, 1, 3),
    "even": (16, 32, 48, 8, 8, 1, 3),
    "odd everything": (5, 17, 35, 9, 7, 1, 3),
    "no padding": (20, 24, 130, 7, 7, 0, 3),
    "full padding": (16, 70, 20, 5, 13, 2, 3),
    "many tiles": (33, 64, 66, 16, 16, 1, 3),
    "sums of a pair at a time": (17, 150, 260, 9, 5, 1, 3),
    "large sums of few tiles": (16, 270, 260, 4, 4, 1, 3),
    "5x5, one tile": (1, 16, 16, 6, 6, 0, 5),
    "5x5, LeNet": (64, 6, 16, 14, 14, 0, 5),
    "5x5, odd everything": (5, 17, 35, 9, 7, 2, 5),
    "5x5, full padding": (16, 70, 20, 5, 13, 4, 5),
    "5x5, many tiles": (33, 64, 66, 16, 16, 2, 5),
}


def both_forms(geometry):
    n, c, k, h, w, padding, taps = geometry
    rng = np.random.default_rng(0)
    x = as_blocked(rng.standard_normal((n, c, h, w), dtype=np.float32))
    weight = rng.standard_normal((k, c, taps, taps), dtype=np.float32)
    bias = rng.standard_normal(k, dtype=np.float32)
    border = ((padding, padding), (padding, padding))
    y_shape = n, k, h + 2 * padding - taps + 1, w + 2 * padding - taps + 1
    dy = as_blocked(rng.standard_normal(y_shape, dtype=np.float32))
    fast = empty(y_shape, np.float32), empty(x.shape, np.float32), np.zeros_like(weight)
    conv_winograd.forward(x, weight, bias, fast[0], border)
    conv_winograd.backward_input(dy, weight, fast[1], border)
    conv_winograd_weight.backward_weight(dy, x, fast[2], border)
    slow = empty(y_shape, np.float32), empty(x.shape, np.float32), np.zeros_like(weight)
    window = Window((1, 1), border, (1, 1), 1)
    conv_direct.forward(x, weight, bias, slow[0], window)
    conv_direct.backward_input(dy, weight, slow[1], window)
    conv_weight.backward_weight(dy, x, slow[2], window)
    return zip(fast, slow, strict=True)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_winograd_agrees_with_the_direct_form(name):
    for fast, slow in both_forms(GEOMETRIES[name]):
        fast, slow = np.asarray(fast), np.asarray(slow)
        assert np.abs(fast - slow).max() <= 5e-6 * np.abs(slow).max()


@pytest.mark.parametrize("name", ["odd everything", "many tiles", "large sums of few tiles"])
def test_weight_gradient_reads_nothing_that_earlier_launches_left(name):
    n, c, k, h, w, padding, taps = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    x = as_blocked(rng.standard_normal((n, c, h, w), dtype=np.float32))
    size = h + 2 * padding - taps + 1, w + 2 * padding - taps + 1
    dy = as_blocked(rng.standard_normal((n, k, *size), dtype=np.float32))
    found = []
    for byte in (0, 255):  # as float32 0 and NaN
        dweight = np.zeros((k, c, taps, taps), np.float32)
        if found:
            for area in owner().areas.values():
                area[...] = byte
        conv_winograd_weight.backward_weight(dy, x, dweight, ((padding, padding), (padding, padding)))
        found.append(dweight)
    np.testing.assert_array_equal(*found)


def test_pairs_share_a_task_unless_their_sums_are_large_or_tasks_few():
    def splits(name):
        n, c, k, h, w, padding, taps = GEOMETRIES[name]
        y_shape = n, k, h + 2 * padding - 2, w + 2 * padding - 2
        return conv_winograd_weight.weight_plan((n, c, h, w), y_shape, padding, padding, taps).splits

    assert splits("many tiles") == 1
    assert splits("one tile") == 3
    assert splits("sums of a pair at a time") == 3


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name.startswith("5x5")])
def test_the_largest_of_a_tile_equals_pooling_afterwards(name):
    n, c, k, h, w, padding, taps = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, h, w), dtype=np.float32)
    x[0, 0, 2, 3] = np.nan
    x, weight = as_blocked(x), rng.standard_normal((k, c, taps, taps), dtype=np.float32)
    bias, border = rng.standard_normal(k, dtype=np.float32), ((padding, padding), (padding, padding))
    oh, ow = h + 2 * padding - taps + 1, w + 2 * padding - taps + 1
    sums = empty((n, k, oh, ow), np.float32)
    y, argmax = empty((n, k, oh // 2, ow // 2), np.float32), empty((n, k, oh // 2, ow // 2), np.uint8)
    conv_winograd.forward(x, weight, bias, sums, border)
    conv_winograd.forward_pooled(x, weight, bias, y, argmax, (oh, ow), border)
    expected, winners = pool.max_pool2d_forward(sums, (2, 2), (2, 2), ((0, 0), (0, 0)), relu=True)
    assert np.isnan(np.asarray(y)).any()
    np.testing.assert_array_equal(np.asarray(y), np.asarray(expected))
    np.testing.assert_array_equal(argmax.buffer, winners.buffer)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_an_input_normalised_while_it_is_read_gives_the_bits_of_one_that_was_stored(name):
    n, c, k, h, w, padding, taps = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    x, border = rng.standard_normal((n, c, h, w), dtype=np.float32), ((padding, padding), (padding, padding))
    x[0, 0, 2, 3] = np.nan
    x, weight = as_blocked(x), rng.standard_normal((k, c, taps, taps), dtype=np.float32)
    numbers = [rng.standard_normal(c, dtype=np.float32) for _ in range(4)]
    numbers[2][-1] = 0  # then the padding must not become infinity * 0
    y_shape = n, k, h + 2 * padding - taps + 1, w + 2 * padding - taps + 1
    dy = as_blocked(rng.standard_normal(y_shape, dtype=np.float32))
    results = []
    for read, normalisation in (
        (norm.batch_norm_forward(x, *numbers, activation.RELU), ()),
        (x, numbers),
    ):
        y, dweight = empty(y_shape, np.float32), np.zeros_like(weight)
        conv_winograd.forward(read, weight, None, y, border, normalisation=normalisation)
        conv_winograd_weight.backward_weight(dy, read, dweight, border, normalisation=normalisation)
        results.append((np.asarray(y), dweight))
    assert np.isnan(results[0][0]).any()
    assert np.isnan(results[0][1][:, 0]).any()
    assert np.isfinite(results[0][1][:, 1:]).all()
    for stored, read in zip(*results, strict=True):
        np.testing.assert_array_equal(read, stored)


@pytest.mark.parametrize("outputs", [4, 2])
@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("size", [(1, 2), (3, 3), (5, 7), (14, 31), (16, 9)])
def test_tiles_cover_every_pixel_once_with_the_fewest_points(size, unit, outputs):
    images, group = 3, 4 if unit == 1 else 2 * unit
    groups, tiles = winograd_ranges.tile_tables(images, size, group, unit, outputs)
    hits, points = np.zeros((images, *size), int), 0
    broken = [tuple(row[2:4]) for row in groups if row[1] % unit]
    assert len(broken) == len(set(broken))  # one of each kind
    for first, count, down, across, start, per_image in groups:
        assert 0 < count <= group
        for t in range(first, first + count):
            top, left, rows, columns = tiles[start + t % per_image]
            assert rows <= down - 6 + outputs
            assert columns <= across - 6 + outputs
            hits[t // per_image, top : top + rows, left : left + columns] += 1
            points += down * across
    assert (hits == 1).all()
    tiles_of = [-(-s // outputs) for s in size]
    most = [max(s + (6 - outputs) * t, 5 * t) for s, t in zip(size, tiles_of, strict=True)]
    assert points <= images * np.prod(most)


def test_tiles_take_the_register_block_with_the_fewest_padded_rows():
    (rows, _), *_ = simd.blocks(4)[0]
    for count in (6, 16, 20, 32, 48, 64, 96):
        mr, nr = blocking.tile_block(count)
        assert 1 <= mr * nr * simd.LANES // simd.width(4) <= simd.vector_registers()[1] * 3 // 4
        assert -count % mr <= -count % min(count, rows)


def suits(
    dtype=np.float32,
    weight_shape=(32, 32, 3, 3),
    size=(16, 16),
    stride=(1, 1),
    dilation=(1, 1),
    groups=1,
    forward=False,
):
    return conv.suits_winograd(np.dtype(dtype), weight_shape, size, stride, dilation, groups, forward)


def test_winograd_is_for_large_float32_convolutions_with_small_square_windows():
    assert suits()
    assert suits(weight_shape=(32, 32, 5, 5))
    assert suits(weight_shape=(16, 6, 5, 5), size=(10, 10), forward=True)
    assert not suits(weight_shape=(16, 6, 5, 5), size=(10, 10))
    assert not suits(weight_shape=(16, 1, 5, 5), forward=True)
    assert not suits(weight_shape=(16, 6, 3, 3), forward=True)
    assert not suits(weight_shape=(32, 32, 7, 7))
    assert not suits(weight_shape=(32, 32, 3, 5))
    assert not suits(weight_shape=(32, 32, 5, 5), size=(1, 1))
    assert not suits(dtype=np.float64)
    assert not suits(weight_shape=(32, 3, 3, 3))
    assert not suits(size=(2, 2))
    assert not suits(stride=(2, 2))
    assert not suits(dilation=(2, 2))
    assert not suits(groups=2)


def test_winograd_can_be_switched_off():
    assert backend.get_winograd()
    backend.set_winograd(False)
    try:
        assert not suits()
    finally:
        backend.set_winograd(True)


def test_winograd_gives_the_same_bits_on_one_thread_and_on_all():
    import numba

    threads = numba.get_num_threads()
    results = []
    for count in (1, threads):
        numba.set_num_threads(count)
        results.append([np.asarray(fast) for fast, _ in both_forms(GEOMETRIES["many tiles"])])
    numba.set_num_threads(threads)
    for one, all_ in zip(*results, strict=True):
        np.testing.assert_array_equal(one, all_)
