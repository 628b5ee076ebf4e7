"""Mixup: training on convex combinations of two images and of their labels."""

import numpy as np


def mix(x, labels, classes, alpha, rng):
    """Return (mixed images, target rows) of a batch, each image mixed with another one of the same batch.

        x'[i] = l * x[i] + (1 - l) * x[p(i)],    y'[i] = l * e(labels[i]) + (1 - l) * e(labels[p(i)])

    with one l ~ Beta(alpha, alpha) and one random permutation p for the whole batch, as in the authors' code;
    e(k) is the row with a 1 at k. The images may be normalised, because the weights add up to 1. Label
    smoothing may follow.

    Parameters
    ----------
    x : (N, ...) float
        Changed in place.
    labels : (N,) integers below ``classes``; or rows (N, K), mixed like the images
    alpha : float above 0
        Near 0 hardly anything is mixed; 1 draws l uniformly from 0 to 1.
    rng : numpy.random.Generator

    Shapes
    ------
    target rows : (N, classes), of the dtype of x, or (N, K)

    References
    ----------
    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
    """
    weight, partner = rng.beta(alpha, alpha), rng.permutation(len(x))
    other = x[partner]
    other *= 1 - weight
    x *= weight
    x += other
    if labels.ndim == 2:
        rows = labels.astype(x.dtype)
        return x, weight * rows + (1 - weight) * rows[partner]
    rows, images = np.zeros((len(x), classes), x.dtype), np.arange(len(x))
    rows[images, labels] = weight
    rows[images, labels[partner]] += 1 - weight
    return x, rows
