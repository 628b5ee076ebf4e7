"""Dropout."""

import numpy as np

from cnn.backend import operations
from cnn.errors import ConfigError
from cnn.layers.layer import LAYERS, Layer


@LAYERS.register
class Dropout(Layer):
    """Sets random values to zero while training.

        y = x * keep / (1 - p),   keep = 0 with probability p, else 1          dx = dy * keep / (1 - p)

    In evaluation y = x. The mask is a hash of (seed, how many forwards were trained, image, feature): the
    same at any thread count and under both backends, and a resumed run continues its sequence.

    Parameters
    ----------
    p : float, 0 to 1
        Probability that a value is dropped.

    Shapes
    ------
    x, y, dx, dy : any, the same

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout", JMLR 2014.
    """

    pure, role = True, "training_only"

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ConfigError(f"Dropout p: expected a probability from 0 to 1, found {p!r}")
        self.p = float(p)
        self._state = np.zeros(2, np.int64)  # seed, number of training forwards so far

    def _build(self, input_shape, rng, dtype):
        self._state[...] = rng.integers(2**32), 0
        return input_shape

    def forward(self, x, training=False):
        x = self._receive(x)
        if not training or self.p == 0:
            return self._keep(x, None)
        y, key = operations().dropout_forward(x, self.p, self._state)
        return self._keep(y, key)

    def backward(self, dy):
        ops, dy, key = self._saved(dy)
        return dy if key is None else ops.dropout_backward(dy, self.p, key)

    def buffers(self):
        return {"state": self._state}

    def _describe(self):
        return f"{self.p:g}"
