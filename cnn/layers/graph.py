"""A directed acyclic graph of layers: what branches in ways that Residual and Concat cannot say."""

from typing import Literal

from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.containers import Container, Sequential
from cnn.layers.layer import LAYERS


@LAYERS.register
class Graph(Container):
    """Runs paths one after the other; each takes the joined results of any before it.

        v_0 = x,     v_k = path_k(join_k(v_i, v_j, ...)) with i, j, ... < k,     y = v_last

    Backward walks the paths from the last to the first. What several paths read collects the gradients of
    all of them:

        dv_i = sum over the k that read v_i of (d join_k / dv_i)^T path_k.backward(dv_k)

    "add" passes the gradient to each input, "concat" to each its channels; "mul" (a and b, where an axis of
    size 1 is repeated) gives a the product with b, summed over the axes along which a was repeated.

    Parameters
    ----------
    paths : list of lists of Layer
        An empty list returns what was joined.
    inputs : list of lists of int
        The values that each path reads: 0 is x, k the result of path number k, counted from 1.
    joins : list of "", "add", "concat", "mul"
        How they are joined; "" where there is one.

    Shapes
    ------
    x : what the first path takes;  y : what the last path returns

    Errors
    ------
    ConfigError : lists of different lengths, a value that is not there yet, a result that nothing reads.
    ShapeError : shapes that cannot be joined.

    References
    ----------
    Huang et al., "Densely Connected Convolutional Networks", arXiv:1608.06993; Hu et al.,
    "Squeeze-and-Excitation Networks", arXiv:1709.01507: what needs "concat" of many, and "mul".
    """

    role = "graph"

    def __init__(
        self,
        paths: list[list],
        inputs: list[tuple[int, ...]],
        joins: list[Literal["", "add", "concat", "mul"]],
    ):
        if not isinstance(paths, (list, tuple)) or not paths:
            raise ConfigError("Graph paths: expected a list of at least one path")
        self.paths = [path if isinstance(path, Sequential) else Sequential(path) for path in paths]
        self.inputs = [(one,) if isinstance(one, int) else tuple(one) for one in inputs]
        self.joins = list(joins)
        if not len(self.paths) == len(self.inputs) == len(self.joins):
            raise ConfigError(
                f"Graph: expected as many inputs and joins as paths, found {len(self.paths)} paths, "
                f"{len(self.inputs)} inputs, {len(self.joins)} joins"
            )
        self._check()

    def _check(self):
        for k, (read, join) in enumerate(zip(self.inputs, self.joins, strict=True), 1):
            if not read or any(isinstance(i, bool) or not isinstance(i, int) for i in read):
                raise ConfigError(f"Graph inputs: path {k} expected numbers of values, found {read!r}")
            if min(read) < 0 or max(read) >= k:
                raise ConfigError(f"Graph inputs: path {k} expected values from 0 to {k - 1}, found {read}")
            expected = {"": [1], "mul": [2]}.get(join, range(2, 2 + len(read)))
            if join not in ("", "add", "concat", "mul") or len(read) not in expected:
                raise ConfigError(
                    f'Graph joins: path {k} expected "" for one value, "mul" for two, "add" or "concat" for '
                    f"two or more, found {join!r} of {len(read)}"
                )
        unread = set(range(len(self.inputs))) - {i for read in self.inputs for i in read}
        if unread:
            raise ConfigError(f"Graph inputs: value {min(unread)} is read by no path")

    def children(self):
        return [(f"paths.{k}", path) for k, path in enumerate(self.paths)]

    def _build(self, input_shape, rng, dtype):
        shapes = [input_shape]
        for path, read, join in zip(self.paths, self.inputs, self.joins, strict=True):
            joined = joined_shape(join, [shapes[i] for i in read])
            shapes.append(path.build(joined, rng, dtype))
        self._sizes = [shape[0] for shape in shapes]
        return shapes[-1]

    def forward(self, x, training=False):
        values, factors = [self._receive(x)], []
        for k, path in enumerate(self.paths):
            parts = [values[i] for i in self.inputs[k]]
            factors.append(self.factors(k, parts))
            values.append(path.forward(self.join(operations(), k, parts), training))
        return self._keep(values[-1], factors)

    def backward(self, dy):
        ops, dy, factors = self._saved(dy)
        arrived = [None] * len(self.paths) + [dy]
        for k in range(len(self.paths) - 1, -1, -1):
            dv = self.paths[k].backward(arrived.pop())
            for i, part in zip(self.inputs[k], self.fork(ops, k, dv, factors[k]), strict=True):
                arrived[i] = part if arrived[i] is None else ops.add(arrived[i], part)
        return arrived[0]

    def join(self, ops, k, parts):
        """Return what path number k (from 0) takes, from the values that it reads."""
        if self.joins[k] == "concat":
            return ops.concat(parts)
        joined = parts[0]
        for part in parts[1:]:
            joined = ops.multiply(joined, part) if self.joins[k] == "mul" else ops.add(joined, part)
        return joined

    def factors(self, k, parts):
        """Return what ``fork`` needs of the values that path number k reads: those of a product."""
        return tuple(parts) if self.joins[k] == "mul" else ()

    def fork(self, ops, k, dv, factors):
        """Return the gradient of each value that path number k reads, from that of their join."""
        if self.joins[k] == "concat":
            return ops.split(dv, [self._sizes[i] for i in self.inputs[k]])
        if self.joins[k] == "mul":
            a, b = factors
            return [ops.multiply_backward(dv, b, a.shape), ops.multiply_backward(dv, a, b.shape)]
        return [dv for _ in self.inputs[k]]

    def _describe(self):
        parts = []
        for path, read, join in zip(self.paths, self.inputs, self.joins, strict=True):
            parts.append(f"{join}({', '.join(map(str, read))}) -> [{path._describe()}]")
        return "; ".join(parts)


def joined_shape(join, shapes):
    """Return the shape that "", "add", "concat" or "mul" gives; raises ShapeError where shapes do not fit."""
    if join == "" or (join == "add" and len(set(shapes)) == 1):
        return shapes[0]
    if join == "concat" and len({shape[1:] for shape in shapes}) == 1:
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if join == "mul" and len({len(shape) for shape in shapes}) == 1:
        pairs = list(zip(*shapes, strict=True))
        if all(a == b or 1 in (a, b) for a, b in pairs):
            return tuple(max(pair) for pair in pairs)
    raise ShapeError(f"{join}: the shapes {', '.join(map(str, shapes))} do not fit each other")
