"""Runs a network on one image with the product's own kernels and keeps every number of the way.

The result is a list of nodes, from the image to the loss. Containers are dissolved: the layers inside a
Residual, Concat or Graph become nodes of their own, followed by an Add, Concat or Mul node that joins them.
"""

from dataclasses import dataclass, field

import numpy as np

from cnn import layers
from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.explain.derivations import kinds
from cnn.targets import IGNORED

__all__ = ["Node", "collect"]

_GEOMETRY = (
    "kernel_size", "stride", "padding", "dilation", "groups", "count_include_pad", "ceil_mode",
    "num_groups", "scale_factor",
)  # fmt: skip
_SETTINGS = (
    "negative_slope", "approximate", "factor", "eps", "momentum", "p", "alpha", "beta", "threshold",
    "min_val", "max_val", "size", "k",
)  # fmt: skip


@dataclass
class Node:
    """One step of the computation and all its numbers for one image.

    ``inputs`` are the ids of the nodes it reads. ``stored`` holds float32 arrays without the batch axis:
    y and dy (the output and the loss gradient with respect to it), each parameter and, as "d" + name, its
    gradient, each buffer; the loss has p and target instead of dy. Of several images ``stored`` has
    the first; ``batch`` has what differs between them, one dict an image: y, dy, a mask, p and target.
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
    batch: list[dict[str, np.ndarray]] = field(default_factory=list)

    def keep(self, name: str, array) -> None:
        """Take a tensor of all images, (N, ...)."""
        images = np.array(array, dtype=np.float32)
        self.batch = self.batch or [{} for _ in images]
        for own, image in zip(self.batch, images, strict=True):
            own[name] = image
        self.stored[name] = self.batch[0][name]


def collect(
    network, x, label, label_smoothing: float = 0.0, training: bool = False, loss=None
) -> list[Node]:
    """Return the nodes of one forward and one backward pass.

        L = -1/N sum over n, k of y_nk log p_nk,  p = softmax(network(x))

    Parameters
    ----------
    network : a built ``cnn.Network`` whose output is (N, classes). Its gradients are overwritten.
    x : the image as the network takes it (normalised), (C, H, W); or a batch, (N, C, H, W).
    label : the true class; of a batch, one for each image. With a ``loss``, its target for one image: an
        array of the shape of the output, or a mask (H, W).
    training : BatchNorm uses the statistics of these images, as a training step would; the running statistics
        are left alone. Dropout is on for a batch, with the mask of its next step; of one image it stays off.
    loss : a loss of `cnn.explain.derivations.losses`, instead of softmax with cross-entropy: L is its value;
        weights of classes do not enter.

    A layer that the page cannot compute becomes a node with ``values_only``. Raises ShapeError if image and
    network do not fit.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    x = x if x.ndim == len(network.input_shape) + 1 else x[None]
    labels = np.atleast_1d(np.asarray(label)) if loss is None else np.asarray(label)[None]
    if tuple(x.shape[1:]) != tuple(network.input_shape):
        raise ShapeError(
            f"explain: the network takes {tuple(network.input_shape)}, the image is {x.shape[1:]}"
        )
    tape = _Tape(training)
    logits, last = tape.run(network.layers, x, tape.image(x))
    logits = np.asarray(logits)
    if loss is not None:
        tape.nodes.append(_end(network, tape, loss, logits, labels, last))
        return tape.nodes
    if logits.ndim != 2:
        raise ShapeError(f"explain: expected a network that ends with (N, classes), found {logits.shape}")
    for one in labels:
        if not 0 <= one < logits.shape[1]:
            raise ConfigError(f"explain: expected a label from 0 to {logits.shape[1] - 1}, found {one}")
    criterion = layers.SoftmaxCrossEntropy(label_smoothing=label_smoothing)
    loss = criterion.forward(logits, labels)
    network.zero_grad()
    tape.backward(np.asarray(criterion.backward()), last)
    targets = np.full(logits.shape, label_smoothing / logits.shape[1], np.float32)
    targets[np.arange(len(labels)), labels] += 1 - label_smoothing
    node = Node(len(tape.nodes), "loss", "Loss", [last])
    node.keep("y", np.full((len(labels), 1), loss))
    node.keep("p", criterion.probabilities)
    node.keep("target", targets)
    tape.nodes.append(node)
    return tape.nodes


def _end(network, tape, loss, logits, targets, last):
    """Return the node of a loss beside softmax with cross-entropy, after its backward pass."""
    pixels = logits.ndim == 4
    criterion = layers.SoftmaxCrossEntropy(ignore_index=IGNORED) if pixels else type(loss)()
    value = criterion.forward(logits, targets)
    network.zero_grad()
    tape.backward(np.asarray(criterion.backward()), last)
    node = Node(len(tape.nodes), "loss", "PixelLoss" if pixels else type(loss).__name__, [last])
    node.keep("y", np.array([[value]]))
    node.keep("p", criterion.probabilities if pixels else loss.answers(logits))
    node.keep("target", targets)
    return node


def _kind(layer):
    """Return (the name of a layer's kind on the page, whether the page can only show its values)."""
    cls = type(layer)
    if layers.layer_types().get(cls.__name__) is not cls:
        own = cls.__name__ in kinds()
        return f"{cls.__name__} ({cls.__module__})" if own else cls.__name__, True
    return cls.__name__, cls.__name__ not in kinds()


def _parameters(layer, prefix=""):
    """Yield (name, parameter) of a layer and, where it holds layers, of those."""
    if not layer.children():
        yield from ((prefix + p.name, p) for p in layer.parameters())
    for name, child in layer.children():
        yield from _parameters(child, f"{prefix}{name}.")


class _Tape:
    """The nodes so far and, for each, the function that takes dy to the gradients of its inputs."""

    def __init__(self, training: bool):
        self.training = training
        self.nodes: list[Node] = []
        self._backward = []

    def image(self, x) -> int:
        return self._add("image", "Input", [], x, lambda dy: [])

    def _add(self, name, kind, inputs, y, backward) -> int:
        self.nodes.append(Node(len(self.nodes), name, kind, inputs))
        self.nodes[-1].keep("y", y)
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
            case layers.Graph:
                return self._graph(layer, x, source)
        return self._leaf(layer, x, source)

    def _graph(self, layer, x, source):
        ends = [(x, source)]
        for k, (path, read) in enumerate(zip(layer.paths, layer.inputs, strict=True)):
            values, inputs = [ends[i][0] for i in read], [ends[i][1] for i in read]
            y, at = values[0], inputs[0]
            if layer.joins[k]:
                y = layer.join(operations(), k, values)
                kept = layer.factors(k, values)

                def back(dy, k=k, kept=kept):
                    return layer.fork(operations(), k, dy, kept)

                kind = {"add": "Add", "concat": "Concat", "mul": "Mul"}[layer.joins[k]]
                at = self._add(f"{layer.name}.joins.{k}", kind, inputs, y, back)
            ends.append(self.run(path.layers, y, at))
        return ends[-1]

    def _leaf(self, layer, x, source):
        kind, values_only = _kind(layer)
        buffers = {name: value.copy() for name, value in layer.buffers().items() if value.dtype.kind == "f"}
        normalises = isinstance(layer, layers.BatchNorm1d | layers.BatchNorm2d)
        # one value a channel has no variance to speak of: there even training mode keeps the running ones
        batch = self.training and normalises and x.size > x.shape[1]
        drops = self.training and isinstance(layer, layers.Dropout) and len(x) > 1
        state = {name: value.copy() for name, value in layer.buffers().items()} if drops else {}
        y = layer.forward(x, training=batch or drops)
        at = self._add(layer.name, kind, [source], y, lambda dy: [layer.backward(dy)])
        node = self.nodes[at]
        node.values_only = values_only
        for name in (*_GEOMETRY, *_SETTINGS):
            if hasattr(layer, name):
                value = getattr(layer, name)
                node.attributes[name] = None if value in (float("inf"), -float("inf")) else value
        if drops:
            node.keep("mask", np.asarray(layer.backward(np.ones(x.shape, np.float32))))
            for name, value in state.items():
                layer.buffers()[name][...] = value
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
            node.keep("dy", dy)
            for source, dx in zip(node.inputs, self._backward[node.id](dy), strict=True):
                if node.values_only:
                    node.keep("dx0", dx)
                arrived[source] = operations().add(arrived[source], dx) if source in arrived else dx
            for name in node.parameters:
                node.stored["d" + name] = np.array(node.stored["d" + name], np.float32)
