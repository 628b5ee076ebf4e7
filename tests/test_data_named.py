"""The sample, the data sets known by name, their files and their cache."""

import builtins
import hashlib
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from cnn.data import cache, load_dataset, named, sample
from cnn.data.dataset import make_dataset
from cnn.data.idx import read_idx
from cnn.errors import ConfigError, DataError, MissingExtra

RAW = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
REAL = Path(os.environ.get("CNN_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    """Keep the user's own cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def digits():
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 10, n, dtype=np.uint8)
        if "labels" in name
        else rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for name, n in zip(RAW, (30, 30, 20, 20), strict=True)
    }


@pytest.fixture
def root(tmp_path, digits):
    """A folder with a small MNIST in it, as torchvision lays it out."""
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in digits.items():
        (raw / name).write_bytes(idx(array))
    return tmp_path / "root"


@pytest.fixture
def no_torchvision(monkeypatch):
    real = builtins.__import__

    def guarded(name, *args, **kwargs):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)


def install_torchvision(monkeypatch, **datasets):
    """Put a torchvision in place that has only these data sets."""
    package, module = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    package.datasets = module
    for name, make in datasets.items():
        setattr(module, name, make)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def assert_same(a, b):
    assert a.classes == b.classes
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(a, part).images, getattr(b, part).images)
        np.testing.assert_array_equal(getattr(a, part).labels, getattr(b, part).labels)


# -- the sample --------------------------------------------------------------------


def test_the_sample_is_stratified_and_fixed():
    data = load_dataset("sample", root="/nowhere/at/all", download=False)
    assert data.name == "sample"
    assert data.classes == tuple("0123456789")
    assert data.input_shape == (1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [400] * 10
    assert np.bincount(data.test.labels).tolist() == [100] * 10
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    digest = hashlib.sha256(data.train.images.tobytes() + data.test.images.tobytes()).hexdigest()
    assert digest[:16] == "5dae853291aa726e"


def test_no_digit_of_the_sample_is_in_both_parts():
    data = load_dataset("sample")
    train = {image.tobytes() for image in data.train.images}
    assert len(train) == 4000
    assert not train & {image.tobytes() for image in data.test.images}


def test_the_sample_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("sample").train) == 4000


def test_the_sample_is_found_where_a_wheel_puts_it(tmp_path, monkeypatch):
    shutil.copy(sample.sample_path(), tmp_path / sample.FILE_NAME)

    class File(type(Path())):
        def locate(self):
            return tmp_path / self.name

    installation = types.SimpleNamespace(files=[File("cnn/cli.py"), File(f"share/cnn/{sample.FILE_NAME}")])
    monkeypatch.setattr(sample, "__file__", str(tmp_path / "lib" / "cnn" / "data" / "sample.py"))
    monkeypatch.setattr(sample.importlib.metadata, "distributions", lambda name: [installation])
    assert sample.sample_path() == (tmp_path / sample.FILE_NAME).resolve()
    assert len(load_dataset("sample").test) == 1000
    monkeypatch.setattr(sample.importlib.metadata, "distributions", lambda name: [])
    with pytest.raises(DataError, match=r"sample_digits.npz is missing.*reinstall"):
        load_dataset("sample")


@pytest.mark.parametrize("keep", [0, 5, 1000, 400_000, -1, None])
def test_a_damaged_sample_is_a_data_error(tmp_path, monkeypatch, keep):
    content = bytearray(sample.sample_path().read_bytes())
    content[300_000] ^= 255
    path = tmp_path / "cut.npz"
    path.write_bytes(content[:keep])
    monkeypatch.setattr(sample, "sample_path", lambda: path)
    with pytest.raises(DataError, match=r"cut.npz: expected the bundled sample, found a damaged file"):
        load_dataset("sample")


# -- names and options -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MINST", {}, 'unknown name "MINST", expected sample, folder, MNIST.*Did you mean "MNIST"'),
        ("mnist", {}, 'Did you mean "MNIST"'),
        ("MNIST", {"image_size": 32}, 'dataset MNIST: unknown option "image_size", it has none'),
        ("EMNIST", {"splt": "letters"}, 'unknown option "splt", expected split. Did you mean "split"'),
        ("EMNIST", {"split": "leters"}, 'split: expected one of .*found .leters.*Did you mean "letters"'),
        ("folder", {"mode": "CMYK"}, 'mode: expected "L" .* found .CMYK'),
        ("folder", {"image_size": [3, 0]}, "image_size"),
        ("folder", {"image_size": "big"}, "image_size"),
    ],
)
def test_an_unknown_name_or_option_is_refused(tmp_path, name, options, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset(name, root=tmp_path, **options)


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
        (b"\x1f\x8b" + GOOD[2:], "expected an IDX file of unsigned bytes with 3 axes.*found 1f8b0803"),
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


# -- data sets by name -------------------------------------------------------------


def test_mnist_is_read_from_torchvisions_files_without_torchvision(root, digits, no_torchvision):
    data = load_dataset("MNIST", root)
    np.testing.assert_array_equal(data.train.images[:, 0], digits[RAW[0]])
    np.testing.assert_array_equal(data.train.labels, digits[RAW[1]])
    np.testing.assert_array_equal(data.test.images[:, 0], digits[RAW[2]])
    np.testing.assert_array_equal(data.test.labels, digits[RAW[3]])


@pytest.mark.parametrize(
    ("name", "split"),
    [("MNIST", None), ("FashionMNIST", None), ("KMNIST", None)]
    + [("EMNIST", split) for split in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")],
)
def test_the_mnist_family_is_what_torchvision_gives(tmp_path, digits, name, split):
    datasets = pytest.importorskip("torchvision.datasets")
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    for file, array in digits.items():
        if split:
            file = file.replace("t10k", "test").replace("t", f"emnist-{split}-t", 1)
        (raw / file).write_bytes(idx(array))
    options = {"split": split} if split else {}
    ours = load_dataset(name, tmp_path, download=False, **options)
    for train, part in ((True, ours.train), (False, ours.test)):
        theirs = getattr(datasets, name)(str(tmp_path), train=train, download=False, **options)
        np.testing.assert_array_equal(part.images[:, 0], np.asarray(theirs.data))
        np.testing.assert_array_equal(part.labels, np.asarray(theirs.targets))
        if name != "MNIST":  # "0 - zero" there, "0" here
            assert list(ours.classes) == list(theirs.classes)


def test_emnist_is_balanced_unless_told_otherwise(tmp_path, root):
    with pytest.raises(DataError, match="emnist-balanced-train-images-idx3-ubyte"):
        load_dataset("EMNIST", root, download=False)


@pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="no real MNIST in CNN_TEST_DATA")
def test_the_real_mnist_has_its_known_numbers(tmp_path):
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(REAL / "MNIST" / "raw")
    data = load_dataset("MNIST", tmp_path, download=False)
    assert data.train.images.shape == (60000, 1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert_same(data, load_dataset("MNIST", tmp_path, download=False))


def cifar(calls, images, labels, classes=("cat", "dog")):
    """Return a class like torchvision's CIFAR10."""

    def make(root, train, download):
        calls.append((train, download))
        part = slice(None) if train else slice(0, 5)
        return types.SimpleNamespace(
            data=images[part].transpose(0, 2, 3, 1), targets=labels[part].tolist(), classes=list(classes)
        )

    return make


def place(root, name):
    for file in named._files(name, None):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_is_converted_once_and_needs_no_torchvision_afterwards(tmp_path, monkeypatch, name):
    rng, calls = np.random.default_rng(0), []
    images, labels = rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8), rng.integers(0, 2, 12)
    place(tmp_path, name)
    install_torchvision(monkeypatch, **{name: cifar(calls, images, labels)})
    first = load_dataset(name, tmp_path)
    assert calls == [(True, False), (False, False)]
    np.testing.assert_array_equal(first.train.images, images)
    np.testing.assert_array_equal(first.train.labels, labels)
    assert first.classes == ("cat", "dog")
    assert len(first.test) == 5
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert_same(load_dataset(name, tmp_path), first)
    shutil.rmtree(tmp_path / Path(named._files(name, None)[0]).parent)
    assert_same(load_dataset(name, tmp_path, download=False), first)  # the cache alone is enough


def test_svhn_is_converted(tmp_path, monkeypatch):
    def make(root, split, download):
        n = {"train": 7, "test": 4}[split]
        return types.SimpleNamespace(data=np.full((n, 3, 32, 32), n, np.uint8), labels=np.arange(n))

    place(tmp_path, "SVHN")
    install_torchvision(monkeypatch, SVHN=make)
    data = load_dataset("SVHN", tmp_path)
    assert data.classes == tuple("0123456789")
    assert (data.train.images == 7).all()
    assert data.test.labels.tolist() == [0, 1, 2, 3]


def test_svhn_without_scipy_says_so(tmp_path, monkeypatch):
    def make(root, split, download):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    place(tmp_path, "SVHN")
    install_torchvision(monkeypatch, SVHN=make)
    with pytest.raises(MissingExtra, match="SVHN needs scipy: pip install scipy"):
        load_dataset("SVHN", tmp_path)


def test_a_missing_set_is_downloaded_by_torchvision_then_cached(tmp_path, digits, monkeypatch):
    calls = []

    def make(root, train, download):
        calls.append((train, download))
        raw = Path(root) / "KMNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for name, array in digits.items():
            (raw / name).write_bytes(idx(array))

    install_torchvision(monkeypatch, KMNIST=make)
    first = load_dataset("KMNIST", tmp_path)
    assert calls == [(True, True), (False, True)]
    assert_same(load_dataset("KMNIST", tmp_path), first)
    assert len(calls) == 2
    assert first.classes[:3] == ("o", "ki", "su")


def test_without_torchvision_the_error_names_the_extra_in_one_line(tmp_path, no_torchvision):
    for name in ("MNIST", "CIFAR10"):
        message = rf'{name} .*torchvision: pip install "cnn\[torchvision\]"'
        with pytest.raises(MissingExtra, match=message) as error:
            load_dataset(name, tmp_path)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 3


def test_files_that_need_torchvision_name_the_extra(tmp_path, no_torchvision):
    place(tmp_path, "CIFAR10")
    with pytest.raises(MissingExtra, match=r"cnn\[torchvision\]"):
        load_dataset("CIFAR10", tmp_path, download=False)


def test_without_download_a_missing_set_names_the_file_and_the_command(tmp_path):
    with pytest.raises(DataError, match=r"expected .*MNIST/raw/train-images-idx3-ubyte, .*`cnn data MNIST`"):
        load_dataset("MNIST", tmp_path, download=False)


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("no\nroute"), ValueError("no\nroute")])
def test_a_failed_download_is_a_data_error_in_one_line(tmp_path, monkeypatch, error):
    def make(root, train, download):
        raise error

    install_torchvision(monkeypatch, MNIST=make)
    with pytest.raises(DataError, match=r"MNIST in .*: downloading failed \(no route\)") as found:
        load_dataset("MNIST", tmp_path)
    assert "\n" not in str(found.value)


def test_damaged_files_of_cifar_are_a_data_error(tmp_path):
    pytest.importorskip("torchvision")
    place(tmp_path, "CIFAR10")
    with pytest.raises(DataError, match=r"CIFAR10 in .*: its files are damaged; delete them"):
        load_dataset("CIFAR10", tmp_path)


def test_labels_and_images_of_different_counts_are_a_data_error(root):
    (root / "MNIST" / "raw" / RAW[1]).write_bytes(idx(np.zeros(29, np.uint8)))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: expected 30 labels, .* found 29"):
        load_dataset("MNIST", root)


def test_a_label_out_of_range_is_a_data_error(root, digits):
    digits[RAW[1]][4] = 10
    (root / "MNIST" / "raw" / RAW[1]).write_bytes(idx(digits[RAW[1]]))
    with pytest.raises(DataError, match=r"raw, train part: expected labels 0 to 9, found 10 at index 4"):
        load_dataset("MNIST", root)


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
    assert content.count(b'format\\": 1') == 1
    path.write_bytes(content.replace(b'format\\": 1', b'format\\": 0'))


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
    def fail(arrays, path, metadata):
        Path(path).write_bytes(b"half")
        raise cache.safetensors.SafetensorError("disk full")

    monkeypatch.setattr(cache.safetensors.numpy, "save_file", fail)
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
