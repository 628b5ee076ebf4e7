"""A few copies of the weights from the first step to the last, for `cnn explain --history`."""

import math

from cnn.errors import CheckpointError
from cnn.training import checkpoint
from cnn.training.header import SnapshotHeader, validated

__all__ = ["Snapshots", "read_snapshots"]

_AUTOMATIC = 8  # kept of a small network
_SMALL = 200_000  # parameters up to which a run keeps snapshots unasked


class Snapshots:
    """Writes the network's state at step 0, at the last step, and between them at times that double.

    Parameters
    ----------
    count : int or None
        How many, 0 for none; None keeps 8 of a network of up to 200,000 parameters.
    total_steps : int
    parameters : int
        Number of parameters of the network.
    """

    def __init__(self, count, total_steps, parameters):
        if count is None:
            count = _AUTOMATIC if parameters <= _SMALL else 0
        self.steps = _times(count, total_steps)

    def take(self, step, network, folder):
        """Write ``<step>.safetensors`` if the step is a chosen one; a resumed run writes it again."""
        if step in self.steps:
            folder.mkdir(exist_ok=True)
            checkpoint.save(folder / f"{step:08d}.safetensors", network.state(), {"step": step})


def _times(count, total):
    """Return ``count`` steps from 0 to ``total``, each about twice the one before."""
    if count <= 0:
        return frozenset()
    if count == 1:
        return frozenset([total])
    return frozenset([0, *(math.ceil(total / 2**k) for k in range(count - 1))])


def read_snapshots(folder):
    """Return [(step, state)] in order; CheckpointError where there are none or one cannot be read."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder}: found no snapshots; `cnn train --set train.snapshots=8` keeps them "
            "(of small networks it does so unasked)"
        )
    found = []
    for file in files:
        tensors, meta = checkpoint.load(file)
        found.append((validated(SnapshotHeader, meta, file).step, tensors))
    return found
