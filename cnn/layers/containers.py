"""Layers made of layers: a list, a detour and a fork. Each backward is its forward walked the other way."""

from cnn.backend import current_backend, operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.layer import LAYERS, Layer


class _Container(Layer):
    """A layer whose parameters are its children's."""

    needs_build = True

    def parameters(self):
        return [p for _, layer in self.children() for p in layer.parameters()]


@LAYERS.register
class Sequential(_Container):
    """Applies layers one after the other.

        y = f_k( ... f_2(f_1(x)))              dx = J_1^T (J_2^T ... (J_k^T dy))      (the chain rule)

    Parameters
    ----------
    layers : list of Layer

    Shapes
    ------
    x : what the first layer takes;  y : what the last layer returns
    """

    #: What runs instead of the layers under the numba backend; see ``cnn.fast.fused``.
    steps = None

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
        steps = self._current_steps()
        for step in steps:
            x = step.forward(x, training)
        return self._keep(x, steps)

    def backward(self, dy):
        _, dy, steps = self._saved(dy)
        for step in reversed(steps):
            dy = step.backward(dy)
        return dy

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only; it ends at the first step that has any to train."""
        self._walk_back(dy, keep=True)

    def backward_once(self, dy):
        """Like ``backward_parameters``, but what forward kept is given back step by step on the way."""
        self._walk_back(dy, keep=False)
        self._forget()

    def _walk_back(self, dy, keep):
        _, dy, steps = self._saved(dy)
        while steps and not steps[0].trainable:
            steps = steps[1:]
        for index, step in enumerate(reversed(steps[1:])):
            if keep:
                dy = step.backward(dy)
                continue
            ours = index > 0  # the first dy is the caller's
            dy = step.backward_over(dy) if ours and hasattr(step, "backward_over") else step.backward(dy)
            step._forget()  # its memory serves the gradients that follow
        if steps:
            steps[0].backward_parameters(dy)

    def _current_steps(self):
        """The layers, or the fused steps that stand for them where a network planned any."""
        return self.layers if self.steps is None or current_backend() != "numba" else self.steps

    def _forget(self):
        super()._forget()
        for step in self.steps or ():
            step._forget()

    def _describe(self):
        return ", ".join(map(repr, self.layers))


@LAYERS.register
class Residual(_Container):
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

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(
            operations().add(self.body.forward(x, training), self.shortcut.forward(x, training))
        )

    def backward(self, dy):
        ops, dy = self._saved(dy)
        return ops.add(self.body.backward(dy), self.shortcut.backward(dy))

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only."""
        _, dy = self._saved(dy)
        self.body.backward_parameters(dy)
        self.shortcut.backward_parameters(dy)

    def _describe(self):
        return f"body=[{self.body._describe()}], shortcut=[{self.shortcut._describe()}]"


@LAYERS.register
class Concat(_Container):
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

    def forward(self, x, training=False):
        x = self._receive(x)
        return self._keep(operations().concat([branch.forward(x, training) for branch in self.branches]))

    def backward(self, dy):
        ops, parts = self._parts(dy)
        gradients = [branch.backward(part) for branch, part in zip(self.branches, parts, strict=True)]
        total = gradients[0]
        for gradient in gradients[1:]:
            total = ops.add(total, gradient)
        return total

    def backward_parameters(self, dy):
        """Add to the gradients of the parameters only."""
        for branch, part in zip(self.branches, self._parts(dy)[1], strict=True):
            branch.backward_parameters(part)

    def _parts(self, dy):
        """Return the operations in use, and the channels of dy that came from each branch."""
        ops, dy = self._saved(dy)
        return ops, ops.split(dy, [branch.output_shape[0] for branch in self.branches])

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
