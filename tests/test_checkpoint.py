"""Checkpoints: exact, whole or not at all, and never a pickle."""

import json
import os
import pickle

import numpy as np
import pytest
import safetensors.numpy

import cnn
from cnn.errors import CheckpointError
from cnn.layers import BatchNorm2d, Conv2d, Flatten, Linear
from cnn.training import checkpoint

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "scalar": np.array(7, np.int64),
    "empty": np.empty((0, 3), np.float32),
    "special": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
}


class Bomb:
    """Unpickling this makes a folder called "exploded"."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_arrays_and_header_come_back_bit_for_bit(tmp_path):
    meta = {"x": 0.1 + 0.2, "none": None, "list": [1, 2.5], "text": "ä\n"}
    checkpoint.save(tmp_path / "c.safetensors", TENSORS, meta)
    tensors, again = checkpoint.load(tmp_path / "c.safetensors")
    assert again == meta
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in "abcdefgh":
        checkpoint.save(tmp_path / name, TENSORS, {"a": 1})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, TENSORS, {"version": 1})
    before = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="cannot be written: No space left"):
        checkpoint.save(path, TENSORS, {"version": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path, share):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": np.zeros(1000, np.float32)}, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load(path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_refused_and_never_opened(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.safetensors").write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(CheckpointError):
        checkpoint.load("c.safetensors")
    assert not (tmp_path / "exploded").exists()


def test_the_error_for_a_pickle_or_zip_says_so(tmp_path):
    for start in (b"\x80\x04", b"PK\x03\x04"):
        (tmp_path / "c").write_bytes(start + bytes(100))
        with pytest.raises(CheckpointError, match="pickle"):
            checkpoint.load(tmp_path / "c")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    payload = safetensors.numpy.save({"a": np.zeros(3)}, metadata={"format": "pt"})
    (tmp_path / "c").write_bytes(payload)
    with pytest.raises(CheckpointError, match="without the header"):
        checkpoint.load(tmp_path / "c")


def test_another_format_version_is_refused(tmp_path):
    payload = safetensors.numpy.save({"a": np.zeros(3)}, metadata={"cnn": '{"format": 99, "meta": {}}'})
    (tmp_path / "c").write_bytes(payload)
    with pytest.raises(CheckpointError, match="format 99, expected 1 or 2"):
        checkpoint.load(tmp_path / "c")


def save_network(path, **changes):
    layers = [
        {"type": "Conv2d", "out_channels": 2, "kernel_size": 3},
        {"type": "BatchNorm2d"},
        {"type": "Flatten"},
        {"type": "Linear", "out_features": 3},
    ]
    network = cnn.Network([Conv2d(2, 3), BatchNorm2d(), Flatten(), Linear(3)])
    network.build((1, 4, 4), rng=np.random.default_rng(5))
    meta = {
        "config": {},
        "layers": layers,
        "classes": ["a", "b", "c"],
        "image_shape": [1, 4, 4],
        "input_shape": [1, 4, 4],
        "mean": [0.1],
        "std": [0.2],
    }
    tensors = {f"network/{name}": array for name, array in network.state().items()}
    checkpoint.save(path, tensors, json.loads(json.dumps({**meta, **changes})))
    return network


def test_a_network_comes_back_with_parameters_and_buffers(tmp_path):
    saved = save_network(tmp_path / "best.safetensors")
    for place in (tmp_path, tmp_path / "best.safetensors"):
        network, meta = checkpoint.load_network(place)
        assert meta["classes"] == ["a", "b", "c"]
        for name, array in saved.state().items():
            assert np.array_equal(network.state()[name], array)


def test_a_run_folder_stands_for_best_then_last(tmp_path):
    save_network(tmp_path / "last.safetensors")
    assert checkpoint.find(tmp_path).name == "last.safetensors"
    save_network(tmp_path / "best.safetensors")
    assert checkpoint.find(tmp_path).name == "best.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [{"type": "Linear", "out_features": 3}]}, "expected an input of shape"),
        (
            {"layers": [{"type": "Flatten"}, {"type": "Linear", "out_features": 3}]},
            "need a parameter of shape .3, 16., the file has none",
        ),
        ({"layers": [{"type": "Conv9d"}]}, "Conv9d"),
        ({"input_shape": [1, 2, 2]}, "larger than its padded input"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_network_is_refused(tmp_path, changes, message):
    save_network(tmp_path / "c.safetensors", **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_network(tmp_path / "c.safetensors")
