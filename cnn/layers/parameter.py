"""Parameters, and the flat buffers in which all parameters of a network live."""

from itertools import pairwise
from sys import getrefcount

import numpy as np

from cnn.errors import ShapeError
from cnn.layers.guard import refuse_unknown

MOST_NUMBERS = 2**31  # of a parameter, and of one image between two layers: 8 GB


class Changes:
    """How often a public attribute of a layer was set or a parameter moved: what was planned may look."""

    count = 0


class FlatBuffer:
    """One array of all values and one of all gradients, of which parameters are views.

    One optimizer kernel call, one gradient norm and one all-reduce then serve a whole network.

    ``mark`` is another object each time anybody has asked for values, here or at a parameter: while it stays
    the same, and nobody had kept them before (``is_lent``), nothing can have been written to them.
    """

    def __init__(self, size, dtype):
        self._data, self.mark = np.zeros(size, dtype), object()
        self.grad = np.zeros(size, dtype)

    @property
    def data(self):
        """All values."""
        data, self.mark = self._data, object()  # in this order: see ``is_lent``
        return data

    def is_lent(self, parameters, views=0):
        """Whether anything but these parameters, and so many ``views`` of all, refers to the values.

        A view of a view counts, too: NumPy lets it refer to the array that owns the memory. Read ``mark``
        first: who asked for values before that has left its mark or still refers to them.
        """
        arrays = [p._data for p in parameters]
        if any(count != _IN_TWO_PLACES for count in map(getrefcount, arrays)):
            return True
        return getrefcount(self._data) != getrefcount(_ALONE.array) + len(arrays) + views


class _Alone:
    """Refers to an array as nothing else does."""

    def __init__(self):
        self.array = np.empty(0)


_ALONE = _Alone()
_IN_TWO_PLACES = 1 + next(map(getrefcount, [np.empty(0)]))  # what is counted of an array here and in a list


class Parameter:
    """A trainable array with its gradient.

    Parameters
    ----------
    name : str
        What the layer calls it, for example ``"weight"``.
    data : array
        Initial values; copied.
    decay : bool
        Whether weight decay applies. By default biases and normalisation parameters are left alone.

    An optimizer reads three more, which ``cnn.optimizers.groups`` sets: ``lr_scale`` multiplies its learning
    rate, ``weight_decay`` stands in for its decay unless None, and where ``trainable`` is False nothing
    changes the values: layers need not add to ``grad`` then.

    Assigning to ``data`` or ``grad`` copies into the array, so that views stay views. ``requires_grad`` is
    PyTorch's name for ``trainable``.
    """

    _made = False

    def __setattr__(self, name, value):
        if self._made and name[0] != "_":
            refuse_unknown(self, name, f"Parameter {self.name}")
        object.__setattr__(self, name, value)

    def __init__(self, name, data, decay=True):
        self.name = name
        self.decay = decay
        self.lr_scale, self.weight_decay, self.trainable = 1.0, None, True
        self.shape, self.size, self.dtype = data.shape, data.size, data.dtype
        self._place(FlatBuffer(data.size, data.dtype), 0, data, np.zeros_like(data))
        self._made = True

    def _place(self, buffer, start, data, grad):
        """Move into ``buffer`` at ``start`` with these values."""
        self.buffer, self.start, self.stop = buffer, start, start + self.size
        Changes.count += 1
        self._look()
        self._data[...] = data
        self._grad[...] = grad

    def _look(self):
        """Make the views of the buffer."""
        self._data = self.buffer._data[self.start : self.stop].reshape(self.shape)
        self._grad = self.buffer.grad[self.start : self.stop].reshape(self.shape)

    def __getstate__(self):  # copied or pickled, a view would be an array of its own
        return {name: value for name, value in vars(self).items() if name not in ("_data", "_grad")}

    def __setstate__(self, state):
        vars(self).update(state)
        self._look()

    @property
    def data(self):
        """The values: a view of the flat buffer."""
        data, self.buffer.mark = self._data, object()
        return data

    @data.setter
    def data(self, values):
        self._copy(self.data, values, "data")

    @property
    def grad(self):
        """The accumulated gradient: a view of the flat buffer."""
        return self._grad

    @grad.setter
    def grad(self, values):
        self._copy(self._grad, values, "grad")

    @property
    def requires_grad(self):
        """Whether the values are trained: another name for ``trainable``."""
        return self.trainable

    @requires_grad.setter
    def requires_grad(self, value):
        self.trainable = bool(value)

    def _copy(self, target, values, what):
        if np.shape(values) != self.shape:
            raise ShapeError(f"{self.name}.{what}: expected shape {self.shape}, found {np.shape(values)}")
        target[...] = values

    def __repr__(self):
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.dtype}, decay={self.decay})"


def flatten(parameters, together=False):
    """Return the FlatBuffer that holds all ``parameters``; gather them into a new one if they are scattered.

    With ``together`` they also lie in it one after the other, with nothing between them.
    Each parameter's ``start`` and ``stop`` say where it lies. Raises ShapeError when dtypes differ.
    """
    parameters = list(parameters)
    shared = parameters and all(p.buffer is parameters[0].buffer for p in parameters)
    if shared and not (together and _has_gaps(parameters)):
        return parameters[0].buffer
    dtypes = {p.dtype for p in parameters}
    if len(dtypes) > 1:
        raise ShapeError(f"parameters of one buffer need one dtype, found {sorted(map(str, dtypes))}")
    buffer = FlatBuffer(sum(p.size for p in parameters), dtypes.pop() if dtypes else np.float32)
    start = 0
    for p in parameters:
        p._place(buffer, start, p.data, p.grad)
        start = p.stop
    return buffer


def _has_gaps(parameters):
    """Whether one of them does not begin where the one before ends."""
    return any(p.start != before.stop for before, p in pairwise(parameters))
