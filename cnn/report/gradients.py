"""How long each layer's gradient is while a network trains."""

import math

import numpy as np

_MOST_ROWS = 200


def interval(steps_per_epoch, epochs):
    """Return after how many steps gradients are recorded again: at most 8 times an epoch."""
    times = max(1, min(8, _MOST_ROWS // max(1, epochs)))
    return max(1, math.ceil(steps_per_epoch / times))


def layer_names(network):
    """Return the names of the layers with parameters, such as "3 Conv2d"."""
    return [f"{name} {type(layer).__name__}" for name, layer in _layers(network)]


def layer_norms(network):
    """Return the Euclidean norm of each layer's gradient, rounded to four digits."""
    squares = [
        sum(float(np.square(p.grad, dtype=np.float64).sum()) for p in layer.parameters())
        for _, layer in _layers(network)
    ]
    return [float(f"{math.sqrt(square):.4g}") for square in squares]


def table(network, rows):
    """Return the text of gradients.csv from rows [epoch, norm, norm, ...]."""
    header = ",".join(["epoch", *layer_names(network)])
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def _layers(network):
    return [(name, layer) for name, layer in network.walk() if not layer.children() and layer.parameters()]
