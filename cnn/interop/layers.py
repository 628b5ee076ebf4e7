"""Layers that only imported networks have: a general graph, and operators of other frameworks, in NumPy."""

import numpy as np

from cnn.backend import operations
from cnn.errors import ShapeError
from cnn.layers import Layer

JOINS = ("add", "concat", "mul")


class Graph(Layer):
    """Layers in a directed acyclic graph: what branches in ways that Residual and Concat cannot say.

        v_0 = x,   v_k = f_k(v_i, v_j, ...)  with i, j, ... < k,   y = v_last

    Backward walks the nodes from the last to the first. A value that several nodes read collects the
    gradients of all of them:

        dv_i = sum over the nodes k that read v_i of (df_k / dv_i)^T dv_k

    "add" passes dv_k to each input, "concat" each input its channels of it, "mul" (a and b, broadcast over
    axes of size 1) hands a the product dv_k * b, summed over the axes that were broadcast.

    Parameters
    ----------
    nodes : list of (Layer or "add", "concat", "mul", tuple of int)
        What is computed, and from which values; value 0 is x, value k the result of node k - 1.

    Shapes
    ------
    x : what the nodes take;  y : what the last node returns
    """

    needs_build = True

    def __init__(self, nodes: list):
        self.nodes = [(node, tuple(inputs)) for node, inputs in nodes]

    def children(self):
        return [(str(k), node) for k, (node, _) in enumerate(self.nodes) if isinstance(node, Layer)]

    def parameters(self):
        return [p for _, layer in self.children() for p in layer.parameters()]

    def _build(self, input_shape, rng, dtype):
        shapes = [input_shape]
        for node, inputs in self.nodes:
            found = [shapes[i] for i in inputs]
            joined = node in JOINS
            shapes.append(joined_shape(node, found) if joined else node.build(found[0], rng, dtype))
        self._sizes = [shape[0] for shape in shapes]
        return shapes[-1]

    def forward(self, x, training=False):
        values = [self._receive(x)]
        for node, inputs in self.nodes:
            found = [values[i] for i in inputs]
            values.append(_join(node, found) if node in JOINS else node.forward(found[0], training))
        return self._keep(values[-1], values)

    def backward(self, dy):
        ops, dy, values = self._saved(dy)
        gradients = [None] * len(self.nodes) + [dy]
        for k in range(len(self.nodes) - 1, -1, -1):
            (node, inputs), dv = self.nodes[k], gradients[k + 1]
            parts = self._fork(node, inputs, values, dv) if node in JOINS else [node.backward(dv)]
            for i, part in zip(inputs, parts, strict=True):
                gradients[i] = part if gradients[i] is None else ops.add(gradients[i], part)
        return gradients[0]

    def _fork(self, node, inputs, values, dv):
        if node == "add":
            return [dv for _ in inputs]
        if node == "concat":
            return operations().split(dv, [self._sizes[i] for i in inputs])
        dv, (a, b) = np.asarray(dv), (np.asarray(values[i]) for i in inputs)
        return [_sum_to(dv * b, a.shape), _sum_to(dv * a, b.shape)]


def joined_shape(node, shapes):
    """Return the shape that "add", "concat" or "mul" gives; raises ShapeError where the shapes do not fit."""
    if node == "concat" and len({shape[1:] for shape in shapes}) == 1:
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if node == "add" and len(set(shapes)) == 1:
        return shapes[0]
    if node == "mul" and len(shapes) == 2 and len(shapes[0]) == len(shapes[1]):
        pairs = list(zip(*shapes, strict=True))
        if all(a == b or 1 in (a, b) for a, b in pairs):
            return tuple(max(pair) for pair in pairs)
    raise ShapeError(f"{node}: the shapes {', '.join(map(str, shapes))} do not fit each other")


def _join(node, values):
    if node == "concat":
        return operations().concat(values)
    if node == "mul":
        return np.asarray(values[0]) * np.asarray(values[1])
    total = values[0]
    for value in values[1:]:
        total = operations().add(total, value)
    return total


def _sum_to(array, shape):
    """Return ``array`` summed over the axes that have size 1 in ``shape``."""
    axes = tuple(k for k, size in enumerate(shape) if size == 1 and array.shape[k] != 1)
    return array.sum(axis=axes, keepdims=True) if axes else array


class Clip(Layer):
    """Keeps values between two limits; 0 and 6 make ReLU6.

        y = min(max(x, low), high)             dx = dy where low < x < high, else 0

    Parameters
    ----------
    low, high : float

    Shapes
    ------
    x, y, dx, dy : any, the same
    """

    def __init__(self, low: float, high: float):
        self.low, self.high = float(low), float(high)

    def forward(self, x, training=False):
        x = np.asarray(self._receive(x))
        return self._keep(np.clip(x, self.low, self.high).astype(x.dtype), x)

    def backward(self, dy):
        _, dy, x = self._saved(dy)
        return np.asarray(dy) * ((x > self.low) & (x < self.high))

    def _describe(self):
        return f"{self.low:g}, {self.high:g}"


class HardSigmoid(Layer):
    """Sigmoid made of three lines.

        y = min(max(alpha * x + beta, 0), 1)        dx = alpha * dy where 0 < alpha * x + beta < 1, else 0

    Parameters
    ----------
    alpha, beta : float

    Shapes
    ------
    x, y, dx, dy : any, the same
    """

    def __init__(self, alpha: float = 1 / 6, beta: float = 0.5):
        self.alpha, self.beta = float(alpha), float(beta)

    def forward(self, x, training=False):
        x = np.asarray(self._receive(x))
        line = (self.alpha * x + self.beta).astype(x.dtype)
        return self._keep(np.clip(line, 0, 1), line)

    def backward(self, dy):
        _, dy, line = self._saved(dy)
        return (self.alpha * np.asarray(dy) * ((line > 0) & (line < 1))).astype(line.dtype)

    def _describe(self):
        return f"{self.alpha:g}, {self.beta:g}"


class HardSwish(Layer):
    """SiLU with a sigmoid made of three lines.

        y = x * min(max(x/6 + 1/2, 0), 1)
        dx = 0 where x <= -3, dy where x >= 3, else dy * (x/3 + 1/2)

    Shapes
    ------
    x, y, dx, dy : any, the same
    """

    def forward(self, x, training=False):
        x = np.asarray(self._receive(x))
        return self._keep((x * np.clip(x / 6 + 0.5, 0, 1)).astype(x.dtype), x)

    def backward(self, dy):
        _, dy, x = self._saved(dy)
        slope = np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + 0.5))
        return (np.asarray(dy) * slope).astype(x.dtype)


class LogSoftmax(Layer):
    """The logarithm of softmax over axis 1.

        y_i = x_i - log(sum over k of exp(x_k))         dx_i = dy_i - exp(y_i) * sum over k of dy_k

    Shapes
    ------
    x, y, dx, dy : (N, C) or (N, C, H, W)
    """

    def forward(self, x, training=False):
        x = np.asarray(self._receive(x))
        shifted = x - x.max(axis=1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return self._keep(y, y)

    def backward(self, dy):
        _, dy, y = self._saved(dy)
        dy = np.asarray(dy)
        return dy - np.exp(y) * dy.sum(axis=1, keepdims=True)
