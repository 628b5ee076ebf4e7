"""Data sets known by name: their files, torchvision, and what is refused."""

import builtins
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from data_files import RAW, assert_same, idx, write_mnist

from cnn.data import load_dataset, named
from cnn.errors import ConfigError, DataError, MissingExtra

REAL = Path(os.environ.get("CNN_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    """Keep the user's own cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def digits(tmp_path):
    """The arrays of the MNIST that is in ``root``."""
    return write_mnist(tmp_path / "root")


@pytest.fixture
def root(tmp_path, digits):
    """A folder with a small MNIST in it."""
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


# -- names and options -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MINST", {}, 'unknown name "MINST", expected sample, folder, npz, .*Did you mean "MNIST"'),
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
        message = rf'{name}: expected .*, found no such .*downloading .*: pip install "cnn\[torchvision\]"'
        with pytest.raises(MissingExtra, match=message) as error:
            load_dataset(name, tmp_path)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 3


def test_files_that_need_torchvision_name_the_extra(tmp_path, no_torchvision):
    place(tmp_path, "CIFAR10")
    with pytest.raises(MissingExtra, match=r"cnn\[torchvision\]"):
        load_dataset("CIFAR10", tmp_path, download=False)


def test_without_download_a_missing_set_names_the_file_and_the_command(tmp_path):
    with pytest.raises(DataError, match=r"expected .*MNIST/raw/train-images-idx3-ubyte, .*`cnn data MNIST"):
        load_dataset("MNIST", tmp_path, download=False)


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("no\nroute"), ValueError("no\nroute")])
def test_a_failed_download_is_a_data_error_in_one_line(tmp_path, monkeypatch, error):
    def make(root, train, download):
        raise error

    install_torchvision(monkeypatch, MNIST=make)
    expected = r"MNIST: expected .*idx3-ubyte, .*; downloading failed .no route."
    with pytest.raises(DataError, match=expected) as found:
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
