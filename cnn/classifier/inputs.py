"""What a Classifier makes of its arguments: labels, seeds, weights of classes, the default network."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn.errors import ConfigError, DataError
from cnn.layers import Layer, from_config

_WIDTHS = 16, 32, 64  # filters of the default network
_SMALLEST = 4  # pixels down to which it pools
_HIDDEN = 64  # features of the default network for features


def column_names(X: Any) -> np.ndarray | None:
    """Return the names of a data frame's columns, None where X has none or not all are strings."""
    names = getattr(X, "columns", None)
    if names is None or not len(names) or not all(isinstance(name, str) for name in names):
        return None
    return np.asarray(names, dtype=object)


def class_weights(weight: Any, classes: np.ndarray, indices: np.ndarray) -> dict[str, list[float]]:
    """Return what [loss] says of class weights: a dict by label, "balanced" or None."""
    if weight is None:
        return {}
    if isinstance(weight, str) and weight == "balanced":
        counts = np.bincount(indices, minlength=len(classes))
        weights = (len(indices) / (len(counts) * counts)).tolist()
    elif isinstance(weight, dict):
        weights = [weight.get(label, 1.0) for label in classes.tolist()]
    else:
        raise ConfigError(f'class_weight: expected a dict by label, "balanced" or None, found {weight!r}')
    return {"class_weight": [float(w) for w in weights]}


def default_layers(shape: Sequence[int]) -> list[Layer]:
    """Return layers for images (C, H, W), or for features (F,)."""
    if len(shape) == 1:
        return from_config([{"type": "Linear", "out_features": _HIDDEN}, {"type": "ReLU"}])
    specs, size = [], min(shape[1:])
    for width in _WIDTHS:
        specs += [
            {"type": "Conv2d", "out_channels": width, "kernel_size": 3, "padding": 1, "bias": False},
            {"type": "BatchNorm2d"},
            {"type": "ReLU"},
        ]
        if size > _SMALLEST:
            specs.append({"type": "MaxPool2d", "kernel_size": 2})
            size //= 2
    return from_config([*specs, {"type": "GlobalAvgPool2d"}, {"type": "Flatten"}])


def labels_of(y: Any) -> np.ndarray:
    """Return labels as a checked array (N,)."""
    if hasattr(y, "detach"):
        y = y.detach().cpu()
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        message = "A column-vector y was passed when a 1d array was expected: ravel() it"
        category: type[Warning] = UserWarning
        if "sklearn" in sys.modules:
            from sklearn.exceptions import DataConversionWarning

            category = DataConversionWarning
        warnings.warn(message, category, stacklevel=3)
        labels = labels.ravel()
    if labels.ndim != 1:
        raise DataError(f"expected labels (N,), found shape {labels.shape}")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise DataError("Input y contains NaN or infinity")
        if (labels != np.rint(labels)).any():
            raise DataError("Unknown label type: continuous; found fractions in y, expected classes")
    return labels


def seed_of(random_state: Any) -> int:
    """Return a seed for a config."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    draw: Any = random_state if random_state is not None else np.random.default_rng()
    return int(draw.integers(2**31) if hasattr(draw, "integers") else draw.randint(2**31 - 1))
