"""How much memory training will need, from shapes alone.

    program       what Python, NumPy and the compiled kernels take before any data come
    parameters    values and gradients, and the optimizer's momentum: three numbers each
    activations   what forward keeps for backward, step by step as ``cnn.fast.fused`` runs them
    work          gradients, at most two of each shape (memory is kept by shape), scratch of convolutions

Batches are filled up to sixteen images. Data sets, checkpoints and plots come on top.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from cnn.fast.blocked import LANES
from cnn.fast.fused import ConvReLU, ConvReLUPool, LinearReLU, ResidualReLU, plan
from cnn.layers import AvgPool2d, Flatten, GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d, Residual, Sequential

PROGRAM = 160 << 20  # measured: LeNet-5, whose own arrays are small, on Linux with CPython 3.11
_SCRATCH = 3  # of the largest weight's bytes times 36 / 9: transformed weights and two sets of partial sums

_KEEP_OUTPUT = (ConvReLU, LinearReLU, ResidualReLU)
_KEEP_NO_INPUT = (MaxPool2d, AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, Flatten)


@dataclass(frozen=True)
class Memory:
    """Bytes of a training process by what they are for."""

    program: int
    parameters: int
    activations: int
    work: int

    @property
    def total(self):
        """All of it: the predicted peak."""
        return self.program + self.parameters + self.activations + self.work

    def __str__(self):
        parts = ", ".join(
            f"{name} {value / 2**20:.0f}" for name, value in vars(self).items() if value >= 1 << 19
        )
        return f"training needs about {self.total / 2**20:.0f} MiB ({parts})"


def training_memory(network, batch_size):
    """Return the Memory that training ``network`` (built) with SGD and momentum needs at its peak."""
    parameters = network.parameters()
    itemsize = parameters[0].dtype.itemsize if parameters else 4
    images = -(-batch_size // LANES) * LANES
    sizes = [math.prod(network.input_shape) * itemsize]
    kept = sizes[0] + _kept(network.body.layers, itemsize, sizes, first=True)
    weights = max((p.size for p in parameters if len(p.shape) == 4), default=0) * itemsize
    return Memory(
        PROGRAM,
        3 * sum(p.size for p in parameters) * itemsize,
        kept * images,
        round(sum(min(2, times) * size for size, times in Counter(sizes).items())) * images
        + 4 * _SCRATCH * weights,
    )


def _kept(layers, itemsize, sizes, first=False):
    """Bytes an image that these layers keep; the size of each step's output is added to ``sizes``.

    ``first``: these are the first layers of the network, so that nobody asks for the gradient of their input.
    """
    total, steps = 0, plan(layers)
    for step, following in pairwise([*steps, None]):
        head, last = (step.layers[0], step.layers[-1]) if hasattr(step, "layers") else (step, step)
        if isinstance(step, Sequential):
            total += _kept(step.layers, itemsize, sizes)
            continue
        numbers = math.prod(last.output_shape)
        sizes.append(numbers * itemsize)
        if isinstance(head, Residual):
            bodies = [head.body.layers, head.shortcut.layers]
            total += sum(_kept(part, itemsize, sizes) for part in bodies)
            if isinstance(step, ResidualReLU):
                total -= numbers * itemsize  # its body's last normalisation writes nothing of its own
        if isinstance(step, (MaxPool2d, ConvReLUPool)):
            total += numbers  # the winners, a byte each
        if isinstance(step, ConvReLUPool) and not (first and step is steps[0] and step.never_whole(itemsize)):
            sizes.append(math.prod(head.output_shape) * itemsize / 2)  # only as a gradient
        if isinstance(step, _KEEP_OUTPUT) or not isinstance(following, _KEEP_NO_INPUT):
            total += numbers * itemsize
    return total
