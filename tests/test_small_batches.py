"""Few images in strips: ``cnn.fast.kernels.strips``, and training steps that use them."""

import threading
from collections import Counter

import numpy as np
import pytest
from helpers import GRADIENT, error_of

import cnn
from cnn import backend
from cnn.fast import blocked
from cnn.fast.blocked import LANES, Strips
from cnn.fast.kernels import conv_strips, norm, strips
from cnn.fast.kernels.activation import RELU
from cnn.fast.machine.bf16 import BFLOAT16
from cnn.fast.machine.owner import owner, precision
from cnn.fast.step import Context, array, computed
from cnn.fast.steps import plan
from cnn.layers import (
    GELU,
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Graph,
    GroupNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sigmoid,
    SoftmaxCrossEntropy,
    Unflatten,
)

IMAGES = (8, 4, 3, 1)


def _norm():
    return [BatchNorm2d(), ReLU()]


def _block(channels, stride=1):
    body = [Conv2d(channels, 3, padding=1, stride=stride), *_norm(), Conv2d(channels, 3, padding=1)]
    shortcut = [Conv2d(channels, 1, stride=stride), BatchNorm2d()] if stride > 1 else []
    return [Residual([*body, BatchNorm2d()], shortcut), ReLU()]


class Outside(LeakyReLU):
    """What only Python can run: a subclass does not inherit that its class is pure."""


NETWORKS = {
    "residual": lambda: [
        Conv2d(16, 7, stride=2, padding=3, bias=False), *_norm(), MaxPool2d(3, 2, 1), *_block(16),
        *_block(24, 2), Dropout(0.2), Conv2d(16, 3, padding=1), GELU(), GlobalAvgPool2d(), Linear(5),
    ],
    "pools": lambda: [
        Conv2d(16, 3, padding=1), *_norm(), MaxPool2d(2), Conv2d(16, 5, padding=2), ReLU(), MaxPool2d(2),
        Conv2d(16, 1), BatchNorm2d(), LeakyReLU(), AvgPool2d(3, 1, 1), Conv2d(8, 3), MaxPool2d(3, 1),
        Flatten(), Linear(5),
    ],
    "others": lambda: [
        Conv2d(6, 5), ReLU(), MaxPool2d(3, 2), Conv2d(16, 3, dilation=2, padding=2), AvgPool2d(2),
        Conv2d(16, (3, 1), stride=(2, 1), groups=2), AvgPool2d(3, 1, 1, count_include_pad=False),
        Conv2d(16, 3, padding=1, groups=16), GroupNorm(4), MaxPool2d(3, 2, ceil_mode=True), Flatten(),
        Linear(5),
    ],
    "outside": lambda: [
        Conv2d(16, 3), Outside(), Conv2d(16, 3, padding=1), Outside(), GlobalAvgPool2d(), Linear(5),
    ],
    "branches": lambda: [
        Conv2d(16, 3, padding=1), Residual([*_norm(), Conv2d(16, 3, padding=1)]),
        Concat([[Conv2d(8, 1)], [Conv2d(8, 3, padding=1)], [MaxPool2d(3, 1, 1)]]),
        Graph(
            [
                [ReLU(), Conv2d(32, 3, padding=1)],
                [GlobalAvgPool2d(), Unflatten((32, 1, 1)), Sigmoid()],
                [], [],
            ],
            [0, 1, (1, 2), (0, 3)],
            ["", "", "mul", "add"],
        ),
        ReLU(), Conv2d(8, 3, stride=3), GlobalAvgPool2d(), Linear(5),
    ],
}  # fmt: skip


@pytest.fixture
def gathers(monkeypatch):
    """Count what strips read."""
    counted, read = Counter(), strips.Windows.read

    def counting(windows, *arguments, **options):
        counted[windows.count] += 1
        return read(windows, *arguments, **options)

    monkeypatch.setattr(strips.Windows, "read", counting)
    return counted


def _train(name, images, engine="numba", number="float32", size=37, dtype=np.float32):
    """Return the loss, dx, gradients and running statistics of the second of two steps."""
    with backend.use_backend(engine):
        network = cnn.Network(NETWORKS[name](), precision=number)
        network.build((3, size, size), rng=np.random.default_rng(0), dtype=dtype)
        rng, loss = np.random.default_rng(1), SoftmaxCrossEntropy()
        x = rng.standard_normal((images, 3, size, size)).astype(dtype)
        labels = rng.integers(0, 5, images)
        for _ in range(2):
            network.zero_grad()
            value = loss.forward(network.forward(x, training=True), labels)
            dx = network.backward(loss.backward())
        buffers = [array for _, layer in network.walk() for array in layer.buffers().values()]
        running = [np.array(array) for array in buffers if array.dtype.kind == "f"]
        return [np.array(value), np.array(dx), network.grad.copy(), *running]


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_few_images_equals_the_references(name, images, gathers):
    found = _train(name, images)
    assert gathers.total() >= 4
    assert max(gathers) > 1
    for ours, expected in zip(found, _train(name, images, "reference"), strict=True):
        assert error_of(ours, expected) < GRADIENT[np.float32]


@pytest.mark.parametrize("images", IMAGES)
def test_without_the_images_gradient_the_others_are_the_same_bits(images):
    rng, gradients = np.random.default_rng(1), []
    x, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((images, 3, 32, 32), (images, 5)))
    for wanted in (True, False):
        network = cnn.Network(NETWORKS["residual"]())
        network.build((3, 32, 32), rng=np.random.default_rng(0))
        network.forward(x, training=True)
        network.backward(dy, input_gradient=wanted)
        gradients.append(network.grad.copy())
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("number", ["float32", "bf16"])
@pytest.mark.parametrize("images", [8, 3])
def test_the_bits_are_the_same_for_any_number_of_threads(images, number):
    every, results = backend.get_threads(), []
    for threads in (every, 1):
        backend.set_threads(threads)
        try:
            results.append(_train("residual", images, number=number) + _train("pools", images, number=number))
        finally:
            backend.set_threads(every)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("images", [8, 1])
def test_in_bf16_a_step_is_as_far_from_float32_in_strips_as_in_whole_images(images, monkeypatch):
    exact, found = _train("residual", images), _train("residual", images, number="bf16")
    monkeypatch.setattr(strips, "PIXELS", 10**9)
    whole = _train("residual", images, number="bf16")
    assert not np.array_equal(found[2], exact[2])
    for here, there, expected in zip(found, whole, exact, strict=True):
        assert np.linalg.norm(here - expected) <= 1.5 * np.linalg.norm(there - expected) + 1e-3


def _blocked(x, number):
    x = blocked.as_blocked(x.astype(np.float32))
    return blocked.converted(x, BFLOAT16) if number == "bf16" else x


GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 7, "padding": 3, "stride": 2},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (5, 3), "padding": ((1, 3), (0, 2))},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": (4, 1), "stride": (3, 1)},
    {"kernel_size": 5},
    {"kernel_size": 3, "padding": 1, "groups": 16},
]


def _whole_and_in_strips(layers, x, dy, number):
    """Return [(y, dx, gradients, y as it lies)] of a list of layers: in whole images and in strips."""
    results = []
    for pixels in (10**9, strips.PIXELS):
        with pytest.MonkeyPatch.context() as patch, precision(number), backend.use_backend("numba"):
            patch.setattr(strips, "PIXELS", pixels)
            steps = plan(layers, Context(threading.RLock()))
            y = x
            for step in steps:
                y = step.forward(y, True)
            y, dx = computed(y), dy
            for layer in layers:
                layer.zero_grad()
            for step in reversed(steps):
                dx = step.backward(dx, True, False)
            gradients = [p.grad.copy() for layer in layers for p in layer.parameters()]
            results.append((array(y), array(dx), gradients, y))
    return results


def _built(layers, shape):
    for layer in layers:
        shape = layer.build(shape, np.random.default_rng(0), np.float32)
    return shape


@pytest.mark.parametrize("number", ["float32", "bf16"])
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_gives_the_same_bits_in_strips(geometry, images, number):
    """Where pixels are summed one by one; the tiles of Winograd's form lie elsewhere in strips."""
    layers, rng = [Conv2d(16, **geometry)], np.random.default_rng(images)
    out = _built(layers, (16, 26, 13))
    x = _blocked(rng.standard_normal((images, 16, 26, 13)), number)
    dy = _blocked(rng.standard_normal((images, *out)), number)
    before = backend.get_winograd()
    backend.set_winograd(False)
    try:
        whole, (found, found_dx, found_gradients, laid) = _whole_and_in_strips(layers, x, dy, number)
    finally:
        backend.set_winograd(before)
    y, dx, gradients, _ = whole
    assert laid.strips is not None
    # depthwise sums have an order of their own; of rows that two strips read each sums, and rounds, its part
    tolerance, depthwise = 1e-6 if number == "float32" else 2**-7, "groups" in geometry
    assert error_of(found, y) <= (tolerance if depthwise else 0)
    assert error_of(found_dx, dx) <= (tolerance if depthwise or geometry["kernel_size"] in (5, (4, 1)) else 0)
    for ours, expected in zip(found_gradients, gradients, strict=True):
        assert error_of(ours, expected) < 1e-5


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("height", [24, 22])
@pytest.mark.parametrize(
    "pool",
    [
        lambda: MaxPool2d(3, 2, 1),
        lambda: MaxPool2d(3, 1, 1, dilation=2),
        lambda: MaxPool2d(2),
        lambda: AvgPool2d(3, 1, 1),
        lambda: AvgPool2d(2),
        lambda: AvgPool2d(3, 1, 1, count_include_pad=False),
    ],
)
def test_a_pool_gives_the_same_bits_in_strips(pool, height, images):
    layers, rng = [Conv2d(16, 1), pool(), Conv2d(8, 1)], np.random.default_rng(images)
    out = _built(layers, (8, height, 9))
    x = _blocked(rng.standard_normal((images, 8, height, 9)), "float32")
    dy = _blocked(rng.standard_normal((images, *out)), "float32")
    (y, dx, gradients, _), (found, found_dx, found_gradients, laid) = _whole_and_in_strips(
        layers, x, dy, "float32"
    )
    assert laid.strips is not None
    assert error_of(found, y) == 0
    assert error_of(found_dx, dx) < 1e-6  # windows that overlap add up in another order
    for ours, expected in zip(found_gradients, gradients, strict=True):
        assert error_of(ours, expected) < 1e-5


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [Conv2d(16, 3, padding=1), BatchNorm2d(), GELU()],
        lambda: [Conv2d(16, 3, padding=1, stride=2), BatchNorm2d(), ReLU(), Conv2d(16, 3, padding=1)],
        lambda: [Conv2d(16, 3), BatchNorm2d(), ReLU(), MaxPool2d(2)],
        lambda: [Conv2d(16, 3), *_block(16)],
        lambda: [Conv2d(8, 5), ReLU(), MaxPool2d(2)],
    ],
)
def test_lanes_and_rows_too_many_are_finite_there_and_zero_on_the_way_back(layers, images):
    layers, rng = [Conv2d(8, 1), *layers()], np.random.default_rng(images)
    out = _built(layers, (8, 22, 9))
    x = _blocked(rng.standard_normal((images, 8, 22, 9)), "float32")
    dy = _blocked(rng.standard_normal((images, *out)), "float32")
    seen, give_back = [], strips.Sliding.give_back
    with pytest.MonkeyPatch.context() as patch:

        def giving(slide, dx):
            seen.append(give_back(slide, dx))
            return seen[-1]

        patch.setattr(strips.Sliding, "give_back", giving)
        *_, y = _whole_and_in_strips(layers, x, dy, "float32")[1]
    assert y.strips is not None
    assert np.isfinite(y.buffer).all()
    assert any(dx.strips is not None for dx in seen)
    for dx in seen:
        strip, lanes = dx.strips or Strips(images, dx.shape[2], dx.shape[2]), dx.buffer[0]
        assert (lanes[..., dx.shape[0] :] == 0).all()
        assert (lanes[:, strip.whole :, :, dx.shape[0] - images :] == 0).all()
        assert (lanes[:, : strip.whole, :, : dx.shape[0]] != 0).any()


def _rows_of(x, windows, outside):
    """``Windows.read`` of a plain array in NumPy."""
    blank = np.full(x[:, :, :1].shape, outside, x.dtype)
    taken = []
    for strip in range(windows.count):
        at = strip * windows.step + windows.first + np.arange(windows.rows)
        rows = [x[:, :, r : r + 1] if 0 <= r < x.shape[2] else blank for r in at]
        taken.append(np.concatenate(rows, axis=2))
    return np.concatenate(taken)


def test_windows_read_the_rows_of_their_strips_and_give_gradients_back():
    rng = np.random.default_rng(0)
    for _ in range(60):
        images, height = int(rng.integers(1, 9)), int(rng.integers(2, 30))
        rows = int(rng.integers(-(-height // (LANES // images)), height + 1))
        source = Strips(images, height, rows)
        count = int(rng.integers(1, LANES // images + 1))
        windows = strips.Windows(source, count, *map(int, (rng.integers(1, 9), rng.integers(-4, 4))), 7)
        x = rng.integers(-9, 9, (images, 3, height, 4)).astype(np.float32)
        laid = strips.laid_out(blocked.as_blocked(x), source.or_none)
        np.testing.assert_array_equal(np.asarray(strips.laid_out(laid, None)), x)
        outside = float(rng.choice([0.0, -np.inf]))
        found = windows.read(laid, outside)
        np.testing.assert_array_equal(np.asarray(found), _rows_of(x, windows, outside))
        assert (found.buffer[..., found.shape[0] :] == 0).all()
        g = rng.integers(-9, 9, found.shape).astype(np.float32)
        back = windows.give_back(blocked.as_blocked(g))
        assert back.shape == laid.shape
        product = (np.asarray(array(back)) * x).sum()
        assert product == (_rows_of(x, windows, 0.0) * g).sum()


def test_who_reads_strips_may_normalise_them_on_the_way():
    rng = np.random.default_rng(0)
    x = blocked.as_blocked(rng.standard_normal((3, 5, 11, 4)).astype(np.float32))
    numbers = [rng.standard_normal(5).astype(np.float32) for _ in range(4)]
    windows = strips.Windows(strips.strips_of(x), 4, 3, -1, 5)
    expected = windows.read(norm.batch_norm_forward(x, *numbers, RELU), -np.inf)
    found = windows.read(x, -np.inf, (numbers, RELU, 0.0))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_only_few_float32_images_of_planes_that_are_worth_it_are_cut():
    assert strips.strips_for(np.float32, 8, (56, 56)) == Strips(8, 56, 28)
    assert strips.strips_for(np.float32, 4, (7, 7)) == Strips(4, 7, 2)
    assert strips.strips_for(np.float32, 3, (56, 56)) == Strips(3, 56, 12)
    assert strips.strips_for(np.float32, 9, (56, 56)) is None
    assert strips.strips_for(np.float64, 8, (56, 56)) is None
    assert strips.strips_for(np.float32, 8, (3, 3)) is None
    assert strips.strips_for(np.float32, 8, (1, 99)) is None
    owner().share = object()
    try:
        assert strips.strips_for(np.float32, 8, (56, 56)) is None
    finally:
        del owner().share
    x = blocked.as_blocked(np.zeros((8, 2, 20, 20), np.float32))
    assert conv_strips.sliding(x, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)).target == Strips(8, 20, 10)


def test_sixteen_images_and_predictions_are_not_cut(gathers):
    network = cnn.Network(NETWORKS["residual"]())
    network.build((3, 32, 32), rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((16, 3, 32, 32)).astype(np.float32)
    y = network.forward(x, training=True)
    network.backward(np.ones_like(y))
    network.predict(x[:4])
    assert not gathers
    network.forward(x[:8], training=False)
    assert gathers
