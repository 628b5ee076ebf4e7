"""What every layer promises, whatever it computes (see ``cnn.layers.Layer``)."""

import numpy as np
import pytest
from helpers import BACKENDS, layout, naming

from cnn.backend import current_backend, get_threads, set_backend, set_threads, use_backend
from cnn.errors import ConfigError, ShapeError
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
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2d,
    PReLU,
    ReLU,
    ReLU6,
    Residual,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    Unflatten,
    Upsample,
    ZeroPad2d,
    from_config,
    layer_types,
)

IMAGE, FEATURES = (4, 7, 6), (9,)

#: Every layer type with its options: name -> (make, input shape).
LAYERS = {
    "Conv2d": (lambda: Conv2d(5, 3, padding=1), IMAGE),
    "Conv2d stride": (lambda: Conv2d(6, (3, 2), stride=2, groups=2, bias=False), IMAGE),
    "ConvTranspose2d": (lambda: ConvTranspose2d(3, 3, stride=2, output_padding=1), IMAGE),
    "MaxPool2d": (lambda: MaxPool2d(3, stride=2, padding=1), IMAGE),
    "AvgPool2d": (lambda: AvgPool2d(2), IMAGE),
    "GlobalAvgPool2d": (GlobalAvgPool2d, IMAGE),
    "GlobalMaxPool2d": (GlobalMaxPool2d, IMAGE),
    "Linear": (lambda: Linear(5), FEATURES),
    "Flatten": (Flatten, IMAGE),
    "ReLU": (ReLU, IMAGE),
    "LeakyReLU": (lambda: LeakyReLU(0.2), FEATURES),
    "GELU": (GELU, IMAGE),
    "GELU tanh": (lambda: GELU("tanh"), FEATURES),
    "SiLU": (SiLU, IMAGE),
    "Sigmoid": (Sigmoid, FEATURES),
    "Tanh": (Tanh, IMAGE),
    "Softmax": (Softmax, FEATURES),
    "Softmax of planes": (Softmax, IMAGE),
    "BatchNorm2d": (BatchNorm2d, IMAGE),
    "BatchNorm1d": (lambda: BatchNorm1d(affine=False), FEATURES),
    "Dropout": (lambda: Dropout(0.4), IMAGE),
    "Scale": (lambda: Scale(-1.5), FEATURES),
    "ELU": (lambda: ELU(0.7), IMAGE),
    "Softplus": (lambda: Softplus(beta=2.0, threshold=1.0), FEATURES),
    "PReLU": (lambda: PReLU(4), IMAGE),
    "PReLU one": (PReLU, FEATURES),
    "GroupNorm": (lambda: GroupNorm(2), IMAGE),
    "GroupNorm plain": (lambda: GroupNorm(3, affine=False), FEATURES),
    "LayerNorm": (LayerNorm, IMAGE),
    "LayerNorm of features": (lambda: LayerNorm(bias=False), FEATURES),
    "Upsample": (lambda: Upsample(scale_factor=(2, 3)), IMAGE),
    "ZeroPad2d": (lambda: ZeroPad2d((1, -2, 0, 3)), IMAGE),
    "Unflatten": (lambda: Unflatten((1, 3, 3)), FEATURES),
    "ReLU6": (ReLU6, IMAGE),
    "Hardtanh": (lambda: Hardtanh(-0.5, 0.8), FEATURES),
    "Hardsigmoid": (Hardsigmoid, FEATURES),
    "Hardswish": (Hardswish, IMAGE),
    "LogSoftmax": (LogSoftmax, FEATURES),
    "LogSoftmax of planes": (LogSoftmax, IMAGE),
    "LocalResponseNorm": (lambda: LocalResponseNorm(3, 0.5, 0.75, 0.7), IMAGE),
    "LocalResponseNorm of features": (lambda: LocalResponseNorm(4, 0.5, 0.6), FEATURES),
    "Graph": (
        lambda: Graph(
            [[Conv2d(4, 3, padding=1)], [AvgPool2d(IMAGE[1:]), Sigmoid()], [], [Tanh()], []],
            [(0,), (1,), (1, 2), (0, 3, 1), (4, 1, 0)],
            ["", "", "mul", "concat", "concat"],
        ),
        IMAGE,
    ),
    "Graph of features": (
        lambda: Graph([[Tanh()], [], []], [(0,), (1, 0, 1), (2, 0)], ["", "add", "mul"]),
        FEATURES,
    ),
    "MaxPool2d dilated": (lambda: MaxPool2d(2, 2, 1, dilation=2, ceil_mode=True), IMAGE),
    "AvgPool2d ceil": (lambda: AvgPool2d(3, 2, ((0, 1), (1, 0)), ceil_mode=True), IMAGE),
    "Conv2d sides": (lambda: Conv2d(3, 3, padding=((0, 2), (1, 0))), IMAGE),
    "Sequential": (lambda: Sequential([Conv2d(3, 3), BatchNorm2d(), ReLU(), Flatten(), Linear(4)]), IMAGE),
    "Residual": (lambda: Residual([Conv2d(4, 3, padding=1), Tanh()]), IMAGE),
    "Residual shortcut": (lambda: Residual([Conv2d(6, 1), SiLU()], shortcut=[Conv2d(6, 1)]), IMAGE),
    "Concat": (lambda: Concat([[Conv2d(3, 1), ReLU()], [Conv2d(2, 3, padding=1)], []]), IMAGE),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """One of LAYERS: (make, input shape)."""
    return LAYERS[request.param]


def built(case, dtype=np.float64, seed=0):
    make, shape = case
    layer = make()
    layer.build(shape, np.random.default_rng(seed), dtype)
    return layer


def batch(layer, rng, n=3, dtype=np.float64):
    """Return (x, dy) of n images."""
    x = rng.standard_normal((n, *layer.input_shape)).astype(dtype)
    return x, rng.standard_normal((n, *layer.output_shape)).astype(dtype)


def grads(layer):
    return [p.grad.copy() for p in layer.parameters()]


def test_every_layer_type_is_tested_here():
    assert {name.split()[0] for name in LAYERS} == set(layer_types())
    for make, _ in LAYERS.values():
        assert type(make()) in layer_types().values()


def test_build_returns_the_shape_of_forward(case, backend, rng):
    layer = built(case)
    for n in (1, 3):
        x, _ = batch(layer, rng, n)
        y = layer.forward(x)
        assert tuple(y.shape) == np.asarray(y).shape == (n, *layer.output_shape)
        assert y.ndim == np.asarray(y).ndim
        assert y.dtype == np.asarray(y).dtype == np.float64


def test_two_backwards_give_exactly_twice_the_gradient(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    layer.forward(x, training=True)
    first_dx = np.array(layer.backward(dy))
    once = grads(layer)
    second_dx = np.array(layer.backward(dy))
    np.testing.assert_array_equal(second_dx, first_dx)
    for found, gradient in zip(grads(layer), once, strict=True):
        np.testing.assert_array_equal(found, 2 * gradient)


def test_gradients_are_added_to_what_is_there(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    layer.forward(x, training=True)
    dx = np.array(layer.backward(dy))
    once = grads(layer)
    for p in layer.parameters():
        p.grad = np.full(p.shape, 3.0)
    np.testing.assert_array_equal(np.asarray(layer.backward(dy)), dx)
    for found, gradient in zip(grads(layer), once, strict=True):
        np.testing.assert_allclose(found, 3 + gradient, rtol=1e-12, atol=1e-12)


def test_one_forward_serves_many_different_backwards(case, backend, rng):
    """Backward is linear in dy and leaves the cache alone."""
    layer = built(case)
    x, dy = batch(layer, rng)
    other = rng.standard_normal(dy.shape)
    layer.forward(x, training=True)
    parts = np.array(layer.backward(dy)) + np.array(layer.backward(other))
    np.testing.assert_allclose(np.asarray(layer.backward(dy + other)), parts, rtol=1e-9, atol=1e-11)


def test_inputs_are_never_modified(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    before = x.copy(), dy.copy()
    layer.forward(x, training=True)
    layer.backward(dy)
    layer.forward(x)
    layer.backward(dy)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(dy, before[1])


def test_read_only_arrays_are_welcome(case, backend, rng):
    """Memory-mapped and broadcast arrays are read-only."""
    layer = built(case, np.float32)
    x, dy = batch(layer, rng, dtype=np.float32)
    x.flags.writeable = dy.flags.writeable = False
    layer.forward(x, training=True)
    layer.backward(dy)


def test_backward_leaves_the_parameters_alone(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    before = [p.data.copy() for p in layer.parameters()]
    layer.forward(x, training=True)
    layer.backward(dy)
    for p, data in zip(layer.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, data)


def test_zero_grad_makes_every_gradient_zero(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    layer.forward(x, training=True)
    layer.backward(dy)
    layer.zero_grad()
    assert all((g == 0).all() for g in grads(layer))


def test_backward_before_forward_says_so(case, backend, rng):
    layer = built(case)
    _, dy = batch(layer, rng)
    with pytest.raises(RuntimeError, match="backward was called before forward"):
        layer.backward(dy)


def test_forward_before_build_says_so(case, backend, rng):
    make, shape = case
    layer = make()
    if not layer.needs_build:
        assert np.asarray(layer.forward(np.ones((2, *shape)))).shape[0] == 2
        return
    with pytest.raises(RuntimeError, match=r"forward was called before build\(input_shape\)"):
        layer.forward(np.ones((2, *shape)))


def test_building_again_forgets_the_last_forward(case, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    layer.forward(x)
    layer.build(layer.input_shape, dtype=np.float64)
    with pytest.raises(RuntimeError, match="before forward"):
        layer.backward(dy)


def test_an_upstream_gradient_of_another_shape_is_refused(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    layer.forward(x)
    for wrong in (dy[:2], dy[..., :-1], dy[None]):
        with pytest.raises(ShapeError, match="backward expected dy of shape") as caught:
            layer.backward(wrong)
        assert str(dy.shape) in str(caught.value)
        assert str(wrong.shape) in str(caught.value)
        assert type(layer).__name__ in str(caught.value)


def test_an_input_with_wrong_axes_is_refused(case, backend):
    layer = built(case)
    for shape in ((5,), (2, 3, 4)):
        if layer.axes == "any" and len(shape) > 1:
            continue
        with pytest.raises(ShapeError, match="expected an input with axes") as caught:
            layer.forward(np.ones(shape))
        assert str(shape) in str(caught.value)


def test_an_empty_batch_is_refused(case, backend):
    layer = built(case)
    with pytest.raises(ShapeError, match="expected at least one image, found shape"):
        layer.forward(np.empty((0, *layer.input_shape)))


def test_the_dtype_of_build_decides(case, backend, rng):
    for dtype, other in ((np.float32, np.float64), (np.float64, np.float32)):
        layer = built(case, dtype)
        assert {p.dtype for p in layer.parameters()} <= {np.dtype(dtype)}
        x, dy = batch(layer, rng, dtype=other)
        y = np.asarray(layer.forward(x, training=True))
        dx = np.asarray(layer.backward(dy))
        assert y.dtype == dx.dtype == (dtype if layer.needs_build else other)


def test_integers_and_half_floats_become_float32(case, backend, rng):
    layer = built(case, np.float32)
    for kind in (np.uint8, np.int64, np.float16, bool):
        x = rng.integers(0, 2, (3, *layer.input_shape)).astype(kind)
        assert np.asarray(layer.forward(x)).dtype == np.float32


def test_lists_are_welcome(case, backend, rng):
    layer = built(case, np.float32)
    x, dy = batch(layer, rng, 2)
    expected = np.array(layer.forward(x.astype(np.float32)))
    np.testing.assert_allclose(np.asarray(layer.forward(x.tolist())), expected, rtol=1e-5, atol=1e-6)
    layer.backward(dy.tolist())


def test_memory_layout_does_not_change_the_result(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    expected_y = np.array(layer.forward(x))
    expected_dx = np.array(layer.backward(dy))
    for _ in range(8):
        y, dx = layer.forward(layout(x, rng)), layer.backward(layout(dy, rng))
        np.testing.assert_allclose(np.asarray(y), expected_y, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(np.asarray(dx), expected_dx, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [*range(1, 18), 31, 32, 33, 40])
def test_every_batch_size_gives_each_image_its_own_result(n, rng):
    """In evaluation images do not mix, so a batch is its images one by one; gradients are their sum."""
    for name, case in LAYERS.items():
        with naming(name, "batch", n):
            layer = built(case)
            x, dy = batch(layer, rng, n)
            with use_backend("numba"):
                y = np.array(layer.forward(x))
                dx = np.array(layer.backward(dy))
                whole = grads(layer)
                layer.zero_grad()
            with use_backend("reference"):
                parts = []
                for i in range(n):
                    one = np.array(layer.forward(x[i : i + 1]))
                    parts.append((one, np.array(layer.backward(dy[i : i + 1]))))
            np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(dx, np.concatenate([p[1] for p in parts]), rtol=1e-9, atol=1e-11)
            for found, expected in zip(whole, grads(layer), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_batches_of_changing_size_leave_no_trace(case, backend, rng):
    """A buffer that is used again must not show what a larger batch left in it."""
    layer = built(case)
    x, dy = batch(layer, rng, 33)
    expected = [(np.array(layer.forward(x[:n])), np.array(layer.backward(dy[:n]))) for n in (1, 5, 17)]
    for n, (y, dx) in zip((1, 5, 17), expected, strict=True):
        layer.forward(x)
        layer.backward(dy)
        np.testing.assert_array_equal(np.asarray(layer.forward(x[:n])), y)
        np.testing.assert_array_equal(np.asarray(layer.backward(dy[:n])), dx)


def test_an_earlier_output_survives_the_next_forward(case, backend, rng):
    layer = built(case)
    x, dy = batch(layer, rng)
    y, dx = np.asarray(layer.forward(x)), np.asarray(layer.backward(dy))
    before = y.copy(), dx.copy()
    layer.forward(2 * x + 1)
    layer.backward(3 * dy)
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(dx, before[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_and_two_threads_give_the_same_bits(case, dtype, rng):
    available = get_threads()
    if available < 2:
        pytest.skip("one core")
    x, dy = batch(built(case), rng, 37, dtype)
    found = []
    try:
        for threads in (1, 2):
            set_threads(threads)
            layer = built(case, dtype)
            with use_backend("numba"):
                y = np.array(layer.forward(x, training=True))
                found.append([y, np.array(layer.backward(dy)), *grads(layer)])
    finally:
        set_threads(available)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_same_seed_gives_the_same_parameters(case):
    for p, q in zip(built(case).parameters(), built(case).parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)
        assert p.name == q.name


def test_without_a_generator_the_seed_is_zero():
    given, default = Conv2d(3, 3), Conv2d(3, 3)
    given.build(IMAGE, np.random.default_rng(0))
    default.build(IMAGE)
    np.testing.assert_array_equal(given.weight.data, default.weight.data)


def test_assigning_to_a_parameter_copies_into_it(case):
    for p in built(case).parameters():
        data, grad = p.data, p.grad
        p.data = np.full(p.shape, 2.0)
        p.grad = np.full(p.shape, 3.0)
        assert p.data is data
        assert p.grad is grad
        assert (data == 2).all()
        assert (grad == 3).all()
        with pytest.raises(ShapeError, match=rf"{p.name}.data: expected shape .*, found \(77,\)"):
            p.data = np.zeros(77)


def test_weights_decay_and_biases_do_not():
    for kind, shape in ((Linear(3), FEATURES), (Conv2d(3, 3), IMAGE), (ConvTranspose2d(3, 3), IMAGE)):
        kind.build(shape)
        assert [(p.name, p.decay) for p in kind.parameters()] == [("weight", True), ("bias", False)]


@pytest.mark.parametrize("dtype", [np.float16, np.int32, complex])
def test_only_two_dtypes_can_be_built(dtype):
    with pytest.raises(ShapeError, match="Linear: expected dtype float32 or float64, found"):
        Linear(3).build(FEATURES, dtype=dtype)


def test_an_empty_shape_cannot_be_built():
    for shape in ((), (0,), (3, 0, 4)):
        with pytest.raises(ShapeError, match="ReLU: expected sizes of at least 1, found"):
            ReLU().build(shape)


def test_repr_names_the_layer_and_its_arguments(case):
    layer = built(case)
    assert repr(layer).startswith(type(layer).__name__ + "(")
    assert repr(Conv2d(6, 5)).startswith("Conv2d(6, kernel_size=(5, 5)")


def test_macs_count_multiply_adds_of_one_image():
    for layer, shape, expected in (
        (Conv2d(6, 5, padding=2), (1, 28, 28), 28 * 28 * 6 * 25),
        (Conv2d(8, 3, stride=2, groups=4, padding=1), (4, 8, 8), 4 * 4 * 8 * 9),
        (ConvTranspose2d(3, 2, stride=2), (5, 4, 4), 16 * 5 * 3 * 4),
        (Linear(10), (84,), 840),
        (ReLU(), (3, 4, 4), 0),
        (Residual([Linear(6)], shortcut=[Linear(6)]), (5,), 60),
    ):
        layer.build(shape)
        assert layer.macs() == expected


def test_a_new_layer_must_define_forward_and_backward():
    with pytest.raises(TypeError, match="Layer defines no forward"):
        Layer().forward(np.ones((1, 2)))
    with pytest.raises(TypeError, match="Layer defines no backward"):
        Layer().backward(np.ones((1, 2)))


def test_from_config_builds_what_a_config_describes():
    residual, concat, pool = from_config(
        [
            {
                "type": "Residual",
                "body": [{"type": "Conv2d", "out_channels": 4, "kernel_size": [3, 3], "padding": 1}],
            },
            {"type": "Concat", "branches": [[{"type": "Scale", "factor": 2}], []]},
            {"type": "MaxPool2d", "kernel_size": [2, 3]},
        ]
    )
    assert residual.build((4, 6, 6)) == (4, 6, 6)
    assert concat.build((4, 6, 6)) == (8, 6, 6)
    assert pool.build((8, 6, 6)) == (8, 3, 2)


def test_from_config_names_an_unknown_type_and_argument():
    with pytest.raises(ConfigError, match=r'layer type: found "Conv2D", .* Did you mean "Conv2d"'):
        from_config([{"type": "Conv2D"}])
    with pytest.raises(ConfigError, match=r'Dropout: unknown argument "q". It takes p'):
        from_config([{"type": "Dropout", "q": 1}])
    with pytest.raises(ConfigError, match='the argument "kernel_size" is missing'):
        from_config([{"type": "Conv2d", "out_channels": 1}])


def test_numpy_integers_are_integers():
    layer = Conv2d(np.int64(3), np.int32(3), padding=(np.int64(1), 1))
    assert layer.build(IMAGE) == (3, 7, 6)
    assert Linear(np.int64(3)).build(FEATURES) == (3,)


def test_a_backend_is_chosen_by_name_and_given_back():
    before = current_backend()
    for name in BACKENDS:
        with use_backend(name):
            assert current_backend() == name
    assert current_backend() == before
    with pytest.raises(ConfigError, match='backend: expected one of numba, reference, found "numbra"'):
        set_backend("numbra")
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        _ = 1 / 0
    assert current_backend() == before


@pytest.mark.parametrize("count", [0, -1, 10**6])
def test_an_impossible_number_of_threads_is_refused(count):
    with pytest.raises(ConfigError, match=f"threads: expected 1 to .*, found {count}"):
        set_threads(count)
