"""Optimizer steps in NumPy, parameter by parameter, in place on the network's flat buffers.

``data``, ``grad`` and an optimizer's own buffers are 1-D and equally long. ``edges`` (P, 2) holds start and
stop of each of the P parameters in them; ``lr`` (P,) and ``weight_decay`` (P,) hold its learning rate and
decay. ``grad_scale`` multiplies the gradient (the factor of norm clipping, else 1); ``grad`` itself stays.
"""

import numpy as np


def squared_norm(grad, edges):
    """Return the sum of squares of the parameters' gradients, added up in float64."""
    return sum(float(np.square(grad[start:stop], dtype=np.float64).sum()) for start, stop in edges)


def sgd_update(data, grad, velocity, edges, lr, weight_decay, momentum, nesterov, decoupled, grad_scale):
    """Gradient descent, with ``velocity`` where ``momentum`` is not 0 (otherwise it may be empty).

    g = grad_scale * grad + weight_decay * data     or, decoupled:  data *= 1 - lr * weight_decay
    velocity = momentum * velocity + g
    data -= lr * velocity                           or, nesterov:  lr * (g + momentum * velocity)
    """
    for (start, stop), rate, decay in zip(edges, lr, weight_decay, strict=True):
        part = slice(start, stop)
        step = grad_scale * grad[part]
        if decoupled:
            data[part] *= 1 - rate * decay
        else:
            step = step + decay * data[part]
        if momentum:
            velocity[part] = momentum * velocity[part] + step
            step = step + momentum * velocity[part] if nesterov else velocity[part]
        data[part] -= rate * step


def adam_update(
    data, grad, mean, square, edges, lr, weight_decay, beta1, beta2, eps, step, decoupled, grad_scale
):
    """Adam; ``decoupled`` makes it AdamW. ``step`` (P,) counts each parameter's steps from 1.

    g = grad_scale * grad + weight_decay * data     or, decoupled:  data *= 1 - lr * weight_decay
    mean = beta1 * mean + (1 - beta1) * g
    square = beta2 * square + (1 - beta2) * g²
    data -= lr * mean / (1 - beta1^step) / (sqrt(square / (1 - beta2^step)) + eps)
    """
    for (start, stop), rate, decay, t in zip(edges, lr, weight_decay, step, strict=True):
        part = slice(start, stop)
        g = grad_scale * grad[part]
        if decoupled:
            data[part] *= 1 - rate * decay
        else:
            g = g + decay * data[part]
        mean[part] = beta1 * mean[part] + (1 - beta1) * g
        square[part] = beta2 * square[part] + (1 - beta2) * np.square(g)
        mean_hat, square_hat = mean[part] / (1 - beta1**t), square[part] / (1 - beta2**t)
        data[part] -= rate * mean_hat / (np.sqrt(square_hat) + eps)


def rmsprop_update(data, grad, square, velocity, edges, lr, weight_decay, alpha, eps, momentum, grad_scale):
    """RMSprop, with ``velocity`` where ``momentum`` is not 0 (otherwise it may be empty).

    g = grad_scale * grad + weight_decay * data
    square = alpha * square + (1 - alpha) * g²
    velocity = momentum * velocity + g / (sqrt(square) + eps)
    data -= lr * velocity
    """
    for (start, stop), rate, decay in zip(edges, lr, weight_decay, strict=True):
        part = slice(start, stop)
        g = grad_scale * grad[part] + decay * data[part]
        square[part] = alpha * square[part] + (1 - alpha) * np.square(g)
        step = g / (np.sqrt(square[part]) + eps)
        if momentum:
            velocity[part] = step = momentum * velocity[part] + step
        data[part] -= rate * step
