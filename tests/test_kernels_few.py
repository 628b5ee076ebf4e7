"""Kernels whose lanes are channels, each against the plain form: prediction of a few images runs on them."""

import numba
import numpy as np
import pytest

import cnn
from cnn import reference
from cnn.fast import kernels
from cnn.fast.conv import few as few_conv
from cnn.fast.conv import few_pool, few_winograd, few_winograd_pairs
from cnn.fast.conv.geometry import RELU, UNBOUNDED
from cnn.fast.kernels import activation, few, few_joins
from cnn.fast.lanes import channel_vector
from cnn.fast.machine.fingerprint import PIECE, Fingerprint
from cnn.layers import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU
from cnn.reference import bfloat16 as twin

ONE, SAME = (1, 1), ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))

# images, channels in, channels out, plane, kernel, stride, padding, dilation
CONVOLUTIONS = {
    "first layer": (1, 3, 64, (9, 33), (3, 3), ONE, SAME, ONE),
    "one number": (1, 1, 1, (1, 1), (1, 1), ONE, NONE, ONE),
    "uneven padding": (2, 6, 17, (5, 7), (2, 4), ONE, ((0, 1), (1, 2)), ONE),
    "more than a block": (3, 20, 33, (6, 5), (3, 3), ONE, SAME, ONE),
    "strided": (1, 32, 70, (11, 12), (3, 3), (2, 3), SAME, ONE),
    "dilated": (1, 18, 16, (9, 10), (3, 2), ONE, ((2, 2), (0, 3)), (2, 3)),
    "dilated, a few channels": (2, 5, 9, (9, 10), (3, 3), (1, 2), SAME, (1, 2)),
    "1x1": (4, 48, 40, (4, 7), (1, 1), ONE, NONE, ONE),
    "1x1, strided": (2, 32, 16, (5, 6), (1, 1), (2, 2), NONE, ONE),
    "1x1 with padding": (1, 16, 5, (2, 3), (1, 1), ONE, SAME, ONE),
    "small planes": (1, 64, 100, (3, 3), (3, 3), ONE, SAME, ONE),
}

# images, channels in, channels out, plane, padding
WINOGRAD = {
    "one tile": (1, 16, 16, (4, 4), SAME),
    "four": (1, 130, 48, (8, 7), SAME),
    "odd everything": (3, 17, 35, (9, 5), SAME),
    "no padding": (2, 24, 20, (11, 8), NONE),
    "uneven padding": (1, 70, 16, (6, 13), ((2, 0), (0, 2))),
    "many tiles": (4, 65, 33, (14, 15), SAME),
}


def close(got, expected, tolerance=None):
    """Equal up to the rounding of a few operations in the dtype, unless a tolerance is given."""
    tolerance = tolerance or (1e-12 if expected.dtype == np.float64 else 1e-6)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def plain(y):
    """Lanes as a NumPy array."""
    whole = np.moveaxis(y.data, -1, 2).reshape(y.shape[0], -1, *y.plane)[:, : y.shape[1]]
    return np.ascontiguousarray(whole).reshape(y.shape)


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


BOUNDS = UNBOUNDED, RELU


def direct(x, weight, bias, stride, padding, dilation, relu=False):
    bias = few.channel_vector(bias)
    k = len(weight)
    packed = few_conv.pack(weight)
    return few_conv.convolve(few.enter(x), packed, bias, k, stride, padding, dilation, BOUNDS[relu])


def winograd(x, weight, bias, padding, relu=False):
    out_size = tuple(size + sum(p) - 2 for size, p in zip(x.shape[2:], padding, strict=True))
    packed, bias = few_winograd.pack(weight), few.channel_vector(bias)
    return few_winograd.convolve(few.enter(x), packed, bias, len(weight), out_size, padding, relu)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_agrees_with_the_reference(name, dtype):
    n, c, k, plane, kernel, stride, padding, dilation = CONVOLUTIONS[name]
    x, weight = normal(n, c, *plane, dtype=dtype), normal(k, c, *kernel, dtype=dtype, seed=1)
    bias = normal(k, dtype=dtype, seed=2)
    expected = reference.conv2d_forward(x, weight, bias, stride, padding, dilation, 1)
    for relu in (False, True):
        y = direct(x, weight, bias, stride, padding, dilation, relu)
        close(plain(y), np.maximum(expected, 0) if relu else expected, 1e-5 if dtype == np.float32 else 1e-12)


POOLED = {name: case for name, case in CONVOLUTIONS.items() if name not in ("one number",)} | {
    "two by two": (3, 1, 6, (28, 28), (5, 5), ONE, ((2, 2), (2, 2)), ONE),
    "two by two, eight and odd": (1, 3, 8, (8, 9), (3, 2), ONE, ((1, 0), (0, 2)), ONE),
    "two by two, 1x1": (2, 40, 3, (4, 6), (1, 1), ONE, NONE, ONE),
    "nine": (1, 3, 9, (8, 9), (3, 3), ONE, SAME, ONE),
    "six and strided": (1, 3, 6, (9, 17), (3, 3), (1, 2), SAME, ONE),
}


def pooled(x, weight, bias, stride, padding, dilation):
    two = len(weight) <= few_pool.HALF and stride == dilation == ONE
    packed, k = (few_pool.pack_two if two else few_conv.pack)(weight), len(weight)
    arguments = packed, few.channel_vector(bias), k, weight.shape[2:], stride, padding, dilation
    return few_pool.convolve(few.enter(x), *arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", POOLED)
def test_a_convolution_and_its_maxima_agree_with_the_reference(name, dtype):
    n, c, k, plane, kernel, stride, padding, dilation = POOLED[name]
    x, weight = normal(n, c, *plane, dtype=dtype), normal(k, c, *kernel, dtype=dtype, seed=1)
    bias = normal(k, dtype=dtype, seed=2) - 1  # some maxima are below 0
    sums = reference.conv2d_forward(x, weight, bias, stride, padding, dilation, 1)
    expected = np.maximum(reference.max_pool2d_forward(sums, (2, 2), (2, 2), NONE)[0], 0)
    y = pooled(x, weight, bias, stride, padding, dilation)
    close(plain(y), expected, 1e-5 if dtype == np.float32 else 1e-12)
    beyond = y.data.transpose(0, 2, 3, 1, 4).reshape(n, *y.plane, -1)[..., k:]
    assert (beyond == 0).all()


@pytest.mark.parametrize("k", [6, 20])
def test_nan_wins_against_its_window(k):
    x, weight = normal(1, 2, 8, 8), normal(k, 2, 3, 3, seed=1)
    x[0, 1, 4, 5] = np.nan
    sums = reference.conv2d_forward(x, weight, normal(k), ONE, SAME, ONE, 1)
    expected = reference.max_pool2d_forward(sums, (2, 2), (2, 2), NONE)[0]
    found = plain(pooled(x, weight, normal(k), ONE, SAME, ONE))
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd_agrees_with_the_reference(name):
    n, c, k, plane, padding = WINOGRAD[name]
    x, weight, bias = normal(n, c, *plane), normal(k, c, 3, 3, seed=1), normal(k, seed=2)
    expected = reference.conv2d_forward(x, weight, bias, ONE, padding, ONE, 1)
    for relu in (False, True):
        y = winograd(x, weight, bias, padding, relu)
        close(plain(y), np.maximum(expected, 0) if relu else expected, 2e-5)




@pytest.mark.parametrize("name", [name for name, case in WINOGRAD.items() if case[1] % 2 == 0])
def test_winograd_in_bf16_agrees_with_the_twin_that_rounds_at_the_same_points(name):
    n, c, k, plane, padding = WINOGRAD[name]
    x, weight, bias = normal(n, c, *plane), normal(k, c, 3, 3, seed=1), normal(k, seed=2)
    out_size = tuple(size + sum(p) - 2 for size, p in zip(plane, padding, strict=True))
    packed, shift = few_winograd_pairs.pack(weight), few.channel_vector(bias)
    rows, columns = ([(i, min(4, size - i)) for i in range(0, size, 4)] for size in out_size)
    sums = twin.winograd_forward(x, twin.rounded(weight), rows, columns, padding[0][0], padding[1][0])
    for relu in (False, True):
        y = few_winograd_pairs.convolve(few.enter(x), packed, shift, k, out_size, padding, relu)
        wanted = sums + bias[:, None, None]
        wanted = np.maximum(wanted, 0) if relu else wanted
        # a number within float32's error of a tie may be rounded the other way: few do
        assert np.linalg.norm(plain(y) - wanted) < 4e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("images", [1, 3])
def test_predictions_of_a_few_images_multiply_bf16_where_that_is_asked_for(images):
    layers = [Conv2d(16, 3), BatchNorm2d(), ReLU(), Conv2d(24, 3, padding=1), MaxPool2d(2), Flatten()]
    network, x = cnn.Network([*layers, Linear(10)]), normal(images, 3, 18, 18)
    network.build((3, 18, 18), rng=np.random.default_rng(0))
    wanted = network.predict(x)
    network.precision = "bf16"
    found = network.predict(x)
    assert 0 < np.linalg.norm(found - wanted) < 2e-2 * np.linalg.norm(wanted)
    x[0, 0, 5, 5] = np.nan
    assert np.isnan(network.predict(x)[0]).all()
    network["3.weight"].data[...] *= 0
    network["3.bias"].data[...] = 0  # what is left is the last bias
    found = network.predict(normal(images, 3, 18, 18))
    np.testing.assert_array_equal(found, np.tile(network["6.bias"].data, (images, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 400, 120), (2, 33, 10), (3, 100, 17), (8, 16, 200)])
def test_linear_agrees_with_numpy(shape, dtype):
    n, c, k = shape
    x, weight = normal(n, c, dtype=dtype), normal(k, c, dtype=dtype, seed=1)
    bias = normal(k, dtype=dtype, seed=2)
    packed, shift = few_conv.pack(weight.reshape(k, c, 1, 1)), few.channel_vector(bias)
    for relu in (False, True):
        y, expected = few_conv.linear(few.enter(x), packed, shift, k, BOUNDS[relu]), x @ weight.T + bias
        close(plain(y), np.maximum(expected, 0) if relu else expected, 1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 16, 21])
def test_pooling_agrees_with_the_reference(channels, dtype):
    x = normal(2, channels, 7, 9, dtype=dtype)
    for window in (((2, 2), (2, 2), NONE), ((3, 2), (2, 1), ((1, 1), (0, 1))), ((7, 9), (7, 9), NONE)):
        largest = reference.max_pool2d_forward(x, *window)[0]
        np.testing.assert_array_equal(plain(few.pool(few.enter(x), True, *window)), largest)
        for include in (True, False):
            mean = reference.avg_pool2d_forward(x, *window, include)
            close(plain(few.pool(few.enter(x), False, *window, include)), mean)
    np.testing.assert_array_equal(plain(few.pool_all(few.enter(x), True)), x.max((2, 3)))
    close(plain(few.pool_all(few.enter(x), False)), x.mean((2, 3)))


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("padding", [NONE, ((1, 0), (0, 1)), ((0, 1), (1, 1))])
def test_pooling_with_dilation_and_rounded_up_agrees_with_the_reference(padding, dilation):
    x = normal(2, 21, 8, 9, dtype=np.float64)
    for ceil_mode in (False, True):
        call = (3, 2), (2, 3), padding
        largest = reference.max_pool2d_forward(x, *call, dilation, ceil_mode)[0]
        found, _ = kernels.max_pool2d_forward(few.enter(x), *call, dilation, ceil_mode)
        np.testing.assert_array_equal(plain(found), largest)
        for include in (True, False):
            found = kernels.avg_pool2d_forward(few.enter(x), *call, include, ceil_mode)
            close(plain(found), reference.avg_pool2d_forward(x, *call, include, ceil_mode), 1e-12)


@pytest.mark.parametrize("name", ["elu", "hardsigmoid", "hardswish", "relu6", "hardtanh", "softplus"])
def test_new_activations_agree_with_the_reference(name):
    x = 3 * normal(3, 21, 5, 3, dtype=np.float64)
    arguments = {"elu": (0.7,), "hardtanh": (-0.5, 2.0), "softplus": (2.0, 3.0)}.get(name, ())
    found = getattr(kernels, f"{name}_forward")(few.enter(x), *arguments)
    close(plain(found), getattr(reference, f"{name}_forward")(x, *arguments), 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_others_agree_with_numpy(dtype):
    x, factor = normal(3, 21, 5, 3, dtype=dtype), normal(21, dtype=dtype)
    shift = normal(21, dtype=dtype, seed=1)
    a = few.enter(x)
    y = x * factor[:, None, None] + shift[:, None, None]
    vectors = few.channel_vector(factor), few.channel_vector(shift)
    close(plain(few.scale_channels(a, *vectors, activation.IDENTITY, 0.0)), y)
    leaky = few.scale_channels(a, *vectors, activation.LEAKY_RELU, 0.1)
    close(plain(leaky), np.where(y > 0, y, y * dtype(0.1)))
    close(plain(few.activate(a, activation.TANH, 0.0)), np.tanh(x))
    b = few.enter(y)
    np.testing.assert_array_equal(plain(few.add(a, b, False)), x + y)
    np.testing.assert_array_equal(plain(few.add(a, b, True)), np.maximum(x + y, 0))
    np.testing.assert_array_equal(plain(few.flatten(a)), x.reshape(3, -1))
    np.testing.assert_array_equal(plain(a), x)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_a_number_goes_where_the_reference_puts_it(odd):
    x, weight = normal(2, 20, 6, 7), normal(19, 20, 3, 3, seed=1)
    x[1, 19, 3, 4] = odd
    bias = np.zeros(19, np.float32)
    expected = reference.conv2d_forward(x, weight, bias, ONE, SAME, ONE, 1)
    y = direct(x, weight, bias, ONE, SAME, ONE)
    assert not np.isfinite(expected).all()
    np.testing.assert_allclose(plain(y), expected, rtol=1e-3, atol=1e-4)
    assert (y.data[:, -1, :, :, 3:] == 0).all()  # or the next layer would multiply it by zero
    lost = ~np.isfinite(expected)
    assert not np.isfinite(plain(winograd(x, weight, bias, SAME))[lost]).any()
    window = (2, 3), (1, 1), NONE
    largest = reference.max_pool2d_forward(x, *window)[0]
    np.testing.assert_array_equal(plain(few.pool(few.enter(x), True, *window)), largest)


def test_a_relu_keeps_nan():
    x, weight, bias = normal(1, 16, 8, 8), normal(16, 16, 3, 3, seed=1), np.zeros(16, np.float32)
    x[0, 3, 2, 2] = np.nan
    for y in (direct(x, weight, bias, ONE, SAME, ONE, True), winograd(x, weight, bias, SAME, True)):
        assert np.isnan(plain(y)[0, :, 1:4, 1:4]).all()


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_bits_do_not_depend_on_the_thread_count():
    x, weight, bias = normal(2, 70, 13, 9), normal(50, 70, 3, 3, seed=1), normal(50, seed=2)
    before, results = numba.get_num_threads(), []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            ys = winograd(x, weight, bias, SAME), direct(x, weight, bias, (2, 1), SAME, ONE)
            results.append([plain(y) for y in ys])
        finally:
            numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("count", [1, 3, 16, 35, PIECE // 4 + 9])
def test_a_fingerprint_sees_every_number(count):
    arrays = [normal(count), normal(5, dtype=np.float64)]
    prints = Fingerprint(arrays)
    assert prints.changed()
    assert not prints.changed()
    for i in {*range(min(count, 70)), count // 2, *range(max(0, count - 40), count)}:
        arrays[0][i] = -arrays[0][i]  # one bit
        assert prints.changed(), i
    arrays[1][4] = np.nan
    assert prints.changed()
    assert not prints.changed()
    for i in {count - 1, min(32, count - 1)}:
        arrays[0][[0, i]] = arrays[0][[i, 0]]
        assert prints.changed() == (count > 1)


def test_a_fingerprint_of_nothing_changes_once():
    prints = Fingerprint([])
    assert prints.changed()
    assert not prints.changed()


@pytest.mark.parametrize("sizes", [(16, 32), (16, 5), (5, 16, 20), (3,), (40, 17, 1, 2)])
def test_channels_are_joined_wherever_they_lie(sizes):
    parts = [normal(2, size, 3, 4, dtype=np.float64) for size in sizes]
    found = kernels.concat([few.enter(part) for part in parts])
    close(plain(found), np.concatenate(parts, 1), 0)
    assert np.isfinite(found.data).all()
    beyond = found.data.transpose(0, 2, 3, 1, 4).reshape(2, 3, 4, -1)[..., sum(sizes) :]
    assert (beyond == 0).all()


@pytest.mark.parametrize("plane", [(3, 4), (1, 1), (1, 4), (3, 1)])
def test_products_repeat_planes_of_one_pixel(plane):
    a, b = normal(2, 21, 3, 4, dtype=np.float64), normal(2, 21, *plane, dtype=np.float64)
    close(plain(kernels.multiply(few.enter(a), few.enter(b))), a * b, 0)
    close(plain(kernels.multiply(few.enter(b), few.enter(a))), a * b, 0)
    close(plain(kernels.add(few.enter(a), few.enter(a))), a + a, 0)
    gate = normal(2, 1, 3, 4, dtype=np.float64)  # one channel for all
    close(np.asarray(kernels.multiply(few.enter(a), few.enter(gate))), a * gate, 0)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "local_response_norm"])
def test_what_has_no_such_form_goes_on_with_images_side_by_side(name):
    x = normal(3, 21, 5, 3, dtype=np.float64)
    arguments = (3, 0.5, 0.75, 1.0) if name == "local_response_norm" else ()
    found = getattr(kernels, f"{name}_forward")(few.enter(x), *arguments)
    close(np.asarray(found), getattr(reference, f"{name}_forward")(x, *arguments))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "dilation"),
    [
        (32, (3, 3), (1, 1), SAME, ONE),
        (21, (3, 3), (2, 2), SAME, ONE),
        (5, (5, 2), (1, 2), ((2, 1), (0, 3)), ONE),
        (17, (3, 3), (1, 1), ((2, 2), (0, 4)), (2, 3)),
    ],
)
def test_depthwise_filters_agree_with_the_reference(channels, kernel, stride, padding, dilation):
    x, bias = normal(2, channels, 7, 9, dtype=np.float64), normal(channels, dtype=np.float64)
    weight = normal(channels, 1, *kernel, dtype=np.float64)
    packed = few_joins.pack_depthwise(weight)
    expected = reference.conv2d_forward(x, weight, bias, stride, padding, dilation, channels)
    for bounds in (*BOUNDS, (-0.5, 2.0)):
        call = packed, channel_vector(bias), stride, padding, dilation, bounds
        found = few_joins.depthwise(few.enter(x), *call)
        close(plain(found), np.clip(expected, *bounds), 1e-12)
