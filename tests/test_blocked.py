import gc

import numpy as np
import pytest

from cnn import blocked
from cnn.blocked import BlockedArray, as_blocked, empty, flat, unflat, without_halo


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 4, 7), (16, 2, 3, 3), (33, 4, 5, 2), (3, 7), (40, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("halo", [0, 2])
def test_round_trip_gives_the_same_array(shape, dtype, halo):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    a = as_blocked(x, halo)
    assert a.shape == shape
    assert a.ndim == x.ndim
    assert a.dtype == dtype
    assert a.size == x.size
    np.testing.assert_array_equal(np.asarray(a), x)


@pytest.mark.parametrize("order", ["reversed", "fortran", "channels last", "every second"])
def test_any_memory_layout_is_read(order):
    x = np.random.default_rng(0).standard_normal((6, 4, 8, 10)).astype(np.float32)
    view = {
        "reversed": x[::-1, :, :, ::-1],
        "fortran": np.asfortranarray(x),
        "channels last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "every second": x[::2, :, ::2],
    }[order]
    np.testing.assert_array_equal(np.asarray(as_blocked(view, 1)), view)


def test_halo_and_tail_lanes_of_a_packed_array_are_zero_even_in_a_reused_buffer():
    x = np.ones((20, 3, 4, 4), np.float32)
    for _ in range(2):
        a = as_blocked(x, 2)
        assert a.buffer.sum() == x.sum()
        a.interior[...] = 5
        del a


def test_halo_is_at_least_what_was_asked_for():
    a = as_blocked(np.ones((2, 1, 3, 3)), 1)
    assert as_blocked(a, 1) is a
    assert as_blocked(a) is a
    b = as_blocked(a, 3)
    assert b.halo == 3
    np.testing.assert_array_equal(np.asarray(b), np.asarray(a))
    c = without_halo(b)
    assert c.halo == 0
    assert without_halo(c) is c
    np.testing.assert_array_equal(np.asarray(c), np.asarray(a))


def test_buffers_start_at_a_cache_line():
    for shape in [(1, 1, 1, 1), (17, 3, 5, 7), (2, 9)]:
        assert empty(shape, np.float32).buffer.ctypes.data % 64 == 0


def test_a_dead_array_gives_its_buffer_to_the_next_of_the_same_shape_and_halo():
    blocked.release_pool()
    a = empty((3, 2, 5, 5), np.float32, 1)
    address = a.buffer.ctypes.data
    del a
    gc.collect()
    assert blocked.pooled_bytes() == 2 * 7 * 7 * 16 * 4
    wrong_halo = empty((3, 2, 7, 7), np.float32, 0)
    assert wrong_halo.buffer.ctypes.data != address
    again = empty((10, 2, 5, 5), np.float32, 1)
    assert again.buffer.ctypes.data == address
    assert blocked.pooled_bytes() == 0


def test_a_buffer_that_is_still_viewed_is_not_reused():
    a = empty((3, 2, 5, 5), np.float32)
    view = a.buffer[0, 1]
    address = a.buffer.ctypes.data
    del a
    assert empty((3, 2, 5, 5), np.float32).buffer.ctypes.data != address
    del view


def test_flat_shares_memory_and_keeps_its_owner_alive():
    x = np.random.default_rng(0).standard_normal((18, 3, 4, 5)).astype(np.float32)
    a = as_blocked(x)
    address = a.buffer.ctypes.data
    f = flat(a)
    del a
    assert empty(x.shape, np.float32).buffer.ctypes.data != address
    assert f.buffer.ctypes.data == address
    np.testing.assert_array_equal(np.asarray(f), x.reshape(18, -1))
    np.testing.assert_array_equal(np.asarray(unflat(f, x.shape)), x)
    np.testing.assert_array_equal(np.asarray(flat(as_blocked(x, 2))), x.reshape(18, -1))


def test_a_shape_without_a_meaning_is_refused():
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\) or \(N, F\)"):
        as_blocked(np.ones((2, 3, 4)))


def test_a_view_instead_of_a_copy_is_refused():
    with pytest.raises(ValueError, match="needs a copy"):
        np.array(as_blocked(np.ones((2, 3))), copy=False)


def test_repr_names_shape_and_halo():
    assert repr(BlockedArray(np.zeros((1, 2, 5, 5, 16)), (2, 2, 3, 3), 1)) == (
        "BlockedArray(shape=(2, 2, 3, 3), dtype=float64, halo=1)"
    )
