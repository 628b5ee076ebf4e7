"""The network under examination: its first batch, its steps, and the way back to where it was."""

import math
from dataclasses import dataclass

import numpy as np

from cnn.data import Split
from cnn.layers import Dropout, ReLU, Sigmoid, Tanh
from cnn.trace import listening
from cnn.training import experiment

BATCH, FEW = 128, 32  # images for the statistics, and for the short training runs


@dataclass(frozen=True)
class Vitals:
    """One layer in one step: its output y, the gradient dy that reached it, its weights.

    ``dead`` and ``saturated`` are shares of units and of values (None where the layer has no such thing);
    ``gradients`` holds the norm of each parameter's gradient divided by the norm of the parameter.
    """

    name: str
    kind: str
    finite: bool
    spread: float  # standard deviation of y
    dead: float | None
    saturated: float | None
    dy_finite: bool
    gradients: dict


class Patient:
    """A network with its data, loss and optimizer, as a training run would start with.

    ``x, labels`` are up to 128 training images, ``few_x, few_labels`` 32 of them that all differ.
    """

    def __init__(self, config, images, network=None):
        self.config, self.images = config, images
        self.classes = len(images.classes)
        chosen = _choose(images.train, BATCH, config.seed)
        batches = experiment.evaluation_batches(config, chosen, images.mean, images.std)
        self.x = np.concatenate([x for x, _ in batches.epoch(0)])
        self.labels = chosen.labels
        self.network = (
            experiment.build_network(config, batches.image_shape, self.classes)
            if network is None
            else network
        )
        if network is None:
            experiment.whiten_network(config, self.network, images)
        experiment.build_groups(config, self.network)
        different = np.unique(self.x.reshape(len(self.x), -1), axis=0, return_index=True)[1]
        few = np.sort(different)[:FEW]
        self.few_x, self.few_labels = self.x[few], self.labels[few]
        self.loss, self.kind = experiment.build_loss(config, self.classes, images.scale), images.kind
        self.leaves = [(name, layer) for name, layer in self.network.walk() if not layer.children()]
        self._start = {name: array.copy() for name, array in self.network.state().items()}
        self._dropouts = [(layer, layer.p) for _, layer in self.leaves if isinstance(layer, Dropout)]
        for layer, _ in self._dropouts:
            layer.p = 0.0  # what is measured here should not depend on which units chance drops

    def rewind(self):
        """Put parameters and buffers back to where they started."""
        for name, array in self.network.state().items():
            array[...] = self._start[name]
        self.network.zero_grad()

    def restore(self):
        """Give the network back as it was."""
        self.rewind()
        for layer, p in self._dropouts:
            layer.p = p

    def optimizer(self, factor=1.0):
        """Return a fresh optimizer of the config with its learning rate multiplied."""
        optimizer = experiment.build_optimizer(self.config, self.network)
        optimizer.lr = optimizer.lr * factor
        return optimizer

    def gradient(self, x, labels):
        """Leave the gradient of these images in the parameters; return (loss, logits)."""
        logits = np.asarray(self.network.forward(x, training=True))
        loss = self.loss.forward(logits, labels)
        self.network.zero_grad()
        self.network.backward(self.loss.backward())
        return loss, logits

    def step(self, optimizer):
        """Train one step on the few images; return (loss, wrong answers) before it."""
        loss, logits = self.gradient(self.few_x, self.few_labels)
        if math.isfinite(loss):
            optimizer.step()
        return loss, int(self.kind.missed(logits, self.few_labels, self.loss).sum())

    def observe(self):
        """Return (loss, logits, Vitals of every layer) of one forward and backward of the batch."""
        seen = {name: {} for name, _ in self.leaves}

        def forward(name, layer, x, y):
            seen[name].update(_output_statistics(layer, np.asarray(y)))

        def backward(name, layer, dy, dx):
            seen[name]["dy_finite"] = bool(np.isfinite(np.asarray(dy)).all())

        with listening(self.leaves, forward, backward):
            logits = np.asarray(self.network.body.forward(self.x, training=True))
            loss = self.loss.forward(logits, self.labels)
            self.network.zero_grad()
            self.network.body.backward(self.loss.backward())
        vitals = [
            Vitals(name, type(layer).__name__, **seen[name], gradients=_gradients(layer))
            for name, layer in self.leaves
        ]
        return loss, logits, vitals


def _output_statistics(layer, y):
    dead = saturated = None
    if isinstance(layer, ReLU):
        dead = float((y.max(axis=(0, *range(2, y.ndim))) <= 0).mean())
    elif isinstance(layer, Sigmoid):
        saturated = float((4 * y * (1 - y) < 0.04).mean())  # slope below 4 % of the steepest
    elif isinstance(layer, Tanh):
        saturated = float((1 - y * y < 0.04).mean())
    return {
        "finite": bool(np.isfinite(y).all()),
        "spread": float(y.std(dtype=np.float64)),
        "dead": dead,
        "saturated": saturated,
    }


def _gradients(layer):
    """Return the norm of each trainable parameter's gradient, in units of the parameter's own norm."""
    found = {}
    for p in filter(lambda p: p.trainable, layer.parameters()):
        size, gradient = np.linalg.norm(p.data.ravel()), np.linalg.norm(p.grad.ravel())
        found[p.name] = float(gradient / size) if size else float(gradient)
    return found


def _choose(split, count, seed):
    """Return ``count`` images of a split drawn from the seed, or all of them."""
    order = np.random.default_rng(seed).permutation(len(split))[:count]
    return Split(split.images[order], split.labels[order])
