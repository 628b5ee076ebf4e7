"""torchvision's networks, written by PyTorch's exporters: logits, gradients of all parameters, a step."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cnn.interop.onnx_read import read_onnx
from cnn.layers import Dropout

pytest.importorskip("torchvision")
pytest.importorskip("onnxruntime")
sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import interop_nets
import torch


def in_float64(network):
    """Let the built network compute in float64, with the same numbers."""
    state, shape = network.state(), network.input_shape
    network.body.reset()
    network.build(shape, dtype=np.float64)
    network.load_state({k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in state.items()})


def without_dropout(network):
    for _, layer in network.walk():
        if isinstance(layer, Dropout):
            layer.p = 0.0


@pytest.mark.parametrize(("name", "pixels"), [("squeezenet1_1", 48), ("resnet18", 40)])
def test_a_network_of_torchvision_comes_in_and_trains(name, pixels, tmp_path, rng):
    module, path = interop_nets.make(name), tmp_path / "f.onnx"
    interop_nets.write(module, pixels, "legacy", path)
    network, _, origins = read_onnx(path)
    without_dropout(network)
    x, labels = rng.standard_normal((3, 3, pixels, pixels)).astype(np.float32), np.array([1, 4, 9])
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    for found in (network.predict(x), np.concatenate([network.predict(image[None]) for image in x])):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    before, after = interop_nets.step(network, x, labels)
    assert after < before
    network, _, origins = read_onnx(path)
    without_dropout(network)
    for training in (False, True):  # in float32, of all parameters
        found = interop_nets.gradients_beside(module, network, origins, x, labels, training)
        assert found.ours < 1e-4
        assert found.furthest < 1e-4
    in_float64(network)
    for training in (False, True):
        assert interop_nets.gradients_beside(module, network, origins, x, labels, training).plain < 1e-7
