"""Schedules against PyTorch's, and against tables worked out by hand."""

import math

import numpy as np
import pytest

from cnn.errors import ConfigError
from cnn.optimizers.schedules import SCHEDULES, make_schedule, schedule_options


def pytorch_rates(make, steps, lr=0.5):
    """Return the rate of each step under the PyTorch scheduler that ``make(optimizer)`` returns."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer, torch.optim.lr_scheduler)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


STEPS = 40
AGAINST_PYTORCH = {
    "constant": ({}, lambda o, s: s.ConstantLR(o, 1.0)),
    "multi_step": ({"type": "step", "milestones": [3, 9.5, 20]}, lambda o, s: s.MultiStepLR(o, [6, 19, 40])),
    "step_size": ({"type": "step", "step_size": 3, "gamma": 0.7}, lambda o, s: s.StepLR(o, 6, 0.7)),
    "cosine": ({}, lambda o, s: s.CosineAnnealingLR(o, STEPS)),
    "cosine_min": ({"type": "cosine", "min_lr": 0.1}, lambda o, s: s.CosineAnnealingLR(o, STEPS, 0.1)),
    "linear": ({}, lambda o, s: s.LinearLR(o, 1.0, 0.0, STEPS)),
    "one_cycle": ({}, lambda o, s: s.OneCycleLR(o, 0.5, STEPS)),
    "one_cycle_linear": (
        {"type": "one_cycle", "peak": 0.4, "start_factor": 0.1, "final_factor": 0.001, "shape": "linear"},
        lambda o, s: s.OneCycleLR(
            o, 0.5, STEPS, pct_start=0.4, div_factor=10, final_div_factor=100, anneal_strategy="linear"
        ),
    ),
}


@pytest.mark.parametrize("case", AGAINST_PYTORCH)
def test_rates_are_those_of_pytorch(case):
    options, make = AGAINST_PYTORCH[case]
    options = {"type": case, **options}
    schedule = make_schedule(lr=0.5, total_steps=STEPS, steps_per_epoch=2, **options)
    # OneCycleLR writes the momentum too, unless the optimizer has none to cycle
    if case.startswith("one_cycle"):
        inner = make

        def make(optimizer, schedulers):
            optimizer.param_groups[0]["momentum"] = 0.9
            optimizer.defaults["momentum"] = 0.9
            return inner(optimizer, schedulers)

    expected = pytorch_rates(make, STEPS)
    assert [schedule(step) for step in range(STEPS)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_warm_up_then_cosine_is_a_sequence_of_pytorchs():
    def make(o, s):
        warm, main = s.LinearLR(o, 1 / 6, 1.0, 5), s.CosineAnnealingLR(o, STEPS - 5)
        return s.SequentialLR(o, [warm, main], [5])

    schedule = make_schedule("cosine", 0.5, STEPS, warmup_steps=5)
    assert [schedule(i) for i in range(STEPS)] == pytest.approx(pytorch_rates(make, STEPS), rel=1e-12)


TABLES = {  # worked out by hand: lr = 1, 8 steps
    "constant": ({}, [1, 1, 1, 1, 1, 1, 1, 1]),
    "step": ({"milestones": [2, 6], "gamma": 0.5}, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
    "linear": ({}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    "cosine": ({}, [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]),
    "one_cycle": (
        {"peak": 0.5, "start_factor": 0.1, "final_factor": 0.0, "shape": "linear"},
        [0.1, 0.4, 0.7, 1.0, 0.75, 0.5, 0.25, 0.0],
    ),
}


@pytest.mark.parametrize("type", TABLES)
def test_rates_are_those_of_the_table(type):
    options, expected = TABLES[type]
    schedule = make_schedule(type, 1.0, 8, **options)
    assert [schedule(step) for step in range(8)] == pytest.approx(expected, abs=1e-15)


WARM_TABLES = {  # lr = 1, 8 steps of which 3 warm up
    "constant": ({}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
    "step": ({"milestones": [4]}, [0.25, 0.5, 0.75, 1, 0.1, 0.1, 0.1, 0.1]),
    "linear": ({}, [0.25, 0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2]),
    "one_cycle": (
        {"peak": 0.6, "start_factor": 0.4, "final_factor": 0.5, "shape": "linear"},
        [0.1, 0.2, 0.3, 0.4, 0.7, 1.0, 0.75, 0.5],
    ),
}


@pytest.mark.parametrize("type", WARM_TABLES)
def test_warm_up_climbs_evenly_to_the_first_rate(type):
    options, expected = WARM_TABLES[type]
    schedule = make_schedule(type, 1.0, 8, warmup_steps=3, **options)
    assert [schedule(step) for step in range(8)] == pytest.approx(expected, abs=1e-15)


def test_the_linear_cycle_is_a_triangle_to_within_a_step():
    total, peak, start, final = 476, 0.23, 0.2, 0.07
    schedule = make_schedule(
        "one_cycle", 1.0, total, peak=peak, start_factor=start, final_factor=final, shape="linear"
    )
    ours = [schedule(step) for step in range(total)]
    triangle = np.interp(range(total + 1), [0, int(peak * total), total], [start, 1, final])
    steepest = (1 - start) / int(peak * total)
    np.testing.assert_allclose(ours, triangle[:-1], atol=1.5 * steepest, rtol=0)
    assert ours[0] == start
    assert ours[-1] == pytest.approx(final)
    assert np.argmax(ours) in (int(peak * total) - 1, int(peak * total))


@pytest.mark.parametrize("type", SCHEDULES.types())
@pytest.mark.parametrize("total", [1, 2, 3, 100])
def test_every_rate_is_positive_at_most_lr_and_a_function_of_the_step_alone(type, total):
    options = {"milestones": [1]} if type == "step" else {}
    schedule = make_schedule(type, 0.1, total, **options)
    rates = [schedule(step) for step in range(total)]
    assert all(0 < rate <= 0.1 + 1e-15 for rate in rates)
    assert [schedule(step) for step in reversed(range(total))] == rates[::-1]


@pytest.mark.parametrize("type", ["cosine", "linear", "one_cycle", "constant"])
def test_past_the_end_the_last_rate_stays(type):
    schedule = make_schedule(type, 1.0, 10)
    assert schedule(10) == schedule(25)


def test_options_of_a_schedule_are_listed():
    assert schedule_options("cosine") == {"min_lr": 0.0}
    assert set(schedule_options("step")) == {"milestones", "step_size", "gamma"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": "cosin"}, r'found "cosin", .*Did you mean "cosine"'),
        ({"type": "cosine", "min_rl": 0.1}, r'unknown argument "min_rl". Did you mean "min_lr"'),
        ({"type": "cosine", "min_lr": 0.9}, "min_lr: found 0.9, expected at most optimizer.lr = 0.5"),
        ({"type": "cosine", "min_lr": "0"}, "min_lr"),
        ({"type": "step"}, "either milestones or step_size"),
        ({"type": "step", "milestones": [1], "step_size": 2}, "either milestones or step_size"),
        ({"type": "step", "milestones": 3}, "milestones: expected a list of numbers above 0, found 3"),
        ({"type": "step", "step_size": 0}, "step_size"),
        ({"type": "step", "step_size": 1, "gamma": -1}, "gamma"),
        ({"type": "one_cycle", "peak": 1.5}, "peak"),
        ({"type": "one_cycle", "shape": "cubic"}, '"cosine" or "linear"'),
        ({"type": "constant", "total_steps": 0}, "total_steps"),
        ({"type": "constant", "warmup_steps": -1}, "warmup_steps"),
        ({"type": "constant", "warmup_steps": 10}, "warmup_steps: expected fewer than 10, found 10"),
        ({"type": "constant", "steps_per_epoch": 1.5}, "steps_per_epoch"),
    ],
)
def test_bad_settings_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_schedule(**{"lr": 0.5, "total_steps": 10, **arguments})


@pytest.mark.parametrize(("patience", "gamma", "min_lr"), [(0, 0.5, 0.0), (2, 0.1, 1e-3), (10, 0.1, 0.0)])
def test_plateaus_lower_the_rate_as_pytorchs_do(patience, gamma, min_lr):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    losses = (1 / np.arange(1, 41) + 0.05 * rng.normal(size=40)).tolist()
    losses[20:22] = losses[19] * (1 - 5e-5), losses[19]  # hardly lower is not lower
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=gamma, patience=patience, min_lr=min_lr, eps=0
    )
    options = {"patience": patience, "gamma": gamma, "min_lr": min_lr}
    schedule = make_schedule("plateau", lr=0.5, total_steps=400, steps_per_epoch=10, **options)
    for epoch, loss in enumerate(losses):
        assert schedule(10 * epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        schedule.losses.append(loss)
        theirs.step(loss)


def test_a_plateau_comes_after_the_warm_up():
    schedule = make_schedule("plateau", lr=0.5, total_steps=40, warmup_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
