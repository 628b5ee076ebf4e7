"""Softmax and cross-entropy in one: a row of logits a step, sums in float64."""

import math
from functools import cache

import numpy as np

from cnn.fast.machine.jit import address, contiguous, launch, table, task
from cnn.fast.machine.tables import bits, from_bits, integers, pointer

_ROWS = 256  # images that one piece of a task handles


@cache
def _forward_task(itemsize):
    @task
    def forward(index, thread, params):
        a = integers(params)
        images, classes = a[0], a[1]
        logits, targets = pointer(a[2], itemsize), pointer(a[3], itemsize)
        losses, probabilities = pointer(a[4], itemsize), pointer(a[5], itemsize)
        for n in range(index * _ROWS, min(images, (index + 1) * _ROWS)):
            row = range(n * classes, (n + 1) * classes)
            top = logits[n * classes]
            for k in row:
                top = max(top, logits[k])
            total = 0.0
            for k in row:
                power = math.exp(logits[k] - top)
                probabilities[k] = power
                total += power
            log_total, scale = math.log(total), 1.0 / total
            loss = 0.0
            for k in row:
                probabilities[k] *= scale
                loss -= targets[k] * (logits[k] - top - log_total)
            losses[n] = loss

    return forward


@cache
def _backward_task(itemsize):
    real = np.float32 if itemsize == 4 else np.float64

    @task
    def backward(index, thread, params):
        a = integers(params)
        images, classes = a[0], a[1]
        probabilities, targets = pointer(a[2], itemsize), pointer(a[3], itemsize)
        dlogits, factor = pointer(a[4], itemsize), real(from_bits(a[5]))
        for n in range(index * _ROWS, min(images, (index + 1) * _ROWS)):
            row = range(n * classes, (n + 1) * classes)
            total = real(0)
            for k in row:
                total += targets[k]
            for k in row:
                dlogits[k] = (probabilities[k] * total - targets[k]) * factor

    return backward


def _run(make, shape, *arrays, last=()):
    """Launch a task with: images, classes, addresses of arrays, and what is ``last``."""
    params = table([*shape, *map(address, arrays), *last])
    launch(make(arrays[0].itemsize), -(-shape[0] // _ROWS), params)


def softmax_cross_entropy_forward(logits, rows):
    """Twin of ``cnn.reference.softmax_cross_entropy_forward``."""
    z, targets = contiguous(logits), contiguous(rows)
    losses, probabilities = np.empty(z.shape[0], z.dtype), np.empty_like(z)
    _run(_forward_task, z.shape, z, targets, losses, probabilities)
    return losses, probabilities


def softmax_cross_entropy_backward(probabilities, rows, factor):
    """Twin of ``cnn.reference.softmax_cross_entropy_backward``."""
    targets, dlogits = contiguous(rows), np.empty_like(probabilities)
    _run(_backward_task, rows.shape, probabilities, targets, dlogits, last=[bits(factor)])
    return dlogits
