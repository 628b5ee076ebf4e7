"""Layers against PyTorch's, forward and backward, under both backends."""

import numpy as np
import pytest

import cnn
from cnn.errors import ConfigError, ShapeError
from cnn.layers import (
    ELU,
    AvgPool2d,
    Conv2d,
    Flatten,
    Graph,
    GroupNorm,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2d,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    Softplus,
    Tanh,
    Unflatten,
    Upsample,
    ZeroPad2d,
)

torch = pytest.importorskip("torch")
nn = torch.nn


def padded(sides, module, value=0.0):
    """Return a module behind asymmetric padding (left, right, top, bottom)."""
    return nn.Sequential(nn.ConstantPad2d(sides, value), module)


class ThreeLines(nn.Module):
    """Hardsigmoid; nn.Hardsigmoid rounds the 1/6 of its gradient to float32, in float64 as well."""

    def forward(self, x):
        return nn.functional.relu6(x + 3) / 6


class Gated(nn.Module):
    """A convolution gated by its means (squeeze and excitation), added and joined in several ways."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        a = self.conv(x)
        gated = a * torch.sigmoid(a.mean((2, 3), keepdim=True))
        d = torch.tanh(x + gated + a)
        return torch.cat([d, a, d], 1)


#: name -> (ours, PyTorch's, input shape)
CASES = {
    "ELU": (lambda: ELU(0.7), lambda: nn.ELU(0.7), (3, 4, 5)),
    "Softplus": (lambda: Softplus(2.0, 3.0), lambda: nn.Softplus(2.0, 3.0), (3, 4, 5)),
    "PReLU": (PReLU, nn.PReLU, (3, 4, 5)),
    "PReLU per channel": (lambda: PReLU(3), lambda: nn.PReLU(3), (3, 4, 5)),
    "PReLU of features": (lambda: PReLU(7), lambda: nn.PReLU(7), (7,)),
    "GroupNorm": (lambda: GroupNorm(2), lambda: nn.GroupNorm(2, 4), (4, 5, 3)),
    "GroupNorm plain": (
        lambda: GroupNorm(4, affine=False, eps=1e-2),
        lambda: nn.GroupNorm(4, 4, 1e-2, affine=False),
        (4, 5, 3),
    ),
    "GroupNorm of features": (lambda: GroupNorm(3), lambda: nn.GroupNorm(3, 9), (9,)),
    "LayerNorm": (LayerNorm, lambda: nn.LayerNorm((4, 5, 3)), (4, 5, 3)),
    "LayerNorm of features": (LayerNorm, lambda: nn.LayerNorm(9), (9,)),
    "LayerNorm no bias": (
        lambda: LayerNorm(bias=False),
        lambda: nn.LayerNorm((4, 5, 3), bias=False),
        (4, 5, 3),
    ),
    "Upsample": (
        lambda: Upsample(scale_factor=(2, 3)),
        lambda: nn.Upsample(scale_factor=(2, 3)),
        (4, 5, 3),
    ),
    "ZeroPad2d": (lambda: ZeroPad2d((1, 2, 0, 3)), lambda: nn.ZeroPad2d((1, 2, 0, 3)), (4, 5, 3)),
    "ZeroPad2d cuts": (lambda: ZeroPad2d(-1), lambda: nn.ZeroPad2d(-1), (4, 5, 3)),
    "Unflatten": (lambda: Unflatten((2, 3, 4)), lambda: nn.Unflatten(1, (2, 3, 4)), (24,)),
    "ReLU6": (ReLU6, nn.ReLU6, (3, 4, 5)),
    "Hardtanh": (lambda: Hardtanh(-0.5, 0.8), lambda: nn.Hardtanh(-0.5, 0.8), (3, 4, 5)),
    "Hardtanh of one side": (
        lambda: Hardtanh(-0.5, float("inf")),
        lambda: nn.Hardtanh(-0.5, float("inf")),
        (9,),
    ),
    "Hardsigmoid": (Hardsigmoid, ThreeLines, (3, 4, 5)),
    "Hardswish": (Hardswish, nn.Hardswish, (3, 4, 5)),
    "LogSoftmax": (LogSoftmax, lambda: nn.LogSoftmax(1), (7,)),
    "LogSoftmax of planes": (LogSoftmax, lambda: nn.LogSoftmax(1), (7, 3, 4)),
    "LocalResponseNorm": (
        lambda: LocalResponseNorm(5, 0.5),
        lambda: nn.LocalResponseNorm(5, 0.5),
        (7, 3, 4),
    ),
    "LocalResponseNorm even": (
        lambda: LocalResponseNorm(4, 0.3, 0.6, 2.0),
        lambda: nn.LocalResponseNorm(4, 0.3, 0.6, 2.0),
        (7, 3, 4),
    ),
    "Graph": (
        lambda: Graph(
            [[Conv2d(3, 3, padding=1)], [AvgPool2d((4, 5)), Sigmoid()], [], [Tanh()], []],
            [(0,), (1,), (1, 2), (0, 3, 1), (4, 1, 4)],
            ["", "", "mul", "add", "concat"],
        ),
        lambda: Gated(nn.Conv2d(3, 3, 3, padding=1)),
        (3, 4, 5),
    ),
    "MaxPool2d dilated": (
        lambda: MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
        lambda: nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True),
        (4, 9, 10),
    ),
    "MaxPool2d ceil": (
        lambda: MaxPool2d(2, ceil_mode=True),
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        (4, 7, 9),
    ),
    "AvgPool2d ceil": (
        lambda: AvgPool2d(3, 2, 1, ceil_mode=True),
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        (4, 9, 10),
    ),
    "AvgPool2d ceil, pixels only": (
        lambda: AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (4, 8, 10),
    ),
    "Conv2d sides": (
        lambda: Conv2d(4, 3, padding=((0, 1), (2, 1))),
        lambda: padded((2, 1, 0, 1), nn.Conv2d(3, 4, 3)),
        (3, 6, 7),
    ),
    "AvgPool2d sides": (
        lambda: AvgPool2d(3, 1, ((0, 1), (1, 0))),
        lambda: padded((1, 0, 0, 1), nn.AvgPool2d(3, 1)),
        (3, 6, 7),
    ),
    "MaxPool2d sides": (
        lambda: MaxPool2d(3, 1, ((0, 1), (1, 0))),
        lambda: padded((1, 0, 0, 1), nn.MaxPool2d(3, 1), -1e9),
        (3, 6, 7),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_what_pytorchs_does(name, backend, rng):
    make, make_twin, shape = CASES[name]
    layer, twin = make(), make_twin().double()
    layer.build(shape, rng, np.float64)
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        p.data = rng.standard_normal(p.shape)
        with torch.no_grad():
            q[...] = torch.tensor(p.data)
    x = 4 * rng.standard_normal((3, *shape))
    t = torch.tensor(x, requires_grad=True)
    expected = twin(t)
    y = np.asarray(layer.forward(x, training=True))
    assert y.shape[1:] == layer.output_shape
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-9, atol=1e-10)
    dy = rng.standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(np.asarray(layer.backward(dy)), t.grad.numpy(), rtol=1e-8, atol=1e-9)
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"ceil_mode": True}, {"padding": ((0, 1), (1, 0))}])
def test_a_pool_behind_a_convolution_keeps_its_window(options, rng):
    """Where convolution, ReLU and pool run as one step, the step computes the same."""
    found = []
    x = rng.standard_normal((5, 2, 9, 9)).astype(np.float32)
    for backend in ("reference", "numba"):
        with cnn.use_backend(backend):
            network = cnn.Network(
                [Conv2d(4, 3), ReLU(), MaxPool2d(2, **options), Conv2d(3, 2), Flatten(), Linear(3)]
            )
            network.build((2, 9, 9))
            for _ in range(3):  # lowered once, run three times
                network.zero_grad()
                y = np.asarray(network.forward(x, training=True))
                dx = np.asarray(network.backward(np.ones_like(y)))
            found.append([y, dx, network.grad.copy(), network.predict(x), network.predict(x[:1])])
    for ours, expected in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupNorm(8, 64), r"num_channels is inferred .* write GroupNorm\(8\)"),
        (lambda: LayerNorm((4, 5, 3)), r"normalized_shape is inferred .* write LayerNorm\(\)"),
        (lambda: Upsample(2), r"write Upsample\(scale_factor=2\)"),
        (lambda: Upsample(scale_factor=2, mode="bilinear"), 'expected "nearest"'),
        (lambda: ZeroPad2d((1, 2)), "4 of them"),
        (lambda: ZeroPad2d(1.5), "4 of them"),
        (lambda: Softplus(beta=0), "other than 0"),
        (lambda: LayerNorm(eps=0), "eps"),
        (lambda: MaxPool2d(2, padding=((0, 2), (0, 0))), "exceeds half"),
        (lambda: MaxPool2d(2, padding=((0, 1), 1)), r"expected \(\(top, bottom\), \(left, right\)\)"),
        (lambda: Conv2d(2, 3, padding=((0, -1), (0, 0))), "padding: expected an integer >= 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (GroupNorm(3), "num_groups=3 does not divide the 4 channels"),
        (PReLU(3), "expected num_parameters 1 or 4"),
        (ZeroPad2d(-3), "leaves a plane"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_at_build(layer, message):
    with pytest.raises(ShapeError, match=message):
        layer.build((4, 6, 5))
