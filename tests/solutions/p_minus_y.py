import numpy as np


def loss_and_gradient(z, labels):
    n = np.arange(len(z))
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dz = np.exp(log_p)
    dz[n, labels] -= 1
    return -log_p[n, labels].mean(), dz / len(z)
