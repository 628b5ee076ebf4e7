"""The gradient of a batch as a sum over micro-batches, in an order that any number of processes keeps to.

    loss = (1/W) sum over micro-batches b of L[b],        gradient = sum over b of d(L[b] / W)/dw

L[b] is the sum of the losses of the images of b and W the number of images of the whole batch, or the sum of
their class weights. A process computes its micro-batches, neighbours in the batch, in one pass: what becomes
of an image has the same bits wherever it is computed, and so have the sums over the images of a micro-batch;
the order of ``cnn.parallel.sums`` keeps the bits of the sum over them. Statistics of the batch are combined
from those of blocks of sixteen images, which all processes tell each other.
"""

import statistics
import time

import numpy as np

from cnn.errors import ConfigError
from cnn.layers import SoftmaxCrossEntropy
from cnn.parallel.share import Share

DEFAULT = 16  # images, the lanes of the kernels
SLOW = 1.5
NOTICED = 1.0  # seconds of an epoch: what took less says nothing about a process


class MicroBatches:
    """Forward and backward of a batch, each process of a team its share of the micro-batches.

    Parameters
    ----------
    network : Network, built
    loss : SoftmaxCrossEntropy
        Of the batch, with reduction "mean".
    size : int
        Images in a micro-batch, a multiple of 16; the last one of a batch may have fewer.
    team : `cnn.parallel.team.Alone` or Ranks
    batch_norm : {"batch", "rank"}
        What BatchNorm takes its statistics of: the whole batch, or each process's share of it; then the
        running statistics of the first process are those of all.
    backend : str
        Of the training.

    Raises ConfigError for a backend, a loss or a layer whose sums over images are not known here.
    """

    def __init__(self, network, loss, size, team, batch_norm="batch", backend="numba"):
        if backend != "numba":
            raise ConfigError(f'train.micro_batch and mpiexec: expected backend "numba", found "{backend}"')
        if type(loss) is not SoftmaxCrossEntropy:
            raise ConfigError(f"train.micro_batch: expected SoftmaxCrossEntropy, found {type(loss).__name__}")
        if size % DEFAULT:
            raise ConfigError(f"train.micro_batch: expected a multiple of {DEFAULT}, found {size}")
        for name, layer in network.walk():
            facts = vars(type(layer))  # what a class says of itself, not what it inherits
            if not (facts.get("pure") or facts.get("role")):
                raise ConfigError(
                    f"train.micro_batch: layer {name} ({type(layer).__name__}) is not pure, so its gradient "
                    "cannot be taken apart; train by one process without micro-batches"
                )
        self.network, self.size, self.team = network, size, team
        self._common = batch_norm == "batch"
        self._seconds, self._images = np.zeros(team.size), np.zeros(team.size)
        norms = [layer for _, layer in network.walk() if getattr(layer, "role", "") == "normalisation"]
        self._running = [array for layer in norms for array in layer.buffers().values()]
        self._weight, self._shares = loss.class_weight, {}
        self._loss = SoftmaxCrossEntropy(
            loss.label_smoothing, None if self._weight is None else self._weight.tolist(), "sum"
        )

    def gradient(self, x, labels, signum=None):
        """Compute the gradient of a batch; return (loss, right answers, signal that any process has got)."""
        begin, before = time.perf_counter(), self.team.waited
        share, network = self._share(len(labels)), self.network
        mine = slice(share.first, share.stop)
        divisor = np.float32(self._divisor(labels))
        logits = np.asarray(network.forward(x[mine], training=True, share=share))
        if not self._common:
            self.team.follow_first(self._running)
        self._loss.forward(logits, labels[mine])
        network.zero_grad()
        network.backward(self._loss.backward() / divisor, input_gradient=False)
        share.total()
        answers = labels[mine] if labels.ndim == 1 else labels[mine].argmax(axis=1)
        right = np.count_nonzero(logits.argmax(axis=1) == answers)
        seconds = time.perf_counter() - begin - (self.team.waited - before)
        losses, right, signum, seconds = share.tell(self._loss.losses, right, signum or 0, seconds)
        self._seconds += seconds
        self._images += share.computed
        return float(losses.sum()) / float(divisor), right, signum or None

    def slow_ranks(self):
        """Return a line on each process that took SLOW times as long an image as most, and begin anew."""
        lines, each = [], self._seconds / np.maximum(self._images, 1)
        usual = statistics.median_low(each)
        for rank in np.flatnonzero((each > SLOW * usual) & (self._seconds > NOTICED)):
            who = f"rank {rank} of {self.team.size} on {self.team.hosts[rank]}"
            times, seconds = each[rank] / usual, self._seconds[rank]
            lines.append(
                f"slow: {who} computes {times:.1f} times as long as most, {seconds:.1f} s of this epoch"
            )
        self._seconds[:] = self._images[:] = 0
        return lines

    def _share(self, images):
        """Return the share of a batch of so many images."""
        found = self._shares.get(images)
        if found is None or not found.fits(self.network):
            found = Share(self.network, images, self.size, self.team, self._common)
            self._shares[images] = found
        return found

    def _divisor(self, labels):
        if self._weight is None or labels.ndim != 1:
            return len(labels)
        return self._weight[labels].sum()
