"""Optimizers against PyTorch's, over many steps, and the promises that PyTorch does not make."""

import sys
from pathlib import Path

import numpy as np
import pytest

import cnn.backend
from cnn.backend import use_backend
from cnn.errors import CheckpointError, ConfigError
from cnn.layers.parameter import Parameter, flatten
from cnn.optimizers import SGD, Adam, AdamW, Muon, RMSprop, make_optimizer

# 11,226 elements: more than one piece; filters as wide matrices and as a tall one
SHAPES = [(6, 3, 5, 5), (6,), (120, 70), (120,), (10, 120), (10,), (40, 2, 2, 2), (20, 4, 3, 3)]
BACKENDS = ("reference", "numba")
sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

CASES = {
    "sgd": (SGD, "SGD", {}),
    "sgd_decay": (SGD, "SGD", {"weight_decay": 0.01}),
    "sgd_momentum": (SGD, "SGD", {"momentum": 0.9}),
    "sgd_momentum_decay": (SGD, "SGD", {"momentum": 0.9, "weight_decay": 0.02}),
    "sgd_nesterov": (SGD, "SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.02}),
    "adam": (Adam, "Adam", {}),
    "adam_options": (Adam, "Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.03}),
    "adamw": (AdamW, "AdamW", {}),
    "adamw_options": (AdamW, "AdamW", {"betas": (0.7, 0.99), "eps": 1e-2, "weight_decay": 0.3}),
    "rmsprop": (RMSprop, "RMSprop", {}),
    "rmsprop_options": (RMSprop, "RMSprop", {"alpha": 0.9, "eps": 1e-4, "weight_decay": 0.02}),
    "rmsprop_momentum": (RMSprop, "RMSprop", {"momentum": 0.8, "weight_decay": 0.02}),
    "muon": (Muon, "Muon", {}),
    "muon_options": (
        Muon, "Muon", {"momentum": 0.6, "nesterov": False, "weight_decay": 0.3, "ns_steps": 3},
    ),
    "muon_normalize": (Muon, "Muon", {"momentum": 0.8, "weight_decay": 0.3, "normalize": True}),
}  # fmt: skip
KINDS = (SGD, Muon, Adam, AdamW, RMSprop)


def make_parameters(dtype=np.float64, seed=0):
    """Return parameters as a network has them: weights decay, biases do not."""
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    return [Parameter(f"p{i}", value, decay=value.ndim > 1) for i, value in enumerate(values)]


def gradients(parameters, step):
    rng = np.random.default_rng([7, step])
    return [rng.standard_normal(p.shape) for p in parameters]


def pytorch_optimizer(torch, name):
    if name != "Muon":
        return getattr(torch.optim, name)
    import torch_twin  # torch.optim.Muon has only matrices, and those in bfloat16

    return torch_twin.Muon


def follow_both(kind, name, options, dtype, steps=25, clip_norm=None, decay_all=False):
    """Run our optimizer and PyTorch's side by side; return both lists of final parameters."""
    torch = pytest.importorskip("torch")
    ours = make_parameters(dtype)
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    decay = options.get("weight_decay", {"AdamW": 0.01}.get(name, 0.0))
    groups = [
        {"params": [t], "weight_decay": decay if p.decay or decay_all else 0.0}
        for p, t in zip(ours, theirs, strict=True)
    ]
    options = {"lr": 0.01, **options}
    mine = kind(ours, **options, clip_norm=clip_norm, decay_all=decay_all)
    other = pytorch_optimizer(torch, name)(groups, **options)
    for step in range(steps):
        lr = 0.01 * (1 + step % 5)  # a schedule changes the rate between steps
        mine.lr = lr
        for group in other.param_groups:
            group["lr"] = lr
        for p, t, g in zip(ours, theirs, gradients(ours, step), strict=True):
            p.grad = g
            t.grad = torch.tensor(g.astype(dtype))
        norm = mine.step()
        if clip_norm is not None:
            expected = torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
            assert norm == pytest.approx(expected.item(), rel=1e-12 if dtype == np.float64 else 1e-6)
        other.step()
    return [p.data for p in ours], [t.detach().numpy() for t in theirs]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(np.float64, 1e-12, 1e-13), (np.float32, 1e-4, 2e-6)], ids=["f64", "f32"]
)
def test_twenty_five_steps_are_those_of_pytorch(case, backend, dtype, rtol, atol):
    with use_backend(backend):
        ours, theirs = follow_both(*CASES[case], dtype)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case", ["sgd_nesterov", "muon_options", "adam_options", "adamw_options", "rmsprop_momentum"]
)
@pytest.mark.parametrize("clip_norm", [0.5, 90.0, 1e6])
def test_clipped_steps_are_those_of_clip_grad_norm(case, clip_norm, backend):
    with use_backend(backend):
        ours, theirs = follow_both(*CASES[case], np.float64, clip_norm=clip_norm, decay_all=True)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_leaves_biases_and_norms_alone_unless_asked(kind, backend):
    moved = {}
    for decay_all in (False, True):
        parameters = make_parameters()
        before = [p.data.copy() for p in parameters]
        with use_backend(backend):
            kind(parameters, lr=0.1, weight_decay=0.5, decay_all=decay_all).step()
        moved[decay_all] = [not np.array_equal(p.data, b) for p, b in zip(parameters, before, strict=True)]
    assert moved[False] == [p.decay for p in parameters]
    assert moved[True] == [True] * len(parameters)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_lr_scale_multiplies_one_parameters_rate_and_zero_freezes_it(kind, backend):
    parameters, doubled = make_parameters(), make_parameters()
    doubled[2].lr_scale, doubled[0].lr_scale = 2.0, 0.0
    start = [p.data.copy() for p in parameters]
    with use_backend(backend):
        for group in (parameters, doubled):
            optimizer = kind(group, lr=0.01)
            for p, g in zip(group, gradients(group, 0), strict=True):
                p.grad = g
            optimizer.step()
    np.testing.assert_array_equal(doubled[0].data, start[0])
    np.testing.assert_allclose(
        doubled[2].data - start[2], 2 * (parameters[2].data - start[2]), rtol=1e-9, atol=1e-15
    )
    np.testing.assert_array_equal(doubled[4].data, parameters[4].data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_reference_and_numba_take_the_same_steps(case, dtype):
    kind, _, options = CASES[case]
    results = []
    for backend in BACKENDS:
        parameters = make_parameters(dtype)
        with use_backend(backend):
            optimizer = kind(parameters, **{"lr": 0.01, **options}, clip_norm=50.0)
            for step in range(5):
                for p, g in zip(parameters, gradients(parameters, step), strict=True):
                    p.grad = g
                optimizer.step()
        results.append(flatten(parameters).data)
    tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype == np.float64 else {"rtol": 1e-5, "atol": 2e-6}
    np.testing.assert_allclose(*results, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_a_loaded_state_continues_bit_for_bit(case, backend):
    kind, _, options = CASES[case]

    def advance(optimizer, parameters, steps):
        for step in steps:
            optimizer.lr = 0.01 * (1 + step)
            for p, g in zip(parameters, gradients(parameters, step), strict=True):
                p.grad = g
            optimizer.step()

    with use_backend(backend):
        whole = make_parameters()
        straight = kind(whole, **{"lr": 0.01, **options})
        advance(straight, whole, range(8))
        half = make_parameters()
        first = kind(half, **{"lr": 0.01, **options})
        advance(first, half, range(4))
        saved = {name: array.copy() for name, array in first.state().items()}
        rest = make_parameters(seed=1)
        for p, q in zip(rest, half, strict=True):
            p.data = q.data
        second = kind(rest, **{"lr": 0.5, **options})
        second.load_state(saved)
        assert second.lr == first.lr
        advance(second, rest, range(4, 8))
    for p, q in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    for name, array in straight.state().items():
        np.testing.assert_array_equal(array, second.state()[name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_decoupled_decay_shrinks_the_weights_beside_pytorchs_plain_step(options, backend):
    """SGDW is a step without decay, after the weights were multiplied by 1 - lr * weight_decay."""
    torch = pytest.importorskip("torch")
    ours = make_parameters()
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    with use_backend(backend):
        mine = SGD(ours, lr=0.1, weight_decay=0.3, decay_all=True, decoupled=True, **options)
        other = torch.optim.SGD(theirs, lr=0.1, **options)
        for step in range(5):
            for p, t, g in zip(ours, theirs, gradients(ours, step), strict=True):
                p.grad, t.grad = g, torch.tensor(g)
                t.data *= 1 - 0.1 * 0.3
            mine.step()
            other.step()
    for p, t in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, t.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_filters_take_the_steps_of_pytorchs_muon_as_far_as_bfloat16_goes(backend):
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with PyTorch 2.9")
    ours = make_parameters()
    filters = [p for p in ours if p.data.ndim == 4]
    theirs = [torch.tensor(p.data.reshape(len(p.data), -1).copy(), requires_grad=True) for p in filters]
    start = [p.data.copy() for p in filters]
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2}
    other = torch.optim.Muon(theirs, **options, adjust_lr_fn="original")
    with use_backend(backend):
        mine = Muon(ours, **options)
        for step in range(4):
            for p, g in zip(ours, gradients(ours, step), strict=True):
                p.grad = g
            for p, t in zip(filters, theirs, strict=True):
                t.grad = torch.tensor(p.grad.reshape(len(p.data), -1))
            mine.step()
            other.step()
    for p, t, before in zip(filters, theirs, start, strict=True):
        moved, expected = p.data - before, t.detach().numpy().reshape(p.shape) - before
        assert np.linalg.norm(moved - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_of_muon_is_as_long_in_every_direction(backend):
    """The gradient's singular values differ 30 times, those of the step lie between 0.6 and 1.3 times lr."""
    rng = np.random.default_rng(0)
    p = Parameter("weight", np.zeros((8, 3, 3, 3)))
    u, v = (np.linalg.qr(rng.standard_normal((n, 8)))[0] for n in (8, 27))
    with use_backend(backend):
        optimizer = Muon([p], lr=0.1)
        p.grad = (u * np.geomspace(1, 0.03, 8) @ v.T).reshape(p.shape)
        optimizer.step()
    lengths = np.diag(u.T @ -p.data.reshape(8, 27) @ v)  # along each of the gradient's own directions
    assert (lengths > 0.06).all()
    assert (lengths < 0.13).all()
    np.testing.assert_allclose(np.linalg.norm(p.data), np.linalg.norm(lengths), rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_gradient_of_filters_stays_visible_and_stays_there(broken, backend):
    parameters = make_parameters()
    parameters[0].grad[2, 1, 3, 3] = broken
    with use_backend(backend), np.errstate(invalid="ignore"):
        Muon(parameters, lr=0.1).step()
    assert np.isnan(parameters[0].data).all()
    assert all(np.isfinite(p.data).all() for p in parameters[1:])


def test_normalize_keeps_the_length_of_filters_but_not_of_frozen_ones():
    parameters = make_parameters()
    parameters[6].lr_scale, before = 0.0, parameters[6].data.copy()
    optimizer = Muon(parameters, lr=1e-9, normalize=True)
    for p, g in zip(parameters, gradients(parameters, 0), strict=True):
        p.grad = g
    optimizer.step()
    assert np.linalg.norm(parameters[0].data) == pytest.approx(np.sqrt(6), rel=1e-6)
    np.testing.assert_array_equal(parameters[6].data, before)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    parameters = make_parameters()
    optimizer = Adam(parameters)
    optimizer.step()
    state = {name: array.copy() for name, array in optimizer.state().items()}
    with pytest.raises(CheckpointError, match=r'"squar".*Did you mean "square"'):
        optimizer.load_state({**state, "squar": state["square"]})
    with pytest.raises(CheckpointError, match='"mean" is missing'):
        optimizer.load_state({k: v for k, v in state.items() if k != "mean"})
    with pytest.raises(CheckpointError, match=r"expected shape .* found \(3,\)"):
        optimizer.load_state({**state, "lr": np.array(9.0), "square": np.ones(3)})
    assert (optimizer.steps == 1).all()
    assert optimizer.lr == 1e-3


def test_clipping_keeps_the_gradient_readable_and_reports_its_norm():
    parameters = make_parameters()
    for p in parameters:
        p.grad = np.full(p.shape, 3.0)
    count = sum(p.size for p in parameters)
    norm = SGD(parameters, lr=0.1, clip_norm=1.0).step()
    assert norm == pytest.approx(3 * np.sqrt(count), rel=1e-14)
    assert all((p.grad == 3).all() for p in parameters)
    assert SGD(parameters, lr=0.1).step() is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_gradient_stays_visible_in_norm_and_weights(kind, backend):
    parameters = make_parameters()
    parameters[2].grad[3, 4] = np.nan
    with use_backend(backend):
        norm = kind(parameters, lr=0.1, clip_norm=1.0).step()
    assert np.isnan(norm)
    assert np.isnan(parameters[2].data[3, 4])
    # as with clip_grad_norm_, the factor is NaN too: the whole network shows it at once
    assert all(np.isnan(p.data).all() for p in parameters)


def test_an_optimizer_of_some_parameters_leaves_the_others_and_their_norm_alone():
    parameters = make_parameters()
    flatten(parameters)
    for p in parameters:
        p.grad = np.ones(p.shape)
    before = [p.data.copy() for p in parameters]
    norm = SGD(parameters[2:4], lr=0.1, clip_norm=1e9).step()
    assert norm == pytest.approx(np.sqrt(parameters[2].size + parameters[3].size))
    moved = [not np.array_equal(p.data, b) for p, b in zip(parameters, before, strict=True)]
    assert moved == [False, False, True, True] + 4 * [False]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_the_number_of_threads(kind):
    results = []
    before = cnn.backend.get_threads()
    try:
        for threads in (1, before):
            cnn.backend.set_threads(threads)
            parameters = make_parameters(np.float32)
            optimizer = kind(parameters, lr=0.01, clip_norm=5.0)
            for step in range(3):
                for p, g in zip(parameters, gradients(parameters, step), strict=True):
                    p.grad = g
                optimizer.step()
            results.append(flatten(parameters).data.tobytes())
    finally:
        cnn.backend.set_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SGD, {"lr": -0.1}, "lr: expected a finite number above 0, found -0.1"),
        (SGD, {"lr": float("nan")}, "lr"),
        (SGD, {"lr": float("inf")}, "lr"),
        (SGD, {"lr": "0.1"}, "lr"),
        (SGD, {"lr": 0.1, "momentum": 1.0}, "momentum: expected a finite number of at least 0 and below 1"),
        (SGD, {"lr": 0.1, "nesterov": True}, "nesterov"),
        (SGD, {"lr": 0.1, "weight_decay": -1}, "weight_decay"),
        (SGD, {"lr": 0.1, "clip_norm": -1}, "clip_norm"),
        (Adam, {"betas": (0.9, 1.0)}, "betas"),
        (Adam, {"betas": 0.9}, "betas: expected 2 numbers"),
        (Adam, {"eps": -1e-8}, "eps"),
        (RMSprop, {"alpha": 1.5}, "alpha"),
        (Muon, {"lr": 0.1, "ns_steps": 0}, "ns_steps: expected a whole number of at least 1, found 0"),
        (Muon, {"lr": 0.1, "momentum": 0}, "nesterov"),
    ],
)
def test_bad_options_are_refused_by_name(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(make_parameters(), **options)


def test_an_optimizer_needs_distinct_parameters():
    with pytest.raises(ConfigError, match="no parameters"):
        SGD([], lr=0.1)
    p = make_parameters()[0]
    with pytest.raises(ConfigError, match="twice"):
        SGD([p, p], lr=0.1)


def test_parameters_that_move_away_from_their_optimizer_are_noticed():
    parameters = make_parameters()
    optimizer = SGD(parameters, lr=0.1)
    flatten([*parameters, Parameter("late", np.zeros(3))])
    with pytest.raises(RuntimeError, match="moved into another network"):
        optimizer.step()


def test_make_optimizer_finds_optimizers_by_name():
    optimizer = make_optimizer("AdamW", make_parameters(), lr=0.3, weight_decay=0.1)
    assert type(optimizer) is AdamW
    assert optimizer.lr == 0.3
    with pytest.raises(ConfigError, match=r'Adamm.*Did you mean "Adam"'):
        make_optimizer("Adamm", make_parameters())
