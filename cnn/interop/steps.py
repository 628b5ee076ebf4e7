"""A built network as a flat list of steps, which every export walks: containers are taken apart."""

from dataclasses import dataclass

from cnn.errors import ConfigError
from cnn.layers import Layer, layer_types

INPUT = "input"


@dataclass(frozen=True)
class Step:
    """One operation.

    Parameters
    ----------
    kind : str
        The layer's type, or "Add", "Join" and "Mul" for what Residual, Concat and Graph join results with.
    name : str
        The layer's place in the network, for example "3.body.0"; it names the result as well.
    inputs : tuple of str
        Names of the results that it takes; ``INPUT`` is the network's input.
    shapes : tuple of tuples
        Their shapes without the batch axis.
    shape : tuple
        Shape of the result without the batch axis.
    layer : Layer or None
    """

    kind: str
    name: str
    inputs: tuple
    shapes: tuple
    shape: tuple
    layer: Layer | None = None


def list_steps(network):
    """Return the steps of a built network in the order in which they run.

    Raises ConfigError for a layer that is none of ``cnn.layers``: only its own code knows what it computes.
    """
    steps = []
    _walk(network.body, INPUT, steps)
    return steps


def last_value(steps):
    """Return the name of the network's result."""
    return steps[-1].name if steps else INPUT


def _walk(layer, value, steps):
    """Append what ``layer`` does to ``value``; return the name of its result."""
    kind = type(layer).__name__
    if layer_types().get(kind) is not type(layer):
        raise ConfigError(f"{layer.label}: it is no layer of cnn.layers, so it cannot be exported")
    if kind == "Sequential":
        for child in layer.layers:
            value = _walk(child, value, steps)
        return value
    if kind in ("Residual", "Concat"):
        branches = [child for _, child in layer.children()]
        inputs = tuple(_walk(branch, value, steps) for branch in branches)
        joined = "Add" if kind == "Residual" else "Join"
        shapes = tuple(branch.output_shape for branch in branches)
        steps.append(Step(joined, layer.name, inputs, shapes, layer.output_shape))
        return layer.name
    if kind == "Graph":
        return _walk_graph(layer, value, steps)
    steps.append(Step(kind, layer.name, (value,), (layer.input_shape,), layer.output_shape, layer))
    return layer.name


def _walk_graph(layer, value, steps):
    values, shapes = [value], [layer.input_shape]
    for k, (path, read, join) in enumerate(zip(layer.paths, layer.inputs, layer.joins, strict=True)):
        value = values[read[0]]
        if join:
            kind, name = _JOINS[join], f"{layer.name}.joins.{k}"
            inputs, found = tuple(values[i] for i in read), tuple(shapes[i] for i in read)
            steps.append(Step(kind, name, inputs, found, path.input_shape))
            value = name
        values.append(_walk(path, value, steps))
        shapes.append(path.output_shape)
    return values[-1]


_JOINS = {"add": "Add", "concat": "Join", "mul": "Mul"}
