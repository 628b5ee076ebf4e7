"""The network before its first step: loss, logits, activations, gradients."""

import math

import numpy as np

from cnn.doctor.finding import FAIL, OK, WARN, finding, grade
from cnn.layers import Conv2d, ConvTranspose2d, Linear, Softmax, SoftmaxCrossEntropy

_WITH_WEIGHTS = (Conv2d, ConvTranspose2d, Linear)


def check(patient):
    """Return the findings of one forward and one backward pass with the initial weights."""
    loss, logits, vitals = patient.observe()
    patient.rewind()
    return [
        _finite(loss, vitals),
        _initial_loss(loss, patient),
        _logits(patient, logits),
        _weights(patient),
        _activations(vitals),
        dead_units("dead units", vitals, 0.5, 0.9),
        _saturation(vitals),
        _gradients(patient, vitals),
    ]


def _finite(loss, vitals):
    """NaN and Inf: where they come from first, forward and then backward."""
    expected = "finite numbers in every layer, forward and backward"
    for v in vitals:
        if not v.finite:
            where = f"first in the output of layer {v.name} ({v.kind})"
            advice = (
                f"layer {v.name} turns finite numbers into NaN or Inf: its weights or its input are too large"
            )
            return finding("NaN and Inf", FAIL, where, expected, advice, math.nan)
    for v in reversed(vitals):
        if not v.dy_finite or not np.isfinite(list(v.gradients.values())).all():
            where = f"in the gradient at layer {v.name} ({v.kind})"
            return finding(
                "NaN and Inf", FAIL, where, expected, "see the initial loss and the weights", math.nan
            )
    verdict = OK if math.isfinite(loss) else FAIL
    measured = "none" if verdict == OK else f"the loss is {loss}"
    return finding("NaN and Inf", verdict, measured, expected, "the logits are too large")


def _initial_loss(loss, patient):
    """An untrained network knows nothing: p = 1/C for every class, L = -log(1/C) = log C.

    Of another loss than softmax with cross-entropy its value for outputs of 0.
    """
    classes, judge = patient.classes, patient.loss.judge()
    right, known = math.log(classes), f"ln {classes} = "
    if patient.kind.name in ("numbers", "labels"):
        zeros = np.zeros((len(patient.labels), classes), np.float32)
        right, known = judge.forward(zeros, patient.labels), ""
    elif type(judge) is not SoftmaxCrossEntropy:
        zeros = np.zeros((classes, classes), np.float32)
        right, known = judge.forward(zeros, np.arange(classes)), ""
    verdict = grade(loss, 2 * right + 0.5, 4 * right + 1)
    limits = f"{0.6 * right:.3g} to {2 * right + 0.5:.3g}"
    expected = f"{limits}; {known}{right:.3f} if nothing is known"
    if verdict == OK and loss < 0.6 * right:
        verdict = WARN
    advice = (
        "the network is sure of answers it cannot know: smaller initial weights, or normalise the images"
        if not loss < right
        else "the network knows more than it can: do labels leak into the images, or is one class nearly all?"
    )
    return finding("initial loss", verdict, f"{loss:.4g}", expected, advice, loss)


def _logits(patient, logits):
    """The loss applies softmax itself and needs numbers that may take any value."""
    last = patient.leaves[-1][1]
    kind, expected = type(last).__name__, "any real numbers, different for different images"
    sums = logits.sum(axis=1)
    if isinstance(last, Softmax) or (logits.min() >= 0 and np.allclose(sums, 1, atol=1e-4)):
        advice = (
            "remove the Softmax at the end: the loss applies softmax; twice, and the loss cannot fall far"
        )
        return finding("logits", FAIL, "each row sums to 1: softmax twice", expected, advice, sums.mean())
    if kind in ("ReLU", "Sigmoid", "Tanh", "LeakyReLU", "GELU", "SiLU", "Dropout"):
        what = "the softmax of the loss" if type(patient.loss) is SoftmaxCrossEntropy else "the network"
        advice = f"remove the {kind} at the end: it limits what {what} can say"
        return finding("logits", WARN, f"the network ends with {kind}", expected, advice)
    spread = float(logits.std(axis=0).max())
    constant = len(logits) > 1 and spread <= 1e-6 * float(np.abs(logits).max() + 1e-30)
    if constant and _head_weight(patient) is not None and not _head_weight(patient).any():
        return finding("logits", OK, "all 0: the last layer starts at 0", expected, "", 0.0)
    advice = (
        "the output does not depend on the image: weights of 0, dead units or a constant layer on the way"
    )
    measured = f"std {spread:.2g} over the images"
    return finding("logits", FAIL if constant else OK, measured, expected, advice, spread)


def _head_weight(patient):
    """Return the weight array of the last layer that has one."""
    weights = [layer.weight.data for _, layer in patient.leaves if isinstance(layer, _WITH_WEIGHTS)]
    return weights[-1] if weights else None


def _weights(patient):
    """Units that start equal receive equal gradients and stay equal for ever."""
    head, expected = _head_weight(patient), "units that start differently"
    for name, layer in patient.leaves:
        if not isinstance(layer, _WITH_WEIGHTS) or layer.weight.data is head:
            continue
        rows = layer.weight.data.reshape(len(layer.weight.data), -1)
        if len(rows) > 1 and (rows == rows[:1]).all():
            what = "0" if not rows.any() else "equal"
            measured = (
                f"all weights of layer {name} are {what}"
                if what == "0"
                else f"all filters of {name} are equal"
            )
            advice = (
                f'layer {name} can only compute one feature: weight_init = "he_normal" draws them at random'
            )
            return finding("initial weights", FAIL, measured, expected, advice, 0.0)
    spreads = [
        float(layer.weight.data.std()) for _, layer in patient.leaves if isinstance(layer, _WITH_WEIGHTS)
    ]
    measured = f"std {min(spreads):.2g} to {max(spreads):.2g}" if spreads else "no weights"
    return finding("initial weights", OK, measured, expected, "")


def _activations(vitals):
    """The signal should neither grow nor fade from layer to layer."""
    expected = "std 0.0001 to 100"
    vitals = [v for v in vitals if v.spread != 0]  # a constant layer is a matter of its weights
    if not vitals:
        return finding(
            "activation scale", FAIL, "every layer is constant", expected, "see initial weights", 0.0
        )
    worst = max(vitals, key=lambda v: abs(math.log(v.spread)) if v.finite else math.inf)
    low, high = min(v.spread for v in vitals), max(v.spread for v in vitals)
    verdict = max(grade(high, 100, 1e4), grade(1 / max(low, 1e-30), 1e4, 1e8), key=(OK, WARN, FAIL).index)
    grows = not worst.spread < 1
    advice = (
        f"the signal {'explodes' if grows else 'fades'} on the way to layer {worst.name} ({worst.kind}): "
        'weight_init = "he_normal" for ReLU, "xavier_normal" for tanh, or BatchNorm2d after the convolutions'
    )
    measured = f"std {low:.2g} to {high:.2g} over the layers"
    return finding("activation scale", verdict, measured, expected, advice, worst.spread)


def dead_units(check, vitals, warn, fail):
    """ReLU units that are 0 for every image get no gradient and cannot come back by themselves."""
    relus, expected = [v for v in vitals if v.dead is not None], f"at most {100 * warn:.0f} % of a layer"
    if not relus:
        return finding(check, OK, "no ReLU", expected, "")
    worst = max(relus, key=lambda v: v.dead)
    advice = f"layer {worst.name} has units that are 0 for every image: lower lr, biases near 0, BatchNorm2d"
    measured = f"{100 * worst.dead:.0f} % of layer {worst.name}"
    return finding(check, grade(worst.dead, warn, fail), measured, expected, advice, worst.dead)


def _saturation(vitals):
    """Where sigmoid or tanh is flat, the gradient is multiplied by almost 0."""
    squashed = [v for v in vitals if v.saturated is not None]
    if not squashed:
        return finding("saturation", OK, "no sigmoid or tanh", "at most 30 % of a layer", "")
    worst = max(squashed, key=lambda v: v.saturated)
    advice = (
        f'layer {worst.name} ({worst.kind}) sits on its flat ends: smaller weights ("xavier_normal"), or ReLU'
    )
    measured = f"{100 * worst.saturated:.0f} % of layer {worst.name}"
    verdict = grade(worst.saturated, 0.3, 0.7)
    return finding("saturation", verdict, measured, "at most 30 % of a layer", advice, worst.saturated)


def _gradients(patient, vitals):
    """Norm of each weight's gradient in units of the weight's norm: comparable between layers."""
    sizes = _weight_gradients(vitals)
    if sizes and min(sizes.values()) == 0:
        # a layer that starts at 0 on purpose passes no gradient in the first step, but does in the next ones
        optimizer = patient.optimizer()
        for _ in range(3):
            patient.step(optimizer)
        later = _weight_gradients(patient.observe()[2])
        patient.rewind()
        sizes = {name: max(size, later[name]) for name, size in sizes.items()}
    expected = "within a factor of 10,000 of each other"
    if not sizes:
        return finding("gradients", OK, "no weights", expected, "")
    low, high = min(sizes, key=sizes.get), max(sizes, key=sizes.get)
    if not math.isfinite(sizes[high]) or not math.isfinite(sizes[low]):
        return finding("gradients", FAIL, "NaN or Inf", expected, "see NaN and Inf", math.nan)
    if sizes[low] == 0:
        advice = f"layer {low} receives no gradient and cannot learn: dead units, weights of 0, saturation"
        return finding("gradients", FAIL, f"0 at layer {low}", expected, advice, 0.0)
    ratio = sizes[high] / sizes[low]
    verdict = max(grade(ratio, 1e4, 1e7), grade(sizes[high], 1e3, 1e6), key=(OK, WARN, FAIL).index)
    vanishing = list(sizes).index(low) < list(sizes).index(high)
    advice = (
        f"the gradient {'vanishes' if vanishing else 'explodes'} on its way from layer {high} back to {low}: "
        "ReLU instead of sigmoid, BatchNorm2d, Residual, or a better weight_init"
        if ratio > 1e4
        else f"the gradient of layer {high} is {sizes[high]:.1g} times its weights: smaller initial weights"
    )
    measured = f"{sizes[low]:.1e} (layer {low}) to {sizes[high]:.1e} (layer {high}) of the weights"
    return finding("gradients", verdict, measured, expected, advice, ratio)


def _weight_gradients(vitals):
    weights = {f.__name__ for f in _WITH_WEIGHTS}
    return {v.name: v.gradients["weight"] for v in vitals if v.kind in weights and "weight" in v.gradients}
