"""The losses against PyTorch, and what happens to input that is wrong."""

import numpy as np
import pytest
from helpers import BACKENDS, CHUNKS, assert_forward, assert_gradient, geometries, layout, naming
from helpers_torch import tensor, torch

from cnn.backend import use_backend
from cnn.errors import ConfigError, DataError, ShapeError
from cnn.fast.kernels import loss as kernels_loss
from cnn.fast.machine.jit import launch, table
from cnn.layers import CrossEntropy, Softmax, SoftmaxCrossEntropy

F = torch.nn.functional


def draw(rng):
    """Return (arguments, images, classes, kind of targets, size of the logits)."""
    arguments = {"reduction": str(rng.choice(["mean", "sum"]))}
    classes = int(rng.integers(1, 12))
    if rng.random() < 0.5:
        arguments["label_smoothing"] = float(rng.choice([0.1, 0.5, 1.0]))
    if rng.random() < 0.5:
        arguments["class_weight"] = rng.uniform(0.1, 3, classes)
    kind = str(rng.choice(["index", "index", "row", "any row"]))
    return (
        arguments,
        int(rng.choice([1, 2, 5, 16, 17, 33])),
        classes,
        kind,
        float(rng.choice([0.1, 1, 10, 300])),
    )


def check_loss(case, rng, dtype):
    arguments, images, classes, kind, size = case
    logits = (size * rng.standard_normal((images, classes))).astype(dtype)
    labels = rng.integers(0, classes, images).astype(rng.choice([np.int64, np.int32, np.uint8]))
    if kind == "index":
        targets, wanted = labels, torch.tensor(labels.astype(np.int64))
    else:
        targets = rng.random((images, classes))
        if kind == "row":
            targets /= targets.sum(axis=1, keepdims=True)
        targets = targets.astype(dtype)
        wanted = tensor(targets)
    leaf = tensor(logits, grad=True)
    weight = arguments.get("class_weight")
    expected = F.cross_entropy(
        leaf,
        wanted,
        weight=None if weight is None else tensor(weight),
        reduction=arguments["reduction"],
        label_smoothing=arguments.get("label_smoothing", 0.0),
    )
    expected.backward()
    for backend in BACKENDS:
        with use_backend(backend), naming("backend", backend):
            loss = SoftmaxCrossEntropy(**arguments)
            value = loss.forward(layout(logits, rng), layout(targets, rng))
            assert type(value) is float
            assert_forward(np.asarray(value, dtype), expected.detach().numpy(), dtype, "loss")
            assert_forward(loss.probabilities, F.softmax(tensor(logits), 1).numpy(), dtype, "probabilities")
            # p - y nearly cancels where the network is right: its unit is the largest weight of a target
            floor = 1e-3 if size < 100 else 1.0
            for _ in range(2):
                assert_gradient(loss.backward(), leaf.grad.numpy(), dtype, "dlogits", floor)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_softmax_cross_entropy_is_that_of_pytorch(chunk):
    for case, rng in geometries("loss", draw, chunk):
        with naming("SoftmaxCrossEntropy", case):
            check_loss(case, rng, np.float64)


@pytest.mark.parametrize("chunk", range(4))
def test_softmax_cross_entropy_in_float32(chunk):
    for case, rng in geometries("loss32", draw, chunk):
        with naming("SoftmaxCrossEntropy", case):
            check_loss(case, rng, np.float32)


@pytest.mark.parametrize("chunk", range(10))
def test_softmax_and_cross_entropy_together_are_softmax_cross_entropy(chunk):
    for (arguments, images, classes, kind, _), rng in geometries("composed", draw, chunk):
        logits = 3 * rng.standard_normal((images, classes))
        targets = rng.random((images, classes)) if "row" in kind else rng.integers(0, classes, images)
        for backend in BACKENDS:
            with use_backend(backend), naming(arguments["reduction"], images, classes, kind, backend):
                together = SoftmaxCrossEntropy(reduction=arguments["reduction"])
                softmax, last = Softmax(), CrossEntropy(reduction=arguments["reduction"])
                value = last.forward(softmax.forward(logits), targets)
                assert value == pytest.approx(together.forward(logits, targets), rel=1e-12)
                assert_gradient(
                    softmax.backward(last.backward()), together.backward(), np.float64, "dx", 1e-2
                )


def test_backward_is_the_gradient_of_the_number_that_forward_returned(backend, rng):
    """Central differences of the printed loss, with every option at once."""
    loss = SoftmaxCrossEntropy(label_smoothing=0.2, class_weight=[0.5, 2.0, 1.0, 3.0])
    logits, labels = rng.standard_normal((3, 4)), np.array([0, 3, 1])
    loss.forward(logits, labels)
    analytic = np.array(loss.backward())
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-5
        numeric = (loss.forward(logits + step, labels) - loss.forward(logits - step, labels)) / 2e-5
        np.testing.assert_allclose(analytic[index], numeric, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("where", ["logits", "rows"])
def test_a_nan_anywhere_reaches_the_loss_and_the_gradient(where, dtype, backend, rng):
    for index in np.ndindex(3, 4):
        logits, rows = rng.standard_normal((3, 4)).astype(dtype), rng.random((3, 4)).astype(dtype)
        (logits if where == "logits" else rows)[index] = np.nan
        for reduction in ("mean", "sum"):
            loss = SoftmaxCrossEntropy(reduction=reduction)
            assert np.isnan(loss.forward(logits, rows))
            assert np.isnan(loss.backward()[index[0]]).any()
        if where == "logits":
            assert np.isnan(SoftmaxCrossEntropy().forward(logits, np.array([0, 1, 2])))


def test_a_nan_probability_reaches_cross_entropy_even_where_the_target_is_zero(backend):
    p = np.array([[0.5, np.nan, 0.5]])
    assert np.isnan(CrossEntropy().forward(p, np.array([0])))


def test_cross_entropy_of_an_impossible_class_is_infinite_without_a_warning(backend):
    loss = CrossEntropy()
    p = np.array([[1.0, 0.0]])
    assert loss.forward(p, np.array([0])) == 0.0
    np.testing.assert_array_equal(loss.backward(), [[-1.0, 0.0]])
    assert loss.forward(p, np.array([1])) == np.inf
    np.testing.assert_array_equal(loss.backward(), [[0.0, -np.inf]])


@pytest.mark.parametrize("kind", [SoftmaxCrossEntropy, CrossEntropy])
@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([0, 1, 3], DataError, "expected labels from 0 to 2, found 3 at image 2"),
        ([0, -1, 2], DataError, "expected labels from 0 to 2, found -1 at image 1"),
        ([0.0, 1.0, 2.0], ShapeError, "expected integer class indices, found dtype float64"),
        ([0, 1], ShapeError, r"expected targets of shape \(3,\) or \(3, 3\), found \(2,\)"),
        ([[0], [1], [2]], ShapeError, r"expected targets of shape \(3,\) or \(3, 3\), found \(3, 1\)"),
        (1, ShapeError, r"expected targets of shape \(3,\) or \(3, 3\), found \(\)"),
    ],
)
def test_wrong_targets_are_named(kind, targets, error, message, backend):
    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind().forward(np.full((3, 3), 1 / 3), np.array(targets))


@pytest.mark.parametrize("kind", [SoftmaxCrossEntropy, CrossEntropy])
def test_scores_must_be_rows(kind):
    for shape in ((3,), (2, 3, 4, 4), (0, 3)):
        with pytest.raises(ShapeError, match=rf"{kind.__name__}: expected an input with axes \(N, C\)"):
            kind().forward(np.zeros(shape), np.zeros(shape[:1], int))


@pytest.mark.parametrize("kind", [SoftmaxCrossEntropy, CrossEntropy])
def test_backward_before_forward_says_so(kind):
    with pytest.raises(RuntimeError, match=f"{kind.__name__}: backward was called before forward"):
        kind().backward()


def test_a_failed_forward_leaves_no_old_gradient_behind():
    loss = SoftmaxCrossEntropy()
    loss.forward(np.zeros((2, 3)), np.array([0, 1]))
    with pytest.raises(DataError):
        loss.forward(np.zeros((2, 3)), np.array([0, 9]))
    with pytest.raises(RuntimeError, match="before forward"):
        loss.backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": 1.5}, "label_smoothing: expected .* of at least 0 and at most 1, found 1.5"),
        ({"label_smoothing": -0.1}, "label_smoothing: expected .* of at least 0 and at most 1"),
        ({"label_smoothing": float("nan")}, "label_smoothing: expected .* of at least 0 and at most 1"),
        ({"reduction": "none"}, 'reduction: expected "mean" or "sum", found \'none\''),
        ({"class_weight": [1.0, -1.0]}, r"class_weight: .* numbers of at least 0, found \[1.0, -1.0\]"),
        ({"class_weight": [1.0, float("nan")]}, r"class_weight: .* of at least 0, found \[1.0, nan\]"),
        ({"class_weight": [[1.0], [1.0]]}, r"class_weight: .* numbers of at least 0, found \[\[1"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SoftmaxCrossEntropy(**arguments)


def test_class_weights_must_be_one_for_each_class():
    with pytest.raises(ShapeError, match=r"class_weight: expected 3 numbers, found shape \(2,\)"):
        SoftmaxCrossEntropy(class_weight=[1, 2]).forward(np.zeros((2, 3)), np.array([0, 1]))


def test_targets_and_logits_are_not_modified(backend, rng):
    logits, rows = rng.standard_normal((4, 3)), rng.random((4, 3))
    before = logits.copy(), rows.copy()
    loss = SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1, 2, 3])
    loss.forward(logits, rows)
    loss.backward()
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(rows, before[1])


def test_integer_logits_become_float32(backend):
    loss = SoftmaxCrossEntropy()
    loss.forward([[1, 2], [3, 4]], [0, 1])
    assert loss.backward().dtype == np.float32


@pytest.mark.parametrize(("n", "classes"), [(1, 10), (2, 10), (3, 7), (5, 31)])
def test_the_bits_do_not_depend_on_where_the_arrays_lie(n, classes, rng):
    logits, rows = 2 * rng.standard_normal((n, classes)), np.eye(classes)[rng.integers(0, classes, n)]
    size, memory = logits.nbytes, np.zeros(1 << 14, np.uint8)
    start = -memory.ctypes.data % 64
    seen = set()
    for gap in range(size, 4096, 8):
        z, p = (memory[start + at :][:size].view(np.float64).reshape(n, classes) for at in (0, gap))
        losses = np.empty(n)
        z[...] = logits
        sizes, ends = (n, classes), (z.ctypes.data, rows.ctypes.data, losses.ctypes.data, p.ctypes.data)
        launch(kernels_loss._forward_task(8), 1, table(kernels_loss.Loss(*sizes, *ends, 0, 0)))
        seen.add((losses.tobytes(), p.tobytes()))
    assert len(seen) == 1
