"""A few steps on a few images: does the learning rate fit, can the network learn at all?"""

import math
import time
from dataclasses import dataclass

import numpy as np

from cnn.doctor.finding import FAIL, OK, WARN, finding, grade
from cnn.doctor.start import dead_units
from cnn.layers import Conv2d, ConvTranspose2d, Linear

_FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0)
_STEPS = 8  # a rate
_MOST_STEPS, _MOST_SECONDS = 300, 40.0  # processor time: a busy machine must not change a verdict
_WARM_UP = 20  # steps
_PATIENCE = 80  # steps without progress


def check(patient):
    """Return the findings of short training runs on at most 32 images."""
    before, after = _range(patient)
    attempts, vitals = _learn_by_heart(patient, after)
    return [
        _learning_rate(patient, before, after, attempts),
        _updates(attempts[0].updates),
        _overfit(patient, attempts),
        dead_units("dead after steps", vitals, 0.9, 0.99),
    ]


def _range(patient):
    """Train a few steps with lr times each factor, each time from the start.

    Returns (loss before, {factor: loss after}).
    """
    before, after = math.nan, {}
    for factor in _FACTORS:
        optimizer = patient.optimizer(factor)
        for step in range(_STEPS):
            loss, _ = patient.step(optimizer)
            before = loss if step == 0 else before
        after[factor], _ = patient.gradient(patient.few_x, patient.few_labels)
        patient.rewind()
    return before, after


def _weighted(patient):
    return [(n, layer) for n, layer in patient.leaves if isinstance(layer, Conv2d | ConvTranspose2d | Linear)]


def _relative(new, old):
    size = float(np.linalg.norm(old.ravel()))
    return float(np.linalg.norm((new - old).ravel())) / size if size else 0.0


def _helps(before, after, factor):
    """Whether this rate brought the loss down."""
    return math.isfinite(after[factor]) and after[factor] < before


def _best(after):
    finite = {factor: loss for factor, loss in after.items() if math.isfinite(loss)}
    return min(finite, key=finite.get) if finite else 1.0


def _learning_rate(patient, before, after, attempts):
    """Compare the config's rate with a hundredth, a tenth, ten and a hundred times of it.

    A rate that fails from a cold start may still be right after a warm-up, as the first attempt to learn by
    heart had one.
    """
    lr, best = patient.config.optimizer.lr, _best(after)
    schedule = patient.config.schedule
    warms_up = schedule.warmup_epochs > 0 or schedule.type == "one_cycle"
    survives = attempts[0].wrong == 0 or (attempts[0].fell and not attempts[0].in_time)
    better = next((a for a in attempts[1:] if a.wrong == 0), None)
    verdict, advice = OK, ""
    if not _helps(before, after, 1.0):
        verdict = FAIL if not survives else OK if warms_up else WARN
        helping = [f for f in after if _helps(before, after, f)]
        advice = (
            f"lr {lr:g} is too high: {lr * best:.2g} brings the loss down to {after[best]:.2g} as quickly"
            if helping
            else "no learning rate from a hundredth to a hundred times this one brings the loss down"
        )
    elif better is not None:
        verdict = FAIL if better.factor < 1 else WARN
        advice = f"lr {lr:g} does not learn 32 images by heart, {lr * better.factor:.2g} does"
    elif best == max(_FACTORS) and before - after[1.0] < 0.05 * (before - after[best]):
        verdict = WARN
        advice = f"lr {lr:g} is too low: {lr * best:.2g} brings the loss down to {after[best]:.2g} as quickly"
    measured = f"loss {before:.3g} to {after[1.0]:.3g} in {_STEPS} steps at lr {lr:g}"
    return finding("learning rate", verdict, measured, "a loss that falls", advice, after[1.0])


def _updates(ratios):
    """The length of a step in units of the weights it changes; late in a training it is often near 1e-3."""
    expected = "from 1e-5 to 0.2"
    if not ratios:
        return finding("update to weight", OK, "no weights", expected, "")
    low, high = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    if not all(map(math.isfinite, ratios.values())):
        return finding("update to weight", FAIL, "NaN or Inf", expected, "lower optimizer.lr", math.nan)
    verdict = grade(ratios[high], 0.2, 1.0)
    if verdict == OK and ratios[low] < 1e-5:
        verdict = WARN
    advice = (
        f"a step changes layer {high} by {100 * ratios[high]:.0f} % of its length: lower optimizer.lr"
        if ratios[high] > 0.2
        else f"layer {low} hardly moves: raise optimizer.lr, or see gradients"
    )
    measured = f"{ratios[low]:.1e} (layer {low}) to {ratios[high]:.1e} (layer {high})"
    return finding("update to weight", verdict, measured, expected, advice, ratios[high])


@dataclass(frozen=True)
class _Attempt:
    """A run on the few images with lr times ``factor``: ``wrong`` answers are left after ``steps``.

    ``fell``: whether the loss did; ``updates``: |dw| / |w| of each layer in a step, while the rate rose.
    """

    factor: float
    steps: int
    wrong: int
    in_time: bool
    fell: bool
    updates: dict


def _learn_by_heart(patient, after):
    """Train on the few images until none is wrong; with a better learning rate if the config's does not do.

    Returns (attempts, Vitals after the first one).
    """
    attempts, vitals = [], None
    deadline = time.process_time() + _MOST_SECONDS
    for factor in dict.fromkeys((1.0, _best(after), 0.1 * _best(after))):
        attempts.append(_attempt(patient, factor, deadline))
        if vitals is None:
            vitals = patient.observe()[2]
        patient.rewind()
        if attempts[-1].wrong == 0 or not attempts[-1].in_time:
            break
    return attempts, vitals


def _attempt(patient, factor, deadline):
    optimizer, wrong, losses, moves = patient.optimizer(), len(patient.few_labels), [], []
    lr = patient.config.optimizer.lr
    # a layer that starts at 0 has no length to compare a step with
    watched = [
        (name, layer.weight)
        for name, layer in _weighted(patient)
        if layer.weight.data.any() and layer.weight.trainable
    ]
    while wrong and len(losses) < _MOST_STEPS and time.process_time() < deadline:
        optimizer.lr = lr * factor * min(1.0, (len(losses) + 1) / _WARM_UP)
        old = [weight.data.copy() for _, weight in watched] if len(losses) < _WARM_UP else None
        loss, wrong = patient.step(optimizer)
        losses.append(loss)
        if old is not None:
            moves.append(
                [_relative(weight.data, data) for (_, weight), data in zip(watched, old, strict=True)]
            )
        hopeless = len(losses) > _PATIENCE and not min(losses[-_PATIENCE:]) < 0.98 * min(losses[:-_PATIENCE])
        if not math.isfinite(loss) or hopeless:
            break
    medians = np.median(moves, axis=0).tolist()
    updates = {name: move for (name, _), move in zip(watched, medians, strict=True)}
    in_time = time.process_time() < deadline
    return _Attempt(factor, len(losses), wrong, in_time, losses[-1] < losses[0], updates)


def _overfit(patient, attempts):
    """A network that cannot learn a few images by heart has a mistake somewhere."""
    last, count = attempts[-1], len(patient.few_labels)
    verdict = OK if last.wrong == 0 else FAIL if last.in_time or last.wrong > count / 2 else WARN
    measured = (
        f"{last.wrong} wrong after {last.steps} steps at lr {patient.config.optimizer.lr * last.factor:.2g}"
    )
    advice = (
        "it cannot even learn these by heart: check labels, layers, weight_decay, and run cnn gradcheck"
        if last.in_time
        else f"stopped after {_MOST_SECONDS:g} s of processor time; the network is large: more steps may do"
    )
    return finding(f"overfits {count} images", verdict, measured, "0 wrong", advice, last.wrong)
