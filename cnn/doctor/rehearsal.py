"""A few steps on a few images: does the learning rate fit, can the network learn at all?"""

import math
import time

import numpy as np

from cnn.doctor.finding import FAIL, OK, WARN, finding, grade
from cnn.doctor.start import dead_units
from cnn.layers import Conv2d, ConvTranspose2d, Linear

_FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0)
_STEPS = 8  # a rate
_MOST_STEPS, _MOST_SECONDS = 400, 20.0


def check(patient):
    """Return the findings of short training runs on at most 32 images."""
    before, after, ratios = _range(patient)
    rate = _learning_rate(patient, before, after)
    updates = _updates(ratios)
    overfit, vitals = _overfit(patient, after)
    return [rate, updates, overfit, dead_units("dead after steps", vitals, 0.75, 0.95)]


def _range(patient):
    """Train a few steps with lr times each factor, each time from the start.

    Returns (loss before, {factor: loss after}, {layer: |dw| / |w| of a step with factor 1}).
    """
    before, after, ratios = math.nan, {}, {}
    for factor in _FACTORS:
        optimizer, moves = patient.optimizer(factor), []
        for step in range(_STEPS):
            old = {name: layer.weight.data.copy() for name, layer in _weighted(patient)} if factor == 1 else {}
            loss, _ = patient.step(optimizer)
            before = loss if step == 0 else before
            moves.append({n: _relative(layer.weight.data, old[n]) for n, layer in _weighted(patient) if n in old})
        after[factor], _ = patient.gradient(patient.few_x, patient.few_labels)
        if factor == 1:
            ratios = {name: float(np.median([m[name] for m in moves])) for name in moves[0]}
        patient.rewind()
    return before, after, ratios


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


def _learning_rate(patient, before, after):
    """Compare the config's rate with a hundredth, a tenth, ten and a hundred times of it."""
    lr, best = patient.config.optimizer.lr, _best(after)
    schedule = patient.config.schedule
    warms_up = schedule.warmup_epochs > 0 or schedule.type == "one_cycle"
    fits, tenth_fits = (_helps(before, after, factor) for factor in (1.0, 0.1))
    verdict = OK
    if not fits:
        verdict = FAIL if not tenth_fits else OK if warms_up else WARN
        what = f"lr {lr:g} is too high: {lr * best:.2g} would bring the loss down to {after[best]:.2g}"
        advice = what if any(_helps(before, after, f) for f in after) else "no learning rate brings the loss down"
    elif best == 100 and before - after[1.0] < 0.05 * (before - after[best]):
        verdict = WARN
        advice = f"lr {lr:g} is too low: {lr * best:.2g} brings the loss down to {after[best]:.2g} in the same steps"
    else:
        advice = ""
    measured = f"loss {before:.3g} to {after[1.0]:.3g} in {_STEPS} steps at lr {lr:g}"
    return finding("learning rate", verdict, measured, "a loss that falls", advice, after[1.0])


def _updates(ratios):
    """The length of a step in units of the weights it changes: about 1e-3 is usual."""
    expected = "about 1e-3, from 1e-5 to 1e-1"
    if not ratios:
        return finding("update to weight", OK, "no weights", expected, "")
    low, high = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    if not all(map(math.isfinite, ratios.values())):
        return finding("update to weight", FAIL, "NaN or Inf", expected, "lower optimizer.lr", math.nan)
    verdict = grade(ratios[high], 0.1, 1.0)
    if verdict == OK and ratios[low] < 1e-5:
        verdict = WARN
    advice = (
        f"a step changes layer {high} by {100 * ratios[high]:.0f} % of its length: lower optimizer.lr"
        if ratios[high] > 0.1
        else f"layer {low} hardly moves: raise optimizer.lr, or see gradients"
    )
    measured = f"{ratios[low]:.1e} (layer {low}) to {ratios[high]:.1e} (layer {high})"
    return finding("update to weight", verdict, measured, expected, advice, ratios[high])


def _overfit(patient, after):
    """Train on the few images until none is wrong; with a better learning rate if the config's does not do.

    Returns (finding, Vitals after the run with the config's own rate).
    """
    count, vitals, lr = len(patient.few_labels), None, patient.config.optimizer.lr
    deadline = time.monotonic() + _MOST_SECONDS
    for factor in dict.fromkeys((1.0, _best(after), 0.1 * _best(after))):
        optimizer, steps, wrong, loss = patient.optimizer(), 0, count, math.nan
        while wrong and steps < _MOST_STEPS and time.monotonic() < deadline:
            optimizer.lr = lr * factor * min(1.0, (steps + 1) / 20)  # a short warm-up
            loss, wrong = patient.step(optimizer)
            steps += 1
            if not math.isfinite(loss):
                break
        if vitals is None:
            vitals = patient.observe()[2]
        patient.rewind()
        if not wrong or time.monotonic() >= deadline:
            break
    late = wrong and time.monotonic() >= deadline
    verdict = OK if not wrong else WARN if late and wrong < count / 2 else FAIL
    measured = f"{wrong} of {count} wrong after {steps} steps at lr {lr * factor:.2g}"
    advice = (
        "a network that cannot learn 32 images by heart will not learn more: check labels, loss, layers, and run "
        "cnn gradcheck"
    )
    return finding("overfits 32 images", verdict, measured, "0 wrong", advice, wrong), vitals
