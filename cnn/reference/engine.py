"""The plain way to run a network: walk the list forwards, walk it backwards."""

import numpy as np


class Engine:
    """Runs the layers of a network one after the other.

        forward:  x -> layer 0 -> layer 1 -> ... -> y
        backward: dx <- layer 0 <- layer 1 <- ... <- dy

    Parameters
    ----------
    body : Sequential, built
    """

    lowerable = True  # there is nothing to lower

    def __init__(self, body):
        self._body = body

    def forward(self, x, training):
        """Return the output for a batch ``x``; the layers keep what backward needs."""
        return np.asarray(self._body.forward(np.asarray(x), training))

    def backward(self, dy, input_gradient):
        """Return dx of the last forward, or None unless asked for; add to the gradients of the parameters."""
        if input_gradient:
            return np.asarray(self._body.backward(dy))
        self._body.backward_parameters(dy)
        self._body.forget()
        return None

    def predict(self, x):
        """Return the output in evaluation mode; keep nothing."""
        y = self.forward(x, training=False)
        self._body.forget()
        return y
