"""Optimizer steps in Numba: one launch over the whole flat buffer; arguments as in the reference.

The buffer is cut into pieces of fixed length, and a piece belongs to one thread. What is added up over pieces
is added in their order, so the bits do not depend on the number of threads.
"""

import numpy as np
from numba import prange

from cnn.kernels.jit import jit

_PIECE = 8192  # elements: small enough to share LeNet's 61,706 out, large enough to hide the bookkeeping


@jit()
def _squares(part):
    total = 0.0
    for i in range(part.size):
        value = np.float64(part[i])
        total += value * value
    return total


@jit(parallel=True)
def squared_norm(grad, edges):
    """Twin of ``cnn.reference.squared_norm``."""
    pieces = (grad.size + _PIECE - 1) // _PIECE
    sums = np.zeros(pieces, np.float64)
    for k in prange(pieces):
        for p in range(edges.shape[0]):
            a, b = max(edges[p, 0], k * _PIECE), min(edges[p, 1], (k + 1) * _PIECE)
            if a < b:
                sums[k] += _squares(grad[a:b])
    total = 0.0
    for k in range(pieces):
        total += sums[k]
    return total


@jit()
def _sgd_part(data, grad, velocity, lr, decay, momentum, nesterov, decoupled, grad_scale):
    real = data.dtype.type  # scalars in the arrays' own precision, or float32 loops would run in float64
    keep = real(1 - lr * decay) if decoupled else real(1)
    decay = real(0) if decoupled else real(decay)
    rate, momentum, grad_scale = real(lr), real(momentum), real(grad_scale)
    if momentum == 0:
        for i in range(data.size):
            data[i] = keep * data[i] - rate * (grad_scale * grad[i] + decay * data[i])
    elif nesterov:
        for i in range(data.size):
            g = grad_scale * grad[i] + decay * data[i]
            velocity[i] = momentum * velocity[i] + g
            data[i] = keep * data[i] - rate * (g + momentum * velocity[i])
    else:
        for i in range(data.size):
            velocity[i] = momentum * velocity[i] + (grad_scale * grad[i] + decay * data[i])
            data[i] = keep * data[i] - rate * velocity[i]


@jit(parallel=True)
def sgd_update(data, grad, velocity, edges, lr, weight_decay, momentum, nesterov, decoupled, grad_scale):
    """Twin of ``cnn.reference.sgd_update``."""
    for k in prange((data.size + _PIECE - 1) // _PIECE):
        for p in range(edges.shape[0]):
            a, b = max(edges[p, 0], k * _PIECE), min(edges[p, 1], (k + 1) * _PIECE)
            if a < b:
                _sgd_part(
                    data[a:b],
                    grad[a:b],
                    velocity[a:b],
                    lr[p],
                    weight_decay[p],
                    momentum,
                    nesterov,
                    decoupled,
                    grad_scale,
                )


@jit()
def _adam_part(data, grad, mean, square, lr, decay, beta1, beta2, eps, step, decoupled, grad_scale):
    real = data.dtype.type
    keep = real(1 - lr * decay) if decoupled else real(1)
    added = real(0) if decoupled else real(decay)
    rate, root = real(lr / (1 - beta1**step)), real(1 / np.sqrt(1 - beta2**step))
    keep1, take1, keep2, take2 = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    eps, grad_scale = real(eps), real(grad_scale)
    for i in range(data.size):
        g = grad_scale * grad[i] + added * data[i]
        mean[i] = keep1 * mean[i] + take1 * g
        square[i] = keep2 * square[i] + take2 * (g * g)
        data[i] = keep * data[i] - rate * mean[i] / (np.sqrt(square[i]) * root + eps)


@jit(parallel=True)
def adam_update(
    data, grad, mean, square, edges, lr, weight_decay, beta1, beta2, eps, step, decoupled, grad_scale
):
    """Twin of ``cnn.reference.adam_update``."""
    for k in prange((data.size + _PIECE - 1) // _PIECE):
        for p in range(edges.shape[0]):
            a, b = max(edges[p, 0], k * _PIECE), min(edges[p, 1], (k + 1) * _PIECE)
            if a < b:
                _adam_part(
                    data[a:b],
                    grad[a:b],
                    mean[a:b],
                    square[a:b],
                    lr[p],
                    weight_decay[p],
                    beta1,
                    beta2,
                    eps,
                    step[p],
                    decoupled,
                    grad_scale,
                )


@jit()
def _rmsprop_part(data, grad, square, velocity, lr, decay, alpha, eps, momentum, grad_scale):
    real = data.dtype.type
    rate, decay, momentum, grad_scale = real(lr), real(decay), real(momentum), real(grad_scale)
    keep, take, eps = real(alpha), real(1 - alpha), real(eps)
    if momentum == 0:
        for i in range(data.size):
            g = grad_scale * grad[i] + decay * data[i]
            square[i] = keep * square[i] + take * (g * g)
            data[i] -= rate * g / (np.sqrt(square[i]) + eps)
    else:
        for i in range(data.size):
            g = grad_scale * grad[i] + decay * data[i]
            square[i] = keep * square[i] + take * (g * g)
            velocity[i] = momentum * velocity[i] + g / (np.sqrt(square[i]) + eps)
            data[i] -= rate * velocity[i]


@jit(parallel=True)
def rmsprop_update(data, grad, square, velocity, edges, lr, weight_decay, alpha, eps, momentum, grad_scale):
    """Twin of ``cnn.reference.rmsprop_update``."""
    for k in prange((data.size + _PIECE - 1) // _PIECE):
        for p in range(edges.shape[0]):
            a, b = max(edges[p, 0], k * _PIECE), min(edges[p, 1], (k + 1) * _PIECE)
            if a < b:
                _rmsprop_part(
                    data[a:b],
                    grad[a:b],
                    square[a:b],
                    velocity[a:b],
                    lr[p],
                    weight_decay[p],
                    alpha,
                    eps,
                    momentum,
                    grad_scale,
                )
