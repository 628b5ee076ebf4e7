"""Losses of numbers: regression, and classes that do not exclude each other."""

from typing import Annotated

import numpy as np

from cnn.errors import ShapeError
from cnn.layers.loss import LOSSES, Loss, _check_reduction, _check_weights, _saved, _target_rows
from cnn.reference import loss as formulas
from cnn.registry import NotNegative, checked


class _OfNumbers(Loss):
    """What the losses of numbers share: shapes, the mean over all numbers, one-hot rows of class indices."""

    def __init__(self, reduction):
        self.reduction = _check_reduction(reduction)
        self._cache = None

    def forward(self, outputs, targets):
        """Return the loss, a Python float."""
        self._cache, kind = None, type(self).__name__
        outputs, targets = np.asarray(outputs), np.asarray(targets)
        if outputs.dtype not in (np.float32, np.float64):
            outputs = outputs.astype(np.float32)
        if targets.shape != outputs.shape:
            if outputs.ndim != 2 or targets.ndim != 1 or targets.dtype.kind not in "iu":
                raise ShapeError(f"{kind}: expected targets of shape {outputs.shape}, found {targets.shape}")
            targets, _ = _target_rows(targets, outputs.shape, outputs.dtype, kind)
        if not outputs.size:
            raise ShapeError(f"{kind}: expected at least one number, found shape {outputs.shape}")
        targets = targets.astype(outputs.dtype, copy=False)
        factor = 1 / outputs.size if self.reduction == "mean" else 1.0
        self._cache = outputs, targets, factor
        return float(self._losses(outputs, targets).sum(dtype=np.float64) * factor)

    def backward(self):
        """Return the gradient by the outputs of the last forward, an array of their shape."""
        outputs, targets, factor = _saved(self._cache, type(self).__name__)
        return (self._slopes(outputs, targets) * outputs.dtype.type(factor)).astype(outputs.dtype, copy=False)


@LOSSES.register
class MSELoss(_OfNumbers):
    """Mean squared error: the loss of regression.

        L = 1/M sum over m of (z_m - y_m)^2                    m counts all M numbers of all images

    Backward. Each output stands in one term alone, so by the chain rule

        dL/dz_m = 1/M * 2 (z_m - y_m)

    Class indices stand for rows with a 1 at the class, 0 elsewhere.

    Parameters
    ----------
    reduction : "mean" or "sum"
        Over all numbers; "sum" leaves out the factor 1/M.

    Shapes
    ------
    outputs : any;  targets : the same, or for outputs (N, C) class indices (N,)

    Errors
    ------
    ShapeError : shapes that differ, which are not broadcast.  DataError : a label outside 0..C-1.

    References
    ----------
    Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes", 1805.
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction)

    def _losses(self, z, y):
        return formulas.squared_error(z, y)

    def _slopes(self, z, y):
        return formulas.squared_error_slope(z, y)


@LOSSES.register
class L1Loss(_OfNumbers):
    """Mean absolute error: regression that a few wild targets do not pull away.

        L = 1/M sum over m of |z_m - y_m|                      m counts all M numbers of all images

    Backward. |u| has the slope sign(u), so

        dL/dz_m = 1/M * sign(z_m - y_m)

    At u = 0 there is no derivative; 0 is taken, as in PyTorch.

    Parameters
    ----------
    reduction : "mean" or "sum"
        Over all numbers; "sum" leaves out the factor 1/M.

    Shapes
    ------
    outputs : any;  targets : the same, or for outputs (N, C) class indices (N,)

    Errors
    ------
    ShapeError : shapes that differ, which are not broadcast.  DataError : a label outside 0..C-1.

    References
    ----------
    Bloomfield, Steiger, "Least Absolute Deviations", Birkhäuser 1983.
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction)

    def _losses(self, z, y):
        return formulas.absolute_error(z, y)

    def _slopes(self, z, y):
        return formulas.absolute_error_slope(z, y)


@LOSSES.register
class BCEWithLogitsLoss(_OfNumbers):
    """Sigmoid and binary cross-entropy in one: classes that do not exclude each other.

        p = 1 / (1 + exp(-z)),      L = - 1/M sum over m of (w y_m log p_m + (1 - y_m) log(1 - p_m))

    Backward, for one number. The sigmoid has dp/dz = p (1 - p), and dL/dp = -w y / p + (1 - y) / (1 - p), so

        dL/dz = -w y (1 - p) + (1 - y) p
              = p - y                                          for w = 1

    As with softmax, neither step divides by p: with softplus(u) = log(1 + exp(u)) = max(u, 0) +
    log(1 + exp(-|u|)) the loss is w y softplus(-z) + (1 - y) softplus(z), exact at z = +-1000.

    Parameters
    ----------
    pos_weight : C numbers or None
        w of each class: above 1 for classes that few images have.
    reduction : "mean" or "sum"
        Over all numbers; "sum" leaves out the factor 1/M.

    Shapes
    ------
    logits : (N, C, ...);  targets : the same, 0 to 1, or for logits (N, C) class indices (N,)

    Errors
    ------
    ShapeError : shapes that differ, or another number of weights.  DataError : a label outside 0..C-1.

    References
    ----------
    Cox, "The regression analysis of binary sequences", Journal of the Royal Statistical Society B, 1958.
    """

    @checked
    def __init__(
        self,
        pos_weight: Annotated[list[NotNegative] | None, "one number a class"] = None,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        self.pos_weight = None if pos_weight is None else _check_weights(pos_weight)

    def _weights(self, z):
        if self.pos_weight is None:
            return z.dtype.type(1)
        if z.ndim < 2 or self.pos_weight.shape != z.shape[1:2]:
            found = f"expected {z.shape[1]} numbers, found shape {self.pos_weight.shape}"
            raise ShapeError(f"pos_weight: {found}")
        return self.pos_weight.astype(z.dtype).reshape(-1, *[1] * (z.ndim - 2))

    def _losses(self, z, y):
        return formulas.binary_cross_entropy(z, y, self._weights(z))

    def _slopes(self, z, y):
        return formulas.binary_cross_entropy_slope(z, y, self._weights(z))

    def answers(self, outputs):
        """Return the sigmoid: a probability of each class, which need not sum to one."""
        return formulas.sigmoid_of(outputs)

    def judge(self):
        """Return the loss without weights, which belong to training."""
        return BCEWithLogitsLoss()


class Standardized(Loss):
    """A loss of outputs in units of the targets' spread, for targets in units of their own.

        L(z, t) = loss(z, (t - mean) / std)           answers(z) = mean + std z

    So a network learns ages and prices alike: its outputs, its rate and the loss have the size of 1.

    Parameters
    ----------
    loss : Loss
    mean, std : (K,), std above 0
        Of each of K numbers, over the training images.
    """

    def __init__(self, loss, mean, std):
        self.loss, self.mean, self.std = loss, np.asarray(mean, float), np.asarray(std, float)

    def forward(self, outputs, targets):
        """Return the loss, a Python float."""
        return self.loss.forward(outputs, (np.asarray(targets, np.float64) - self.mean) / self.std)

    def backward(self):
        """Return the gradient by the outputs of the last forward."""
        return self.loss.backward()

    def answers(self, outputs):
        """Return the numbers that the outputs stand for."""
        return self.mean + self.std * np.asarray(outputs, np.float64)

    def judge(self):
        """Return the same without what belongs to training alone."""
        return Standardized(self.loss.judge(), self.mean, self.std)
