"""precision="bf16": rounding, kernels against twins with the same rounding points, networks, runs."""

import warnings

import numpy as np
import pytest
import tiny

import cnn
from cnn import backend, reference
from cnn.errors import ConfigError
from cnn.fast.blocked import as_blocked, converted, empty
from cnn.fast.conv import winograd, winograd_weight
from cnn.fast.kernels import activation, conv, elementwise, global_pool, norm, pool
from cnn.fast.machine import bf16
from cnn.fast.machine.bf16 import BFLOAT16
from cnn.fast.machine.owner import precision
from cnn.layers import (
    GELU,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    SoftmaxCrossEntropy,
)
from cnn.optimizers import SGD
from cnn.reference import bfloat16 as twin
from cnn.training import checkpoint

needs_bf16 = pytest.mark.skipif(not bf16.has_bf16(), reason="this processor has no bfloat16 instructions")


def _narrow(x):
    """A blocked array of bfloat16."""
    return converted(as_blocked(np.ascontiguousarray(x, np.float32)), BFLOAT16)


def _distance(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


# -- numbers ----------------------------------------------------------------------------------------------


def _numbers():
    """All kinds of float32: random bits, ties between bfloat16 numbers, the largest, subnormal, NaN, Inf."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 4096, dtype=np.uint32)
    ties = (rng.integers(0, 2**16, 1024, dtype=np.uint32) << 16) | 0x8000
    special = [0, 1 << 31, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0x7FFFFF]
    special = np.array(special, np.uint32)
    return np.concatenate([bits, ties, special, special]).view(np.float32)


def test_rounding_in_numpy_goes_two_ways_to_the_same_numbers():
    x = _numbers()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(bf16.widened(bf16.narrowed(x)), twin.rounded(x))
    assert twin.rounded(np.float32(1 + 2**-8)) == 1  # a tie goes to the even one
    assert twin.rounded(np.float32(1 + 3 * 2**-8)) == np.float32(1 + 2**-6)
    assert np.isinf(twin.rounded(np.float32(3.4e38)))


@needs_bf16
def test_kernels_round_as_numpy_does():
    x = _numbers()
    x = x[: len(x) // 16 * 16].reshape(16, -1)
    found = np.asarray(_narrow(x))
    np.testing.assert_array_equal(found, bf16.widened(bf16.narrowed(x)))
    assert np.isnan(found).sum() == np.isnan(x).sum() > 0


# -- Winograd's form --------------------------------------------------------------------------------------

# images, channels in, channels out, h, w, padding, taps where not 3
GEOMETRIES = {
    "one tile": (1, 16, 16, 4, 4, 1),
    "even": (16, 32, 48, 8, 8, 1),
    "narrow tiles": (5, 18, 36, 9, 7, 1),
    "no padding": (20, 24, 130, 7, 7, 0),
    "full padding": (16, 70, 20, 5, 13, 2),
    "many tiles": (33, 64, 66, 16, 16, 1),
    "sums of a pair at a time": (17, 150, 260, 9, 5, 1),
    "five taps": (18, 16, 24, 8, 12, 2, 5),
    "five taps, narrow tiles": (5, 20, 18, 9, 7, 0, 5),
}


def _problem(n, c, k, h, w, padding, taps=3):
    rng = np.random.default_rng(0)
    x = twin.rounded(rng.standard_normal((n, c, h, w)))
    weight = (rng.standard_normal((k, c, taps, taps)) / np.sqrt(taps**2 * c)).astype(np.float32)
    size = h + 2 * padding + 1 - taps, w + 2 * padding + 1 - taps
    dy = twin.rounded(rng.standard_normal((n, k, *size)))
    return x, weight, rng.standard_normal(k).astype(np.float32), dy


def _tiles(size, taps):
    """The tiles of a plane along its two axes."""
    return [[tile[:2] for tile in winograd._axis_tiles(n, winograd.outputs_of(taps))] for n in size]


@needs_bf16
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_winograd_agrees_with_the_twin_that_rounds_at_the_same_points(name, stored):
    geometry = GEOMETRIES[name]
    (x, weight, bias, dy), p = _problem(*geometry), geometry[5]
    border, out, size = ((p, p), (p, p)), dy.shape[2:], x.shape[2:]
    bring, dtype = (as_blocked, np.float32) if stored == "float32" else (_narrow, BFLOAT16)
    y, dx, dweight = empty(dy.shape, dtype), empty(x.shape, dtype), np.zeros_like(weight)
    winograd.forward(bring(x), weight, bias, y, border, 0.0, pairs=True)
    winograd.backward_input(bring(dy), weight, dx, border, pairs=True)
    winograd_weight.backward_weight(bring(dy), bring(x), dweight, border, pairs=True)
    taps = weight.shape[2]
    tiles, back = _tiles(out, taps), taps - 1 - p
    wanted = np.maximum(twin.winograd_forward(x, weight, *tiles, p, p) + bias[:, None, None], 0)
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    wanted_dx = twin.winograd_forward(dy, turned, *_tiles(size, taps), back, back)
    wanted_dweight = twin.winograd_backward_weight(dy, x, taps, *tiles, p, p)
    if stored == "bfloat16":
        wanted, wanted_dx = twin.rounded(wanted), twin.rounded(wanted_dx)
    # a number within float32's error of a tie may be rounded the other way: few do
    assert _distance(y, wanted) < 4e-4
    assert _distance(dx, wanted_dx) < 4e-4
    assert _distance(dweight, wanted_dweight) < 4e-4


@needs_bf16
@pytest.mark.parametrize("name", GEOMETRIES)
def test_winograd_is_near_the_convolution(name):
    geometry = GEOMETRIES[name]
    (x, weight, bias, dy), p = _problem(*geometry), geometry[5]
    arguments = (1, 1), ((p, p), (p, p)), (1, 1), 1
    y, dx, dweight = empty(dy.shape, BFLOAT16), empty(x.shape, BFLOAT16), np.zeros_like(weight)
    winograd.forward(_narrow(x), weight, bias, y, arguments[1], pairs=True)
    winograd.backward_input(_narrow(dy), weight, dx, arguments[1], pairs=True)
    winograd_weight.backward_weight(_narrow(dy), _narrow(x), dweight, arguments[1], pairs=True)
    exact = np.zeros(weight.shape)
    reference.conv2d_backward_weight(dy.astype(float), x.astype(float), exact, *arguments)
    assert _distance(y, reference.conv2d_forward(x, weight, bias, *arguments)) < 2e-2
    assert _distance(dx, reference.conv2d_backward_input(dy, weight, x.shape, *arguments)) < 2e-2
    assert _distance(dweight, exact) < 2e-2


# -- other kernels: computed in float32, rounded once ------------------------------------------------------


def _close(found, wanted):
    """Equal up to one unit of bfloat16: where float32's rounding errors meet a tie."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=2**-7, atol=1e-5)
    assert (found != twin.rounded(wanted))[np.abs(wanted) > 0.01].mean() < 5e-3


def _arrays(count, shape=(19, 6, 8, 10)):
    rng = np.random.default_rng(3)
    return [twin.rounded(rng.standard_normal(shape)) for _ in range(count)]


@needs_bf16
@pytest.mark.parametrize("kind", ["relu", "gelu", "silu"])
def test_activations_round_once(kind):
    x, dy = _arrays(2)
    number = activation.kind_of(kind)[0]
    forward, backward = getattr(reference, f"{kind}_forward"), getattr(reference, f"{kind}_backward")
    more = (False,) if kind == "gelu" else ()
    y = activation.forward(number, _narrow(x))
    assert y.itemsize == 2
    _close(y, forward(x, *more))
    _close(activation.backward(number, _narrow(dy), _narrow(x)), backward(dy, x, *more))


@needs_bf16
def test_sums_round_once_and_add_to_float32():
    x, other = _arrays(2)
    _close(elementwise.add(_narrow(x), _narrow(other), relu=True), np.maximum(x + other, 0))
    total = np.zeros(6, np.float32)
    elementwise.channel_sum(_narrow(x), total)
    np.testing.assert_allclose(total, x.astype(float).sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


_FORWARD = {
    "identity": lambda z: z,
    "relu": reference.relu_forward,
    "gelu": lambda z: reference.gelu_forward(z, False),
}
_BACKWARD = {
    "identity": lambda dy, z: dy,
    "relu": reference.relu_backward,
    "gelu": lambda dy, z: reference.gelu_backward(dy, z, False),
}


@needs_bf16
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["identity", "relu", "gelu"])
def test_normalisation_has_float32_statistics_and_rounds_once(kind, training):
    x, dy, other = _arrays(3)
    number, rng = activation.kind_of(kind)[0], np.random.default_rng(4)
    weight, bias, mean, var = (rng.uniform(0.5, 1.5, 6).astype(np.float32) for _ in range(4))
    statistics = mean.copy(), var.copy()
    if training:
        found = norm.batch_norm_train(_narrow(x), mean, var, 0.1, 1e-5)
        wanted = reference.batch_norm_train(x, *statistics, 0.1, 1e-5)
        np.testing.assert_allclose(mean, statistics[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(var, statistics[1], rtol=1e-5)
    else:
        found, wanted = (f(mean, var, 1e-5) for f in (norm.batch_norm_eval, reference.batch_norm_eval))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    z = reference.batch_norm_forward(x, *wanted, weight, bias)
    _close(norm.batch_norm_forward(_narrow(x), *found, weight, bias, number), _FORWARD[kind](z))
    y = norm.batch_norm_forward(_narrow(x), *found, weight, bias, number, 0.0, _narrow(other))
    _close(y, _FORWARD[kind](z + other))
    gradients = [np.zeros(6, np.float32) for _ in range(4)]
    dx = norm.batch_norm_backward(
        _narrow(dy), _narrow(x), *found, weight, *gradients[:2], training, bias, number
    )
    exact = reference.batch_norm_backward(
        _BACKWARD[kind](dy, z), x, *wanted, weight, *gradients[2:], training
    )
    # g itself is stored on the way where the activation is dear
    assert _distance(dx, exact) < (3e-3 if kind == "gelu" else 2e-3)
    np.testing.assert_allclose(gradients[0], gradients[2], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(gradients[1], gradients[3], rtol=1e-3, atol=2e-3)


@needs_bf16
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2)])
def test_pools_of_bfloat16_are_exact(kernel, stride):
    x, _ = _arrays(2)
    window = (kernel, kernel), (stride, stride), ((0, 0), (0, 0))
    y, argmax = pool.max_pool2d_forward(_narrow(x), *window)
    wanted, places = reference.max_pool2d_forward(x, *window)
    np.testing.assert_array_equal(np.asarray(y), wanted)
    dy = twin.rounded(np.random.default_rng(1).standard_normal(wanted.shape))
    dx = pool.max_pool2d_backward(_narrow(dy), argmax, x.shape, *window)
    np.testing.assert_allclose(dx, reference.max_pool2d_backward(dy, places, x.shape, *window), rtol=1e-6)
    mean = global_pool.global_avg_pool_forward(_narrow(x))
    assert mean.itemsize == 4
    np.testing.assert_allclose(mean, reference.global_avg_pool_forward(x), rtol=1e-5, atol=1e-6)


@needs_bf16
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "taps"), [((6, 3), 3), ((2, 9), 2), ((6, 8), 1)])
def test_a_convolution_without_a_form_in_bfloat16_computes_in_float32_and_rounds_its_result(
    channels, taps, stride
):
    c, k = channels
    x = _arrays(1, (19, c, 8, 11))[0]
    weight = np.random.default_rng(5).standard_normal((k, c, taps, taps)).astype(np.float32)
    geometry = (stride, stride), ((taps // 3, taps // 3),) * 2, (1, 1), 1
    wanted = np.asarray(conv.conv2d_forward(x, weight, None, *geometry))
    (dy,) = _arrays(1, wanted.shape)
    wanted_dx = np.asarray(conv.conv2d_backward_input(dy, weight, x.shape, *geometry))
    for bring in (_narrow, as_blocked):
        with precision("bf16"):
            y = conv.conv2d_forward(bring(x), weight, None, *geometry)
            dx = conv.conv2d_backward_input(bring(dy), weight, x.shape, *geometry)
        assert y.itemsize == dx.itemsize == 2
        np.testing.assert_array_equal(np.asarray(y), twin.rounded(wanted))
        np.testing.assert_array_equal(np.asarray(dx), twin.rounded(wanted_dx))


# -- networks ---------------------------------------------------------------------------------------------


def _layers():
    return [
        Conv2d(16, 3, padding=1), BatchNorm2d(), ReLU(),
        Residual([Conv2d(16, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(16, 3, padding=1), BatchNorm2d()]),
        ReLU(), MaxPool2d(2), Conv2d(32, 3, padding=1), ReLU(), MaxPool2d(2),
        Residual([Conv2d(24, 3, padding=1, stride=2), BatchNorm2d()], [Conv2d(24, 1, stride=2)]), ReLU(),
        Conv2d(24, 3, padding=1), BatchNorm2d(), GELU(), GlobalAvgPool2d(), Flatten(), Linear(5),
    ]  # fmt: skip


def _network(precision, dtype=np.float32, layers=_layers):
    network = cnn.Network(layers(), precision=precision)
    network.build((3, 32, 32), rng=np.random.default_rng(0), dtype=dtype)
    return network


def _batch(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 32, 32), dtype=np.float32), rng.integers(0, 5, n)


def _train(network, steps=4, n=50):
    loss, optimizer, losses = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.05, momentum=0.9), []
    for step in range(steps):
        x, labels = _batch(n, step % 2)
        losses.append(loss.forward(network.forward(x, training=True), labels))
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
        network.zero_grad()
    return losses, network.data.copy()


def _gradient(network, n=50):
    (x, labels), loss = _batch(n), SoftmaxCrossEntropy()
    value = loss.forward(network.forward(x, training=True), labels)
    dx = network.backward(loss.backward())
    return value, network.grad.copy(), dx


@needs_bf16
def test_a_network_in_bf16_computes_nearly_what_it_does_in_float32():
    exact, found = _gradient(_network("float32")), _gradient(_network("bf16"))
    assert found[0] == pytest.approx(exact[0], rel=1e-2)
    assert not np.array_equal(found[1], exact[1])
    cosine = exact[1] @ found[1] / np.linalg.norm(exact[1]) / np.linalg.norm(found[1])
    assert cosine > 0.95
    assert found[2].dtype == np.float32
    network = _network("float32")
    x, _ = _batch()
    wanted = network.predict(x)
    network.precision = "bf16"
    assert 0 < _distance(network.predict(x), wanted) < 5e-2
    network.precision = "float32"
    np.testing.assert_array_equal(network.predict(x), wanted)


@needs_bf16
def test_bf16_learns_and_gives_the_same_bits_on_one_thread_and_on_all():
    every, results = backend.get_threads(), []
    for threads in (every, 1, every):
        backend.set_threads(threads)
        try:
            results.append(_train(_network("bf16"), steps=12))
        finally:
            backend.set_threads(every)
    for losses, data in results[1:]:
        assert losses == results[0][0]
        np.testing.assert_array_equal(data, results[0][1])
    assert results[0][0][-1] < 0.7 * results[0][0][0]


@needs_bf16
def test_bf16_needs_less_memory():
    narrow, wide = (sum(_network(p)._engine().memory((64, 3, 32, 32))) for p in ("bf16", "float32"))
    assert narrow < 0.75 * wide


@needs_bf16
def test_a_nan_stays_visible_in_bf16():
    x, labels = _batch()
    x[7, 1, 5, 5] = np.nan
    network = _network("bf16")
    assert np.isnan(SoftmaxCrossEntropy().forward(network.forward(x, training=True), labels))
    logits = network.predict(x)  # with the running statistics, which the pass above has moved
    network = _network("bf16")
    logits = network.predict(x)
    assert np.isnan(logits[7]).all()
    assert np.isfinite(np.delete(logits, 7, 0)).all()


@needs_bf16
def test_where_no_layer_gains_all_is_float32_bit_for_bit():
    def lenet():
        return [Conv2d(6, 5), ReLU(), MaxPool2d(2), Flatten(), Linear(5)]

    results = [_train(_network(p, layers=lenet)) for p in ("float32", "bf16")]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_float64_is_never_rounded():
    exact, found = (_gradient(_network(p, np.float64)) for p in ("float32", "bf16"))
    assert found[0] == exact[0]
    np.testing.assert_array_equal(found[1], exact[1])


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match='precision: expected float32 or bf16, found "fp16"'):
        cnn.Network(_layers(), precision="fp16")


def test_without_the_instructions_a_network_says_so_and_computes_in_float32(monkeypatch):
    monkeypatch.setattr(bf16, "has_bf16", lambda: False)
    monkeypatch.setattr("cnn.fast.engine.has_bf16", lambda: False)
    with pytest.warns(RuntimeWarning, match="no instructions for bfloat16"):
        network = _network("bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(_train(network)[1], _train(_network("float32"))[1])


# -- runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    """A config whose second convolution multiplies bfloat16."""
    tiny.write_images(tmp_path / "images")
    path = tiny.write_config(tmp_path / "tiny.toml", tmp_path / "images")
    first = '{ type = "Conv2d", out_channels = 4, kernel_size = 3, padding = 1 },'
    text = path.read_text().replace(first, 2 * first.replace("= 4", "= 16"))
    text = text.replace('backend = "reference"', 'precision = "bf16"').replace(
        'type = "cosine"', 'type = "constant"'
    )
    path.write_text(text)
    return path


@needs_bf16
def test_a_run_in_bf16_goes_on_bit_for_bit_and_is_evaluated_in_bf16(config, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, out, _ = tiny.run(capsys, "train", config, "--run", whole)
    assert code == 0
    assert "numba bf16" in out
    assert (
        tiny.run(capsys, "train", config, "--run", parts, "--set", "train.epochs=1", "--threads", 1)[0] == 0
    )
    assert tiny.run(capsys, "train", "--resume", "--run", parts, "--set", "train.epochs=3")[0] == 0
    a, b = (checkpoint.load(run / "last.safetensors") for run in (whole, parts))
    assert a[1]["config"]["train"]["precision"] == "bf16"
    for name in a[0]:
        assert a[0][name].tobytes() == b[0][name].tobytes(), name
    answers = {
        p: tiny.run(capsys, "evaluate", whole, *(("--precision", p) if p else ()))
        for p in (None, "bf16", "float32")
    }
    assert answers[None] == answers["bf16"]
    assert answers["float32"][0] == 0
    code, _, err = tiny.run(capsys, "train", "--resume", "--run", whole, "--set", "train.precision=float32")
    assert code == 2
    assert "train.precision" in err
    pictures = [str(p) for p in sorted((tmp_path / "images" / "test").rglob("*.png"))][:20]
    narrow, wide = (
        tiny.run(capsys, "predict", whole, *pictures, "--json", "--precision", p)[1]
        for p in ("bf16", "float32")
    )
    assert narrow != wide


def test_the_reference_backend_has_no_bf16(config, capsys):
    code, _, err = tiny.run(capsys, "train", config, "--set", "train.backend=reference")
    assert code == 2
    assert 'train.precision: found "bf16", expected "float32"' in err
