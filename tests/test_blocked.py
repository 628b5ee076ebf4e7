import gc
import mmap

import numpy as np
import pytest

from cnn.fast import blocked
from cnn.fast.blocked import BlockedArray, as_blocked, empty, flat, unflat
from cnn.fast.kernels import layout
from cnn.fast.machine.owner import HUGE_PAGE, aligned_zeros, owner
from cnn.pixels import Pixels


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 4, 7), (16, 2, 3, 3), (33, 4, 5, 2), (3, 7), (40, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_gives_the_same_array(shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    a = as_blocked(x)
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
    np.testing.assert_array_equal(np.asarray(as_blocked(view)), view)


def test_tail_lanes_of_a_packed_array_are_zero_even_in_a_reused_buffer():
    x = np.ones((20, 3, 4, 4), np.float32)
    for _ in range(2):
        a = as_blocked(x)
        assert a.buffer.sum() == x.sum()
        a.buffer[...] = 5
        del a


def test_a_blocked_array_is_passed_through_or_changes_only_its_dtype():
    a = as_blocked(np.random.default_rng(0).standard_normal((3, 2, 4, 4)))
    assert as_blocked(a) is a
    b = as_blocked(a, np.float32)
    assert b.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(b), np.asarray(a).astype(np.float32))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 4, 7), (16, 2, 3, 3), (33, 4, 5, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_stand_for_the_numbers_of_their_table(shape, dtype, compiled, monkeypatch):
    monkeypatch.setattr(blocked, "_pack_pixels", layout.pack_pixels if compiled else None)
    rng = np.random.default_rng(0)
    images, table = rng.integers(0, 256, shape, dtype=np.uint8), rng.random((shape[1], 256)).astype(dtype)
    expected = np.stack([table[c][images[:, c]] for c in range(shape[1])], axis=1)
    x = Pixels(images, table)
    assert (x.shape, x.ndim, x.dtype, len(x)) == (shape, 4, dtype, shape[0])
    np.testing.assert_array_equal(np.asarray(x), expected)
    np.testing.assert_array_equal(np.asarray(x[2:4]), expected[2:4])
    for _ in range(2):
        a = as_blocked(x)
        assert (a.shape, a.dtype) == (shape, dtype)
        np.testing.assert_array_equal(np.asarray(a), expected)
        assert a.buffer.sum(dtype=float) == pytest.approx(expected.sum(dtype=float))  # the other lanes are 0
        a.buffer[...] = 5
        del a
    other = np.float64 if dtype == np.float32 else np.float32
    np.testing.assert_array_equal(np.asarray(as_blocked(x, other)), expected.astype(other))
    with pytest.raises(ValueError, match="Pixels are not the numbers"):
        np.array(x, copy=False)


@pytest.mark.parametrize(("images", "table", "message"), [
    (np.zeros((2, 3, 4, 4)), np.zeros((3, 256)), "expected uint8 images .*found float64"),
    (np.zeros((2, 4, 4), np.uint8), np.zeros((4, 256)), "expected uint8 images"),
    (np.zeros((2, 3, 4, 4), np.uint8), np.zeros((1, 256)), r"a table .*\(3, 256\), found float64 \(1, "),
    (np.zeros((2, 3, 4, 4), np.uint8), np.zeros((3, 256), int), "found int64"),
])  # fmt: skip
def test_pixels_refuse_what_kernels_would_misread(images, table, message):
    with pytest.raises(ValueError, match=message):
        Pixels(images, table)


def test_buffers_start_at_a_cache_line():
    for shape in [(1, 1, 1, 1), (17, 3, 5, 7), (2, 9)]:
        assert empty(shape, np.float32).buffer.ctypes.data % 64 == 0


def test_a_dead_array_gives_its_buffer_to_the_next_of_the_same_extents():
    gc.collect()  # what earlier tests left
    owner().pool.clear()
    a = empty((3, 2, 5, 5), np.float32)
    address = a.address
    del a
    gc.collect()
    assert sum(buffer.nbytes for home in owner().pool.values() for buffer, _ in home) == 2 * 5 * 5 * 16 * 4
    assert empty((3, 2, 5, 5), np.float64).address != address
    again = empty((10, 2, 5, 5), np.float32)
    assert again.address == address == again.buffer.ctypes.data


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


def test_a_shape_without_a_meaning_is_refused():
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\) or \(N, F\)"):
        as_blocked(np.ones((2, 3, 4)))


def test_a_view_instead_of_a_copy_is_refused():
    with pytest.raises(ValueError, match="needs a copy"):
        np.array(as_blocked(np.ones((2, 3))), copy=False)


def test_repr_names_shape_and_dtype():
    assert repr(BlockedArray(np.zeros((1, 2, 3, 3, 16)), (2, 2, 3, 3))) == (
        "BlockedArray(shape=(2, 2, 3, 3), dtype=float64)"
    )


@pytest.mark.parametrize("huge", [True, False])
@pytest.mark.parametrize("numbers", [0, -1])
def test_large_memory_is_zero_and_aligned_with_and_without_huge_pages(huge, numbers, monkeypatch):
    if not huge:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    count = 2 * HUGE_PAGE // 4 + numbers
    found = aligned_zeros((count,), np.float32)
    assert found.ctypes.data % HUGE_PAGE == 0
    assert found.flags.c_contiguous
    assert not found.any()
    found[...] = 1
    assert found.sum() == count
    with pytest.raises(MemoryError):
        aligned_zeros((1 << 58,), np.float32)
