"""Runs a network on one image with the product's own kernels and keeps every number of the way.

The result is a list of nodes, from the image to the loss. Containers are dissolved: the layers inside a
Residual or Concat become nodes of their own, followed by an Add or Concat node that joins the branches.
"""

from dataclasses import dataclass, field

import numpy as np

from cnn import layers
from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.explain.derivations import kinds

__all__ = ["Node", "collect"]

_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "count_include_pad")
_SETTINGS = ("negative_slope", "approximate", "factor", "eps", "momentum", "p", "alpha", "beta", "threshold")
_PLAIN = {"dilation": (1, 1), "ceil_mode": False}  # pools with other values are not computed by the page


@dataclass
class Node:
    """One step of the computation and all its numbers for one image.

    ``inputs`` are the ids of the nodes it reads. ``stored`` holds float32 arrays without the batch axis:
    y and dy (the output and the loss gradient with respect to it), each parameter and, as "d" + name, its
    gradient, each buffer; the loss has p and target instead of dy.
    """

    id: int
    name: str
    kind: str
    inputs: list[int]
    attributes: dict = field(default_factory=dict)
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    values_only: bool = False  # the page cannot compute it; dx0, the gradient of its input, is stored as well


def collect(network, x, label: int, label_smoothing: float = 0.0, training: bool = False) -> list[Node]:
    """Return the nodes of one forward and one backward pass.

        L = -sum over k of y_k log p_k,  p = softmax(network(x));  N = 1

    Parameters
    ----------
    network : a built ``cnn.Network`` whose output is (N, classes). Its gradients are overwritten.
    x : the image as the network takes it (normalised), (C, H, W).
    label : the true class.
    training : use the statistics of this one image in BatchNorm, as a training step with N = 1 would; the
        running statistics are left alone. Dropout stays off, so that a page is a function of its inputs.

    A layer that the page cannot compute becomes a node with ``values_only``. Raises ShapeError if image and
    network do not fit.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)[None]
    if tuple(x.shape[1:]) != tuple(network.input_shape):
        raise ShapeError(
            f"explain: the network takes {tuple(network.input_shape)}, the image is {x.shape[1:]}"
        )
    tape = _Tape(training)
    logits, last = tape.run(network.layers, x, tape.image(x))
    logits = np.asarray(logits)
    if logits.ndim != 2:
        raise ShapeError(f"explain: expected a network that ends with (N, classes), found {logits.shape}")
    if not 0 <= label < logits.shape[1]:
        raise ConfigError(f"explain: expected a label from 0 to {logits.shape[1] - 1}, found {label}")
    criterion = layers.SoftmaxCrossEntropy(label_smoothing=label_smoothing)
    loss = criterion.forward(logits, np.array([label]))
    network.zero_grad()
    tape.backward(np.asarray(criterion.backward()), last)
    target = np.full(logits.shape[1], label_smoothing / logits.shape[1], np.float32)
    target[label] += 1 - label_smoothing
    tape.nodes.append(Node(len(tape.nodes), "loss", "Loss", [last]))
    tape.nodes[-1].stored = {
        "y": np.array([loss], np.float32),
        "p": _one(criterion.probabilities),
        "target": target,
    }
    return tape.nodes


def _kind(layer):
    """Return (the name of a layer's kind on the page, whether the page can only show its values)."""
    cls = type(layer)
    if layers.layer_types().get(cls.__name__) is not cls:
        own = cls.__name__ in kinds()
        return f"{cls.__name__} ({cls.__module__})" if own else cls.__name__, True
    options = [name for name, default in _PLAIN.items() if getattr(layer, name, default) != default]
    if isinstance(layer, layers.MaxPool2d | layers.AvgPool2d) and options:
        return f"{cls.__name__} ({', '.join(options)})", True
    return cls.__name__, cls.__name__ not in kinds()


def _parameters(layer, prefix=""):
    """Yield (name, parameter) of a layer and, where it holds layers, of those."""
    if not layer.children():
        yield from ((prefix + p.name, p) for p in layer.parameters())
    for name, child in layer.children():
        yield from _parameters(child, f"{prefix}{name}.")


def _one(array) -> np.ndarray:
    """The first image of a batch, as a float32 array of its own."""
    return np.array(np.asarray(array)[0], dtype=np.float32)


class _Tape:
    """The nodes so far and, for each, the function that takes dy to the gradients of its inputs."""

    def __init__(self, training: bool):
        self.training = training
        self.nodes: list[Node] = []
        self._backward = []

    def image(self, x) -> int:
        return self._add("image", "Input", [], x, lambda dy: [])

    def _add(self, name, kind, inputs, y, backward) -> int:
        self.nodes.append(Node(len(self.nodes), name, kind, inputs, stored={"y": _one(y)}))
        self._backward.append(backward)
        return self.nodes[-1].id

    def run(self, sequence, x, source: int):
        """Apply layers in turn to ``x``, the output of node ``source``; return the output and its node."""
        for layer in sequence:
            x, source = self._layer(layer, x, source)
        return x, source

    def _layer(self, layer, x, source):
        match type(layer):  # a subclass may compute something else
            case layers.Sequential:
                return self.run(layer.layers, x, source)
            case layers.Residual:
                ends = [self.run(branch.layers, x, source) for branch in (layer.body, layer.shortcut)]
                y = operations().add(*(value for value, _ in ends))
                return y, self._add(layer.name, "Add", [at for _, at in ends], y, lambda dy: [dy, dy])
            case layers.Concat:
                ends = [self.run(branch.layers, x, source) for branch in layer.branches]
                y = operations().concat([value for value, _ in ends])
                sizes = [value.shape[1] for value, _ in ends]
                inputs = [at for _, at in ends]
                return y, self._add(layer.name, "Concat", inputs, y, lambda dy: operations().split(dy, sizes))
        return self._leaf(layer, x, source)

    def _leaf(self, layer, x, source):
        kind, values_only = _kind(layer)
        buffers = {name: value.copy() for name, value in layer.buffers().items() if value.dtype.kind == "f"}
        normalises = isinstance(layer, layers.BatchNorm1d | layers.BatchNorm2d)
        # one value a channel has no variance to speak of: there even training mode keeps the running ones
        batch = self.training and normalises and x.ndim == 4 and x.shape[2] * x.shape[3] > 1
        y = layer.forward(x, training=batch)
        at = self._add(layer.name, kind, [source], y, lambda dy: [layer.backward(dy)])
        node = self.nodes[at]
        node.values_only = values_only
        for name in (*_GEOMETRY, *_SETTINGS):
            if hasattr(layer, name):
                node.attributes[name] = getattr(layer, name)
        if normalises:
            node.attributes["training"] = batch
            for name, value in buffers.items():
                layer.buffers()[name][...] = value
                node.stored[name] = np.array(value, np.float32)
                node.buffers.append(name)
        for name, parameter in _parameters(layer):
            node.parameters.append(name)
            node.stored[name] = np.array(parameter.data, np.float32)
            # a view, copied when the backward pass has filled it
            node.stored["d" + name] = parameter.grad
        return y, at

    def backward(self, dy, last: int):
        """Walk the nodes the other way; where an output is used twice, its gradients add."""
        arrived = {last: dy}
        for node in reversed(self.nodes):
            dy = arrived.pop(node.id)
            node.stored["dy"] = _one(dy)
            for source, dx in zip(node.inputs, self._backward[node.id](dy), strict=True):
                if node.values_only:
                    node.stored["dx0"] = _one(dx)
                arrived[source] = operations().add(arrived[source], dx) if source in arrived else dx
            for name in node.parameters:
                node.stored["d" + name] = np.array(node.stored["d" + name], np.float32)
