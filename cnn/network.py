"""A network: a list of layers, walked forwards and backwards, with all parameters in one buffer."""

import math
from dataclasses import dataclass

import numpy as np

from cnn.backend import current_backend
from cnn.errors import CheckpointError, ConfigError, ShapeError, did_you_mean
from cnn.layers import Layer, Sequential, flatten
from cnn.pixels import Pixels


class Network:
    """A list of layers with one flat buffer of parameters and one of gradients.

        forward:  x -> layer 0 -> layer 1 -> ... -> logits
        backward: dx <- layer 0 <- layer 1 <- ... <- dlogits

    Parameters
    ----------
    layers : list of Layer, or a Sequential
    """

    def __init__(self, layers):
        self.body = layers if isinstance(layers, Sequential) else Sequential(layers)
        places = {}
        for name, layer in self.walk():
            if id(layer) in places:
                raise ConfigError(
                    f"Network: one {type(layer).__name__} stands at two places, "
                    f"{places[id(layer)]} and {name}; make a new one for each"
                )
            places[id(layer)] = layer.name = name
        self._replay = None

    @property
    def layers(self):
        """The layers, as they were written."""
        return self.body.layers

    @property
    def input_shape(self):
        """(C, H, W) or (F,), known after build."""
        return self.body.input_shape

    @property
    def output_shape(self):
        """Shape of the output without the batch axis, known after build."""
        return self.body.output_shape

    def build(self, input_shape, rng=None, dtype=np.float32):
        """Create all parameters for inputs of ``input_shape`` (without the batch axis).

        Layers that are built already keep their values (until ``layer.reset()``), so a network may take over
        trained layers of another one: both then work on the same values, which move into this network's
        buffer, and an optimizer made for the other says so. Returns the output shape. All shapes are checked
        here; a ShapeError names the layer and both shapes.
        """
        self.body.build(input_shape, np.random.default_rng(0) if rng is None else rng, dtype)
        flatten(self.parameters(), together=True)
        self._replay = None
        return self.output_shape

    def forward(self, x, training=False):
        """Return the output for a batch ``x`` (N, *input_shape): an array, a BlockedArray or Pixels."""
        if not self.body.built:
            raise RuntimeError("Network: forward was called before build(input_shape)")
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        self._check(x)
        if current_backend() != "numba":
            self.body._forget()
            return self.body.forward(np.asarray(x) if isinstance(x, Pixels) else x, training)
        y = self._plan().forward(x, training)
        if y is None:
            self.body._forget()  # last step's activations make room for this step's
            y = self.body.forward(_enter(x), training)
        return y

    def _check(self, x):
        if tuple(x.shape[1:]) != self.input_shape:
            raise ShapeError(
                f"Network: expected images of shape {self.input_shape}, found {tuple(x.shape[1:])}"
            )

    def _plan(self):
        """Plan the fused steps; return what replays small batches."""
        if self._replay is None:
            from cnn.fast import (  # bring Numba, which the reference backend does without
                fused,
                inference,
                replay,
            )

            if self.body.steps is None:
                fused.attach(self.body)
            self._replay, self._inference = replay.Replay(self.body), inference.Inference(self.body)
        return self._replay

    def backward(self, dy, input_gradient=True):
        """Return dx for the last forward; add to the gradients of all parameters.

        One forward serves many backwards. Training has no use for that, nor for dx: with
        ``input_gradient=False`` the first layer leaves dx out, None is returned, and what forward kept is
        given back layer by layer, so that gradients need hardly any memory of their own; the next backward
        then needs another forward.
        """
        if current_backend() == "numba":
            replayed = self._plan().backward(dy, input_gradient)
            if replayed is not None:
                return replayed[0]
            dy = _enter(dy)
        if input_gradient:
            return self.body.backward(dy)
        self.body.backward_once(dy)
        return None

    def predict(self, x, batch_size=256):
        """Return the output in evaluation mode as a NumPy array, computed batch by batch; keeps nothing."""
        run = self.forward
        if current_backend() == "numba" and self.body.built:
            self._plan()
            run = self._predict
        parts = [np.asarray(run(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        self._forget()
        return np.concatenate(parts) if parts else np.empty((0, *self.output_shape), np.float32)

    def _predict(self, x):
        self._check(x)
        return self._inference.predict(x)

    def _forget(self):
        if self.body._cache is not None:
            self.body._forget()
        if self._replay is not None:
            self._replay.current = None

    def parameters(self):
        """Return all parameters, in the order of the layers."""
        return self.body.parameters()

    @property
    def data(self):
        """All parameters as one array: what ``parameters()`` returns are views of it."""
        return self._flat("data")

    @property
    def grad(self):
        """All gradients as one array."""
        return self._flat("grad")

    def _flat(self, what):
        parameters = self.parameters()
        buffer = flatten(parameters, together=True)
        start = parameters[0].start if parameters else 0
        return getattr(buffer, what)[start : parameters[-1].stop if parameters else 0]

    def zero_grad(self):
        """Set all gradients to zero."""
        self.grad[...] = 0

    def walk(self):
        """Iterate over (name, layer), each container before what it holds; a name is like "3.body.0"."""
        yield from _walk(self.body, "")

    def state(self):
        """Return every parameter and buffer by name, for example "0.weight"; the arrays are live views."""
        entries = {}
        for name, layer in self.walk():
            if not layer.children():
                entries.update({f"{name}.{p.name}": p.data for p in layer.parameters()})
                entries.update({f"{name}.{key}": array for key, array in layer.buffers().items()})
        return entries

    def load_state(self, entries):
        """Copy values into the entries of ``state()``; names and shapes must agree exactly.

        Raises CheckpointError that names the first entry that does not fit; then nothing is changed.
        """
        own = self.state()
        for name in own:
            if name not in entries:
                raise CheckpointError(f'the checkpoint lacks "{name}".{did_you_mean(name, entries)}')
        for name, array in entries.items():
            if name not in own:
                raise CheckpointError(f'the network has no entry "{name}".{did_you_mean(name, own)}')
            if array.shape != own[name].shape:
                raise CheckpointError(f'"{name}": expected shape {own[name].shape}, found {array.shape}')
        for name, array in entries.items():
            own[name][...] = array

    def summary(self, batch_size=1):
        """Return a table of the layers: shapes, parameters, multiply-adds, memory; and that of training."""
        if not self.body.built:
            raise RuntimeError("Network: summary needs build(input_shape) first")
        itemsize = self.parameters()[0].dtype.itemsize if self.parameters() else 4
        rows = []
        for name, layer in self.walk():
            own = 0 if isinstance(layer, Sequential) else math.prod(layer.output_shape)  # its last layer's
            rows.append(
                SummaryRow(
                    name,
                    type(layer).__name__,
                    layer.output_shape,
                    sum(p.size for p in layer.parameters()),
                    layer.macs() * batch_size,
                    own * itemsize * batch_size,
                    not layer.children(),
                    sum(p.size for p in layer.parameters() if not p.trainable),
                )
            )
        from cnn.fast.memory import training_memory  # brings Numba, which building a network does without

        return Summary(self.input_shape, batch_size, rows, training_memory(self, batch_size))

    def __repr__(self):
        return f"Network([{self.body._describe()}])"


def _enter(array):
    """``array`` in the blocked layout, so that no step converts it again; as it is where that cannot be."""
    from cnn.fast import fused

    return fused.enter(array)


def _walk(container, prefix):
    for name, layer in container.children():
        yield prefix + name, layer
        if isinstance(layer, Layer):
            yield from _walk(layer, f"{prefix}{name}.")


@dataclass(frozen=True)
class SummaryRow:
    """One line of the table; macs and activation_bytes are those of a whole batch."""

    name: str
    type: str
    output_shape: tuple
    parameters: int
    macs: int
    activation_bytes: int
    leaf: bool
    frozen: int = 0  # of the parameters, those that are not trained now


@dataclass(frozen=True)
class Summary:
    """The layers of a network in numbers; ``str()`` gives a table."""

    input_shape: tuple
    batch_size: int
    rows: list
    memory: object  # cnn.fast.memory.Memory: the predicted peak of training, in bytes by what they are for

    def _total(self, what):
        """Add up the leaves; a container's row repeats what its layers have."""
        return sum(getattr(row, what) for row in self.rows if row.leaf)

    @property
    def parameters(self):
        """Number of values in all parameters."""
        return self._total("parameters")

    @property
    def frozen(self):
        """Number of those that are not trained now."""
        return self._total("frozen")

    @property
    def macs(self):
        """Multiply-adds of one forward pass of the batch."""
        return self._total("macs")

    @property
    def activation_bytes(self):
        """Bytes of all outputs of the batch, which training keeps for backward."""
        return sum(row.activation_bytes for row in self.rows)

    def __str__(self):
        header = ("layer", "type", "output", "parameters", "MACs", "activations")
        body = [
            (
                row.name,
                row.type,
                " x ".join(map(str, row.output_shape)),
                _parameters(row),
                f"{row.macs:,}",
                _bytes(row.activation_bytes) if row.activation_bytes else "",
            )
            for row in self.rows
        ]
        total = ("total", "", "", _parameters(self), f"{self.macs:,}", _bytes(self.activation_bytes))
        widths = [max(len(line[i]) for line in (header, *body, total)) for i in range(len(header))]

        def line(cells):
            left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
            return "  ".join(left + right).rstrip()

        rule = "-" * len(line(header))
        title = f"input {' x '.join(map(str, self.input_shape))}, batch of {self.batch_size}"
        return "\n".join([title, line(header), rule, *map(line, body), rule, line(total), str(self.memory)])


def _parameters(row):
    return f"{row.frozen:,} frozen of {row.parameters:,}" if row.frozen else f"{row.parameters:,}"


def _bytes(count):
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count} B"
        count /= 1024
    return f"{count:.1f} GiB"
