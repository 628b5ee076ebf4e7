"""Judges of the exercises about layers without windows."""

import numpy as np

from cnn import reference as ops
from cnn.course.judges.gradient import check


def linear(sheet, answer):
    """Three gradients, with as many outputs as inputs and with fewer."""
    rng = np.random.default_rng(0)
    for what, n, f, o in (("4 inputs, 4 outputs", 3, 4, 4), ("5 inputs, 2 outputs", 3, 5, 2)):
        dy, x, weight = rng.normal(size=(n, o)), rng.normal(size=(n, f)), rng.normal(size=(o, f))
        dweight, dbias = dy.T @ x, dy.sum(0)
        square = f == o
        sheet.compare(
            what,
            answer.linear_backward,
            (dy, x, weight),
            {"dx": dy @ weight, "dweight": dweight, "dbias": dbias},
            transposed_weight={"dx": dy @ weight.T} if square else {},
            transposed_dweight={"dweight": dweight.T},
            mean={"dx": dy @ weight / n, "dweight": dweight / n, "dbias": dbias / n},
            one_image={"dweight": np.outer(dy[-1], x[-1]), "dbias": dy[-1]},
        )
    check(
        sheet,
        ops.linear_forward,
        lambda dy, x, weight, bias: answer.linear_backward(dy, x, weight),
        rng.normal(size=(3, 5)),
        weight=rng.normal(size=(2, 5)),
        bias=rng.normal(size=2),
    )


def relu(sheet, answer):
    """Numbers of both signs, and zeros."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5))
    zeros = np.array([-1.0, 0.0, 0.0, 2.0])
    for what, values, up in (("random", x, dy), ("at zero", zeros, np.array([1.0, 2.0, -3.0, 4.0]))):
        sheet.compare(
            what,
            answer.relu_backward,
            (up, values),
            {"dx": np.where(values > 0, up, 0)},
            inverted={"dx": np.where(values > 0, 0, up)},
            sign_of_dy={"dx": np.where(up > 0, up, 0)},
            times_x={"dx": np.where(values > 0, up * values, 0)},
            at_zero={"dx": np.where(values >= 0, up, 0)},
        )
    check(sheet, ops.relu_forward, lambda dy, x: (answer.relu_backward(dy, x),), x)


def dropout(sheet, answer):
    """What is dropped, how the rest is scaled, and that backward does the same."""
    p, shape = 0.2, (50, 40)
    x = np.random.default_rng(0).uniform(1, 2, shape)
    worked, result = sheet.call("training", _forward(answer, p, True), x)
    if not worked:
        return
    if not isinstance(result, tuple) or len(result) != 2 or np.shape(result[0]) != shape:
        sheet.note("training", f"expected (y, kept), y of shape {shape}")
        return
    y, kept = np.asarray(result[0]), result[1]
    survivors = y != 0
    share = 1 - survivors.mean()
    scale = (y / x)[survivors]
    swapped = abs(share - (1 - p)) < 0.05
    if swapped:
        sheet.note("training: share of zeros", mistake="keeps-p")
    elif abs(share - p) < 0.05:
        sheet.note("training: share of zeros")
    else:
        sheet.note("training: share of zeros", f"expected {p:g} of the numbers to be 0, found {share:.3f}")
    if np.allclose(scale, 1 / (1 - p)) or (swapped and np.allclose(scale, 1 / p)):
        sheet.note("training: scale")
    elif np.allclose(scale, 1):
        sheet.note("training: scale", mistake="not-scaled")
    else:
        sheet.note("training: scale", f"expected y = x / {1 - p:g} where it is not 0")
    dy = np.random.default_rng(1).normal(size=shape)
    factor = np.where(survivors, y / x, 0)
    sheet.compare(
        "backward",
        answer.dropout_backward,
        (dy, kept),
        {"dx": dy * factor},
        backward_not_scaled={"dx": dy * survivors},
        backward_passes_all=[{"dx": dy}, {"dx": dy * scale.max(initial=1)}],
    )
    worked, result = sheet.call("evaluation", _forward(answer, p, False), x)
    if worked:
        y, kept = result
        if np.array_equal(y, x):
            sheet.note("evaluation: y")
        else:
            sheet.note("evaluation: y", mistake="drops-in-evaluation")
        sheet.compare("evaluation", answer.dropout_backward, (dy, kept), {"dx": dy})


def _forward(answer, p, training):
    return lambda x: answer.dropout_forward(x, p, training, np.random.default_rng(2))
