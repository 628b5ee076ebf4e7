"""Each operation exists twice; here both answer the same question and must agree.

CASES holds, for every public name that both share, a function ``case(ops, draw, window)`` that calls it and
returns every array it made or changed. ``draw`` makes the same random arrays for both, ``window`` is a
geometry.
"""

import functools
import inspect

import numpy as np
import pytest
from helpers import SEED, error_of, naming

from cnn import geometry, reference
from cnn.fast import kernels

TOLERANCE = {np.float64: 1e-11, np.float32: 5e-5}  # in units of the largest value


def _windows():
    """Name -> (input shape, kernel_size, stride, padding)."""
    return {
        "tiles exactly": ((2, 4, 6, 8), (2, 2), (2, 2), ((0, 0), (0, 0))),
        "overlaps": ((3, 4, 7, 7), (3, 3), (1, 1), ((0, 0), (0, 0))),
        "padded": ((17, 4, 6, 5), (3, 3), (1, 1), ((1, 1), (1, 1))),
        "padded and strided": ((16, 4, 9, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
        "leaves pixels out": ((1, 4, 8, 9), (3, 2), (3, 4), ((0, 0), (0, 0))),
        "oblong": ((5, 4, 3, 12), (1, 5), (1, 2), ((0, 0), (2, 2))),
        "one pixel": ((1, 4, 1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
        "whole plane": ((2, 4, 5, 6), (5, 6), (1, 1), ((0, 0), (0, 0))),
    }


WINDOWS = _windows()


def random_window(rng):
    kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
    pads = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    plane = tuple(
        int(max(1, k - 2 * p) + extra)
        for k, p, extra in zip(kernel, pads, rng.integers(0, 9, 2), strict=True)
    )
    shape = (int(rng.integers(1, 19)), 2 * int(rng.integers(1, 4)), *plane)
    return shape, kernel, tuple(int(s) for s in rng.integers(1, 4, 2)), tuple((p, p) for p in pads)


class Draw:
    """Random arrays of one dtype from one seed."""

    def __init__(self, dtype, seed):
        self.dtype, self.rng = dtype, np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def positive(self, *shape):
        return (self.rng.random(shape) + 0.1).astype(self.dtype)


def conv_geometry(window, dilation, groups):
    """Return (kernel_size, stride, padding, dilation, groups), padding being enough for the dilation."""
    (_, _, h, w), kernel, stride, padding = window
    padding = tuple(
        (a + d * (k - 1) // 2 + 1, b + d * (k - 1) // 2) if d * (k - 1) + 1 > size + a + b else (a, b)
        for (a, b), d, k, size in zip(padding, dilation, kernel, (h, w), strict=True)
    )
    return kernel, stride, padding, dilation, groups


CONV_OPTIONS = [((1, 1), 1), ((1, 1), 2), ((2, 3), 1), ((3, 1), 2)]


def conv_cases(window):
    """Yield (x shape, weight shape, y shape, geometry of the call)."""
    shape = window[0]
    for dilation, groups in CONV_OPTIONS:
        kernel, stride, padding, dilation, groups = conv_geometry(window, dilation, groups)
        filters = 3 * groups
        plane = geometry.output_shape(*shape[2:], kernel, stride, padding, dilation)
        weight = (filters, shape[1] // groups, *kernel)
        yield shape, weight, (shape[0], filters, *plane), (stride, padding, dilation, groups)


def conv2d_forward(ops, draw, window):
    found = []
    for x, weight, _, call in conv_cases(window):
        found.append(ops.conv2d_forward(draw(*x), draw(*weight), draw(weight[0]), *call))
        found.append(ops.conv2d_forward(draw(*x), draw(*weight), None, *call))
    return found


def conv2d_backward_input(ops, draw, window):
    return [
        ops.conv2d_backward_input(draw(*y), draw(*weight), x, *call)
        for x, weight, y, call in conv_cases(window)
    ]


def conv2d_backward_weight(ops, draw, window):
    found = []
    for x, weight, y, call in conv_cases(window):
        dweight = draw(*weight)
        ops.conv2d_backward_weight(draw(*y), draw(*x), dweight, *call)
        found.append(dweight)
    return found


def channel_sum(ops, draw, window):
    shape, found = window[0], []
    for dy in (draw(*shape), draw(*shape[:2])):
        dbias = draw(shape[1])
        ops.channel_sum(dy, dbias)
        found.append(dbias)
    return found


def add_channel(ops, draw, window):
    shape = window[0]
    return [ops.add_channel(draw(*shape), draw(shape[1]))]


def pool_paddings(padding):
    """The padding of a window, and one that differs at each side."""
    (top, _), (left, _) = padding
    return padding, ((top, 0), (left, left + 1)), ((top + 1, top), (0, left))


def fits(shape, kernel, padding, dilation=(1, 1)):
    """Whether the window is not larger than the padded plane."""
    axes = zip(shape[2:], kernel, padding, dilation, strict=True)
    return all(d * (k - 1) + 1 <= size + sum(pads) for size, k, pads, d in axes)


def _max_pool(ops, draw, window):
    shape, kernel, stride, padding = window
    found = []
    for pads in pool_paddings(padding):
        for dilation, ceil_mode in (((1, 1), False), ((1, 1), True), ((2, 1), True), ((1, 3), False)):
            if not fits(shape, kernel, pads, dilation):
                continue
            x = draw(*shape)
            x[0] = np.round(x[0])  # ties
            call = kernel, stride, pads, dilation
            y, argmax = ops.max_pool2d_forward(x, *call, ceil_mode)
            dy = draw(*np.asarray(y).shape)
            empty = np.isinf(np.asarray(y))
            found += [empty, np.where(empty, 0, y), np.asarray(argmax).astype(np.int64)]
            found.append(ops.max_pool2d_backward(dy, argmax, shape, *call))
    return found


def _avg_pool(ops, draw, window):
    shape, kernel, stride, padding = window
    found = []
    for pads in filter(functools.partial(fits, shape, kernel), pool_paddings(padding)):
        for count_include_pad in (True, False):
            for ceil_mode in (False, True):
                call = kernel, stride, pads, count_include_pad
                y = ops.avg_pool2d_forward(draw(*shape), *call, ceil_mode)
                dy = draw(*np.asarray(y).shape)
                found += [y, ops.avg_pool2d_backward(dy, shape, *call)]
    return found


def _global_avg_pool(ops, draw, window):
    shape = window[0]
    return [ops.global_avg_pool_forward(draw(*shape)), ops.global_avg_pool_backward(draw(*shape[:2]), shape)]


def _global_max_pool(ops, draw, window):
    shape = window[0]
    y, argmax = ops.global_max_pool_forward(np.round(draw(*shape)))
    return [y, ops.global_max_pool_backward(draw(*shape[:2]), argmax, shape)]


def _linear(ops, draw, window):
    n, features = window[0][0], int(np.prod(window[0][1:]))
    x, weight, bias, dy, dweight = (
        draw(n, features),
        draw(7, features),
        draw(7),
        draw(n, 7),
        draw(7, features),
    )
    ops.linear_backward_weight(dy, x, dweight)
    forward = [ops.linear_forward(x, weight, bias), ops.linear_forward(x, weight, None)]
    return [*forward, ops.linear_backward_input(dy, weight), dweight]


def _batch_norm(ops, draw, window):
    shape, found = window[0], []
    for shape in (shape, shape[:2]):  # noqa: B020
        channels = shape[1]
        x, dy = 3 * draw(*shape) + 5, draw(*shape)
        found.append(np.float64(ops.values_per_channel(x)))
        for momentum, eps in ((0.1, 1e-5), (1.0, 0.1)):
            running = draw(channels), draw.positive(channels)
            if x.size > channels:
                found += [*ops.batch_norm_train(x, *running, momentum, eps), *running]
            found += ops.batch_norm_eval(*running, eps)
        mean, rstd, weight, bias = draw(channels), draw.positive(channels), draw(channels), draw(channels)
        found.append(ops.batch_norm_forward(x, mean, rstd, weight, bias))
        found.append(ops.batch_norm_forward(x, mean, rstd, None, None))
        for training in (True, False):
            dweight, dbias = draw(channels), draw(channels)
            found.append(ops.batch_norm_backward(dy, x, mean, rstd, weight, dweight, dbias, training))
            found.append(ops.batch_norm_backward(dy, x, mean, rstd, None, None, None, training))
            found += [dweight, dbias]
    return found


def _group_norm(ops, draw, window):
    shape, found = window[0], []
    for shape in (shape, shape[:2]):  # noqa: B020
        channels = shape[1]
        for groups, affine in ((1, None), (2, (channels,)), (channels, (channels,)), (1, shape[1:])):
            x, dy = 3 * draw(*shape) + 5, draw(*shape)
            arrays = [draw(*affine) for _ in range(4)] if affine else [None] * 4
            weight, bias, dweight, dbias = arrays
            y, mean, rstd = ops.group_norm_forward(x, groups, weight, bias, 1e-2)
            dx = ops.group_norm_backward(dy, x, mean, rstd, groups, weight, dweight, dbias)
            found += [y, mean, rstd, dx, *([dweight, dbias] if affine else [])]
    return found


def _prelu(ops, draw, window):
    shape, found = window[0], []
    for shape in (shape, shape[:2]):  # noqa: B020
        for count in (1, shape[1]):
            x, dy, weight, dweight = draw(*shape), draw(*shape), draw(count), draw(count)
            found += [ops.prelu_forward(x, weight), ops.prelu_backward(dy, x, weight, dweight), dweight]
    return found


def _multiply(ops, draw, window):
    (n, c, h, w), found = window[0], []
    for shape in ((n, c, h, w), (n, c, 1, 1), (n, 1, h, w), (n, 1, 1, w), (n, c, h, 1)):
        a, b, dy = draw(n, c, h, w), draw(*shape), draw(n, c, h, w)
        found += [ops.multiply(a, b), ops.multiply(b, a)]
        found += [ops.multiply_backward(dy, b, a.shape), ops.multiply_backward(dy, a, b.shape)]
    return [*found, ops.multiply(draw(n, c), draw(n, c))]


def _upsample(ops, draw, window):
    (n, c, h, w), scale = window[0], window[2]
    dy = draw(n, c, h * scale[0], w * scale[1])
    return [ops.upsample_nearest_forward(draw(*window[0]), scale), ops.upsample_nearest_backward(dy, scale)]


def _pad2d(ops, draw, window):
    (n, c, h, w), found = window[0], []
    for padding in (window[3], ((1, 0), (2, 3)), ((1 - h, 2), (0, 1 - w)), ((0, 1 - h), (1 - w, 0))):
        (top, bottom), (left, right) = padding
        dy = draw(n, c, h + top + bottom, w + left + right)
        found += [ops.pad2d_forward(draw(*window[0]), padding), ops.pad2d_backward(dy, padding)]
    return found


def activation(name, of_output=False, arguments=((),)):
    """Return the case of the pair ``name``_forward(x, ...) and ``name``_backward(dy, x or y, ...)."""

    def case(ops, draw, window):
        found = []
        for shape in (window[0], window[0][:2]):
            for extra in arguments:
                x = 2 * draw(*shape)
                y = getattr(ops, f"{name}_forward")(x, *extra)
                found += [y, getattr(ops, f"{name}_backward")(draw(*shape), y if of_output else x, *extra)]
        return found

    return case


def add(ops, draw, window):
    return [ops.add(draw(*shape), draw(*shape)) for shape in (window[0], window[0][:2])]


def scale(ops, draw, window):
    return [ops.scale(draw(*window[0]), factor) for factor in (2, -0.3, 0.0)]


def _concat(ops, draw, window):
    n, c, *plane = window[0]
    sizes = (c, 1, 2)
    parts = ops.split(draw(n, sum(sizes), *plane), sizes)
    assert len(parts) == 3
    return [ops.concat([draw(n, size, *plane) for size in sizes]), *parts, ops.concat(parts)]


def _flatten(ops, draw, window):
    shape = window[0]
    return [ops.flatten(draw(*shape)), ops.unflatten(draw(shape[0], int(np.prod(shape[1:]))), shape)]


def _dropout(ops, draw, window):
    found = []
    for p in (0.0, 0.3, 1.0):
        for numbers in ((0, 0), (1, 2**32 - 1), (2**32 - 1, 7), (123456789, 2**40 + 42)):
            state = np.array(numbers, np.int64)
            y, key = ops.dropout_forward(draw(*window[0]), p, state)
            found += [y, ops.dropout_backward(draw(*window[0]), p, key), key, state]
    return found


def _loss(ops, draw, window):
    logits, rows = 4 * draw(*window[0][:2]), draw.positive(*window[0][:2])
    losses, probabilities = ops.softmax_cross_entropy_forward(logits, rows)
    return [losses, probabilities, ops.softmax_cross_entropy_backward(probabilities, rows, 0.25)]


def _images(draw, window):
    """A set of uint8 images, and which of them a batch takes."""
    shape = window[0]
    return draw.rng.integers(0, 256, shape, dtype=np.uint8), draw.rng.integers(0, shape[0], shape[0] + 3)


def normalize_pixels(ops, draw, window):
    images, indices = _images(draw, window)
    out = draw(len(indices), *images.shape[1:])
    ops.normalize_pixels(images, indices, draw(images.shape[1], 256), out)
    return [out]


def cut_windows(ops, draw, window):
    images, indices = _images(draw, window)
    (_, c, h, w), found = images.shape, []
    for size in ((h, w), (h + 2, w), (max(1, h - 1), w + 3)):
        for reflect in (False, True):
            # a mirrored window reaches at most h - 1 pixels beyond the image
            reach = (h - 1, w - 1) if reflect else (h + 2, w + 2)
            corners = []
            for axis in (0, 1):
                last = (h, w)[axis] + reach[axis] - size[axis]
                if last < -reach[axis]:
                    break
                corners.append(draw.rng.integers(-reach[axis], last + 1, len(indices)))
            if len(corners) == 2:
                out = np.full((len(indices), c, *size), 77, np.uint8)
                ops.cut_windows(images, indices, *corners, reflect, out)
                found.append(out)
    return found


def flip_images(ops, draw, window):
    images, _ = _images(draw, window)
    ops.flip_images(images, draw.rng.random(len(images)) < 0.5)
    return [images]


def blacken_squares(ops, draw, window):
    images, _ = _images(draw, window)
    ops.blacken_squares(images, *draw.rng.integers(-3, 9, (2, len(images))), 3)
    return [images]


def recolor_images(ops, draw, window):
    images, _ = _images(draw, window)
    (n, c), out = images.shape[:2], np.full_like(images, 77)
    ops.recolor_images(images, draw.rng.integers(-99, 99, (n, c, c + 1)) / 8, out)  # eighths add exactly
    return [out]


def resample_images(ops, draw, window):
    images, _ = _images(draw, window)
    matrices, found = np.eye(2, 3) + 0.4 * draw.rng.standard_normal((len(images), 2, 3)), []
    for reflect in (False, True):
        out = np.full_like(images, 77)
        ops.resample_images(images, matrices, reflect, out)
        found.append(out)
    return found


EDGES = np.array([[0, 5], [5, 9005], [9005, 9010], [9010, 30000]])


def _buffers(draw, positive=()):
    """Return data, grad and two buffers of an optimizer; those in ``positive`` are above 0."""
    return [draw.positive(30000) if i in positive else draw(30000) for i in range(4)]


RATES = np.array([0.1, 0.2, 0.0, 0.3]), np.array([0.0, 0.01, 0.1, 0.5])
COUNTS = np.array([3, 1, 2, 40])


def squared_norm(ops, draw, window):
    return [np.array(ops.squared_norm(draw(30000), EDGES[1:3]))]


def sgd_update(ops, draw, window):
    found = []
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        for decoupled in (False, True):
            data, grad, velocity, _ = _buffers(draw)
            ops.sgd_update(data, grad, velocity, EDGES, *RATES, momentum, nesterov, decoupled, 0.7)
            found += [data, grad, velocity]
    return found


def adam_update(ops, draw, window):
    found = []
    for decoupled in (False, True):
        data, grad, mean, square = _buffers(draw, positive=(3,))
        ops.adam_update(data, grad, mean, square, EDGES, *RATES, 0.9, 0.999, 1e-3, COUNTS, decoupled, 0.7)
        found += [data, grad, mean, square]
    return found


def rmsprop_update(ops, draw, window):
    found = []
    for momentum in (0.0, 0.9):
        data, grad, square, velocity = _buffers(draw, positive=(2,))
        ops.rmsprop_update(data, grad, square, velocity, EDGES, *RATES, 0.95, 1e-3, momentum, 0.7)
        found += [data, grad, square, velocity]
    return found


def orthogonalize(ops, draw, window):
    shapes = (6, 25), (25, 6), (17, 17), (1, 9), (40, 130)
    flat = ops.orthogonalize(np.zeros((3, 4), draw.dtype), 5)  # has no direction at all
    return [flat, *(ops.orthogonalize(draw(*shape), steps) for shape in shapes for steps in (1, 5))]


def _both(name, case):
    return {f"{name}_forward": case, f"{name}_backward": case}


CASES = {
    "conv2d_forward": conv2d_forward,
    "conv2d_backward_input": conv2d_backward_input,
    "conv2d_backward_weight": conv2d_backward_weight,
    "channel_sum": channel_sum,
    "add_channel": add_channel,
    **_both("max_pool2d", _max_pool),
    **_both("avg_pool2d", _avg_pool),
    **_both("global_avg_pool", _global_avg_pool),
    **_both("global_max_pool", _global_max_pool),
    "linear_forward": _linear,
    "linear_backward_input": _linear,
    "linear_backward_weight": _linear,
    **dict.fromkeys(("batch_norm_train", "batch_norm_eval", "values_per_channel"), _batch_norm),
    **_both("batch_norm", _batch_norm),
    **_both("relu", activation("relu")),
    **_both("leaky_relu", activation("leaky_relu", arguments=((0.01,), (-0.4,)))),
    **_both("sigmoid", activation("sigmoid", of_output=True)),
    **_both("tanh", activation("tanh", of_output=True)),
    **_both("silu", activation("silu")),
    **_both("gelu", activation("gelu", arguments=((False,), (True,)))),
    **_both("elu", activation("elu", arguments=((1.0,), (-0.4,)))),
    **_both("softplus", activation("softplus", arguments=((1.0, 20.0), (-0.7, 1.0), (3.0, 2.5)))),
    **_both("hardsigmoid", activation("hardsigmoid")),
    **_both("hardswish", activation("hardswish")),
    **_both("relu6", activation("relu6")),
    **_both("hardtanh", activation("hardtanh", arguments=((-0.5, 0.8), (-np.inf, 1.0)))),
    **_both("log_softmax", activation("log_softmax", of_output=True)),
    **_both(
        "local_response_norm",
        activation("local_response_norm", arguments=((3, 0.5, 0.75, 0.7), (4, 0.3, 0.6, 2.0))),
    ),
    "multiply": _multiply,
    "multiply_backward": _multiply,
    **_both("prelu", _prelu),
    **_both("softmax", activation("softmax", of_output=True)),
    **_both("group_norm", _group_norm),
    **_both("upsample_nearest", _upsample),
    **_both("pad2d", _pad2d),
    "add": add,
    "scale": scale,
    "concat": _concat,
    "split": _concat,
    "flatten": _flatten,
    "unflatten": _flatten,
    **_both("dropout", _dropout),
    **_both("softmax_cross_entropy", _loss),
    "normalize_pixels": normalize_pixels,
    "cut_windows": cut_windows,
    "flip_images": flip_images,
    "blacken_squares": blacken_squares,
    "recolor_images": recolor_images,
    "resample_images": resample_images,
    "squared_norm": squared_norm,
    "sgd_update": sgd_update,
    "adam_update": adam_update,
    "rmsprop_update": rmsprop_update,
    "orthogonalize": orthogonalize,
}


def public(module):
    """Return the names of a backend's public functions."""
    return {name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name))}


def compare(case, dtype, window, seed):
    pairs = zip(*(case(ops, Draw(dtype, seed), window) for ops in (reference, kernels)), strict=True)
    for index, (expected, found) in enumerate(pairs):
        expected, found = np.asarray(expected), np.asarray(found)
        with naming("result", index):
            assert found.dtype == expected.dtype
            assert error_of(found, expected.astype(np.float64), floor=1.0) <= TOLERANCE[dtype]


def test_every_pair_has_a_case():
    shared = public(reference) & public(kernels)
    assert shared - set(CASES) == set()
    assert set(CASES) - shared == set()


def test_every_operation_of_the_reference_has_a_kernel():
    assert set(reference.__all__) == public(reference)
    assert public(reference) <= public(kernels)


def test_every_case_calls_its_function():
    class Spy:
        def __init__(self):
            self.called = set()

        def __getattr__(self, name):
            self.called.add(name)
            return getattr(reference, name)

    for name, case in CASES.items():
        spy = Spy()
        case(spy, Draw(np.float64, 0), WINDOWS["padded"])
        assert name in spy.called


def test_reference_functions_name_what_they_take():
    for name in reference.__all__:
        for parameter in inspect.signature(getattr(reference, name)).parameters.values():
            assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_the_twins_agree_on_named_geometries(name, dtype):
    for title, window in WINDOWS.items():
        with naming(name, title, window):
            compare(CASES[name], dtype, window, seed=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted({case: name for name, case in CASES.items()}.values()))
def test_the_twins_agree_on_random_geometries(name, dtype):
    for index in range(8):
        window = random_window(np.random.default_rng([SEED, index]))
        with naming(name, window):
            compare(CASES[name], dtype, window, seed=[SEED, index])
