"""The bundled sample: what is in it, and where it is found."""

import hashlib
import shutil

import numpy as np
import pytest

from cnn import files
from cnn.data import load_dataset, sample
from cnn.errors import DataError


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
    wheel = tmp_path / "cnn" / "shipped" / "data"
    wheel.mkdir(parents=True)
    shutil.copy(sample.sample_path(), wheel)
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path / package)
    assert sample.sample_path() == wheel / sample.FILE_NAME
    assert len(load_dataset("sample").test) == 1000
    (wheel / sample.FILE_NAME).unlink()
    with pytest.raises(DataError, match=r"sample_digits.npz: expected a file .* found none; reinstall cnn"):
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
