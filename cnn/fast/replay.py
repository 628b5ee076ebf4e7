"""Small networks without Python between the kernels: launches are written down once, then made in one call.

In a network like LeNet-5 a kernel takes as long as the Python that prepares it. For a given batch shape that
Python computes the same addresses and sizes every time, so the second batch of a shape is recorded: its
arrays get memory of their own, which stays where it is, and its launches go into a table. From the third on,
a pass is one call that runs the table; then the steps are given the caches of the recorded pass, whose
arrays now hold the new numbers. Same launches in the same order: the results are the same bits.

Only steps that do nothing but launch are recorded (no dropout masks or batch statistics), and only while
all activations together are small: in larger networks nothing would be won.
"""

import math

import numpy as np

from cnn.backend import get_winograd
from cnn.fast import blocked
from cnn.fast.fused import ConvReLU, ConvReLUPool, LinearReLU
from cnn.fast.machine.jit import Recording
from cnn.layers import (
    GELU,
    AvgPool2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from cnn.pixels import Pixels

LARGEST = 32 << 20  # bytes of activations of a batch that is recorded
KEPT = 6  # recorded batch shapes of a network: training, its last batch, validation ...

LAUNCH_ONLY = (
    ConvReLU, ConvReLUPool, LinearReLU, Conv2d, Linear, ReLU, GELU, SiLU, Sigmoid, Tanh, Softmax,
    MaxPool2d, AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, Flatten,
)  # fmt: skip


class Replay:
    """The recorded passes of a network.

    ``forward`` and ``backward`` return None for a pass that is to be computed layer by layer.

    Parameters
    ----------
    body : Sequential, built and with its fused steps
    """

    def __init__(self, body):
        self._body, self._steps = body, body.steps
        self._numbers = sum(math.prod(step.output_shape) for step in body.layers)
        self._fits = all(map(_launches_only, self._steps))
        self._passes, self._seen = {}, set()
        self.current = None

    def __reduce__(self):  # a copy of a network has its arrays elsewhere
        return Replay, (self._body,)

    def forward(self, x, training):
        """Return the output of a recorded pass as a NumPy array, or None."""
        self.current = None
        parameters = self._body.parameters()
        planned = self._fits and self._body.steps is self._steps
        if not planned or type(x) not in (np.ndarray, Pixels) or not parameters or len(x) < 1:
            return None
        dtype = parameters[0].dtype
        blocks = -(-len(x) // blocked.LANES)
        if self._numbers * blocks * blocked.LANES * dtype.itemsize > LARGEST:
            return None
        table = x.table if type(x) is Pixels and x.dtype == dtype else None
        key = (x.shape, training, get_winograd(), id(table))  # a recorded pass keeps its table alive
        if table is None:
            x = np.ascontiguousarray(x, dtype)
        found = self._passes.get(key)
        if found is None or found.places != [(p, p.buffer) for p in parameters]:
            self._passes.pop(key, None)
            if key not in self._seen:
                self._seen.add(key)
                return None
            while len(self._passes) >= KEPT:
                del self._passes[next(iter(self._passes))]
            found = self._passes[key] = _Pass(self._body, parameters)
            y = found.record_forward(x, training)
        else:
            y = found.forward(x)
        self.current = found
        return y

    def backward(self, dy, input_gradient):
        """Return (dx,) of the last forward pass when that was recorded, dx being None unless asked for."""
        if self.current is None or type(dy) is not np.ndarray:
            return None
        found = self.current.backward(dy, input_gradient)
        if found is not None and not input_gradient:  # as the layers do, which give back what they kept
            self.current = self._body._cache = None
        return found


def _launches_only(step):
    return getattr(step, "launches_only", type(step) in LAUNCH_ONLY)


class _Pass:
    """Forward with one batch shape, and what follows it."""

    def __init__(self, body, parameters):
        self._body = body
        self.places = [(p, p.buffer) for p in parameters]
        self._pool = blocked.Pool(keeps=True)
        self._backward = {}

    def record_forward(self, x, training):
        self._body._forget()
        with blocked.using_pool(self._pool), Recording() as self._forward:
            y = np.asarray(self._body.forward(blocked.as_blocked(x), training))
        self._table = getattr(x, "table", None)
        self._shape, self._dtype = y.shape, y.dtype
        self._caches = [(step, step._cache) for step in (self._body, *self._body.steps)]
        return y

    def forward(self, x):
        y = np.empty(self._shape, self._dtype)
        self._forward.run(x if self._table is None else x.images, y)
        for step, cache in self._caches:
            step._cache = cache
        return y

    def backward(self, dy, input_gradient):
        if dy.shape != self._shape or dy.dtype != self._dtype:
            return None  # the layers will say what is wrong
        dy = np.ascontiguousarray(dy)
        key = (input_gradient, *(p.trainable for p, _ in self.places))
        found = self._backward.get(key)
        if found is None:
            with blocked.using_pool(self._pool), Recording() as recording:
                run = self._body.backward if input_gradient else self._body.backward_parameters
                dx = run(blocked.as_blocked(dy))
                dx = np.asarray(dx) if input_gradient else None
            self._backward[key] = recording, dx if dx is None else (dx.shape, dx.dtype)
            return (dx,)
        recording, shape = found
        dx = np.empty(*shape) if input_gradient else None
        recording.run(dy, dx)
        return (dx,)
