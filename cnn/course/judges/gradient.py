"""The gradient check of a learner's backward."""

import numpy as np

from cnn.gradcheck import check_layer
from cnn.layers import Layer
from cnn.layers.parameter import Parameter


class Answer(Layer):
    """A layer whose forward is right and whose backward is the learner's.

    Parameters
    ----------
    forward : function
        (x, *values of the parameters) -> y.
    backward : function
        (dy, x, *values of the parameters) -> (dx, *gradients of the parameters).
    values : dict
        Name -> array, the parameters.
    """

    needs_build = True

    def __init__(self, forward, backward, values):
        self._forward, self._backward = forward, backward
        self._parameters = [Parameter(name, np.array(value, np.float64)) for name, value in values.items()]

    def forward(self, x, training=False):
        self._x = np.array(x)
        return self._forward(self._x, *(p.data for p in self._parameters))

    def backward(self, dy):
        gradients = self._backward(np.array(dy), self._x.copy(), *(p.data.copy() for p in self._parameters))
        dx, *others = gradients
        for parameter, gradient in zip(self._parameters, others, strict=True):
            parameter.grad += gradient
        return np.asarray(dx)

    def parameters(self):
        return self._parameters


def check(sheet, forward, backward, x, **values):
    """Note the trial "gradient check" of a learner's backward; see `Answer` for the functions."""
    layer = Answer(forward, backward, values)
    with np.errstate(all="ignore"):
        check_answer(sheet, layer, x)


def check_answer(sheet, layer, x):
    """Note the trial "gradient check" of a layer."""
    entries = check_layer(layer, x, np.random.default_rng(1), backend="reference")
    bugs = [entry for entry in entries if entry.kind == "BUG"]
    if not bugs:
        sheet.note("gradient check")
        return
    worst = next((bug for bug in bugs if bug.hint), bugs[0])
    hint = worst.hint or f"analytic {worst.analytic:.6g}, numeric {worst.numeric:.6g}"
    sheet.note("gradient check", f"d{worst.tensor}, {hint}")
