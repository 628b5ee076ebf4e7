"""Whether a network still is what was planned or gathered: layers, their arguments, places of parameters."""

from itertools import chain

from cnn.layers.parameter import Changes


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
        self._described, self._changes = self._describe(), Changes.count

    def holds(self):
        """Whether nothing was added, removed, replaced, set or moved."""
        if [*map(id, chain.from_iterable(self._lists))] != self._members:
            return False
        if Changes.count != self._changes:
            now = Changes.count
            if self._describe() != self._described:
                return False
            self._changes = now
        return True

    def _describe(self):
        """What the layers are, what their public attributes refer to and where their parameters lie."""
        buffers = [p.buffer for p in self.parameters]  # each equal only to itself
        attributes = [
            [(k, _value(v)) for k, v in vars(layer).items() if not k.startswith("_")] for layer in self.layers
        ]
        return [*map(type, self.layers)], attributes, buffers


def _inside(layer):
    for _, child in layer.children():
        yield child
        yield from _inside(child)


def _value(value):
    return value if isinstance(value, (int, float, str, bool, tuple, type(None))) else id(value)
