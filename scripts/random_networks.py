"""Random networks of small layers, to compare with other programs."""

import numpy as np

from cnn.errors import ShapeError
from cnn.layers import (
    ELU,
    GELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Graph,
    GroupNorm,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LayerNorm,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    PReLU,
    ReLU,
    ReLU6,
    Residual,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    Upsample,
    ZeroPad2d,
)
from cnn.network import Network


def random_network(rng):
    """Return a built network of random layers, with running statistics that are not 0 and 1."""
    while True:
        channels, size = int(rng.integers(1, 5)), rng.integers(5, 14, 2)
        layers = [_spatial(rng, depth=0) for _ in range(rng.integers(1, 6))]
        layers += [[Flatten()], [GlobalAvgPool2d()], [GlobalMaxPool2d()]][rng.integers(3)]
        layers += [BatchNorm1d()] if rng.random() < 0.3 else []
        layers += [Linear(int(rng.integers(2, 9)), bias=bool(rng.integers(2)))]
        layers += [Softmax()] if rng.random() < 0.1 else []
        network = Network(layers)
        try:
            network.build((channels, *map(int, size)), rng=rng)
        except ShapeError:  # pools and convolutions left nothing over
            continue
        if sum(parameter.size for parameter in network.parameters()) > 10**6:
            continue
        for name, array in network.state().items():
            if name.endswith("running_mean"):
                array[...] = rng.normal(size=array.shape)
            if name.endswith("running_var"):
                array[...] = rng.uniform(0.5, 2, array.shape)
        return network


def _spatial(rng, depth):
    choice = rng.integers(0, 9 if depth == 0 else 7)
    if choice < 2:
        return _conv(rng)
    if choice == 2:
        kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
        padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        stride = None if rng.random() < 0.5 else tuple(int(s) for s in rng.integers(1, 3, 2))
        if rng.random() < 0.5:
            return MaxPool2d(kernel, stride=stride, padding=padding)
        return AvgPool2d(kernel, stride=stride, padding=padding, count_include_pad=bool(rng.integers(2)))
    if choice == 3 and rng.random() < 0.4:
        return [LayerNorm, lambda: GroupNorm(1), lambda: LocalResponseNorm(3, 0.5)][rng.integers(3)]()
    if choice == 3:
        return BatchNorm2d(eps=float(rng.choice([1e-5, 1e-3])), affine=bool(rng.integers(2)))
    if choice == 4:
        return _activation(rng)
    if choice == 5 and rng.random() < 0.4:
        sides = tuple(int(side) for side in rng.integers(-1, 3, 4))
        return ZeroPad2d(sides) if rng.random() < 0.5 else Upsample(scale_factor=(1, 2))
    if choice == 5:
        return Scale(float(rng.normal())) if rng.random() < 0.5 else Dropout(0.3)
    if choice == 6:
        stride = int(rng.integers(1, 4))
        return ConvTranspose2d(
            int(rng.integers(1, 5)),
            kernel_size=int(rng.integers(stride, 5)) if stride < 5 else stride,
            stride=stride,
            output_padding=int(rng.integers(0, stride)),
            bias=bool(rng.integers(2)),
        )
    if choice == 7:
        body = [BatchNorm2d(), _activation(rng), _same(rng)] if rng.random() < 0.5 else [_activation(rng)]
        return (
            Residual([BatchNorm2d(), _activation(rng)], [Scale(0.5)] if rng.random() < 0.5 else None)
            if (len(body) == 1)
            else Concat([body, [], [_activation(rng)]])
        )
    if rng.random() < 0.5:
        return _graph(rng)
    return Concat([[_same(rng)], [_same(rng), _activation(rng)]])


def _graph(rng):
    """Return three values that are joined again and again, as in no list of branches."""
    join = ["add", "mul", "concat"][rng.integers(3)]
    return Graph(
        [[_activation(rng)], [_activation(rng)], [], [_same(rng), _activation(rng)]],
        [(0,), (0,), (1, 2), (3, 0, 1)],
        ["", "", join, "concat"],
    )


def _same(rng):
    return Conv2d(int(rng.integers(1, 6)), kernel_size=int(rng.integers(1, 4)), padding="same")


def _conv(rng):
    return Conv2d(
        int(rng.integers(1, 8)),
        kernel_size=tuple(int(k) for k in rng.integers(1, 4, 2)),
        stride=tuple(int(s) for s in rng.integers(1, 3, 2)),
        padding=int(rng.integers(0, 3)),
        dilation=int(rng.integers(1, 3)),
        bias=bool(rng.integers(2)),
    )


def _activation(rng):
    kinds = [
        ReLU, LeakyReLU, GELU, SiLU, Sigmoid, Tanh, lambda: GELU("tanh"), lambda: LeakyReLU(0.2), ReLU6,
        lambda: ELU(0.7), PReLU, Softplus, Hardsigmoid, Hardswish, lambda: Hardtanh(-0.5, 2.0),
    ]  # fmt: skip
    return kinds[rng.integers(len(kinds))]()


def random_images(network, rng, count=4):
    """Return ``count`` float32 images for a built network."""
    return rng.standard_normal((count, *network.input_shape)).astype(np.float32)
