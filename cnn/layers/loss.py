"""Losses: how wrong the network is, and the gradient that starts the backward pass."""

from functools import cache
from typing import Annotated

import numpy as np

from cnn.backend import operations
from cnn.errors import ConfigError, DataError, ShapeError
from cnn.registry import NotNegative, Registry, Share, checked

#: Every loss that a config can name.
LOSSES = Registry("loss", supplied=("reduction",))


@LOSSES.base
class Loss:
    """How wrong a network's outputs are, and the gradient that starts the backward pass.

        value = L(outputs, targets)            backward() returns dL/doutputs

    A loss of one's own writes ``forward`` and ``backward``; a config names it "package.module:Class".
    """

    def forward(self, outputs, targets):
        """Return the loss, a Python float."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def backward(self):
        """Return the gradient of the last forward's value by its outputs, an array of their shape."""
        raise TypeError(f"{type(self).__name__} defines no backward")

    def answers(self, outputs):
        """Return what predictions show for outputs (N, C): probabilities, where the loss gives them sense."""
        return outputs

    def judge(self):
        """Return the loss for validation and test, without what belongs to training alone."""
        return self


@LOSSES.register
class SoftmaxCrossEntropy(Loss):
    """Softmax and cross-entropy in one: the end of a classifier.

        p_i = exp(z_i) / sum over k of exp(z_k),      L = - sum over k of y_k log p_k

    Backward. The Jacobian of softmax is dp_k/dz_i = p_k (delta_ki - p_i). With dL/dp_k = -y_k / p_k,

        dL/dz_i = sum over k of (-y_k / p_k) * p_k (delta_ki - p_i)
                = -y_i + p_i * sum over k of y_k
                = p_i - y_i                               when the y_k sum to one

    For p = [0.1, 0.2, 0.25, 0.4, 0.05] and y = [0, 0, 1, 0, 0] that is [0.1, 0.2, -0.75, 0.4, 0.05]: every
    class is pushed down by the probability it got, and the right class up by what it lacks.

    Neither step divides by p or takes the logarithm of p, so logits of +-1000 give the exact loss and
    gradient: log p_i = z_i - max z - log sum exp(z - max z).

    Parameters
    ----------
    label_smoothing : float, 0 to 1
        Mixes the target with the uniform distribution: y becomes (1 - s) y + s / C.
    class_weight : C numbers or None
        Multiplies y_k in the loss. With class indices, "mean" then divides by the sum of the weights of the
        labels, as in PyTorch.
    reduction : "mean" or "sum"
        Over the images. "mean" puts the factor 1/N into the loss and hence into the gradient.
    ignore_index : int
        A label that counts as no image: no loss, no gradient, and N is the number of the others.

    Each pixel of a plane may have a class of its own, as in segmentation: then N counts pixels.

    Shapes
    ------
    logits : (N, C);  targets : (N,) class indices, or (N, C) rows, which need not sum to one
    of pixels: logits (N, C, H, W);  targets (N, H, W) class indices, or (N, C, H, W)

    Errors
    ------
    DataError : a label outside 0..C-1.  ShapeError : shapes that do not fit.

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    Szegedy et al., "Rethinking the Inception architecture", arXiv:1512.00567 (label smoothing).
    """

    @checked
    def __init__(
        self,
        label_smoothing: Share = 0.0,
        class_weight: Annotated[list[NotNegative] | None, "one number a class"] = None,
        reduction: str = "mean",
        ignore_index: Annotated[int, "a label that counts as no image"] = -100,
    ):
        self.label_smoothing, self.ignore_index = float(label_smoothing), int(ignore_index)
        self.class_weight = None if class_weight is None else _check_weights(class_weight)
        self.reduction = _check_reduction(reduction)
        self._cache = self._losses = None

    def forward(self, logits, targets):
        """Return the loss, a Python float."""
        self._cache = None
        logits, targets = _pixels_as_rows(logits, targets)
        shape = logits.shape
        logits = logits.reshape(-1, shape[-1]) if len(shape) > 2 else logits
        logits = _as_float(logits, "SoftmaxCrossEntropy")
        counted = None
        if targets.dtype.kind in "iu" and targets.shape == logits.shape[:1]:
            counted = targets != self.ignore_index
            counted = None if counted.all() else counted
        known = targets if counted is None else np.where(counted, targets, 0)
        rows, indices = _target_rows(known, logits.shape, logits.dtype, "SoftmaxCrossEntropy")
        classes = logits.shape[1]
        if self.label_smoothing:
            rows = rows * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.class_weight is not None:
            if self.class_weight.shape != (classes,):
                raise ShapeError(
                    f"class_weight: expected {classes} numbers, found shape {self.class_weight.shape}"
                )
            rows = rows * self.class_weight
        if counted is not None:
            rows = rows * counted[:, None]
        divisor = logits.shape[0] if counted is None else np.count_nonzero(counted)
        if self.class_weight is not None and indices is not None:
            divisor = self.class_weight[indices if counted is None else indices[counted]].sum()
        # where nothing counts the mean is 0/0, as PyTorch's
        factor = np.float64(1) / divisor if divisor else np.nan
        factor = float(factor) if self.reduction == "mean" else 1.0
        rows = rows.astype(logits.dtype, copy=False)
        losses, probabilities = operations().softmax_cross_entropy_forward(logits, rows)
        self._cache, self._losses = (operations(), probabilities, rows, factor, shape), losses
        return float(self.losses.sum() * factor)

    def backward(self):
        """Return dlogits, of the shape of the last forward's: (p * sum(y) - y) / N."""
        ops, probabilities, rows, factor, shape = _saved(self._cache, "SoftmaxCrossEntropy")
        return _rows_as_pixels(ops.softmax_cross_entropy_backward(probabilities, rows, factor), shape)

    @property
    def losses(self):
        """The loss of each image, or pixel, of the last forward, in float64."""
        return np.asarray(self._losses, np.float64)

    @property
    def probabilities(self):
        """The softmax of the last forward's logits, of their shape."""
        _, probabilities, _, _, shape = _saved(self._cache, "SoftmaxCrossEntropy")
        return _rows_as_pixels(probabilities, shape)

    def answers(self, outputs):
        """Return the softmax of logits (N, C), in float64."""
        exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def judge(self):
        """Return plain cross-entropy: label smoothing and class weights belong to training."""
        return SoftmaxCrossEntropy(ignore_index=self.ignore_index)


class CrossEntropy:
    """Cross-entropy of probabilities, for a network that ends with Softmax.

        L = - sum over k of y_k log p_k            dL/dp_k = -y_k / p_k

    Softmax and CrossEntropy together are SoftmaxCrossEntropy, and give the same p - y; but p may round to 0,
    where the logarithm is infinite. Train with SoftmaxCrossEntropy; read this one.

    Parameters
    ----------
    reduction : "mean" or "sum"
        Over the images.

    Shapes
    ------
    probabilities : (N, C);  targets : (N,) class indices, or (N, C) rows

    References
    ----------
    Good, "Rational decisions", Journal of the Royal Statistical Society B, 1952.
    """

    def __init__(self, reduction: str = "mean"):
        self.reduction = _check_reduction(reduction)
        self._cache = None

    def forward(self, probabilities, targets):
        """Return the loss, a Python float."""
        p = _as_float(probabilities, "CrossEntropy")
        rows, _ = _target_rows(targets, p.shape, p.dtype, "CrossEntropy")
        factor = 1 / p.shape[0] if self.reduction == "mean" else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            # 0 log 0 is 0: a class that is not the target does not count, however improbable
            losses = np.where(rows == 0, p * 0, -rows * np.log(p))
        self._cache = p, rows, factor
        return float(losses.sum(dtype=np.float64) * factor)

    def backward(self):
        """Return dprobabilities (N, C) of the last forward: -y / p / N."""
        p, rows, factor = _saved(self._cache, "CrossEntropy")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(rows == 0, 0, -rows / p * factor).astype(p.dtype)


def _pixels_as_rows(logits, targets):
    """Return logits (..., C) and targets (M,) or (M, C): the classes of planes (N, C, H, W) go last."""
    logits, targets = np.asarray(logits), np.asarray(targets)
    if logits.ndim <= 2:
        return logits, targets
    planes = (logits.shape[0], *logits.shape[2:])
    if targets.shape not in (planes, logits.shape):
        expected = f"expected targets of shape {planes} or {logits.shape}"
        if targets.ndim == 1:  # labels of whole images
            raise ShapeError(
                f"SoftmaxCrossEntropy: expected an input with axes (N, C), found shape {logits.shape}; or, a "
                f"class for each pixel, {expected}"
            )
        raise ShapeError(f"SoftmaxCrossEntropy: {expected}, found {targets.shape}")
    rows = targets.shape == logits.shape
    targets = np.moveaxis(targets, 1, -1).reshape(-1, logits.shape[1]) if rows else targets.ravel()
    return np.ascontiguousarray(np.moveaxis(logits, 1, -1)), targets


def _rows_as_pixels(rows, shape):
    """Return rows (M, C) in the ``shape`` (N, ..., C) with the classes in axis 1 again."""
    rows = np.asarray(rows)
    return rows if len(shape) == 2 else np.ascontiguousarray(np.moveaxis(rows.reshape(shape), -1, 1))


def _check_weights(class_weight):
    weights = np.asarray(class_weight, np.float64)
    if weights.ndim != 1:
        raise ConfigError(f"class_weight: expected a list of numbers, found shape {weights.shape}")
    wrong = weights[~(weights >= 0)]
    if wrong.size:
        raise ConfigError(f"class_weight: expected numbers of at least 0, found {wrong[0]}")
    return weights


def _check_reduction(reduction):
    if reduction not in ("mean", "sum"):
        raise ConfigError(f'reduction: expected "mean" or "sum", found {reduction!r}')
    return reduction


def _saved(cache, kind):
    if cache is None:
        raise RuntimeError(f"{kind}: backward was called before forward")
    return cache


def _as_float(values, kind):
    """Return the network's output as a NumPy array (N, C)."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[0] < 1:
        raise ShapeError(f"{kind}: expected an input with axes (N, C), found shape {values.shape}")
    return values if values.dtype.char in "fd" else values.astype(np.float32)


def _target_rows(targets, shape, dtype, kind):
    """Return (rows (N, C), class indices or None) of targets in either form."""
    targets = np.asarray(targets)
    if targets.shape == tuple(shape) and targets.ndim != 1:
        return targets.astype(dtype), None
    if targets.shape != (shape[0],):
        raise ShapeError(
            f"{kind}: expected targets of shape ({shape[0]},) or {tuple(shape)}, found {targets.shape}"
        )
    if targets.dtype.kind not in "iu":
        raise ShapeError(f"{kind}: expected integer class indices, found dtype {targets.dtype}")
    # Few calls: a step of LeNet-5 takes 2 ms, and each costs microseconds when the caches are full of images.
    try:
        if np.minimum.reduce(targets) >= 0:
            return _one_hot_rows(shape[1], dtype)[targets], targets
    except IndexError:  # of a label that is too large
        pass
    first = np.flatnonzero((targets < 0) | (targets >= shape[1]))[0]
    raise DataError(
        f"{kind}: expected labels from 0 to {shape[1] - 1}, found {targets[first]} at image {first}"
    )


@cache
def _one_hot_rows(classes, dtype):
    return np.eye(classes, dtype=dtype)
