"""A network: a list of layers, walked forwards and backwards, with all parameters in one buffer."""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cnn import backend
from cnn.backend import current_backend
from cnn.errors import CheckpointError, ConfigError, ShapeError, UnknownName, did_you_mean
from cnn.layers import Layer, Parameter, Sequential, flatten
from cnn.layers.watch import Watch
from cnn.pixels import Pixels
from cnn.summary import Summary, summarize


class Network:
    """A list of layers with one flat buffer of parameters and one of gradients.

        forward:  x -> layer 0 -> layer 1 -> ... -> logits
        backward: dx <- layer 0 <- layer 1 <- ... <- dlogits

    Parameters
    ----------
    layers : list of Layer, or a Sequential
    precision : {"float32", "bf16"}
        What activations and their gradients are stored in, and what convolutions multiply; sums, parameters,
        statistics, loss and logits are float32 in both. See ``cnn.fast.machine.bf16``.
    float32_layers : names, as in ``network["3.body.0"]``
        Layers that store and multiply float32 all the same, a container with all that it holds; and layers
        that are computed in one pass with them.
    """

    def __init__(
        self, layers: Iterable[Layer], precision: str = "float32", float32_layers: Sequence[str] = ()
    ) -> None:
        given: Any = layers
        self.body = given if isinstance(given, Sequential) else Sequential(given)
        places: dict[int, str] = {}
        for name, layer in self.walk():
            if id(layer) in places:
                raise ConfigError(
                    f"Network: one {type(layer).__name__} stands at two places, "
                    f"{places[id(layer)]} and {name}; make a new one for each"
                )
            places[id(layer)] = layer.name = name
        self.precision, self.float32_layers = precision, float32_layers
        self._engines: dict[Any, Any] = {}  # by backend and precision
        self._watch: Watch | None = None

    @classmethod
    def from_onnx(cls, file: str | Path) -> "Network":
        """Return the built network of an ONNX file; see ``cnn.interop.onnx_read.read_onnx``."""
        return importlib.import_module("cnn.interop.onnx_read").read_onnx(file)[0]

    def load_state_dict(self, file: str | Path) -> None:
        """Copy the weights of PyTorch's module from a file; see ``cnn.interop.state_dict.load_state_dict``.

        Returns a report, printable, of what matched.
        """
        return importlib.import_module("cnn.interop.state_dict").load_state_dict(self, file)

    @classmethod
    def load(cls, file: str | Path) -> "Network":
        """Return the built network of a file of ``save``, of a checkpoint or of a run folder.

        Raises CheckpointError when it cannot be read; nothing in it is run.
        """
        return importlib.import_module("cnn.training.checkpoint").load_network(file)[0]

    def save(self, file: str | Path, classes: Sequence[str] | None = None) -> None:
        """Write layers, parameters and buffers of a built network to a safetensors file, whole or not at all.

        ``classes`` may name what the outputs stand for. ``Network.load`` and ``cnn.load`` read the file.
        Raises ConfigError for a layer whose arguments no file can hold, CheckpointError when the file cannot
        be written.
        """
        importlib.import_module("cnn.training.checkpoint").save_network(file, self, classes)

    @property
    def layers(self) -> list[Layer]:
        """The layers, as they were written."""
        return self.body.layers

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str | int | slice) -> Any:
        """Return the layer of a name or a number, "3.body.0" or 3, or the Parameter of one, "3.weight".

        Raises UnknownName, a KeyError, for another name, IndexError for another number.
        """
        if isinstance(name, (int, np.integer)):
            return self.layers[name]
        layers = dict(self.walk())
        if name in layers:
            return layers[name]
        parameters = dict(self.named_parameters())
        if name in parameters:
            return parameters[name]
        hint = did_you_mean(name, [*parameters, *layers]) or f" There are {', '.join(layers)[:200]}."
        raise UnknownName(f'the network has no layer or parameter "{name}".{hint}')

    @property
    def input_shape(self) -> Any:
        """(C, H, W) or (F,), known after build."""
        return self.body.input_shape

    @property
    def output_shape(self) -> Any:
        """Shape of the output without the batch axis, known after build."""
        return self.body.output_shape

    @property
    def precision(self) -> str:
        """What activations are stored in and convolutions multiply: "float32" or "bf16"; may be set."""
        return self._precision

    @precision.setter
    def precision(self, name: str) -> None:
        self._precision = backend.known_precision(name)

    @property
    def float32_layers(self) -> tuple[str, ...]:
        """Names of layers that store and multiply float32 whatever ``precision`` says; may be set."""
        return self._float32_layers

    @float32_layers.setter
    def float32_layers(self, names: Sequence[str]) -> None:
        known = dict(self.walk())
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or f" There are {', '.join(known)[:200]}."
                raise UnknownName(f'float32_layers: the network has no layer "{name}".{hint}')
        self._float32_layers = tuple(names)

    def build(
        self, input_shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
    ) -> tuple[int, ...]:
        """Create all parameters for inputs of ``input_shape`` (without the batch axis).

        Layers that are built already keep their values (until ``layer.reset()``), so a network may take over
        trained layers of another one: both then work on the same values, which move into this network's
        buffer, and an optimizer made for the other says so. Returns the output shape. All shapes are checked
        here; a ShapeError names the layer and both shapes.
        """
        self.body.build(input_shape, np.random.default_rng(0) if rng is None else rng, dtype)
        flatten(self.parameters(), together=True)
        self._engines, self._watch = {}, None
        return self.output_shape

    def forward(self, x: Any, training: bool = False, share: Any = None) -> np.ndarray:
        """Return the output, a NumPy array, for a batch ``x`` (N, *input_shape), which may be Pixels.

        ``share`` says what part of a batch ``x`` is where several processes compute it together; see
        ``cnn.parallel.share``. Raises ConfigError for one under another backend than "numba".
        """
        engine, x = self._engine(), self._checked(x)
        if share is None:
            return engine.forward(x, training)
        if current_backend() != "numba":
            raise ConfigError(f'a share of a batch: expected backend "numba", found "{current_backend()}"')
        return engine.forward(x, training, share)

    def backward(self, dy: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
        """Return dx for the last forward, a NumPy array; add to the gradients of all parameters.

        One forward serves many backwards. Training has no use for that, nor for dx: with
        ``input_gradient=False`` the first layer leaves dx out, None is returned, and what forward kept is
        given back layer by layer, so that gradients need hardly any memory of their own; the next backward
        then needs another forward.
        """
        return self._engine().backward(dy, input_gradient)

    def predict(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Return the output in evaluation mode as a NumPy array, computed batch by batch; keeps nothing.

        Any number of threads may predict with one network at once.
        """
        engine, x = self._engine(), self._checked(x)
        parts = [engine.predict(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        if len(parts) == 1:
            return parts[0]
        dtype = next((p.dtype for p in self.parameters()), np.float32)
        return np.concatenate(parts) if parts else np.empty((0, *self.output_shape), dtype)

    def _checked(self, x: Any) -> Any:
        if not isinstance(x, Pixels):
            x = np.asarray(x)
        if x.shape[1:] != self.body.input_shape and self.body.built:
            expected = f"Network: expected images of shape {self.input_shape}"
            raise ShapeError(f"{expected}, found {tuple(x.shape[1:])}")
        return x

    def _engine(self) -> Any:
        """Return what runs the layers under the current backend."""
        key = current_backend(), self.precision, self.float32_layers
        found = self._engines.get(key)
        if found is None:
            if not self.body.built:
                raise RuntimeError("Network: forward was called before build(input_shape)")
            found = self._engines.setdefault(key, self._make_engine())
        return found

    def _make_engine(self) -> Any:
        within = tuple(f"{name}." for name in self.float32_layers)
        exact = [layer for name, layer in self.walk() if f"{name}.".startswith(within)] if within else ()
        return backend.engine(self.body, precision=self.precision, exact=exact)

    def __getstate__(self) -> dict[str, Any]:  # a copy has programs of its own
        return {**vars(self), "_engines": {}, "_watch": None}

    def parameters(self) -> list[Parameter]:
        """Return all parameters, in the order of the layers."""
        return self.body.parameters()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (name, Parameter), the name like "0.weight", in the order of ``parameters()``."""
        for place, layer in self.walk():
            if not layer.children():
                yield from ((f"{place}.{p.name}", p) for p in layer.parameters())

    @property
    def data(self) -> np.ndarray:
        """All parameters as one array: what ``parameters()`` returns are views of it."""
        return self._flat("data")

    @property
    def grad(self) -> np.ndarray:
        """All gradients as one array."""
        return self._flat("grad")

    def _flat(self, what: str) -> Any:
        if self._watch is None or not self._watch.holds():
            parameters = self.parameters()
            self._buffer = flatten(parameters, together=True)
            self._span = slice(parameters[0].start, parameters[-1].stop) if parameters else slice(0, 0)
            self._watch = Watch(self.body)
        return getattr(self._buffer, what)[self._span]

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        self.grad[...] = 0

    def walk(self) -> Iterator[tuple[str, Layer]]:
        """Iterate over (name, layer), each container before what it holds; a name is like "3.body.0"."""
        yield from _walk(self.body, "")

    def state(self) -> dict[str, np.ndarray]:
        """Return every parameter and buffer by name, for example "0.weight"; the arrays are live views."""
        entries = {}
        for name, layer in self.walk():
            if not layer.children():
                entries.update({f"{name}.{p.name}": p.data for p in layer.parameters()})
                entries.update({f"{name}.{key}": array for key, array in layer.buffers().items()})
        return entries

    def load_state(self, entries: Mapping[str, np.ndarray]) -> None:
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

    def summary(self, batch_size: int = 1) -> Summary:
        """Return a table of the layers: shapes, parameters, multiply-adds, memory; and that of training."""
        if not self.body.built:
            raise RuntimeError("Network: summary needs build(input_shape) first")
        return summarize(self, batch_size)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_() if self.body.built else f"<pre>{escape(repr(self))}</pre>"

    def __repr__(self) -> str:
        return f"Network([{self.body._describe()}])"


def _walk(container: Any, prefix: str) -> Iterator[tuple[str, Layer]]:
    for name, layer in container.children():
        yield prefix + name, layer
        if isinstance(layer, Layer):
            yield from _walk(layer, f"{prefix}{name}.")
