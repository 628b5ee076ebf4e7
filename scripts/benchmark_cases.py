"""What is measured: networks as ``cnn`` configs write them, convolutions as rows of numbers."""

import numpy as np


def _conv(out_channels, kernel_size=3, **options):
    return {"type": "Conv2d", "out_channels": out_channels, "kernel_size": kernel_size, **options}


def _linear(out_features, **options):
    return {"type": "Linear", "out_features": out_features, **options}


RELU, FLATTEN, NORM, POOL = (
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "BatchNorm2d"},
    {"type": "MaxPool2d", "kernel_size": 2},
)
GELU = {"type": "GELU"}


def _lenet(width=1):
    return [
        _conv(6 * width, 5, padding=2), RELU, POOL, _conv(16 * width, 5), RELU, POOL,
        FLATTEN, _linear(120 * width), RELU, _linear(84 * width), RELU, _linear(10),
    ]  # fmt: skip


def _vgg():
    layers = []
    for channels in (64, 128, 256):
        for _ in range(2):
            layers += [_conv(channels, padding=1, bias=False), NORM, RELU]
        layers.append(POOL)
    return [*layers, FLATTEN, _linear(256), RELU, _linear(10)]


def _resnet(stages, blocks):
    layers = [_conv(stages[0], padding=1, bias=False), NORM, RELU]
    channels = stages[0]
    for stage in stages:
        for block in range(blocks):
            stride = 2 if stage > stages[0] and block == 0 else 1
            body = [
                _conv(stage, padding=1, stride=stride, bias=False), NORM, RELU,
                _conv(stage, padding=1, bias=False), NORM,
            ]  # fmt: skip
            detour = {"type": "Residual", "body": body}
            if stride != 1 or channels != stage:
                detour["shortcut"] = [_conv(stage, 1, stride=stride, bias=False), NORM]
            layers += [detour, RELU]
            channels = stage
    return [*layers, {"type": "GlobalAvgPool2d"}, _linear(10)]


def _airbench():
    layers = [_conv(24, 2), GELU]
    for channels in (64, 256, 256):
        layers += [_conv(channels, padding=1, bias=False), POOL, NORM, GELU]
        layers += [_conv(channels, padding=1, bias=False), NORM, GELU]
    return [*layers, {"type": "MaxPool2d", "kernel_size": 3}, FLATTEN, _linear(10, bias=False)]


#: name: (layers, shape of one image)
NETWORKS = {
    "LeNet-5": (_lenet(), (1, 28, 28)),
    "VGG-like": (_vgg(), (3, 32, 32)),
    "ResNet-20": (_resnet((16, 32, 64), 3), (3, 32, 32)),
    "airbench-like": (_airbench(), (3, 32, 32)),
}

#: larger than what the sections measure: of 32x32 images as well, so without the first stride and pool
RESNET18 = _resnet((64, 128, 256, 512), 2), (3, 32, 32)

#: the same with all widths multiplied, to see how cost grows
WIDER = {f"LeNet-5 x{width}": (_lenet(width), (1, 28, 28)) for width in (1, 2, 4, 8)}

#: (network, batch) of the training steps
STEPS = [("LeNet-5", 64), ("LeNet-5", 128), ("VGG-like", 128), ("ResNet-20", 128), ("airbench-like", 128)]

#: in a turn of the training loop, or a few more: several whole groups of augmented batches
LOOP_STEPS = 200

#: (in channels, out channels, kernel, size, padding, stride, groups)
CONVOLUTIONS = [
    (1, 6, 5, 28, 2, 1, 1),
    (6, 16, 5, 14, 0, 1, 1),
    (3, 24, 2, 32, 0, 1, 1),
    (3, 64, 3, 32, 1, 1, 1),
    (16, 16, 3, 32, 1, 1, 1),
    (24, 64, 3, 31, 1, 1, 1),
    (32, 32, 3, 16, 1, 1, 1),
    (64, 64, 3, 15, 1, 1, 1),
    (64, 64, 3, 8, 1, 1, 1),
    (64, 128, 3, 16, 1, 1, 1),
    (128, 128, 3, 16, 1, 1, 1),
    (64, 256, 3, 15, 1, 1, 1),
    (256, 256, 3, 7, 1, 1, 1),
    (64, 64, 1, 16, 0, 1, 1),
    (256, 64, 1, 8, 0, 1, 1),
    (16, 32, 3, 32, 1, 2, 1),
    (32, 64, 1, 16, 0, 2, 1),
    (64, 64, 3, 16, 1, 1, 64),
    (32, 32, 3, 32, 1, 2, 32),
]


def convolution_name(case):
    """Like "64→64 3x3, 16x16, stride 2, depthwise"."""
    c, k, size, plane, padding, stride, groups = case
    name = f"{c}→{k} {size}x{size} on {plane}x{plane}, padding {padding}"
    return name + (f", stride {stride}" if stride > 1 else "") + (", depthwise" if groups > 1 else "")


def shape_of(name):
    """The shape of an image of a network."""
    return (NETWORKS | WIDER)[name][1]


def fingerprint(array):
    """(norm, projection on a fixed random direction): equal arrays agree in both, others do not."""
    array = np.asarray(array, np.float64).ravel()
    direction = np.random.default_rng(array.size).standard_normal(array.size) / np.sqrt(array.size)
    return [float(np.linalg.norm(array)), float(array @ direction)]


def images(shape, batch):
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *shape), dtype=np.float32), rng.integers(0, 10, batch)


def operands(case, batch):
    """(x, weight, bias, dy) of a convolution, the same in both processes."""
    c, k, size, plane, padding, stride, groups = case
    rng = np.random.default_rng(1)
    out = (plane + 2 * padding - size) // stride + 1
    x = rng.standard_normal((batch, c, plane, plane), dtype=np.float32)
    weight = rng.standard_normal((k, c // groups, size, size), dtype=np.float32)
    bias = rng.standard_normal(k, dtype=np.float32)
    return x, weight, bias, rng.standard_normal((batch, k, out, out), dtype=np.float32)
