"""Softmax and cross-entropy in one: a row of logits a step, sums in float64."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.machine.jit import address, contiguous, launch, table, task
from cnn.fast.machine.tables import bits, from_bits, pointer, reader

_ROWS = 256  # images that one piece of a task handles


class Loss(NamedTuple):
    """A piece is _ROWS rows of logits. All arrays are (images, classes), losses (images,)."""

    images: int
    classes: int
    logits: int  # address; forward only
    targets: int  # address
    losses: int  # address; forward only
    probabilities: int  # address
    dlogits: int  # address; backward only
    factor: int  # bits of a float64; backward only


loss_of = reader(Loss)


@cache
def _forward_task(itemsize):
    """Each sum is a loop that stores nothing.

    Where one array is added up and another one written, LLVM puts a test of their distance in front of the
    vector form of the loop and keeps the scalar form: the bits would depend on where the arrays lie.
    """

    @task
    def forward(index, thread, params):
        p = loss_of(params)
        logits, targets = pointer(p.logits, itemsize), pointer(p.targets, itemsize)
        losses, probabilities = pointer(p.losses, itemsize), pointer(p.probabilities, itemsize)
        for n in range(index * _ROWS, min(p.images, (index + 1) * _ROWS)):
            row = range(n * p.classes, (n + 1) * p.classes)
            top = logits[n * p.classes]
            for k in row:
                top = max(top, logits[k])
            for k in row:
                probabilities[k] = math.exp(logits[k] - top)
            total = 0.0
            for k in row:
                total += probabilities[k]
            log_total, scale = math.log(total), 1.0 / total
            loss = 0.0
            for k in row:
                loss -= targets[k] * (logits[k] - top - log_total)
            for k in row:
                probabilities[k] *= scale
            losses[n] = loss

    return forward


@cache
def _backward_task(itemsize):
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def backward(index, thread, params):
        p = loss_of(params)
        probabilities, targets = pointer(p.probabilities, itemsize), pointer(p.targets, itemsize)
        dlogits, factor = pointer(p.dlogits, itemsize), real(from_bits(p.factor))
        for n in range(index * _ROWS, min(p.images, (index + 1) * _ROWS)):
            row = range(n * p.classes, (n + 1) * p.classes)
            total = real(0)
            for k in row:
                total += targets[k]
            for k in row:
                dlogits[k] = (probabilities[k] * total - targets[k]) * factor

    return backward


def softmax_cross_entropy_forward(logits, rows):
    """Twin of ``cnn.reference.softmax_cross_entropy_forward``."""
    z, targets = contiguous(logits), contiguous(rows)
    losses, probabilities = np.empty(z.shape[0], z.dtype), np.empty_like(z)
    ends = map(address, (z, targets, losses, probabilities))
    values = table(Loss(*z.shape, *ends, 0, 0))
    launch(_forward_task(z.itemsize), -(-z.shape[0] // _ROWS), values)
    return losses, probabilities


def softmax_cross_entropy_backward(probabilities, rows, factor):
    """Twin of ``cnn.reference.softmax_cross_entropy_backward``."""
    targets, dlogits = contiguous(rows), np.empty_like(probabilities)
    ends = address(targets), 0, address(probabilities), address(dlogits)
    values = table(Loss(*rows.shape, 0, *ends, bits(factor)))
    launch(_backward_task(dlogits.itemsize), -(-rows.shape[0] // _ROWS), values)
    return dlogits
