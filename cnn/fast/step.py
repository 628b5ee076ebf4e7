"""What a program is lowered from: a step is a layer, or branches, or neighbours fused (``cnn.fast.fusion``).

While a program is lowered, arrays are BlockedArrays or Lanes in its arena, and what a kernel launches is
written down. A layer that is ``pure`` is lowered by calling it: its own forward and backward are the list
of its launches. Of any other layer the program calls ``forward`` and ``backward`` when it runs, with plain
arrays.
"""

from dataclasses import dataclass

import numpy as np

from cnn.backend import operations
from cnn.errors import ShapeError
from cnn.fast import blocked
from cnn.fast.kernels import activation, few, layout, norm, strips
from cnn.fast.lanes import Lanes
from cnn.fast.machine.jit import scratch
from cnn.fast.machine.owner import lowering, precision
from cnn.pixels import Pixels


@dataclass(frozen=True)
class Context:
    """What the steps of a program share."""

    lock: object  # held while a layer from outside runs
    folding: object = None  # for predictions: see ``cnn.fast.folding.Folding``
    exact: frozenset = frozenset()  # ids of layers that store and multiply float32 in any precision


def fact(layer, name):
    """Return what the layer's own class states under ``name``; a subclass does not inherit it."""
    return vars(type(layer)).get(name)


class Step:
    """Layers that are computed together; ``kept`` is what backward needs of the last forward."""

    kept = None
    consume = False  # whether the steps inside give back what they kept on the way; set by ``walk_back``

    def __init__(self, layers, context, parts=()):
        self.layers, self.parts = layers, parts  # parts: of a container, the steps of its paths

    @property
    def trainable(self):
        """Whether any parameter in here is to be trained now."""
        return any(layer.trainable for layer in self.layers)

    def forward(self, x, training):
        """Lower the forward pass; return y."""
        raise NotImplementedError

    def backward(self, dy, input_gradient, over):
        """Lower the backward pass: add to the gradients of the parameters; return dx.

        Without ``input_gradient`` dx is not needed. ``over``: dx may take the place of dy in memory.
        """
        raise NotImplementedError

    def forget(self):
        """Drop what forward kept, here and inside."""
        self.kept = None
        for part in self.parts:
            for step in part:
                step.forget()


class Single(Step):
    """A pure layer: its own forward and backward say what is launched."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context)
        (self._layer,) = layers
        # whether it does not matter which row of an image is where
        self._any_rows = fact(self._layer, "role") in ("activation", "normalisation")

    def forward(self, x, training):
        x = computed(x) if self._any_rows else array(x)
        y = self._layer.forward(x, training)
        self.kept, self._layer._cache = (self._layer._cache, x.strips), None
        return in_strips(y, x.strips)

    def backward(self, dy, input_gradient, over):
        layer = self._layer
        layer._cache, laid = self.kept
        dy = array(dy, laid)
        try:
            return in_strips(layer.backward(dy), laid) if input_gradient else layer.backward_parameters(dy)
        finally:
            layer._cache = None


class InFloat32(Step):
    """A step that stores and multiplies float32 in a network of another precision."""

    def __init__(self, step):
        super().__init__(step.layers, None, [[step]])
        self._step = step

    def forward(self, x, training):
        with precision("float32"):
            return self._step.forward(x, training)

    def backward(self, dy, input_gradient, over):
        self._step.consume = self.consume
        with precision("float32"):
            return self._step.backward(dy, input_gradient, over)


class Outside(Step):
    """A layer whose forward and backward only Python can run: entries of the program call them."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context)
        (self._layer,) = layers
        self._lock, self._predicts = context.lock, context.folding is not None

    def forward(self, x, training):
        layer, source = self._layer, plain(x)
        y = Plain((source.shape[0], *layer.output_shape), x.dtype)

        def call():
            with self._lock:
                before = _caches(layer) if self._predicts else ()
                y.put(layer.forward(source.take(), training), layer)
                for inner, cache in before:  # a training that runs meanwhile is not disturbed
                    inner._cache = cache

        _emit(call)
        return y

    def backward(self, dy, input_gradient, over):
        layer, source = self._layer, plain(dy)
        dx = Plain((source.shape[0], *layer.input_shape), dy.dtype)

        def call():
            with self._lock:
                if input_gradient:
                    dx.put(layer.backward(source.take()), layer)
                else:
                    layer.backward_parameters(source.take())

        _emit(call)
        return dx


def _emit(call):
    """Write the call of a function into the program that is lowered, or make it at once."""
    if lowering() is None:
        call()
    else:
        lowering().call(call)


def _caches(layer):
    return [(layer, layer._cache), *(pair for _, child in layer.children() for pair in _caches(child))]


class Branches(Step):
    """A container whose paths run side by side; it says how their ends are joined."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        (self._layer,) = layers

    def forward(self, x, training):
        ends = []
        for part in self.parts:
            y = x
            for step in part:
                y = step.forward(y, training)
            ends.append(computed(y))
        ends, self.kept = alike(ends)
        return in_strips(self._layer.join(operations(), ends), self.kept)

    def backward(self, dy, input_gradient, over):
        pieces = [in_strips(dx, self.kept) for dx in self._layer.fork(operations(), array(dy, self.kept))]
        own = len({id(piece) for piece in pieces}) == len(pieces)
        gradients = []
        for part in reversed(self.parts):
            gradients.append(walk_back(part, pieces.pop(), input_gradient, self.consume, own))
        if not input_gradient:
            return None
        total = computed(gradients.pop())
        while gradients:
            total = added(total, gradients.pop())
        return total


class Graph(Step):
    """A container whose paths read the results of any before them; it says how they are joined."""

    def __init__(self, layers, context, parts=()):
        super().__init__(layers, context, parts)
        (self._layer,) = layers
        reads = self._layer.inputs
        self._last = {i: k for k, read in enumerate(reads) for i in read}  # the path that reads a value last
        self._predicts = context.folding is not None

    def forward(self, x, training):
        layer, values, factors = self._layer, [x], []
        del x
        for k, part in enumerate(self.parts):
            read = layer.inputs[k]
            y = values[read[0]]
            if layer.joins[k]:
                ends, laid = alike([computed(values[i]) for i in read])
                y = in_strips(layer.join(operations(), k, ends), laid)
                factors.append((laid, () if self._predicts else layer.factors(k, ends)))
                del ends
            else:
                factors.append((None, ()))
            for i in read:
                if self._last[i] == k:
                    values[i] = None  # its memory serves what follows
            for step in part:
                y = step.forward(y, training)
            values.append(y)
            del y
        self.kept = tuple(factors)
        return values[-1]

    def backward(self, dy, input_gradient, over):
        layer, factors = self._layer, list(self.kept)
        if self.consume:
            self.kept = None
        arrived = [None] * len(self.parts) + [dy]
        for k in range(len(self.parts) - 1, -1, -1):
            read = layer.inputs[k]
            wanted = input_gradient or any(read)
            dv = walk_back(self.parts[k], arrived.pop(), wanted, self.consume)
            if not wanted:
                continue
            laid, of_join = factors.pop(k)
            pieces = [dv]
            if layer.joins[k]:
                pieces = layer.fork(operations(), k, array(dv, laid), of_join)
                pieces = [in_strips(piece, laid) for piece in pieces]
            del dv, of_join
            for i in reversed(read):
                piece = pieces.pop()
                if not i and not input_gradient:
                    continue
                both = arrived[i] is not None
                arrived[i] = added(computed(arrived[i]), piece) if both else piece
        return arrived[0]


def walk_back(part, dy, input_gradient, consume, over=False):
    """Lower the way back through a list of steps; return dx, or None unless ``input_gradient``.

    ``consume``: each step gives back what it kept, so that the gradients that follow use its memory.
    """
    part = list(part)
    while part and not input_gradient and not part[0].trainable:
        part.pop(0)
    for index in range(len(part) - 1, -1, -1):
        step = part[index]
        step.consume = consume
        dx = step.backward(dy, input_gradient or index > 0, over)
        # what the step made is read by the next one alone; not so dy itself, or a view of it, handed on
        over = over or (dx is not dy and getattr(dx, "_owner", None) is None)
        dy = dx
        if consume:
            step.forget()
    return dy if input_gradient else None


# -- values on their way through a program -----------------------------------------------------------------


class Plain:
    """An array that a layer from outside returned: it is there when the program runs."""

    strips = None  # images are whole

    def __init__(self, shape, dtype):
        self.shape, self.dtype, self._array, self._blocked = tuple(shape), np.dtype(dtype), None, None

    def put(self, array, layer):
        """Take over what ``layer`` returned; raises ShapeError for another shape than it was built for."""
        array = np.asarray(array, self.dtype)
        if array.shape != self.shape:
            raise ShapeError(f"{layer.label}: expected to get back shape {self.shape}, found {array.shape}")
        self._array = array

    def take(self):
        """Return the array."""
        return self._array

    def array(self):
        """Lower the copy into the program's memory; return the BlockedArray.

        Raises ShapeError unless the axes are (N, C, H, W) or (N, F): no kernel takes others.
        """
        if self._blocked is None:
            if len(self.shape) not in (2, 4):
                raise ShapeError(
                    f"expected an input with axes (N, C, H, W) or (N, F), found shape {self.shape}"
                )
            buffer = scratch(self.shape, self.dtype)

            def copy():
                buffer[...] = self._array

            _emit(copy)
            self._blocked = blocked.pack(buffer)
        return self._blocked


class _Copied:
    """A BlockedArray or Lanes as plain arrays for Python, each a copy of its own."""

    def __init__(self, x):
        self.shape, self._buffer = x.shape, scratch(x.shape, x.dtype)
        leave(x, self._buffer)

    def take(self):
        """Return the array."""
        return self._buffer.copy()


def plain(x):
    """Return what gives ``x`` as a plain array when the program runs: it has ``take()``."""
    return x if type(x) is Plain else _Copied(array(x))


class Sum:
    """The sum of two BlockedArrays that nobody has computed yet: who reads it may do so in its own pass."""

    def __init__(self, a, b):
        self.shape, self.dtype, self.strips = a.shape, a.dtype, a.strips
        self._parts, self._array = (a, b), None

    def take(self):
        """Return the two arrays, which are not needed any more, or the sum where it is there."""
        parts, self._parts = self._parts, ()
        return parts or (self._array,)

    def array(self):
        """Lower the addition; return the BlockedArray."""
        if self._array is None:
            self._array = operations().add(*self.take())
        return self._array


class Normalised:
    """A normalisation and the activation behind it that nobody has computed yet: who reads may do so.

    Parameters
    ----------
    x : BlockedArray
    numbers : (mean, rstd, weight, bias) of each channel, as ``norm.channel_parameters`` returns them
    kind : (number, parameter) of the activation
    """

    def __init__(self, x, numbers, kind):
        self.shape, self.dtype, self.strips = x.shape, x.dtype, x.strips
        self.x, self.numbers, self.kind, self._array = x, numbers, kind, None

    @property
    def with_relu(self):
        """Whether the activation is ReLU."""
        return self.kind[0] == activation.RELU

    def array(self):
        """Lower the pass that computes it; return the BlockedArray."""
        if self._array is None:
            self._array = norm.batch_norm_forward(self.x, *self.numbers, *self.kind)
        return self._array


def array(x, laid=None):
    """Return ``x`` in the program's memory, in whole images or the Strips ``laid``."""
    x = computed(x)
    return x if x.strips == laid else strips.laid_out(x, laid)


def computed(x):
    """Return ``x`` in the program's memory, in whole images or in strips as it is."""
    return x.array() if type(x) in (Plain, Sum, Normalised) else x


def in_strips(x, laid):
    """Return ``x``, which an operation that does not know of strips made of arrays in the Strips ``laid``."""
    if laid is not None:
        x.strips = laid
    return x


def alike(ends):
    """Return (arrays, Strips): the arrays in the strips that all of them are in, else in whole images."""
    every = {end.strips for end in ends}
    laid = every.pop() if len(every) == 1 else None
    return [array(end, laid) for end in ends], laid


def added(a, b):
    """Return a + b, in strips as ``a`` is."""
    return in_strips(operations().add(a, array(b, a.strips)), a.strips)


def enter(shape, dtype, table=None, as_few=False):
    """Lower the way in: the first launch, whose source (field 0) is an array of ``shape``.

    With ``table`` that is uint8 images, which stand for ``table[channel, pixel]``.
    """
    if len(shape) not in (2, 4):
        return Plain(shape, dtype)
    if table is not None:
        return blocked.pack_pixels(Pixels(np.zeros(shape, np.uint8), table))
    x = np.zeros(shape, dtype)  # only its shape is read: the program puts another address in
    return few.enter(x) if as_few else blocked.pack(x)


def leave(x, target):
    """Lower the way out: the last launch, whose target (field 1) is ``target``, an array of x's shape."""
    if type(x) is Lanes:
        few.leave(x, target)
    elif type(x) is not Plain:
        x = blocked.as_blocked(x)
        layout.unpack(x.buffer, x.address, target)
