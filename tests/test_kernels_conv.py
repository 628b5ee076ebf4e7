"""The fast convolutions against PyTorch in float64: geometries by name, then at random."""

import numpy as np
import pytest

from cnn import backend
from cnn.fast import kernels
from cnn.fast.blocked import as_blocked
from cnn.fast.conv import ahead, blocking, taps
from cnn.fast.conv import depthwise as conv_depthwise
from cnn.fast.conv.geometry import Window
from cnn.fast.kernels import conv, pool
from cnn.fast.machine import simd

torch = pytest.importorskip("torch")

# images, channels in, channels out, (h, w), kernel, stride, padding, dilation, groups
GEOMETRIES = {
    "one pixel": (1, 1, 1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "LeNet first": (19, 1, 6, (28, 28), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "LeNet second": (17, 6, 16, (14, 14), (5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one by one": (18, 20, 9, (6, 5), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one by one, stride": (18, 20, 9, (7, 5), (1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), 1),
    "one by one, padded": (3, 2, 3, (4, 5), (1, 1), (1, 1), ((1, 0), (2, 1)), (1, 1), 1),
    "stride skips pixels": (5, 5, 7, (9, 9), (2, 2), (3, 3), ((0, 0), (0, 0)), (1, 1), 1),
    "stride two": (16, 8, 12, (9, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "dilated": (6, 3, 4, (11, 12), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "dilated, stride": (6, 7, 4, (11, 12), (3, 2), (2, 3), ((2, 1), (0, 2)), (2, 3), 1),
    "depthwise": (20, 5, 5, (7, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    "depthwise, two each": (20, 5, 10, (7, 9), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 5),
    "groups": (4, 12, 15, (6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "asymmetric": (4, 2, 3, (5, 8), (4, 2), (1, 1), ((0, 3), (1, 0)), (1, 1), 1),
    "more padding than image": (4, 2, 3, (2, 3), (3, 3), (1, 1), ((4, 4), (3, 5)), (1, 1), 1),
    "wide window": (3, 2, 2, (3, 30), (1, 13), (1, 2), ((0, 0), (6, 6)), (1, 1), 1),
    "wide groups": (20, 36, 44, (9, 7), (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), 2),
    "wide, few in": (17, 8, 40, (12, 33), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "wide one by one": (33, 40, 24, (7, 9), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "wide one by one, stride": (18, 24, 40, (7, 5), (1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), 1),
    # several pieces to a task: channels of one are copied between the products of the other
    "one by one, pieces": (40, 134, 26, (21, 19), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    "one by one, pieces, stride": (40, 67, 13, (41, 37), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "wide, more padding than image": (4, 18, 20, (2, 3), (3, 3), (1, 1), ((4, 4), (3, 5)), (1, 1), 1),
    "long strips": (260, 3, 5, (41, 9), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "5x5": (18, 17, 20, (9, 12), (5, 5), (1, 1), ((2, 2), (2, 1)), (1, 1), 1),
    "many channels": (3, 70, 101, (3, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
}


def arrays(geometry, dtype, seed=0):
    n, c, k, size, kernel, stride, padding, dilation, groups = geometry
    rng = np.random.default_rng(seed)
    oh, ow = (
        (size[i] + sum(padding[i]) - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    shapes = (n, c, *size), (k, c // groups, *kernel), (k,), (n, k, oh, ow)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def from_torch(geometry, x, weight, bias, dy):
    """y, dx, dweight by PyTorch in float64."""
    *_, stride, padding, dilation, groups = geometry
    x, weight = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, weight))
    padded = torch.nn.functional.pad(x, (*padding[1], *padding[0]))
    bias = torch.tensor(bias, dtype=torch.float64)
    y = torch.nn.functional.conv2d(padded, weight, bias, stride=stride, dilation=dilation, groups=groups)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return y.detach().numpy(), x.grad.numpy(), weight.grad.numpy()


def by_kernels(geometry, x, weight, bias, dy):
    arguments = geometry[5:]
    dweight = np.ones_like(weight)
    y = kernels.conv2d_forward(x, weight, bias, *arguments)
    dx = kernels.conv2d_backward_input(dy, weight, x.shape, *arguments)
    kernels.conv2d_backward_weight(dy, x, dweight, *arguments)
    return np.asarray(y), np.asarray(dx), dweight - 1


def assert_agrees(geometry, dtype, seed=0):
    given = arrays(geometry, dtype, seed)
    tolerance = 1e-11 if dtype == np.float64 else 2e-5
    for name, got, expected in zip(
        ("y", "dx", "dweight"), by_kernels(geometry, *given), from_torch(geometry, *given), strict=True
    ):
        assert got.dtype == dtype
        scale = max(1.0, np.abs(expected).max())
        message = f"{name} of {geometry}"
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale, err_msg=message)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolution_and_its_gradients_agree_with_torch(name, dtype):
    assert_agrees(GEOMETRIES[name], dtype)


def test_pieces_of_a_task_do_not_depend_on_the_number_of_threads():
    geometry = GEOMETRIES["one by one, pieces"]
    x, weight, bias, _ = arrays(geometry, np.float32)
    found, before = [], backend.get_threads()
    try:
        for threads in (1, before):
            backend.set_threads(threads)
            found.append(np.asarray(kernels.conv2d_forward(x, weight, bias, *geometry[5:])))
    finally:
        backend.set_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("planes", "size", "calls", "blocks"), [(16, 10240, 6, 32), (3, 100, 7, 5), (5, 0, 2, 1)]
)
def test_what_is_asked_for_ahead_is_shared_out_among_register_blocks(planes, size, calls, blocks):
    units = []  # as ``ask`` takes those of a block
    whole = ahead.ahead_of_planes.py_func(0, planes, 1 << 16, size)
    for call in range(calls):
        part = ahead.share.py_func(whole, call, calls, blocks)
        for block in range(blocks):
            first = part.first + block * part.each
            units += range(first, min(first + part.each, part.last))
    assert units == list(range(planes * -(-size // ahead.UNIT)))


@pytest.mark.parametrize("seed", range(12))
def test_random_geometries_agree_with_torch(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, top, 2))) for top in (5, 4, 3))
    padding = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in range(2))
    size = tuple(
        max(int(rng.integers(1, 13)), dilation[i] * (kernel[i] - 1) + 1 - sum(padding[i])) for i in (0, 1)
    )
    c, k, n = groups * int(rng.integers(1, 8)), groups * int(rng.integers(1, 12)), int(rng.integers(1, 36))
    geometry = n, c, k, size, kernel, stride, padding, dilation, groups
    assert_agrees(geometry, np.float64 if seed % 2 else np.float32, seed)


def test_relu_in_the_store_equals_relu_afterwards():
    for name in ("LeNet second", "many channels"):
        x, weight, bias, _ = arrays(GEOMETRIES[name], np.float32)
        arguments = GEOMETRIES[name][5:]
        plain = np.asarray(conv.conv2d_forward(x, weight, bias, *arguments))
        fused = np.asarray(conv.conv2d_forward(x, weight, bias, *arguments, relu=True))
        np.testing.assert_array_equal(fused, np.maximum(plain, 0))


@pytest.mark.parametrize("name", ["LeNet second", "one by one", "wide one by one", "5x5", "depthwise"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_in_the_store_equal_bounds_afterwards(name, dtype):
    x, weight, bias, _ = arrays(GEOMETRIES[name], dtype)
    x[0, 0, 2, 3] = np.nan
    arguments, bounds = GEOMETRIES[name][5:], (-0.5, 0.75)
    plain = np.asarray(conv.conv2d_forward(x, weight, bias, *arguments))
    bounded = np.asarray(conv.conv2d_forward(x, weight, bias, *arguments, bounds=bounds))
    np.testing.assert_array_equal(bounded, np.clip(plain, *bounds))
    assert np.isnan(bounded).any()


def test_a_nan_stays_visible_through_a_fused_relu():
    x, weight, bias, _ = arrays(GEOMETRIES["LeNet second"], np.float32)
    x[3, 2, 5, 5] = np.nan
    y = np.asarray(conv.conv2d_forward(x, weight, bias, *GEOMETRIES["LeNet second"][5:], relu=True))
    assert np.isnan(y[3]).any()
    assert not np.isnan(np.delete(y, 3, axis=0)).any()


@pytest.mark.parametrize("name", [name for name, geometry in GEOMETRIES.items() if min(geometry[3]) > 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_in_the_same_task_equals_pooling_afterwards(name, dtype):
    geometry = GEOMETRIES[name]
    x, weight, bias, _ = arrays(geometry, dtype)
    x[0, 0, 2, 3] = np.nan
    for shift in (bias, None):
        done = conv.conv2d_relu_pool_forward(x, weight, shift, *geometry[5:])
        sums = conv.conv2d_forward(x, weight, shift, *geometry[5:])
        winograd = weight.shape[2:] == (3, 3) and conv.suits_winograd(
            np.dtype(dtype), weight.shape, sums.shape[2:], geometry[5], *geometry[7:]
        )
        depthwise = conv_depthwise.suits(weight.shape, Window(*geometry[5:]))
        if min(sums.shape[2:]) < 2 or winograd or depthwise:
            assert done is None
            continue
        y, argmax, shape = done
        expected, winners = pool.max_pool2d_forward(sums, (2, 2), (2, 2), ((0, 0), (0, 0)), relu=True)
        assert shape == sums.shape
        np.testing.assert_array_equal(np.asarray(y), np.asarray(expected))
        np.testing.assert_array_equal(argmax.buffer, winners.buffer)


@pytest.mark.parametrize("name", [name for name, geometry in GEOMETRIES.items() if min(geometry[3]) > 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unpooling_in_the_same_task_equals_unpooling_before(name, dtype):
    geometry = GEOMETRIES[name]
    x, weight, bias, _ = arrays(geometry, dtype)
    done = conv.conv2d_relu_pool_forward(x, weight, bias, *geometry[5:])
    if done is None:
        pytest.skip("another form is faster here; nothing is pooled")
    y, argmax, shape = done
    dy = np.random.default_rng(3).standard_normal(y.shape).astype(dtype)
    together, alone = np.ones_like(weight), np.ones_like(weight)
    offered = conv.conv2d_relu_pool_backward_weight(dy, argmax, x, together, shape, *geometry[5:])
    assert offered == conv.pools_within(np.dtype(dtype), weight.shape, shape[2:], *geometry[5:])
    assert offered or min(weight.shape[:2]) > 4 or weight.shape[2:] == (1, 1)  # few channels need no whole
    if offered:
        g = pool.max_pool2d_backward(dy, argmax, shape, (2, 2), (2, 2), ((0, 0), (0, 0)))
        conv.conv2d_backward_weight(g, x, alone, *geometry[5:])
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("count", range(1, 50))
def test_slivers_share_output_channels_out_evenly(count):
    (rows, pixels), full = blocking.even_slivers(count, [(6, 1), (3, 2), (2, 3), (1, 6)])
    blocks = -(-count // rows)
    assert full * rows + (blocks - full) * (rows - 1) == count  # no row twice, none left out
    assert blocks == -(-count // blocking.register_block(count, [(6, 1), (3, 2), (2, 3), (1, 6)])[0])
    assert 0 < full <= blocks
    assert pixels >= 1


@pytest.mark.parametrize("runs", [[10], [32], [1, 14, 1], [6, 7, 8], [3]])
def test_a_register_block_is_as_wide_as_runs_are(runs):
    def computed(pixels):
        return sum(-(-n // pixels) * pixels if n >= pixels else n for n in runs)

    registers = simd.LANES // simd.width(4)  # of a pixel
    for rows in range(1, 9):
        for most in range(1, 7):
            enough = [p for p in range(1, most + 1) if rows * p * registers >= 12] or [most]
            pixels = blocking.pixels_at_once(rows, most, runs, 4)
            assert pixels in enough
            assert computed(pixels) == min(map(computed, enough))
    wide = 16 // registers  # rows enough for one pixel to keep the multipliers busy
    assert blocking.pixels_at_once(wide, 3, [10], 4) == 2


@pytest.mark.parametrize("size", [4, 8])
def test_rows_of_weight_gradients_are_padded_least(size):
    found = {left: blocking.panel_rows(size, left) for left in range(1, 100)}
    widest = max(found.values())
    assert widest * simd.LANES // simd.width(size) < simd.vector_registers()[1]
    for left, rows in found.items():
        for other in set(found.values()):
            assert -(-left // rows) * rows <= -(-left // other) * other
        whole = blocking.panel_rows(size, left, padded=False)
        for other in blocking.panel_choices(size):
            assert left // whole * whole >= left // other * other


def test_gradients_of_images_that_are_not_there_are_zero():
    geometry = GEOMETRIES["stride two"]
    _, weight, _, dy = arrays((5, *geometry[1:]), np.float32)
    dx = kernels.conv2d_backward_input(as_blocked(dy), weight, (5, 8, 9, 8), *geometry[5:])
    assert not dx.buffer[..., 5:].any()
    assert dx.buffer[..., :5].any()


def test_dweight_is_added_also_into_a_view_of_another_dtype():
    geometry = GEOMETRIES["groups"]
    x, weight, bias, dy = arrays(geometry, np.float32)
    target = np.zeros((*weight.shape[:3], 6))[..., ::2]
    conv.conv2d_backward_weight(dy, x, target, *geometry[5:])
    conv.conv2d_backward_weight(dy, x, target, *geometry[5:])
    expected = from_torch(geometry, x, weight, bias, dy)[2]
    np.testing.assert_allclose(target, 2 * expected, atol=1e-3)


def test_results_are_the_same_bits_on_one_thread_and_on_all():
    import numba

    threads = numba.get_num_threads()
    for name in ("LeNet first", "stride two", "many channels", "depthwise"):
        given = arrays(GEOMETRIES[name], np.float32)
        results = []
        for count in (1, threads):
            numba.set_num_threads(count)
            results.append(by_kernels(GEOMETRIES[name], *given))
        numba.set_num_threads(threads)
        for one, all_ in zip(*results, strict=True):
            np.testing.assert_array_equal(one, all_)


def test_a_window_that_meets_no_pixel_gives_the_bias():
    y = kernels.conv2d_forward(
        np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)), np.array([7.0]), (1, 1), ((2, 0), (0, 0)), (1, 1), 1
    )
    np.testing.assert_array_equal(np.asarray(y)[0, 0, :, 0], [7, 7, 8])


def test_segments_of_a_strided_gradient_are_one_run_for_each_phase():
    axis = taps.Axis.backward(size=8, out_size=4, kernel=2, stride=2, before=0, dilation=1)
    assert [run[:5] for run in axis.segments()] == [[0, 2, 4, 0, 1], [1, 2, 4, 1, 1]]
