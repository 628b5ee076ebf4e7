"""Learning-rate schedules: the rate of a step as a pure function of its number, so a resume needs no state.
``plateau`` looks at the validation losses so far as well, which ``schedule.losses`` holds.

    schedule = make_schedule("cosine", lr=0.1, total_steps=1000, warmup_steps=50)
    optimizer.lr = schedule(step)          # step = 0, 1, 2, ... before the step is taken

With w warm-up steps the rate climbs evenly to the schedule's first value f:  f * (step + 1) / (w + 1) for
step < w. Then the schedule runs over the remaining T = total_steps - w steps, t = step - w; past the end it
keeps its last value. ``step`` alone counts its milestones from the start of the run, warm-up included.

References
----------
Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv:1608.03983 (cosine).
Smith, Topin, "Super-Convergence", arXiv:1708.07120 (one_cycle).
Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677 (warm-up).
"""

import math
from typing import Annotated, Literal

from cnn.errors import ConfigError
from cnn.registry import Count, NotNegative, Rate, Registry, Share, Whole, checked

#: Every schedule that a config can name: a function of the step, the number of steps and the highest rate.
SCHEDULES = Registry("schedule", supplied=("t", "steps", "lr", "losses"))


@SCHEDULES.register
def constant(t, steps, lr):
    """lr"""
    return lr


@SCHEDULES.register
def step(
    t,
    steps,
    lr,
    *,
    milestones: Annotated[list[Rate] | None, "epochs from the start of the run"] = None,
    step_size: Annotated[Rate | None, "instead: epochs between two milestones"] = None,
    gamma: Share = 0.1,
):
    """lr * gamma^(number of milestones at or before t); ``step_size`` stands for one every so often."""
    if step_size is not None:
        passed = t // step_size
    else:
        passed = sum(t >= milestone for milestone in milestones)
    return lr * gamma ** int(passed)


@SCHEDULES.register
def cosine(t, steps, lr, *, min_lr: NotNegative = 0.0):
    """min_lr + (lr - min_lr) * (1 + cos(pi * t / T)) / 2"""
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * t / steps)) / 2


@SCHEDULES.register
def linear(t, steps, lr, *, min_lr: NotNegative = 0.0):
    """lr + (min_lr - lr) * t / T"""
    return lr + (min_lr - lr) * t / steps


@SCHEDULES.register
def one_cycle(
    t,
    steps,
    lr,
    *,
    peak: Annotated[Share, "share of the steps going up"] = 0.3,
    start_factor: Annotated[Share, "the first rate, as a part of lr"] = 0.04,
    final_factor: Annotated[Share, "the last rate, as a part of lr"] = 4e-6,
    shape: Literal["cosine", "linear"] = "cosine",
):
    """lr * start_factor, up to lr at step peak * T - 1, down to lr * final_factor at step T - 1.

    ``shape`` of both flanks is "cosine" or "linear". The defaults are PyTorch's. The linear one is the
    triangle np.interp(t, [0, peak * T, T], [start_factor, 1, final_factor]) with its corners at the last step
    of each flank, so peak and end come one step earlier than there.
    """
    top, last = peak * steps - 1, steps - 1
    if t <= top:
        begin, end, part = start_factor * lr, lr, t / top if top > 0 else 1.0
    else:
        begin, end, part = lr, final_factor * lr, min(1.0, (t - top) / (last - top) if last > top else 1.0)
    if shape == "cosine":
        part = (1 - math.cos(math.pi * part)) / 2
    return begin + (end - begin) * part


@SCHEDULES.register
def plateau(
    t,
    steps,
    lr,
    losses=(),
    *,
    gamma: Share = 0.1,
    patience: Annotated[Whole, "epochs without a lower loss that change nothing yet"] = 10,
    min_lr: NotNegative = 0.0,
):
    """lr * gamma^(number of plateaus so far), at least min_lr

    A plateau is ``patience`` + 1 epochs in a row whose validation loss was not below (1 - 1e-4) of the lowest
    before: PyTorch's ReduceLROnPlateau.
    """
    lowest, waited, plateaus = math.inf, 0, 0
    for loss in losses:
        waited = 0 if loss < lowest * (1 - 1e-4) else waited + 1
        lowest = min(lowest, loss) if waited == 0 else lowest
        if waited > patience:
            plateaus, waited = plateaus + 1, 0
    return max(lr * gamma**plateaus, min(min_lr, lr))


def schedule_options(type):
    """Return the options that the schedule called ``type`` takes: name -> default."""
    return {name: default for name, (_, default) in SCHEDULES.arguments(SCHEDULES.find(type)).items()}


@checked
def make_schedule(
    type, lr, total_steps: Count, steps_per_epoch: Count = 1, warmup_steps: Whole = 0, **options
):
    """Return a pure function step -> learning rate.

    Parameters
    ----------
    type : str
        "constant", "step", "cosine", "linear", "one_cycle" or "plateau".
    lr : float
        The highest rate.
    total_steps : int
        Steps of the whole run, at least 1.
    steps_per_epoch : int
        Turns the ``milestones`` and ``step_size`` of "step", given in epochs, into steps.
    warmup_steps : int
        At least 0 and below ``total_steps``.
    **options
        step: ``milestones`` (list of epochs) or ``step_size`` (epochs), ``gamma`` 0.1.
        cosine, linear: ``min_lr`` 0. one_cycle: ``peak`` 0.3 (fraction of the run), ``start_factor`` 0.04 and
        ``final_factor`` 4e-6 (of lr), ``shape`` "cosine" or "linear".
        plateau: ``gamma`` 0.1, ``patience`` 10 (epochs), ``min_lr`` 0.

    Raises
    ------
    ConfigError
        For an unknown type or option, or a value out of range.
    """
    if warmup_steps >= total_steps:
        raise ConfigError(f"schedule: warmup_steps: expected fewer than {total_steps}, found {warmup_steps}")
    described = SCHEDULES.bind({"type": type, **options})
    function, options = described.func, _in_steps(type, described.keywords, lr, steps_per_epoch)
    # milestones are moments of the run, so only "step" counts the warm-up
    offset = 0 if type == "step" else warmup_steps
    steps = total_steps - offset

    losses = []
    if type == "plateau":
        options["losses"] = losses

    def schedule(step):
        if step < warmup_steps:
            return function(0, steps, lr, **options) * (step + 1) / (warmup_steps + 1)
        return function(min(step - offset, steps), steps, lr, **options)

    schedule.losses = losses  # of validation, one an epoch: whoever trains fills it
    return schedule


def _in_steps(type, options, lr, steps_per_epoch):
    """Return ``options`` with epochs turned into steps; ConfigError where they do not fit together."""
    given = {name: value for name, value in options.items() if value is not None}
    if type == "step" and bool(given.get("milestones")) == ("step_size" in given):
        raise ConfigError("schedule: expected either milestones or step_size, in epochs")
    if given.get("min_lr", 0) > lr:
        found = given["min_lr"]
        raise ConfigError(f"schedule.min_lr: found {found:g}, expected at most optimizer.lr = {lr:g}")
    if "milestones" in given:
        given["milestones"] = [epoch * steps_per_epoch for epoch in given["milestones"]]
    if "step_size" in given:
        given["step_size"] *= steps_per_epoch
    return given
