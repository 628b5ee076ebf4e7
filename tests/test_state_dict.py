"""Weights of PyTorch's modules come into a network that a config describes."""

import pickle

import numpy as np
import pytest

from cnn.errors import CheckpointError
from cnn.interop.card import About
from cnn.interop.export import export
from cnn.layers import from_config
from cnn.network import Network

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")


def conv(channels, size=3, stride=1):
    return {
        "type": "Conv2d", "out_channels": channels, "kernel_size": size, "stride": stride,
        "padding": size // 2, "bias": False,
    }  # fmt: skip


def resnet18(classes):
    """Return the layers of a config for torchvision's ResNet-18."""
    norm, relu = {"type": "BatchNorm2d"}, {"type": "ReLU"}
    layers = [conv(64, 7, 2), norm, relu, {"type": "MaxPool2d", "kernel_size": 3, "stride": 2, "padding": 1}]
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for step in (stride, 1):
            shortcut = [conv(channels, 1, 2), norm] if step == 2 else []
            body = [conv(channels, 3, step), norm, relu, conv(channels), norm]
            layers += [{"type": "Residual", "body": body, "shortcut": shortcut}, relu]
    return [*layers, {"type": "GlobalAvgPool2d"}, {"type": "Linear", "out_features": classes}]


@pytest.fixture(scope="module")
def module():
    """torchvision's ResNet-18 with random weights and statistics."""
    torch.manual_seed(1)
    module = torchvision.models.resnet18(weights=None, num_classes=7).eval()
    for name, array in module.state_dict().items():
        if "running_mean" in name:
            array.normal_(0, 0.2)
        if "running_var" in name:
            array.uniform_(0.5, 2)
    return module


@pytest.fixture
def network():
    """The config's network, built for small images."""
    network = Network(from_config(resnet18(7)))
    network.build((3, 32, 32))
    return network


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "nested.pt"])
def test_torchvisions_weights_give_torchvisions_logits(suffix, module, network, tmp_path, rng):
    from safetensors.torch import save_file

    path = tmp_path / f"resnet.{suffix}"
    if suffix == "safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save({"state_dict": module.state_dict()} if "nested" in suffix else module.state_dict(), path)
    report = network.load_state_dict(path)
    assert not report.missing
    assert not report.unused
    assert "102 of 102 arrays loaded" in str(report)
    assert "17.weight <- fc.weight (by shape and order)" not in str(report)
    assert any(line.endswith("<- fc.weight (by shape and order)") for line in str(report).splitlines())
    x = rng.standard_normal((3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert np.abs(network.predict(x) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_head_for_other_classes_stays_as_it_was(module, tmp_path):
    torch.save(module.state_dict(), tmp_path / "f.pt")
    network = Network(from_config(resnet18(3)))
    network.build((3, 32, 32))
    before = {name: array.copy() for name, array in network.state().items()}
    report = network.load_state_dict(tmp_path / "f.pt")
    assert len(report.matched) == 100
    assert [shape for _, shape in report.unused] == [(7, 512), (7,)]
    for name in report.missing:
        np.testing.assert_array_equal(network.state()[name], before[name])
    assert "2 of the file not used" in str(report)


def test_what_was_exported_is_matched_by_name(network, tmp_path):
    path = tmp_path / "f.safetensors"
    export(network, About(), "torch", path)
    again = Network(from_config(resnet18(7)))
    again.build((3, 32, 32), np.random.default_rng(5))
    report = again.load_state_dict(path)
    assert {how for _, _, how in report.matched} == {"name"}
    for name, array in network.state().items():
        np.testing.assert_array_equal(again.state()[name], array)


class Evil:
    """What a pickle could run."""

    def __reduce__(self):
        return print, ("code of a stranger",)


def test_other_files_are_refused_in_a_line_and_nothing_in_them_runs(network, tmp_path, capsys):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(), 2))
    (tmp_path / "text.safetensors").write_text("no weights")
    before = network.data.copy()
    for path in (*tmp_path.iterdir(), tmp_path / "missing.pt"):
        with pytest.raises(CheckpointError) as error:
            network.load_state_dict(path)
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)
    assert "stranger" not in capsys.readouterr().out
    np.testing.assert_array_equal(network.data, before)
