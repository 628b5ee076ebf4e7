"""The contract that every layer keeps."""

import inspect
import math

import numpy as np

from cnn.backend import operations
from cnn.errors import ConfigError, ShapeError
from cnn.layers.guard import Guarded, refuse_unknown
from cnn.layers.parameter import MOST_NUMBERS, Changes, Parameter
from cnn.registry import Registry

#: Every layer that a config can name; a config may also name one's own, as "package.module:Class".
LAYERS = Registry("layer", example="Conv2d")

_AXES = {"NCHW": 4, "NF": 2}


@LAYERS.base
class Layer(metaclass=Guarded):
    """A differentiable function with parameters.

        y = f(x; parameters)
        backward(dy) returns dx = (df/dx)^T dy and adds (df/dparameter)^T dy to each Parameter.grad

    ``build`` infers channel or feature counts and checks shapes before any data is read. A layer that is
    built already keeps its values in another ``build``, until ``reset``.
    ``forward`` keeps what backward needs, maybe ``x`` itself: leave ``x`` as it is until then. ``backward``
    leaves that alone, so one forward serves many backwards. Arrays are (N, C, H, W) or (N, F), any memory
    layout, float32 or float64; what comes back becomes NumPy through ``np.asarray``.

    Once the constructor has returned, setting an attribute that neither the object has nor the methods of
    its class mention is an AttributeError, and an array set in the place of a parameter or buffer is copied
    into it.

    Errors
    ------
    ArgumentError (a TypeError) : an argument that the constructor does not take.
    ShapeError (a ValueError) : an array or shape that the layer cannot take.
    RuntimeError : ``forward`` before ``build``, or ``backward`` before ``forward``.
    """

    #: Set by the network: where the layer stands, for example ``"3.body.0"``.
    name = ""
    #: Axes of the input: "NCHW", "NF" or "any".
    axes = "any"
    #: Whether it has parameters, buffers or layers: they fix its dtype and channels. Others work unbuilt.
    needs_build = False
    #: The argument of PyTorch's constructor that ``build`` infers here, and its place: ("in_features", 0).
    inferred = ("", 0)

    #: Facts for the fast engine. They hold for the class that states them in its own body: a subclass may
    #: compute something else, so it does not inherit them, and runs as itself unless it states its own.
    #:
    #: pure: forward and backward only call ``operations()`` on arrays; no arithmetic on values in Python, no
    #: random draws, so that their launches may be written down once and made again.
    pure = False
    #: What it may be fused as: "convolution", "linear", "normalisation", "activation" (then ``pointwise()``
    #: gives the name of its function in ``operations()`` and the function's parameter), "max_pool",
    #: "average_pool", "training_only" for what does nothing in evaluation; of containers "list", "sum" or
    #: "branches".
    #: A layer that keeps values between two numbers, and does nothing else, gives these by ``bounds()``.
    role = ""

    input_shape = None
    output_shape = None
    _cache = None
    _made = False  # whether the constructor has returned
    _given = {}  # noqa: RUF012 -- the arguments of the constructor; every object gets its own

    def __setattr__(self, name, value):
        if name[0] != "_":
            if self._made:
                value = self._checked_attribute(name, value)
            Changes.count += 1
        object.__setattr__(self, name, value)

    def _checked_attribute(self, name, value):
        """Return what setting a public attribute shall store; see the docstring of the class."""
        refuse_unknown(self, name, self.label)
        before = getattr(self, name, None)
        if not hasattr(value, "__array__"):
            return value
        if isinstance(before, Parameter):
            before.data = value
            return before
        if before is None and self.needs_build and not self.built:
            raise ShapeError(f"{self.label}: {name} exists after build(input_shape); set {name}.data then")
        if isinstance(before, np.ndarray) and any(before is array for array in self.buffers().values()):
            if np.shape(value) != before.shape:
                expected = f"expected shape {before.shape}, found {np.shape(value)}"
                raise ShapeError(f"{self.label}: {name}: {expected}")
            before[...] = value
            return before
        return value

    def __getstate__(self):  # what a forward pass kept is not part of a copy
        return {**vars(self), "_cache": None}

    # -- what a new layer writes ---------------------------------------------------------------

    def _build(self, input_shape, rng, dtype):
        """Create parameters; return the output shape."""
        return input_shape

    def forward(self, x, training=False):
        """Return y of shape (N, *output_shape)."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def backward(self, dy):
        """Return dx for the last forward; add to the gradients of the parameters."""
        raise TypeError(f"{type(self).__name__} defines no backward")

    def backward_parameters(self, dy):
        """Like ``backward``, where the gradient of the input is not needed: a layer may leave it out."""
        self.backward(dy)

    def parameters(self):
        """Return the trainable parameters in a fixed order."""
        return []

    def buffers(self):
        """Return the arrays that are state but are not trained, by name; they are updated in place."""
        return {}

    def children(self):
        """Return (name, layer) of the layers inside."""
        return []

    def macs(self):
        """Return the multiply-adds of one image's forward pass."""
        return sum(layer.macs() for _, layer in self.children())

    # -- what every layer shares ---------------------------------------------------------------

    @property
    def built(self):
        """Whether ``build`` has run."""
        return self.output_shape is not None

    @property
    def trainable(self):
        """Whether any parameter in here is to be trained now."""
        return any(p.trainable for p in self.parameters())

    @trainable.setter
    def trainable(self, value):
        if self.needs_build and not self.built:
            raise RuntimeError(f"{self.label}: trainable is set after build(input_shape)")
        for parameter in self.parameters():
            parameter.trainable = bool(value)

    @property
    def label(self):
        """The layer for an error message: its type, and its place once a network has given it one."""
        return f"{type(self).__name__} (layer {self.name})" if self.name else type(self).__name__

    def build(self, input_shape, rng=None, dtype=np.float32):
        """Create the parameters for inputs of ``input_shape`` (without the batch axis).

        ``rng=None`` stands for ``np.random.default_rng(0)``. What is built already keeps its parameters and
        buffers. Returns the output shape. Raises ShapeError when the shape does not fit, or what is built
        would need other shapes or another dtype for it; then the layer stays as it was.
        """
        input_shape = tuple(int(size) for size in input_shape)
        wanted = _AXES.get(self.axes)
        if wanted is not None and len(input_shape) != wanted - 1:
            raise ShapeError(
                f"{self.label}: expected an input of shape ({', '.join(self.axes[1:])}), found {input_shape}"
                + (". Put Flatten() before it." if self.axes == "NF" else "")
            )
        if min(input_shape, default=0) < 1:
            raise ShapeError(f"{self.label}: expected sizes of at least 1, found {input_shape}")
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise ShapeError(f"{self.label}: expected dtype float32 or float64, found {dtype}")
        self.forget()
        if self.built and not self.children() and (input_shape, dtype) == (self.input_shape, self._dtype):
            return self.output_shape
        kept = _Kept(self)
        self._made = False  # _build makes attributes as the constructor does
        try:
            output_shape = self._build(input_shape, np.random.default_rng(0) if rng is None else rng, dtype)
            if math.prod(output_shape) > MOST_NUMBERS:
                raise ShapeError(f"gives {output_shape}, more than {MOST_NUMBERS:,} numbers an image")
            kept.put_back(input_shape)
        except ShapeError as error:
            kept.undo()
            known = self.label in str(error) or any(child.label in str(error) for _, child in self.children())
            if known or type(self).__name__ in str(error):
                raise
            raise ShapeError(f"{self.label}: {error}, input shape {input_shape}") from None
        finally:
            self._made = True
        self.input_shape, self.output_shape, self._dtype = input_shape, output_shape, dtype
        return output_shape

    def reset(self):
        """Forget what was learnt: the next ``build`` draws new values, for any input shape."""
        self.forget()
        self.input_shape = self.output_shape = None
        for _, layer in self.children():
            layer.reset()

    def forget(self):
        """Drop what forward kept."""
        self._cache = None
        for _, layer in self.children():
            layer.forget()

    def zero_grad(self):
        """Set the gradients of all parameters to zero."""
        for parameter in self.parameters():
            parameter.grad[...] = 0

    def _receive(self, x):
        """Check the input of forward; bring it to the dtype of build, if the layer has numbers of its own."""
        if self.needs_build and not self.built:
            raise RuntimeError(f"{self.label}: forward was called before build(input_shape)")
        if not hasattr(x, "dtype"):
            x = np.asarray(x)
        dtype = self._dtype if self.needs_build else x.dtype
        if dtype not in (np.float32, np.float64):
            dtype = np.dtype(np.float32)
        if x.dtype != dtype:
            x = np.asarray(x).astype(dtype)
        wanted = _AXES.get(self.axes)
        if (wanted is not None and x.ndim != wanted) or x.ndim < 2:
            axes = ", ".join(self.axes) if wanted else "N, F, ..."
            raise ShapeError(f"{self.label}: expected an input with axes ({axes}), found shape {x.shape}")
        if x.shape[0] < 1:
            raise ShapeError(f"{self.label}: expected at least one image, found shape {x.shape}")
        if self.needs_build and x.shape[1] != self.input_shape[0]:
            what = "features" if x.ndim == 2 else "channels"
            raise ShapeError(
                f"{self.label}: built for {self.input_shape[0]} {what}, found an input of shape {x.shape}"
            )
        return x

    def _keep(self, y, *values):
        """Remember the operations in use, the shape and dtype of y, and ``values`` for backward; return y."""
        self._cache = (operations(), y.shape, y.dtype, *values)
        return y

    def _saved(self, dy):
        """Return (operations, dy, *values) of the last forward, dy being checked."""
        if self._cache is None:
            raise RuntimeError(f"{self.label}: backward was called before forward")
        ops, shape, dtype, *values = self._cache
        if not hasattr(dy, "dtype"):
            dy = np.asarray(dy)
        if tuple(dy.shape) != tuple(shape):
            raise ShapeError(
                f"{self.label}: backward expected dy of shape {tuple(shape)}, found {tuple(dy.shape)}"
            )
        if dy.dtype != dtype:
            dy = np.asarray(dy).astype(dtype)
        return ops, dy, *values

    def spec(self):
        """Return the description that makes such a layer again: ``{"type": "Linear", "out_features": 10}``.

        It has the arguments of the constructor as they were given, or the attribute of the same name where
        that was changed later; ``cnn.layers.from_config`` reads it. Raises ConfigError for an argument that
        JSON cannot hold.
        """
        entries = {"type": LAYERS.name_of(type(self))}
        for name, (value, attribute) in self._given.items():
            now = getattr(self, name, None)
            if isinstance(now, (int, float, str, tuple)) and now != attribute:
                value = now
            if value is not inspect.Parameter.empty:
                entries[name] = self._described(name, now if _holds_layers(now) else value)
        return entries

    def _described(self, name, value):
        """Return an argument as JSON has it, layers as their descriptions."""
        if isinstance(value, Layer):
            return [layer.spec() for layer in value.layers] if hasattr(value, "layers") else value.spec()
        if isinstance(value, (list, tuple)):
            return [self._described(name, part) for part in value]
        if isinstance(value, np.generic):
            value = value.item()
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise ConfigError(
                f"{self.label}: {name}: found {type(value).__name__}, expected numbers or words: "
                "a file cannot hold it"
            )
        return value

    def __repr__(self):
        return f"{type(self).__name__}({self._describe()})"

    def _describe(self):
        """Return the constructor arguments in short, for repr and summary."""
        return ""


def _holds_layers(value):
    return isinstance(value, Layer) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(part, Layer) for part in value)
    )


class _Kept:
    """What a built layer holds, to survive another build."""

    def __init__(self, layer):
        self.layer, self.attributes = layer, dict(vars(layer))
        leaf = layer.built and not layer.children()
        self.parameters = layer.parameters() if leaf else []
        buffers = layer.buffers() if leaf else {}
        self.buffers = {name: (array, array.copy()) for name, array in buffers.items()}

    def put_back(self, input_shape):
        """Put the parameters and the values of the buffers back; ShapeError where the new ones differ."""
        if not self.parameters and not self.buffers:
            return
        fresh, buffers = self.layer.parameters(), self.layer.buffers()
        for new, old in zip(fresh, self.parameters, strict=True):
            self._compare(new.name, new, old, input_shape)
        for name, (_, values) in self.buffers.items():
            self._compare(name, buffers[name], values, input_shape)
        for new, old in zip(fresh, self.parameters, strict=True):
            names = [name for name, value in vars(self.layer).items() if value is new]
            for name in names:
                setattr(self.layer, name, old)
            if not names:  # it stands in a list of the layer's own
                new.data = old.data
        for name, (_, values) in self.buffers.items():
            buffers[name][...] = values

    def _compare(self, name, new, old, input_shape):
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ShapeError(
                f"{self.layer.label}: is built, with {name} of shape {old.shape} ({old.dtype}); input shape "
                f"{input_shape} needs {new.shape} ({new.dtype}). reset() forgets what was learnt"
            )

    def undo(self):
        """Make the layer what it was."""
        vars(self.layer).clear()
        vars(self.layer).update(self.attributes)
        for array, values in self.buffers.values():
            array[...] = values
