import numpy as np


def jacobian(p):
    return np.diag(p) - np.outer(p, p)
