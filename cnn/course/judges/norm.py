"""Judges of the exercises about batch normalisation."""

import numpy as np

from cnn import reference as ops
from cnn.course.judges.gradient import check

_AXES = (0, 2, 3)


def _channels(values):
    return np.reshape(values, (1, -1, 1, 1))


def batch_norm_forward(sheet, answer):
    """Training and evaluation; eps is large, so that its place shows."""
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(1, 2, (3, 2, 4, 4)), rng.uniform(0.5, 2, 2), rng.normal(size=2)
    old_mean, old_var, momentum, eps = rng.normal(size=2), rng.uniform(0.5, 2, 2), 0.1, 0.05
    mean, var, sample_var = x.mean(_AXES), x.var(_AXES), x.var(_AXES, ddof=1)

    def y(mean, var, eps=eps, outside=0.0):
        normalised = (x - mean) / (np.sqrt(var + eps) + outside)
        return _channels(gamma) * normalised + _channels(beta)

    running_mean, running_var = old_mean.copy(), old_var.copy()
    center, rstd = ops.batch_norm_train(x, running_mean, running_var, momentum, eps)
    batch = ops.batch_norm_forward(x, center, rstd, gamma, beta)
    keep = 1 - momentum
    sheet.compare(
        "training",
        answer.batch_norm_forward,
        (x, gamma, beta, old_mean, old_var, momentum, eps, True),
        {"y": batch, "running_mean": running_mean, "running_var": running_var},
        per_image={"y": y(x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True))},
        unbiased={"y": y(_channels(mean), _channels(sample_var))},
        eps_outside={"y": y(_channels(mean), _channels(var), eps=0, outside=eps)},
        momentum={
            "running_mean": momentum * old_mean + keep * mean,
            "running_var": momentum * old_var + keep * sample_var,
        },
        biased_running={"running_var": keep * old_var + momentum * var},
    )
    sheet.compare(
        "evaluation",
        answer.batch_norm_forward,
        (x, gamma, beta, old_mean, old_var, momentum, eps, False),
        {"y": y(_channels(old_mean), _channels(old_var)), "running_mean": old_mean, "running_var": old_var},
        batch_in_evaluation={"y": batch, "running_mean": running_mean, "running_var": running_var},
        eps_outside={"y": y(_channels(old_mean), _channels(old_var), eps=0, outside=eps)},
    )


def batch_norm_backward(sheet, answer):
    """Three gradients of one batch, and the gradient check."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(1, 2, (3, 2, 4, 4)), rng.normal(size=(3, 2, 4, 4))
    gamma, eps = rng.uniform(0.5, 2, 2), 1e-3
    dx, dgamma, dbeta = _right(dy, x, gamma, eps)
    g = dy * _channels(gamma)
    rstd = 1 / np.sqrt(x.var(_AXES, keepdims=True) + eps)
    xhat = (x - x.mean(_AXES, keepdims=True)) * rstd
    along = xhat * (g * xhat).mean(_AXES, keepdims=True)
    sheet.compare(
        "a batch",
        answer.batch_norm_backward,
        (dy, x, gamma, eps),
        {"dx": dx, "dgamma": dgamma, "dbeta": dbeta},
        constant_statistics={"dx": rstd * g},
        constant_mean={"dx": rstd * (g - along)},
        constant_variance={"dx": rstd * (g - g.mean(_AXES, keepdims=True))},
        dgamma_of_x={"dgamma": (dy * x).sum(_AXES)},
    )
    check(
        sheet,
        lambda x, gamma, beta: _forward(x, gamma, beta, eps),
        lambda dy, x, gamma, beta: answer.batch_norm_backward(dy, x, gamma, eps),
        x,
        gamma=gamma,
        beta=np.zeros(2),
    )


def _statistics(x, eps):
    return ops.batch_norm_train(x, np.zeros(x.shape[1]), np.ones(x.shape[1]), 0.1, eps)


def _forward(x, gamma, beta, eps):
    return ops.batch_norm_forward(x, *_statistics(x, eps), gamma, beta)


def _right(dy, x, gamma, eps):
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    dx = ops.batch_norm_backward(dy, x, *_statistics(x, eps), gamma, dgamma, dbeta, True)
    return dx, dgamma, dbeta
