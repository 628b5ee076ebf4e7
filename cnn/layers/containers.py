"""Layers made of layers: a list, a detour and a fork. Each backward is its forward walked the other way."""

from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.layer import LAYERS, Layer


class Container(Layer):
    """A layer whose parameters are its children's."""

    needs_build = True

    def parameters(self):
        return [p for _, layer in self.children() for p in layer.parameters()]


@LAYERS.register
class Sequential(Container):
    """Applies layers one after the other.

        y = f_k( ... f_2(f_1(x)))              dx = J_1^T (J_2^T ... (J_k^T dy))      (the chain rule)

    Parameters
    ----------
    layers : list of Layer

    Shapes
    ------
    x : what the first layer takes;  y : what the last layer returns
    """

    role = "list"

    def __init__(self, layers: list):
        self.layers = _check_layers(layers, "Sequential")

    def children(self):
        return [(str(index), layer) for index, layer in enumerate(self.layers)]

    def parameters(self):  # asked for in every step, so without the names
        return [p for layer in self.layers for p in layer.parameters()]

    def _build(self, input_shape, rng, dtype):
        for layer in self.layers:
            input_shape = layer.build(input_shape, rng, dtype)
        return input_shape

    def forward(self, x, training=False):
        for layer in self.layers:
            x = layer.forward(x, training)
        return self._keep(x)

    def backward(self, dy):
        _, dy = self._saved(dy)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only; it ends at the first layer that has any to train."""
        _, dy = self._saved(dy)
        layers = self.layers
        while layers and not layers[0].trainable:
            layers = layers[1:]
        for layer in reversed(layers[1:]):
            dy = layer.backward(dy)
        if layers:
            layers[0].backward_parameters(dy)

    def _describe(self):
        return ", ".join(map(repr, self.layers))


class _Branches(Container):
    """Paths side by side: x goes into each of them, and their ends are joined.

    y = join(path_1(x), path_2(x), ...)      dx = sum over paths of path.backward(its part of dy)
    """

    def paths(self):
        """Return the paths, a list of Sequential."""
        raise NotImplementedError

    def join(self, ops, ends):
        """Return y from what the paths returned."""
        raise NotImplementedError

    def fork(self, ops, dy):
        """Return the gradient of each path's end, a list."""
        raise NotImplementedError

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(self.join(operations(), [path.forward(x, training) for path in self.paths()]))

    def backward(self, dy):
        ops, dy = self._saved(dy)
        first, *others = [
            path.backward(part) for path, part in zip(self.paths(), self.fork(ops, dy), strict=True)
        ]
        for gradient in others:
            first = ops.add(first, gradient)
        return first

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only."""
        ops, dy = self._saved(dy)
        for path, part in zip(self.paths(), self.fork(ops, dy), strict=True):
            path.backward_parameters(part)


@LAYERS.register
class Residual(_Branches):
    """Adds a detour to a shortcut.

        y = body(x) + shortcut(x)              dx = body.backward(dy) + shortcut.backward(dy)

    The sum passes dy to both branches unchanged, and x feeds both, so their gradients add.

    Parameters
    ----------
    body : list of Layer
    shortcut : list of Layer
        Empty for the identity, y = body(x) + x.

    Shapes
    ------
    x : what the branches take;  y : what both return, which must be one shape

    References
    ----------
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
    """

    role = "sum"

    def __init__(self, body: list, shortcut: list | None = None):
        self.body, self.shortcut = Sequential(body), Sequential(shortcut or [])

    def children(self):
        return [("body", self.body), ("shortcut", self.shortcut)]

    def _build(self, input_shape, rng, dtype):
        shapes = [branch.build(input_shape, rng, dtype) for branch in (self.body, self.shortcut)]
        if shapes[0] != shapes[1]:
            raise ShapeError(
                f"{self.label}: body returns shape {shapes[0]}, shortcut {shapes[1]}; they must agree"
            )
        return shapes[0]

    def paths(self):
        return [self.body, self.shortcut]

    def join(self, ops, ends):
        return ops.add(*ends)

    def fork(self, ops, dy):
        return [dy, dy]

    def _describe(self):
        return f"body=[{self.body._describe()}], shortcut=[{self.shortcut._describe()}]"


@LAYERS.register
class Concat(_Branches):
    """Runs branches side by side and joins their channels.

        y = [branch_1(x), branch_2(x), ...] along axis 1
        dx = sum over b of branch_b.backward(the channels of dy that came from branch b)

    Parameters
    ----------
    branches : list of lists of Layer
        An empty list passes x through.

    Shapes
    ------
    x : what the branches take;  y : (N, C_1 + C_2 + ..., H, W) or (N, F_1 + F_2 + ...)

    References
    ----------
    Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842.
    """

    role = "branches"

    def __init__(self, branches: list[list]):
        if not isinstance(branches, (list, tuple)) or not branches:
            raise ConfigError("Concat branches: expected a list of at least one branch")
        self.branches = [b if isinstance(b, Sequential) else Sequential(_as_list(b)) for b in branches]

    def children(self):
        return [(f"branches.{index}", branch) for index, branch in enumerate(self.branches)]

    def _build(self, input_shape, rng, dtype):
        shapes = [branch.build(input_shape, rng, dtype) for branch in self.branches]
        if len({shape[1:] for shape in shapes}) > 1:
            raise ShapeError(
                f"{self.label}: branches return shapes {shapes}; they may differ in channels only"
            )
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def paths(self):
        return self.branches

    def join(self, ops, ends):
        return ops.concat(ends)

    def fork(self, ops, dy):
        return ops.split(dy, [branch.output_shape[0] for branch in self.branches])

    def _describe(self):
        return ", ".join(f"[{branch._describe()}]" for branch in self.branches)


def _as_list(layers):
    """Return one layer as a list of one."""
    return [layers] if isinstance(layers, Layer) else layers


def _check_layers(layers, kind):
    """Return ``layers`` as a list; raises ConfigError unless each is a Layer that stands there only once."""
    layers = list(_as_list(layers))
    for layer in layers:
        if not isinstance(layer, Layer):
            raise ConfigError(f"{kind}: expected layers, found {layer!r}")
    if len({id(layer) for layer in layers}) < len(layers):
        raise ConfigError(f"{kind}: one layer object stands in the list twice; make a new one for each place")
    return layers
