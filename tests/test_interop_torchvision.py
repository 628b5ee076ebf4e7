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


@pytest.mark.parametrize(
    ("name", "exporter", "pixels"),
    [
        ("squeezenet1_1", "legacy", 48),
        ("resnet18", "legacy", 40),
    ],
)
def test_a_network_of_torchvision_comes_in_and_trains(name, exporter, pixels, tmp_path, rng):
    pytest.importorskip("onnxscript" if exporter == "dynamo" else "onnx")
    module, path = interop_nets.make(name), tmp_path / "f.onnx"
    interop_nets.write(module, pixels, exporter, path)
    network, _, origins = read_onnx(path)
    for _, layer in network.walk():
        if isinstance(layer, Dropout):
            layer.p = 0.0
    x, labels = rng.standard_normal((3, 3, pixels, pixels)).astype(np.float32), np.array([1, 4, 9])
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    for found in (network.predict(x), np.concatenate([network.predict(image[None]) for image in x])):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    before, after = interop_nets.step(network, x, labels)
    assert after < before
    if exporter == "legacy":  # the other one folds normalisations into weights that the module has not
        network, _, origins = read_onnx(path)
        for _, layer in network.walk():
            if isinstance(layer, Dropout):
                layer.p = 0.0
        in_float64(network)  # in float32 a ReLU close to 0 may open on one side only
        for training in (False, True):
            state = {key: value.clone() for key, value in module.state_dict().items()}
            _, exact = interop_nets.torch_pass(module, torch.float64, x, labels, training)
            module.load_state_dict(state)
            _, ours = interop_nets.our_pass(network, origins, x, labels, training)
            assert interop_nets.distance(ours, exact) < 1e-7
