"""Orthogonalisation by matrix products alone, those of the linear layer: same bits on any thread count."""

import numpy as np

from cnn.fast.kernels.linear import linear_backward_weight, linear_forward

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the polynomial, see the reference
_EPS = 1e-7


def orthogonalize(matrix, steps):
    """Twin of ``cnn.reference.orthogonalize``: an odd polynomial of a matrix needs no singular values.

    Y is the tall one of matrix / |matrix| and its transpose. With Y = U diag(s) V^T, Y^T Y = V diag(s^2) V^T,
    so one turn of the polynomial is (Newton and Schulz's iteration with other coefficients):

        G = Y^T Y,      Y <- Y (a I + b G + c G G)
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    y = np.ascontiguousarray(matrix.T if wide else matrix)
    norm = np.sqrt(np.square(y, dtype=np.float64).sum())
    y = y * y.dtype.type(1 / np.maximum(norm, _EPS))  # np.maximum hands a NaN on
    gram = np.empty((y.shape[1], y.shape[1]), y.dtype)
    for _ in range(steps):
        gram[...] = 0
        linear_backward_weight(y, y, gram)
        factor = _B * gram + _C * np.asarray(linear_forward(gram, gram, None))
        factor[np.diag_indices(len(factor))] += _A
        y = linear_forward(y, factor, None)  # factor is its own transpose
    y = np.asarray(y)
    return np.ascontiguousarray(y.T) if wide else y
