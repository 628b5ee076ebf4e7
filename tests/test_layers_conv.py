"""Conv2d and ConvTranspose2d against PyTorch."""

import warnings

import numpy as np
import pytest
from helpers import CHUNKS, geometries, naming, values
from helpers_torch import check, torch

from cnn import geometry
from cnn.backend import use_backend
from cnn.errors import ConfigError, ShapeError
from cnn.layers import Conv2d, ConvTranspose2d

F = torch.nn.functional


def draw_conv(rng):
    """Return (arguments, input shape) of a convolution that fits."""
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    channels, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    if rng.random() < 0.15:  # depthwise, with one or two filters a channel
        groups = channels = int(rng.integers(1, 6))
        outputs = channels * int(rng.integers(1, 3))
    kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
    if rng.random() < 0.4:
        kernel = int(rng.choice([1, 3, 5]))
    dilation = tuple(int(d) for d in rng.choice([1, 1, 1, 2, 3], 2))
    if rng.random() < 0.25:
        padding, stride = "same", 1
    else:
        padding = tuple(int(p) for p in rng.integers(0, 4, 2))
        stride = tuple(int(s) for s in rng.choice([1, 1, 2, 3], 2))
    pads = (0, 0) if padding == "same" else padding
    smallest = [
        max(1, d * (k - 1) + 1 - 2 * p)
        for k, d, p in zip(geometry.pair(kernel, "k"), dilation, pads, strict=True)
    ]
    height, width = (int(low + extra) for low, extra in zip(smallest, rng.integers(0, 9, 2), strict=True))
    arguments = {
        "out_channels": outputs,
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": bool(rng.random() < 0.7),
    }
    return arguments, (int(rng.choice([1, 1, 2, 3, 5, 17])), channels, height, width)


def conv_oracle(stride, padding, dilation, groups, **_):
    def oracle(x, weight, bias=None):
        with warnings.catch_warnings():
            # "same" with an even kernel copies the input, which PyTorch mentions
            warnings.filterwarnings("ignore", "Using padding='same'", UserWarning)
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return oracle


@pytest.mark.parametrize("chunk", CHUNKS)
def test_conv2d_is_that_of_pytorch(chunk):
    for (arguments, shape), rng in geometries("conv", draw_conv, chunk):
        with naming("Conv2d", arguments, "input", shape):
            check(Conv2d(**arguments), conv_oracle(**arguments), values(shape, rng), rng)


@pytest.mark.parametrize("chunk", range(4))
def test_conv2d_in_float32(chunk):
    for (arguments, shape), rng in geometries("conv32", draw_conv, chunk):
        with naming("Conv2d", arguments, "input", shape):
            check(Conv2d(**arguments), conv_oracle(**arguments), values(shape, rng), rng, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"out_channels": 6, "kernel_size": 5, "padding": 2}, (20, 1, 28, 28)),
        ({"out_channels": 16, "kernel_size": 5}, (20, 6, 14, 14)),
        ({"out_channels": 32, "kernel_size": 3, "padding": 1}, (17, 32, 16, 16)),
        ({"out_channels": 32, "kernel_size": 3, "padding": 1}, (5, 24, 15, 13)),
        ({"out_channels": 40, "kernel_size": 3}, (3, 24, 9, 11)),
        ({"out_channels": 24, "kernel_size": 3, "stride": 2, "padding": 1}, (16, 32, 16, 16)),
        ({"out_channels": 64, "kernel_size": 1}, (33, 32, 8, 8)),
        ({"out_channels": 24, "kernel_size": 2}, (16, 3, 32, 32)),
        ({"out_channels": 32, "kernel_size": 3, "padding": 1, "groups": 32}, (16, 32, 12, 12)),
        ({"out_channels": 8, "kernel_size": 7, "stride": 2, "padding": 3}, (2, 3, 33, 31)),
    ],
    ids=str,
)
def test_conv2d_at_the_sizes_of_real_networks(arguments, shape, dtype, rng):
    arguments = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments
    check(Conv2d(**arguments), conv_oracle(**arguments), rng.standard_normal(shape), rng, dtype)


def draw_transposed(rng):
    """Return (arguments, input shape) of a transposed convolution with an output."""
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel, stride = (tuple(int(v) for v in rng.integers(1, high, 2)) for high in (6, 4))
    dilation = tuple(int(d) for d in rng.choice([1, 1, 2], 2))
    padding = tuple(
        int(rng.integers(0, (d * (k - 1)) // 2 + 1)) for k, d in zip(kernel, dilation, strict=True)
    )
    arguments = {
        "out_channels": outputs,
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "output_padding": tuple(int(rng.integers(0, s)) for s in stride),
        "groups": groups,
        "bias": bool(rng.random() < 0.7),
        "dilation": dilation,
    }
    height, width = (int(v) for v in rng.integers(1, 9, 2))
    return arguments, (int(rng.choice([1, 1, 2, 3, 17])), channels, height, width)


def transposed_oracle(stride, padding, output_padding, groups, dilation, **_):
    def oracle(x, weight, bias=None):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)

    return oracle


@pytest.mark.parametrize("chunk", CHUNKS)
def test_conv_transpose2d_is_that_of_pytorch(chunk):
    for (arguments, shape), rng in geometries("transposed", draw_transposed, chunk):
        with naming("ConvTranspose2d", arguments, "input", shape):
            check(ConvTranspose2d(**arguments), transposed_oracle(**arguments), values(shape, rng), rng)


@pytest.mark.parametrize("chunk", range(4))
def test_conv_transpose2d_in_float32(chunk):
    for (arguments, shape), rng in geometries("transposed32", draw_transposed, chunk):
        with naming("ConvTranspose2d", arguments, "input", shape):
            layer, oracle = ConvTranspose2d(**arguments), transposed_oracle(**arguments)
            check(layer, oracle, values(shape, rng), rng, np.float32)


def test_conv_transpose2d_is_the_adjoint_of_conv2d(backend, rng):
    """<conv(x), y> = <x, transposed(y)> with the same weight, whatever x and y."""
    conv = Conv2d(6, (3, 2), stride=2, padding=1, groups=2, bias=False)
    shape = conv.build((4, 9, 8), rng, np.float64)
    transposed = ConvTranspose2d(4, (3, 2), stride=2, padding=1, groups=2, bias=False, output_padding=(0, 0))
    assert transposed.build(shape, rng, np.float64) == (4, 9, 8)
    transposed.weight.data = conv.weight.data
    x, y = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((2, *shape))
    forward = np.vdot(np.asarray(conv.forward(x)), y)
    np.testing.assert_allclose(forward, np.vdot(x, np.asarray(transposed.forward(y))), rtol=1e-12)


def test_a_filter_is_not_flipped(backend):
    conv = Conv2d(1, 2, bias=False)
    conv.build((1, 2, 3), dtype=np.float64)
    conv.weight.data = np.array([[[[1.0, 10.0], [100.0, 1000.0]]]])
    x = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    np.testing.assert_array_equal(np.asarray(conv.forward(x))[0, 0], [[5421.0, 6532.0]])


def test_same_padding_puts_the_odd_pixel_below_and_to_the_right(backend):
    conv = Conv2d(1, 2, padding="same", bias=False)
    assert conv.build((1, 2, 2), dtype=np.float64) == (1, 2, 2)
    conv.weight.data = np.array([[[[0.0, 0.0], [0.0, 1.0]]]])  # picks the pixel below and to the right
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    np.testing.assert_array_equal(np.asarray(conv.forward(x))[0, 0], [[4.0, 0.0], [0.0, 0.0]])


def test_groups_do_not_see_each_other(backend, rng):
    conv = Conv2d(4, 3, groups=2, bias=False)
    conv.build((6, 5, 5), rng, np.float64)
    x = rng.standard_normal((2, 6, 5, 5))
    before = np.array(conv.forward(x))
    x[:, 3:] += 1  # the second group's channels
    after = np.array(conv.forward(x))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (after[:, 2:] != before[:, 2:]).all()


def test_a_convolution_takes_planes_of_other_sizes_than_it_was_built_for(backend, rng):
    conv = Conv2d(2, 3)
    conv.build((3, 8, 8), rng)
    assert np.asarray(conv.forward(np.zeros((1, 3, 5, 12), np.float32))).shape == (1, 2, 3, 10)
    with pytest.raises(ShapeError, match="larger than its padded input"):
        conv.forward(np.zeros((1, 3, 2, 12), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_channels": 0, "kernel_size": 3}, "out_channels: expected an integer >= 1, found 0"),
        ({"out_channels": 2.5, "kernel_size": 3}, "out_channels: expected an integer >= 1, found 2.5"),
        ({"out_channels": True, "kernel_size": 3}, "out_channels: expected an integer >= 1, found True"),
        ({"out_channels": 2, "kernel_size": (3, 3, 3)}, "kernel_size: expected an integer >= 1 or a pair"),
        ({"out_channels": 2, "kernel_size": "3"}, "kernel_size"),
        ({"out_channels": 2, "kernel_size": 3, "stride": 0}, "stride: expected an integer >= 1"),
        ({"out_channels": 2, "kernel_size": 3, "padding": -1}, "padding: expected an integer >= 0"),
        ({"out_channels": 2, "kernel_size": 3, "dilation": 0}, "dilation"),
        ({"out_channels": 2, "kernel_size": 3, "groups": 0}, "groups"),
        ({"out_channels": 3, "kernel_size": 3, "groups": 2}, "groups=2 does not divide out_channels=3"),
        ({"out_channels": 2, "kernel_size": 3, "padding": "full"}, 'expected pixels, "same" or "valid"'),
        (
            {"out_channels": 2, "kernel_size": 3, "padding": "same", "stride": 2},
            'padding="same" needs stride 1',
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(arguments, message):
    with pytest.raises(ConfigError, match=r"^Conv2d") as caught:
        Conv2d(**arguments)
    assert message in str(caught.value)


def test_output_padding_must_be_less_than_stride():
    with pytest.raises(ConfigError, match=r"output_padding less than stride \(2, 2\), found \(2, 2\)"):
        ConvTranspose2d(3, 3, stride=2, output_padding=2)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            Conv2d(4, 5),
            (3, 4, 9),
            r"Conv2d: the window of 5x5 .* input of 4x9 pixels, input shape \(3, 4, 9\)",
        ),
        (Conv2d(4, 3, groups=2), (3, 9, 9), "Conv2d: groups=2 does not divide the 3 input channels"),
        (Conv2d(4, 3), (27,), r"Conv2d: expected an input of shape \(C, H, W\), found \(27,\)"),
        (ConvTranspose2d(4, 3, groups=2), (3, 9, 9), "ConvTranspose2d: groups=2 does not divide the 3"),
        (ConvTranspose2d(4, 1, padding=1), (3, 2, 9), "padding removes the whole output"),
    ],
)
def test_a_shape_that_does_not_fit_fails_at_build(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shape)


def test_valid_padding_is_no_padding():
    assert Conv2d(1, 3, padding="valid").padding == ((0, 0), (0, 0))


def test_initial_values_are_those_of_pytorch():
    """Kaiming-uniform with a = sqrt 5: weight and bias uniform within 1 / sqrt(fan_in)."""
    for layer, fan_in in ((Conv2d(64, 3, groups=2), 9 * 4), (ConvTranspose2d(64, 3, groups=2), 9 * 32)):
        layer.build((8, 9, 9), np.random.default_rng(0), np.float64)
        bound = 1 / np.sqrt(fan_in)
        for parameter in layer.parameters():
            assert np.abs(parameter.data).max() <= bound
        assert np.abs(layer.weight.data).max() > 0.99 * bound
        np.testing.assert_allclose(layer.weight.data.std(), bound / np.sqrt(3), rtol=0.05)


def test_backends_share_one_forward_cache_rule(rng):
    """Backward computes with the backend of its forward, also after the backend was switched."""
    conv = Conv2d(3, 3)
    conv.build((2, 6, 6), rng, np.float64)
    x, dy = rng.standard_normal((2, 2, 6, 6)), rng.standard_normal((2, 3, 4, 4))
    with use_backend("reference"):
        conv.forward(x)
        expected = np.array(conv.backward(dy))
    with use_backend("numba"):
        np.testing.assert_array_equal(np.asarray(conv.backward(dy)), expected)
