"""The cache of converted data sets, IDX files, and the checks that every data set has to pass."""

import os
import shutil

import numpy as np
import pytest
from data_files import RAW, assert_same, idx, write_mnist

from cnn.data import cache, load_dataset
from cnn.data.dataset import make_dataset
from cnn.data.idx import read_idx
from cnn.errors import DataError


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    """Keep the user's own cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def root(tmp_path):
    """A folder with a small MNIST in it."""
    write_mnist(tmp_path / "root")
    return tmp_path / "root"


# -- IDX files ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (0,), (3, 4, 2)])
def test_an_idx_file_is_read_as_it_was_written(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(tmp_path / "a", len(shape)), array)


GOOD = idx(np.zeros((3, 4, 2), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic 00000803.*found an empty file"),
        (GOOD[:3], "found 000008"),
        (b"\x1f\x8b" + GOOD[2:], "expected a gzipped IDX file, found a damaged one"),
        (b"\0\0\x0d\x03" + GOOD[4:], "found 00000d03"),
        (b"\0\0\x08\x01" + GOOD[4:], "found 00000801"),
        (GOOD[:11], "truncated, expected a header of 16 bytes, found 11"),
        (GOOD[:-1], "truncated, expected 40 bytes for 3 x 4 x 2 values, found 39"),
        (GOOD + b"x", "too long, expected 40 bytes .* found 41"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated, expected"),
        (None, "cannot be read .No such file"),
    ],
)
def test_a_damaged_idx_file_is_a_data_error_that_names_it(tmp_path, content, message):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=f"file: .*{message}"):
        read_idx(tmp_path / "file", 3)


# -- the cache ---------------------------------------------------------------------


def cache_file(root):
    return root / "cnn-cache" / "mnist.safetensors"


def test_a_truncated_source_is_noticed_although_there_is_a_cache(root):
    load_dataset("MNIST", root)
    assert cache_file(root).is_file()
    path = root / "MNIST" / "raw" / RAW[0]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="truncated"):
        load_dataset("MNIST", root)


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def other_format(path):
    content = path.read_bytes()
    assert content.count(b'format\\": 2') == 1
    path.write_bytes(content.replace(b'format\\": 2', b'format\\": 0'))


@pytest.mark.parametrize("damage", [damage_byte, truncate, empty, other_format])
def test_a_damaged_cache_is_noticed_said_and_made_again(root, caplog, damage):
    first = load_dataset("MNIST", root)
    intact = cache_file(root).read_bytes()
    damage(cache_file(root))
    assert_same(load_dataset("MNIST", root), first)
    assert cache_file(root).read_bytes() == intact
    assert [str(cache_file(root)) in message for message in caplog.messages] == [True]
    caplog.clear()
    load_dataset("MNIST", root)
    assert not caplog.messages


def test_a_damaged_cache_without_its_source_is_a_data_error(root):
    load_dataset("MNIST", root)
    shutil.rmtree(root / "MNIST")
    assert len(load_dataset("MNIST", root, download=False).train) == 30
    damage_byte(cache_file(root))
    with pytest.raises(DataError, match="no such file"):
        load_dataset("MNIST", root, download=False)


def test_a_read_only_root_is_cached_with_the_user_and_said_once(root, user_folder, caplog):
    root.chmod(0o555)
    try:
        first = load_dataset("MNIST", root)
        assert not (root / "cnn-cache").exists()
        assert len(caplog.messages) == 1
        assert "cannot be written to; cached in" in caplog.messages[0]
        assert str(user_folder) in caplog.messages[0]
        caplog.clear()
        assert_same(load_dataset("MNIST", root), first)
        assert not caplog.messages
    finally:
        root.chmod(0o755)


def test_where_nothing_can_be_written_it_still_works(root, user_folder, caplog):
    user_folder.mkdir()
    root.chmod(0o555)
    user_folder.chmod(0o555)
    try:
        assert len(load_dataset("MNIST", root).train) == 30
        assert len(caplog.messages) == 1
        assert "MNIST is not cached" in caplog.messages[0]
    finally:
        root.chmod(0o755)
        user_folder.chmod(0o755)


def test_two_roots_do_not_share_a_user_cache(root, tmp_path):
    assert cache.user_cache(root) != cache.user_cache(tmp_path)


def test_a_cache_that_cannot_be_finished_leaves_nothing_behind(root, monkeypatch, caplog):
    def fail(_):
        raise OSError(28, "disk full")

    monkeypatch.setattr(os, "fsync", fail)
    assert len(load_dataset("MNIST", root).train) == 30
    assert "disk full" in caplog.messages[0]
    assert not list((root / "cnn-cache").iterdir())


def test_the_cache_is_as_readable_as_other_files(root):
    (root / "plain").write_bytes(b"")
    load_dataset("MNIST", root)
    assert cache_file(root).stat().st_mode == (root / "plain").stat().st_mode


# -- what every data set has to pass -----------------------------------------------

IMAGES, LABELS = np.zeros((4, 1, 5, 5), np.uint8), np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((IMAGES.astype(float), LABELS), None, "here, train part: expected uint8 images .*found float64"),
        ((IMAGES[0, 0], LABELS), None, r"found uint8 \(5, 5\)"),
        ((IMAGES[:0], LABELS[:0]), None, "expected at least one image"),
        ((IMAGES[:, :, :0], LABELS), None, "with at least one pixel"),
        ((IMAGES, LABELS[:3]), None, "expected one label an image, found 4 images and 3 labels"),
        ((IMAGES, LABELS.astype(float)), None, r"expected integer labels \(N,\), found float64"),
        ((IMAGES, LABELS[:, None]), None, r"found int64 \(4, 1\)"),
        ((IMAGES, LABELS + 1), None, r"expected labels 0 to 1, found 2 at index 1 \(2 out of range\)"),
        (None, (IMAGES, LABELS - 1), "here, test part: expected labels 0 to 1, found -1 at index 0"),
        (None, (IMAGES[..., :4], LABELS), r"one shape \(C, H, W\), found \(1, 5, 5\) and \(1, 5, 4\)"),
    ],
)
def test_inconsistent_arrays_are_refused(train, test, message):
    with pytest.raises(DataError, match=message):
        make_dataset("x", ("a", "b"), train or (IMAGES, LABELS), test or (IMAGES, LABELS), "here")


# -- a source that changed ---------------------------------------------------------


def replace_keeping_size_and_time(path, content):
    before = path.stat()
    assert len(content) == before.st_size
    path.with_suffix(".new").write_bytes(content)
    os.utime(path.with_suffix(".new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("name", RAW)
def test_a_source_replaced_by_one_of_equal_size_and_time_is_noticed(root, name):
    first = load_dataset("MNIST", root)
    path = root / "MNIST" / "raw" / name
    content = bytearray(path.read_bytes())
    content[-1] = (content[-1] + 1) % 10
    replace_keeping_size_and_time(path, bytes(content))
    second = load_dataset("MNIST", root)
    part = "train" if name.startswith("train") else "test"
    assert second.digests[part] != first.digests[part]
    assert second.digest != first.digest


def test_a_copy_of_a_source_needs_no_new_cache(root, tmp_path):
    load_dataset("MNIST", root)
    shutil.copytree(root, tmp_path / "copy")
    before = cache_file(tmp_path / "copy").stat()
    load_dataset("MNIST", tmp_path / "copy")
    assert cache_file(tmp_path / "copy").stat() == before


def test_every_changed_byte_of_a_cache_is_noticed(root):
    first = load_dataset("MNIST", root)
    whole = cache_file(root).read_bytes()
    for place in {*range(0, 1500, 7), *range(1500, len(whole), 997)}:
        spoilt = bytearray(whole)
        spoilt[place] ^= 4
        cache_file(root).write_bytes(spoilt)
        with pytest.raises(DataError):
            cache.read("MNIST", cache_file(root))
    assert_same(load_dataset("MNIST", root), first)
