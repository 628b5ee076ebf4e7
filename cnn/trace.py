"""Who listens to each layer: what passes through the layers of a network, one by one."""

from contextlib import contextmanager


@contextmanager
def listening(layers, forward=None, backward=None, enter=None):
    """While this holds, call the listeners at each pass of each layer.

    Parameters
    ----------
    layers : iterable of (name, layer)
        For example ``network.walk()``.
    forward, backward : functions, optional
        ``forward(name, layer, x, y)`` and ``backward(name, layer, dy, dx)``, after the pass of a layer.
    enter : function, optional
        ``enter(name, layer, x)``, before the forward pass of a layer: nothing has written into x yet.

    The fast engine may run several layers as one, so what is to be heard is run as the plain walk:
    ``network.body.forward(x, training)`` and ``network.body.backward(dy)``.
    """
    shadowed = []
    try:
        for name, layer in layers:
            for method, wrap, listener in (
                ("forward", _entering, enter),
                ("forward", _forward, forward),
                ("backward", _backward, backward),
            ):
                if listener is not None:
                    shadowed.append((layer, method, vars(layer).get(method)))
                    # on this object alone; not by setattr, which counts as a change of the network
                    vars(layer)[method] = wrap(name, layer, getattr(layer, method), listener)
        yield
    finally:
        for layer, method, before in reversed(shadowed):
            if before is None:
                del vars(layer)[method]
            else:
                vars(layer)[method] = before


def _entering(name, layer, function, listener):
    def forward(x, training=False):
        listener(name, layer, x)
        return function(x, training)

    return forward


def _forward(name, layer, function, listener):
    def forward(x, training=False):
        y = function(x, training)
        listener(name, layer, x, y)
        return y

    return forward


def _backward(name, layer, function, listener):
    def backward(dy):
        dx = function(dy)
        listener(name, layer, dy, dx)
        return dx

    return backward
