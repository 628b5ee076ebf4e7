import numpy as np


def batch_norm_forward(x, gamma, beta, running_mean, running_var, momentum, eps, training):
    mean, var = running_mean, running_var
    if training:
        mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * x.var(axis=(0, 2, 3), ddof=1)
    per_channel = (1, -1, 1, 1)
    xhat = (x - mean.reshape(per_channel)) / np.sqrt(var + eps).reshape(per_channel)
    return gamma.reshape(per_channel) * xhat + beta.reshape(per_channel), running_mean, running_var
