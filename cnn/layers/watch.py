"""Whether a network still is what was planned or gathered: layers, their arguments, places of parameters."""

from itertools import chain
from operator import attrgetter

from cnn.layers.layer import Changes

_buffer = attrgetter("buffer")


class Watch:
    """What a body of layers is now; ``holds()`` tells whether it still is that.

    Parameters
    ----------
    body : Sequential, built
    """

    def __init__(self, body):
        self.layers = [body, *_inside(body)]
        self.parameters = body.parameters()
        self._lists = [layer.layers for layer in self.layers if hasattr(layer, "layers")]
        self._members = [*map(id, chain.from_iterable(self._lists))]
        self._buffers = [*map(_buffer, self.parameters)]
        self._described, self._changes = _describe(self.layers), Changes.count

    def holds(self):
        """Whether nothing was added, removed, replaced, set or moved."""
        if [*map(id, chain.from_iterable(self._lists))] != self._members:
            return False
        if [*map(_buffer, self.parameters)] != self._buffers:
            return False
        if Changes.count != self._changes:
            now = Changes.count
            if _describe(self.layers) != self._described:
                return False
            self._changes = now
        return True


def _inside(layer):
    for _, child in layer.children():
        yield child
        yield from _inside(child)


def _describe(layers):
    """What the layers are and what their public attributes refer to."""
    return [
        (type(layer), *((k, _value(v)) for k, v in vars(layer).items() if not k.startswith("_")))
        for layer in layers
    ]


def _value(value):
    return value if isinstance(value, (int, float, str, bool, tuple, type(None))) else id(value)
