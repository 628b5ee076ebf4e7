"""Optimizer steps in Numba: one launch over the whole flat buffer; arguments as in the reference.

The buffer is cut into pieces of fixed length, and a piece belongs to one thread. What is added up over pieces
is added in their order, so the bits do not depend on the number of threads. What is constant over a parameter
is worked out here once, in float64; the loops then run in the precision of the buffer.
"""

from functools import cache

import numpy as np

from cnn.fast.machine.jit import address, launch, table, task
from cnn.fast.machine.tables import bits, from_bits, integers, pointer

_PIECE = 8192  # numbers: small enough to share LeNet's 61,706 out, large enough to hide the bookkeeping


def _run(task, arrays, edges, constants=(), numbers=()):
    """Launch ``task`` with: P, the number of parameters, their edges, constants (K, P), arrays, numbers.

    A constant may be one number for all parameters.
    """
    edges, rows = np.ascontiguousarray(edges), np.empty((len(constants), len(edges)))
    for row, values in zip(rows, constants, strict=True):
        row[:] = values
    addresses = [address(array) for array in (edges, rows, *arrays)]
    params = table([len(edges), *addresses, *map(bits, numbers)])
    launch(task, -(-arrays[0].size // _PIECE), params)


def _precision(itemsize):
    return np.float32 if itemsize == 4 else np.float64


@cache
def _squares_task(itemsize):
    @task
    def squares(index, thread, params):
        a = integers(params)
        edges, grad, sums = integers(a[1]), pointer(a[3], itemsize), pointer(a[4], 8)
        total = 0.0
        for p in range(a[0]):
            for i in range(max(edges[2 * p], index * _PIECE), min(edges[2 * p + 1], (index + 1) * _PIECE)):
                value = np.float64(grad[i])
                total += value * value
        sums[index] = total

    return squares


def squared_norm(grad, edges):
    """Twin of ``cnn.reference.squared_norm``."""
    sums = np.zeros(-(-grad.size // _PIECE))
    _run(_squares_task(grad.itemsize), (grad, sums), edges)
    return float(sums.sum())


@cache
def _sgd_task(itemsize, momentum, nesterov):
    real = _precision(itemsize)

    @task
    def update(index, thread, params):
        a = integers(params)
        count, edges, rows = a[0], integers(a[1]), pointer(a[2], 8)
        data, grad, velocity = pointer(a[3], itemsize), pointer(a[4], itemsize), pointer(a[5], itemsize)
        scale, slow = real(from_bits(a[6])), real(from_bits(a[7]))
        for p in range(count):
            start, stop = max(edges[2 * p], index * _PIECE), min(edges[2 * p + 1], (index + 1) * _PIECE)
            rate, decay, keep = real(rows[p]), real(rows[count + p]), real(rows[2 * count + p])
            for i in range(start, stop):
                step = scale * grad[i] + decay * data[i]
                if momentum:
                    velocity[i] = slow * velocity[i] + step
                    step = step + slow * velocity[i] if nesterov else velocity[i]
                data[i] = keep * data[i] - rate * step

    return update


def _shrink(lr, weight_decay, decoupled):
    """The decay that joins the gradient, and the factor that weights keep: one of them does nothing."""
    return (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)


def sgd_update(data, grad, velocity, edges, lr, weight_decay, momentum, nesterov, decoupled, grad_scale):
    """Twin of ``cnn.reference.sgd_update``."""
    run = _sgd_task(data.itemsize, momentum != 0, bool(nesterov))
    constants = (lr, *_shrink(lr, weight_decay, decoupled))
    _run(run, (data, grad, velocity), edges, constants, (grad_scale, momentum))


@cache
def _adam_task(itemsize):
    real = _precision(itemsize)

    @task
    def update(index, thread, params):
        a = integers(params)
        count, edges, rows = a[0], integers(a[1]), pointer(a[2], 8)
        data, grad, mean, square = (
            pointer(a[3], itemsize), pointer(a[4], itemsize), pointer(a[5], itemsize),
            pointer(a[6], itemsize),
        )  # fmt: skip
        scale, eps = real(from_bits(a[7])), real(from_bits(a[10]))
        beta1, beta2 = from_bits(a[8]), from_bits(a[9])
        keep1, take1, keep2, take2 = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
        for p in range(count):
            start, stop = max(edges[2 * p], index * _PIECE), min(edges[2 * p + 1], (index + 1) * _PIECE)
            rate, root = real(rows[p]), real(rows[count + p])
            decay, keep = real(rows[2 * count + p]), real(rows[3 * count + p])
            for i in range(start, stop):
                g = scale * grad[i] + decay * data[i]
                mean[i] = keep1 * mean[i] + take1 * g
                square[i] = keep2 * square[i] + take2 * (g * g)
                data[i] = keep * data[i] - rate * mean[i] / (np.sqrt(square[i]) * root + eps)

    return update


def adam_update(
    data, grad, mean, square, edges, lr, weight_decay, beta1, beta2, eps, step, decoupled, grad_scale
):
    """Twin of ``cnn.reference.adam_update``."""
    rate, root = lr / (1 - beta1**step), 1 / np.sqrt(1 - beta2**step)
    constants = (rate, root, *_shrink(lr, weight_decay, decoupled))
    arrays = (data, grad, mean, square)
    _run(_adam_task(data.itemsize), arrays, edges, constants, (grad_scale, beta1, beta2, eps))


@cache
def _rmsprop_task(itemsize, momentum):
    real = _precision(itemsize)

    @task
    def update(index, thread, params):
        a = integers(params)
        count, edges, rows = a[0], integers(a[1]), pointer(a[2], 8)
        data, grad, square, velocity = (
            pointer(a[3], itemsize), pointer(a[4], itemsize), pointer(a[5], itemsize),
            pointer(a[6], itemsize),
        )  # fmt: skip
        scale, eps, slow = real(from_bits(a[7])), real(from_bits(a[9])), real(from_bits(a[10]))
        alpha = from_bits(a[8])
        keep, take = real(alpha), real(1 - alpha)
        for p in range(count):
            start, stop = max(edges[2 * p], index * _PIECE), min(edges[2 * p + 1], (index + 1) * _PIECE)
            rate, decay = real(rows[p]), real(rows[count + p])
            for i in range(start, stop):
                g = scale * grad[i] + decay * data[i]
                square[i] = keep * square[i] + take * (g * g)
                step = g / (np.sqrt(square[i]) + eps)
                if momentum:
                    velocity[i] = slow * velocity[i] + step
                    step = velocity[i]
                data[i] -= rate * step

    return update


def rmsprop_update(data, grad, square, velocity, edges, lr, weight_decay, alpha, eps, momentum, grad_scale):
    """Twin of ``cnn.reference.rmsprop_update``."""
    arrays, numbers = (data, grad, square, velocity), (grad_scale, alpha, eps, momentum)
    _run(_rmsprop_task(data.itemsize, momentum != 0), arrays, edges, (lr, weight_decay), numbers)
