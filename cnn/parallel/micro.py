"""The gradient of a batch as a sum over micro-batches, in an order that any number of processes keeps to.

    loss = (1/W) sum over micro-batches b of L[b],        gradient = sum over b of d(L[b] / W)/dw

L[b] is the sum of the losses of the images of b and W the number of images of the whole batch, or the sum of
their class weights. Each micro-batch is a pass of its own, so its bits are the same wherever it is computed;
`cnn.parallel.sums` keeps those of the sum.
"""

import numpy as np

from cnn.errors import ConfigError
from cnn.layers import Dropout, SoftmaxCrossEntropy
from cnn.parallel.sums import TreeSum, share

DEFAULT = 16  # images, the lanes of the kernels


class MicroBatches:
    """Forward and backward of a batch, micro-batch by micro-batch, each by one process of a team.

    Parameters
    ----------
    network : Network, built
    loss : SoftmaxCrossEntropy
        Of the batch, with reduction "mean".
    size : int
        Images in a micro-batch; the last one of a batch may have fewer.
    batch_size : int
    team : `cnn.parallel.team.Alone` or Ranks

    Raises ConfigError for a layer with statistics of the batch, which would be those of a micro-batch.
    """

    def __init__(self, network, loss, size, batch_size, team):
        if type(loss) is not SoftmaxCrossEntropy:
            raise ConfigError(f"train.micro_batch: expected SoftmaxCrossEntropy, found {type(loss).__name__}")
        for name, layer in network.walk():
            if not layer.children() and layer.buffers() and not isinstance(layer, Dropout):
                raise ConfigError(
                    f"train.micro_batch: layer {name} ({type(layer).__name__}) needs statistics of the whole "
                    "batch; GroupNorm and LayerNorm do not; or train by one process without micro-batches"
                )
        self.network, self.size, self.team = network, size, team
        self._per_batch = -(-batch_size // size)
        self._dropouts = [layer for _, layer in network.walk() if isinstance(layer, Dropout)]
        self._weight = loss.class_weight
        self._loss = SoftmaxCrossEntropy(
            loss.label_smoothing, None if self._weight is None else self._weight.tolist(), "sum"
        )

    def gradient(self, x, labels, number, signum=None):
        """Compute the gradient of a batch; return (loss, right answers, signal that any process has got).

        ``number`` is that of the step: dropout draws from it and from the micro-batch.
        """
        images, network = len(labels), self.network
        count = -(-images // self.size)
        divisor = np.float32(self._divisor(labels))
        tree, mine = TreeSum(), []
        for b in range(*share(count, self.team.rank, self.team.size)):
            part = slice(b * self.size, (b + 1) * self.size)
            for layer in self._dropouts:
                layer.buffers()["state"][1] = number * self._per_batch + b
            logits = np.asarray(network.forward(x[part], training=True))
            loss = self._loss.forward(logits, labels[part])
            network.zero_grad()
            network.backward(self._loss.backward() / divisor, input_gradient=False)
            tree.add(b, 1, network.grad.copy())
            answers = labels[part] if labels.ndim == 1 else labels[part].argmax(axis=1)
            mine.append((loss, int(np.count_nonzero(logits.argmax(axis=1) == answers)), 0))
        for layer in self._dropouts:
            layer.buffers()["state"][1] = (number + 1) * self._per_batch
        self.team.total(tree, count, network.grad)
        told = self.team.share_out([*mine, (0.0, 0, signum or 0)])
        loss = sum(entry[0] for entry in told) / float(divisor)
        return loss, sum(entry[1] for entry in told), max(entry[2] for entry in told) or None

    def _divisor(self, labels):
        if self._weight is None or labels.ndim != 1:
            return len(labels)
        return self._weight[labels].sum()
