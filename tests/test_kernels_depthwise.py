"""Depthwise convolutions: their own kernels against the reference, in all three directions."""

import numba
import numpy as np
import pytest

from cnn import reference
from cnn.fast import kernels
from cnn.fast.blocked import as_blocked, converted
from cnn.fast.conv import depthwise
from cnn.fast.conv.geometry import Window
from cnn.fast.machine.bf16 import BFLOAT16
from cnn.fast.machine.owner import precision
from cnn.reference import bfloat16 as twin

ONE, TWO = (1, 1), (2, 2)

# images, channels, (h, w), kernel, stride, padding
GEOMETRIES = {
    "even": (16, 4, (8, 8), (3, 3), ONE, ((1, 1), (1, 1))),
    "odd": (5, 3, (7, 9), (3, 3), ONE, ((1, 1), (1, 1))),
    "no padding": (17, 2, (6, 11), (3, 3), ONE, ((0, 0), (0, 0))),
    "5x5": (18, 3, (9, 12), (5, 5), ONE, ((2, 2), (2, 2))),
    "window larger than the image": (3, 5, (2, 3), (5, 5), ONE, ((2, 2), (2, 2))),
    "one pixel": (20, 4, (1, 1), (3, 3), ONE, ((1, 1), (1, 1))),
    "one column": (2, 3, (5, 1), (3, 3), ONE, ((1, 1), (1, 1))),
    "stride 2": (16, 6, (8, 8), (3, 3), TWO, ((1, 1), (1, 1))),
    "stride 2, odd": (19, 3, (7, 9), (3, 3), TWO, ((1, 1), (1, 1))),
    "stride 2, pixels that no window meets": (4, 2, (8, 10), (3, 3), TWO, ((0, 0), (0, 0))),
    "stride 2, 5x5": (16, 3, (11, 10), (5, 5), TWO, ((2, 2), (2, 2))),
    "stride 2, one pixel": (3, 2, (1, 2), (3, 3), TWO, ((1, 1), (1, 1))),
    "padding of TensorFlow": (8, 3, (8, 6), (3, 3), TWO, ((0, 1), (0, 1))),
    "stride down": (5, 2, (9, 9), (3, 5), (2, 1), ((1, 0), (2, 1))),
    "stride across": (5, 2, (9, 8), (2, 4), (1, 2), ((1, 0), (0, 2))),
    "a row": (7, 3, (4, 9), (1, 5), ONE, ((0, 0), (2, 2))),
    "a column": (7, 3, (9, 4), (4, 1), ONE, ((2, 1), (0, 0))),
    "many channels": (33, 70, (3, 3), (3, 3), ONE, ((1, 1), (1, 1))),
    "past the caches": (32, 40, (17, 16), (3, 3), ONE, ((1, 1), (1, 1))),
    "past the caches, stride 2": (17, 36, (30, 29), (3, 3), TWO, ((1, 1), (1, 1))),
    "strips of a plane": (2, 2, (65, 33), (3, 3), ONE, ((1, 1), (1, 1))),
}


def _problem(name, dtype):
    """x, weight, bias, dy and what follows the arrays in a call."""
    n, c, size, kernel, stride, padding = GEOMETRIES[name]
    rng = np.random.default_rng(len(name))
    out = [(size[i] + sum(padding[i]) - kernel[i]) // stride[i] + 1 for i in (0, 1)]
    shapes = (n, c, *size), (c, 1, *kernel), (c,), (n, c, *out)
    arguments = stride, padding, (1, 1), c
    assert depthwise.suits(shapes[1], Window(*arguments))
    return *(rng.standard_normal(shape).astype(dtype) for shape in shapes), arguments


def _all(ops, x, weight, bias, dy, arguments):
    dweight = np.zeros(weight.shape, weight.dtype)
    y = ops.conv2d_forward(x, weight, bias, *arguments)
    dx = ops.conv2d_backward_input(dy, weight, x.shape, *arguments)
    ops.conv2d_backward_weight(dy, x, dweight, *arguments)
    return y, dx, dweight


def _narrow(x):
    return converted(as_blocked(x), BFLOAT16)


SOME = ["odd", "5x5", "window larger than the image", "stride 2, odd", "stride down", "past the caches"]


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, np.float32) for name in GEOMETRIES] + [(name, np.float64) for name in SOME]
)
def test_all_directions_agree_with_the_reference(name, dtype):
    *arrays, arguments = _problem(name, dtype)
    wanted = _all(reference, *(a.astype(np.float64) for a in arrays), arguments)
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    for found, exact in zip(_all(kernels, *arrays, arguments), wanted, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * max(1, np.abs(exact).max()))


@pytest.mark.parametrize(("name", "bring"), [(name, _narrow) for name in SOME] + [("odd", as_blocked)])
def test_bfloat16_is_rounded_once_where_it_is_stored(name, bring):
    x, weight, bias, dy, arguments = _problem(name, np.float32)
    x, dy = twin.rounded(x), twin.rounded(dy)
    wide = [a.astype(np.float64) for a in (x, weight, bias, dy)]
    wanted_y, wanted_dx, wanted_dweight = _all(reference, *wide, arguments)
    with precision("bf16"):
        y, dx, dweight = _all(kernels, bring(x), weight, bias, bring(dy), arguments)
    assert y.itemsize == dx.itemsize == 2
    for found, exact in ((y, wanted_y), (dx, wanted_dx)):
        wanted, found = twin.rounded(exact), np.asarray(found)
        # within float32's error of a tie a number may be rounded the other way: few do
        np.testing.assert_allclose(found, wanted, rtol=2**-7, atol=1e-6)
        assert (found != wanted).mean() < 0.01
    np.testing.assert_allclose(dweight, wanted_dweight, rtol=0, atol=2e-6 * np.abs(wanted_dweight).max())


@pytest.mark.parametrize("name", ["odd", "5x5", "stride 2, odd"])
@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_a_nan_reaches_the_windows_it_lies_in_and_no_others(name, kind):
    x, weight, bias, dy, arguments = _problem(name, np.float32)
    x[1, 1, 3, 4] = dy[0, 2, 1, 2] = np.nan
    wanted = _all(reference, x, weight, bias, dy, arguments)
    with precision(kind):
        found = _all(kernels, x, weight, bias, dy, arguments)
    for got, exact in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.isnan(np.asarray(got)), np.isnan(exact))
        assert np.isnan(exact).any()


def test_relu_in_the_store_keeps_a_nan():
    x, weight, bias, _, arguments = _problem("odd", np.float32)
    x[2, 1, 3, 3] = np.nan
    plain = np.asarray(kernels.conv2d_forward(x, weight, bias, *arguments))
    fused = np.asarray(kernels.conv2d_forward(x, weight, bias, *arguments, relu=True))
    np.testing.assert_array_equal(fused, np.maximum(plain, 0))
    assert np.isnan(fused).any()


@pytest.mark.parametrize("name", ["many channels", "past the caches, stride 2", "strips of a plane"])
@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_the_bits_do_not_depend_on_the_number_of_threads(name, kind):
    *arrays, arguments = _problem(name, np.float32)
    results, threads = [], numba.get_num_threads()
    try:
        for count in (1, threads):
            numba.set_num_threads(count)
            with precision(kind):
                results.append([np.asarray(a) for a in _all(kernels, *arrays, arguments)])
    finally:
        numba.set_num_threads(threads)
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)


def test_gradients_are_added_up_and_those_of_images_that_are_not_there_are_zero():
    x, weight, _, dy, arguments = _problem("odd", np.float32)
    once, twice = np.zeros_like(weight), np.zeros_like(weight)
    kernels.conv2d_backward_weight(dy, x, once, *arguments)
    for _ in range(2):
        kernels.conv2d_backward_weight(dy, x, twice, *arguments)
    np.testing.assert_array_equal(twice, 2 * once)
    dx = kernels.conv2d_backward_input(dy, weight, x.shape, *arguments)
    assert not dx.buffer[..., len(x) :].any()


@pytest.mark.parametrize(
    ("weight_shape", "changed"),
    [
        ((4, 1, 3, 3), {"dilation": (2, 2)}),
        ((8, 1, 3, 3), {}),  # two filters a channel
        ((4, 2, 3, 3), {"groups": 4}),
        ((4, 1, 7, 7), {}),
        ((4, 1, 3, 3), {"stride": (3, 3)}),
        ((4, 1, 1, 3), {"stride": (2, 2)}),
        ((4, 1, 3, 3), {"padding": ((2, 2), (2, 2))}),
        ((1, 1, 3, 3), {"groups": 1}),
    ],
)
def test_other_convolutions_are_left_to_other_forms(weight_shape, changed):
    plain = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 4}
    assert depthwise.suits((4, 1, 3, 3), Window(**plain))
    assert not depthwise.suits(weight_shape, Window(**(plain | changed)))
