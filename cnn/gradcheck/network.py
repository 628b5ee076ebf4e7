"""Checks each layer of a network where it stands, its loss, and the whole."""

import numpy as np

from cnn.backend import get_threads, use_backend
from cnn.errors import ConfigError, did_you_mean
from cnn.gradcheck.difference import Frozen
from cnn.gradcheck.layer import check_layer
from cnn.gradcheck.report import Report
from cnn.layers import SoftmaxCrossEntropy
from cnn.trace import listening


class _Objective:
    """A loss, or a network and its loss, in the shape of a layer: y is the one number, dy its factor."""

    name = ""

    def __init__(self, loss, targets, network=None):
        self.loss, self.targets, self.network = loss, targets, network

    def forward(self, x, training):
        if self.network is not None:
            x = np.asarray(self.network.forward(x, training))
        return np.array([self.loss.forward(x, self.targets)])

    def backward(self, dy):
        dx = np.asarray(self.loss.backward()) * dy
        return dx if self.network is None else self.network.backward(dx)

    def parameters(self):
        return [] if self.network is None else self.network.parameters()

    def buffers(self):
        return {}

    def children(self):
        return [] if self.network is None else self.network.body.children()


def check_loss(loss, logits, targets, rng=None, **options):
    """Compare ``loss.backward`` with differences of ``loss.forward``; options, result as in check_layer."""
    labels = {"name": "loss", "kind": type(loss).__name__}
    return check_layer(_Objective(loss, targets), logits, rng, **{**labels, **options})


def check_network(
    network,
    x,
    labels,
    loss=None,
    *,
    layer=None,
    backends=("reference", "numba"),
    seed=0,
    entries=4,
    directions=2,
    step=1e-5,
):
    """Check each layer where it stands, the loss, and the network with its loss as a whole.

    Every layer receives the activations that reach it in the network, and the containers are checked as
    wholes and child by child. Layers with buffers (BatchNorm, Dropout, and what contains them) are checked
    in training and in evaluation mode. Before that all parameters are moved a little, since a weight of
    exactly 1 or a bias of exactly 0 hides a missing factor or term; afterwards the network is what it was.

    Parameters
    ----------
    network : Network
        Built in float64.
    x : array (N, *network.input_shape)
        A few images; three are enough.
    labels : (N,) int array
    loss : loss, optional
        ``SoftmaxCrossEntropy()`` unless given.
    layer : str, optional
        Only the layer of this name (``"3.body.0"``), ``"loss"`` or ``"network"``.
    backends : names of backends
    seed : int
    entries, directions, step
        As in check_layer.

    Raises
    ------
    ConfigError
        For a network that is not float64, or a layer that does not exist.
    """
    loss = SoftmaxCrossEntropy() if loss is None else loss
    layers = list(network.walk())
    names = [*(name for name, _ in layers), "loss", "network"]
    if layer is not None and layer not in names:
        known, hint = ", ".join(names), did_you_mean(layer, names)
        raise ConfigError(f'layer: found "{layer}", expected one of {known}.{hint}')
    dtypes = {p.dtype for p in network.parameters()}
    if dtypes - {np.dtype(np.float64)}:
        raise ConfigError(f"gradient check: expected a network built in float64, found {dtypes.pop()}")
    x, rng = np.asarray(x, np.float64), np.random.default_rng(seed)
    options = {"entries": entries, "directions": directions, "step": step}
    # fewer for a whole: its forward is long, and its tensors are checked in their own layers as well
    whole = {**options, "entries": 1, "directions": 1}
    # the whole at all threads, as in training; the reference has none, and needs no Numba
    threads = get_threads() if "numba" in backends else 1
    place_of_whole = {"name": "network", "kind": type(network).__name__, "threads": threads}
    state = {name: array.copy() for name, array in network.state().items()}
    found = []
    try:
        _move(network, x, rng)
        inputs, logits = {}, {}
        for mode in (True, False):
            inputs[mode], logits[mode] = _record(network, x, mode)
        for backend in backends:
            for name, part in layers:
                for mode in _modes(part) if layer in (None, name) else ():
                    place = {"training": mode, "backend": backend, "name": name}
                    size = whole if part.children() else options
                    found += check_layer(part, inputs[mode][name], rng, **place, **size)
            if layer in (None, "loss"):
                found += check_loss(loss, logits[True], labels, rng, backend=backend, **options)
            for mode in _modes(network.body) if layer in (None, "network") else ():
                place = {"training": mode, "backend": backend, **place_of_whole}
                size = whole if mode else {**whole, "entries": 0}
                found += check_layer(_Objective(loss, labels, network), x, rng, **place, **size)
    finally:
        for name, array in network.state().items():
            array[...] = state[name]
    return Report(found)


def _modes(layer):
    """Return the modes that differ: both where there are buffers, else only training."""
    if layer.buffers() or any(False in _modes(child) for _, child in layer.children()):
        return (True, False)
    return (True,)


def _move(network, x, rng):
    """Move parameters away from special values, and running statistics to those of real activations."""
    for p in network.parameters():
        p.data = p.data * rng.uniform(0.8, 1.2, p.shape) + 0.05 * rng.standard_normal(p.shape)
    with use_backend("reference"):
        for _ in range(2):
            network.forward(x, training=True)


def _record(network, x, training):
    """Return ({layer name: its input}, output) of one forward pass."""
    inputs, frozen = {}, Frozen(network.body, training)

    def hear(name, layer, x):
        inputs[name] = np.array(x, order="C")

    try:
        with use_backend("reference"), listening(network.walk(), enter=hear):
            output = frozen.forward(x)
    finally:
        frozen.restore()
    return inputs, output
