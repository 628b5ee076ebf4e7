"""Whole networks against the same networks in PyTorch: outputs, every gradient, a step, statistics."""

import numpy as np
import pytest
from helpers import assert_forward, assert_gradient, naming
from helpers_torch import tensor, torch
from test_network import lenet

import cnn
from cnn.layers import (
    BatchNorm2d,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SoftmaxCrossEntropy,
)

nn = torch.nn


class TorchResidual(nn.Module):
    def __init__(self, body, shortcut=()):
        super().__init__()
        self.body, self.shortcut = nn.Sequential(*body), nn.Sequential(*shortcut)

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class TorchConcat(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def torch_lenet():
    return [
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ]


def resnet():
    return [
        Conv2d(8, 3, padding=1, bias=False),
        BatchNorm2d(),
        ReLU(),
        Residual([Conv2d(8, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(8, 3, padding=1), BatchNorm2d()]),
        ReLU(),
        Residual(
            [
                Conv2d(12, 3, stride=2, padding=1),
                BatchNorm2d(),
                ReLU(),
                Conv2d(12, 3, padding=1),
                BatchNorm2d(),
            ],
            shortcut=[Conv2d(12, 1, stride=2), BatchNorm2d()],
        ),
        ReLU(),
        GlobalAvgPool2d(),
        Linear(10),
    ]


def torch_resnet():
    def block(c, k, stride):
        convolutions = nn.Conv2d(c, k, 3, stride, 1), nn.Conv2d(k, k, 3, 1, 1)
        return [convolutions[0], nn.BatchNorm2d(k), nn.ReLU(), convolutions[1], nn.BatchNorm2d(k)]

    return [
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(TorchResidual(block(8, 8, 1)), nn.ReLU()),
        *(TorchResidual(block(8, 12, 2), [nn.Conv2d(8, 12, 1, 2), nn.BatchNorm2d(12)]), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)),
    ]


def inception():
    return [
        Concat(
            [
                [Conv2d(4, 1), ReLU()],
                [Conv2d(3, 1), ReLU(), Conv2d(5, 3, padding="same"), ReLU()],
                [MaxPool2d(3, stride=1, padding=1), Conv2d(2, 1)],
                [],
            ]
        ),
        MaxPool2d(2),
        Concat([[Residual([Conv2d(14, 3, padding=1, groups=2)])], [Conv2d(3, 5, padding=2)]]),
        Flatten(),
        Linear(10),
    ]


def torch_inception():
    return [
        TorchConcat(
            [nn.Conv2d(3, 4, 1), nn.ReLU()],
            [nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1), nn.ReLU()],
            [nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 1)],
            [],
        ),
        nn.MaxPool2d(2),
        TorchConcat(
            [TorchResidual([nn.Conv2d(14, 14, 3, padding=1, groups=2)])], [nn.Conv2d(14, 3, 5, padding=2)]
        ),
        *(nn.Flatten(), nn.Linear(17 * 36, 10)),
    ]


NETWORKS = {
    "lenet": (lenet, torch_lenet, (1, 28, 28)),
    "resnet": (resnet, torch_resnet, (3, 13, 12)),
    "inception": (inception, torch_inception, (3, 12, 13)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_train_like_those_of_pytorch(name, dtype, backend, rng):
    """Two SGD steps, then evaluation: outputs, all gradients, dx, weights and running statistics."""
    layers, torch_layers, shape = NETWORKS[name]
    network, loss = cnn.Network(layers()), SoftmaxCrossEntropy(label_smoothing=0.1)
    assert network.build(shape, np.random.default_rng(1), dtype) == (10,)
    twin = nn.Sequential(*torch_layers()).double()
    with torch.no_grad():
        for p, q in zip(network.parameters(), twin.parameters(), strict=True):
            q.copy_(tensor(p.data))
    x, labels = rng.standard_normal((19, *shape)).astype(dtype), rng.integers(0, 10, 19)
    for step in range(2):
        leaf = tensor(x, grad=True)
        output = twin(leaf)
        expected = nn.functional.cross_entropy(output, torch.tensor(labels), label_smoothing=0.1)
        twin.zero_grad()
        expected.backward()
        with naming("step", step):
            logits = network.forward(x, training=True)
            assert_forward(logits, output.detach().numpy(), dtype)
            value = loss.forward(logits, labels)
            np.testing.assert_allclose(value, expected.item(), rtol=1e-12 if dtype == np.float64 else 1e-5)
            network.zero_grad()
            dx = network.backward(loss.backward())
            # the smallest scale that counts: a bias before BatchNorm has an exact gradient of 0
            scale = max(q.grad.abs().max().item() for q in twin.parameters())
            slack = 1.0 if dtype == np.float64 else 20.0  # float32 errors grow over the layers
            assert_gradient(dx, leaf.grad.numpy(), dtype, "dx", floor=slack * scale)
            for p, q in zip(network.parameters(), twin.parameters(), strict=True):
                assert_gradient(p.grad, q.grad.numpy(), dtype, f"{p.name} {p.shape}", floor=slack * scale)
        network.data[...] -= 0.1 * network.grad
        with torch.no_grad():
            for q in twin.parameters():
                q -= 0.1 * q.grad
    twin.eval()
    outputs = twin(tensor(x)).detach().numpy()
    tolerance = 1e-9 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(network.predict(x), outputs, atol=tolerance * np.abs(outputs).max())
