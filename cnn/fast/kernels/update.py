"""Optimizer steps in Numba: one launch over the whole flat buffer; arguments as in the reference.

The buffer is cut into pieces of fixed length, and a piece belongs to one thread. What is added up over pieces
is added in their order, so the bits do not depend on the number of threads. What is constant over a parameter
is worked out here once, in float64; the loops then run in the precision of the buffer.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.machine.jit import address, launch, table, task
from cnn.fast.machine.tables import bits, from_bits, integers, pointer, reader

_PIECE = 8192  # numbers: small enough to share LeNet's 61,706 out, large enough to hide the bookkeeping


class Update(NamedTuple):
    """A piece is _PIECE numbers of the flat buffer."""

    count: int  # P, the number of parameters
    edges: int  # address of int64 (P, 2): start and stop of each parameter
    rows: int  # address of float64 (K, P): constants of each parameter; see each task
    data: int  # address
    grad: int  # address
    first: int  # address: velocity, mean or square
    second: int  # address: square or velocity
    grad_scale: int  # bits of a float64, as all below
    a: int  # momentum, beta1 or alpha
    b: int  # beta2 or momentum
    eps: int


class Squares(NamedTuple):
    """A piece is _PIECE numbers of the flat buffer."""

    count: int  # P, the number of parameters
    edges: int  # address of int64 (P, 2): start and stop of each parameter
    grad: int  # address
    sums: int  # address of float64, one a piece


update_of, squares_of = reader(Update), reader(Squares)


def _run(task, data, grad, buffers, edges, constants, numbers):
    """Launch ``task``; ``buffers`` and ``numbers`` fill the fields first, second and a, b, eps of Update.

    A constant may be one number for all parameters.
    """
    edges, rows = np.ascontiguousarray(edges), np.empty((len(constants), len(edges)))
    for row, values in zip(rows, constants, strict=True):
        row[:] = values
    first, second = (*map(address, buffers), 0)[:2]
    ends = map(address, (edges, rows, data, grad))
    params = table(Update(len(edges), *ends, first, second, *map(bits, numbers)))
    launch(task, -(-data.size // _PIECE), params)


def _precision(itemsize):
    return np.float32 if itemsize == 4 else np.float64


@cache
def _squares_task(itemsize):
    @task
    def squares(index, thread, params):
        p = squares_of(params)
        edges, grad, total = integers(p.edges), pointer(p.grad, itemsize), 0.0
        for k in range(p.count):
            for i in range(max(edges[2 * k], index * _PIECE), min(edges[2 * k + 1], (index + 1) * _PIECE)):
                value = np.float64(grad[i])
                total += value * value
        pointer(p.sums, 8)[index] = total

    return squares


def squared_norm(grad, edges):
    """Twin of ``cnn.reference.squared_norm``."""
    sums, edges = np.zeros(-(-grad.size // _PIECE)), np.ascontiguousarray(edges)
    params = table(Squares(len(edges), *map(address, (edges, grad, sums))))
    launch(_squares_task(grad.itemsize), len(sums), params)
    return float(sums.sum())


@cache
def _sgd_task(itemsize, momentum, nesterov):
    real = _precision(itemsize)

    @task
    def update(index, thread, params):
        p = update_of(params)
        edges, rows = integers(p.edges), pointer(p.rows, 8)  # rows: rate, decay, keep
        data, grad, velocity = (
            pointer(p.data, itemsize),
            pointer(p.grad, itemsize),
            pointer(p.first, itemsize),
        )
        scale, slow = real(from_bits(p.grad_scale)), real(from_bits(p.a))
        for k in range(p.count):
            start, stop = max(edges[2 * k], index * _PIECE), min(edges[2 * k + 1], (index + 1) * _PIECE)
            rate, decay, keep = real(rows[k]), real(rows[p.count + k]), real(rows[2 * p.count + k])
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
    _run(run, data, grad, [velocity], edges, constants, (grad_scale, momentum, 0.0, 0.0))


@cache
def _adam_task(itemsize):
    real = _precision(itemsize)

    @task
    def update(index, thread, params):
        p = update_of(params)
        edges, rows = integers(p.edges), pointer(p.rows, 8)  # rows: rate, root, decay, keep
        data, grad = pointer(p.data, itemsize), pointer(p.grad, itemsize)
        mean, square = pointer(p.first, itemsize), pointer(p.second, itemsize)
        scale, eps = real(from_bits(p.grad_scale)), real(from_bits(p.eps))
        beta1, beta2 = from_bits(p.a), from_bits(p.b)
        keep1, take1, keep2, take2 = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
        for k in range(p.count):
            start, stop = max(edges[2 * k], index * _PIECE), min(edges[2 * k + 1], (index + 1) * _PIECE)
            rate, root = real(rows[k]), real(rows[p.count + k])
            decay, keep = real(rows[2 * p.count + k]), real(rows[3 * p.count + k])
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
    numbers = grad_scale, beta1, beta2, eps
    _run(_adam_task(data.itemsize), data, grad, [mean, square], edges, constants, numbers)


@cache
def _rmsprop_task(itemsize, momentum):
    real = _precision(itemsize)

    @task
    def update(index, thread, params):
        p = update_of(params)
        edges, rows = integers(p.edges), pointer(p.rows, 8)  # rows: rate, decay
        data, grad = pointer(p.data, itemsize), pointer(p.grad, itemsize)
        square, velocity = pointer(p.first, itemsize), pointer(p.second, itemsize)
        scale, eps, slow = real(from_bits(p.grad_scale)), real(from_bits(p.eps)), real(from_bits(p.b))
        alpha = from_bits(p.a)
        keep, take = real(alpha), real(1 - alpha)
        for k in range(p.count):
            start, stop = max(edges[2 * k], index * _PIECE), min(edges[2 * k + 1], (index + 1) * _PIECE)
            rate, decay = real(rows[k]), real(rows[p.count + k])
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
    run, numbers = _rmsprop_task(data.itemsize, momentum != 0), (grad_scale, alpha, momentum, eps)
    _run(run, data, grad, [square, velocity], edges, (lr, weight_decay), numbers)
