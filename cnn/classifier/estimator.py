"""`cnn.Classifier(...).fit(X, y)`: a network as an estimator of scikit-learn, which need not be installed.

from sklearn.model_selection import GridSearchCV
search = GridSearchCV(cnn.Classifier(epochs=5), {"lr": [1e-3, 1e-2]}, cv=3).fit(images, labels)
"""

import copy
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cnn
from cnn.classifier.inputs import class_weights, column_names, default_layers, labels_of, seed_of
from cnn.config import resolve
from cnn.data import Dataset, Split, normalization, split_validation
from cnn.data.arrays import channels_first, to_numpy
from cnn.errors import ConfigError, DataError, did_you_mean
from cnn.layers import Flatten, Layer, Linear, from_config
from cnn.model import Model
from cnn.training import checkpoint, fine_tuning
from cnn.training.experiment import Images
from cnn.training.in_memory import InMemory
from cnn.training.loop import Trainer

__all__ = ["Classifier", "NotFitted"]


class NotFitted(ConfigError, AttributeError):
    """A Classifier was asked before ``fit``."""


class Classifier:
    """A network that learns classes from arrays, with scikit-learn's ``fit``, ``predict`` and ``score``.

    Images are (N, C, H, W), (N, H, W, C) or (N, H, W); features (N, F). Arrays, lists, pandas and tensors of
    PyTorch are taken. uint8 images are pixels: they may be augmented, and are normalised by their mean and
    deviation from 0 to 1. All other numbers are taken as they are and standardised, each channel or feature
    for itself. Of four axes the last holds the channels if it is at most 4 long and axis 1 is longer than 4,
    otherwise axis 1 does; ``channels`` settles it. Labels are anything that sorts: strings, numbers, bools.

    Parameters
    ----------
    layers : list of Layer or of tables as in a config, optional
        Left alone: each ``fit`` trains a copy, in which layers that are built keep their values. Unless the
        last is a ``Linear`` with one output a class, ``Flatten`` (for images) and such a ``Linear`` are
        added. Left out: convolutions of 16, 32 and 64 filters with batch normalisation, each followed by
        pooling while the image is larger than 4 pixels; for features a hidden layer of 64.
    pretrained : str, optional
        A run folder, a checkpoint or a file of ``save``: its layers, the last ``Linear`` replaced, unless
        ``layers`` are given, and its weights, where name and shape fit; X is normalised as there.
    freeze : bool
        With ``pretrained``: only the head learns.
    epochs : float
    batch_size : int
    optimizer : str or dict
        A type, ``"SGD"``, or a table with its options.
    lr, weight_decay : float
        Of the optimizer.
    schedule : str or dict
        Of the learning rate, as in a config.
    label_smoothing : float
    class_weight : dict by label, "balanced" or None
        "balanced" weighs each class by N / (classes * its images).
    augment : list of tables
        As ``data.augment`` of a config; uint8 images only.
    validation : float
        Share of the images kept aside, by which the best epoch is chosen; 0 keeps the last epoch.
    channels : "auto", "first" or "last"
    random_state : int, numpy.random.RandomState or None
        None draws another seed each time.
    backend : "numba" or "reference"
    callbacks : list of cnn.Callback
    verbose : bool
        Print a line an epoch, and show a bar.

    Attributes
    ----------
    classes_ : the labels, sorted
    model_ : cnn.model.Model
    history_ : list of dict, one an epoch, the columns of metrics.csv
    n_features_in_ : int, of features
    """

    def __init__(
        self,
        layers: Sequence[Any] | None = None,
        *,
        pretrained: str | Path | None = None,
        freeze: bool = False,
        epochs: float = 20,
        batch_size: int = 32,
        optimizer: str | dict[str, Any] = "AdamW",
        lr: float = 3e-3,
        weight_decay: float = 0.0,
        schedule: str | dict[str, Any] = "cosine",
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        augment: Sequence[dict[str, Any]] = (),
        validation: float = 0.0,
        channels: str = "auto",
        random_state: Any = 0,
        backend: str = "numba",
        callbacks: Sequence[Any] = (),
        verbose: bool = False,
    ) -> None:
        self.layers = layers
        self.pretrained = pretrained
        self.freeze = freeze
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.augment = augment
        self.validation = validation
        self.channels = channels
        self.random_state = random_state
        self.backend = backend
        self.callbacks = callbacks
        self.verbose = verbose

    # -- learning and answering --------------------------------------------------------------------

    def fit(self, X: Any, y: Any, validation_data: tuple[Any, Any] | None = None) -> "Classifier":
        """Learn from images or features ``X`` and their labels ``y``; return self.

        ``validation_data`` is (X, y) by which the best epoch is chosen, in place of ``validation``.
        Raises DataError (a ValueError) for what does not fit, ConfigError for a parameter, NumericError when
        the training diverges.
        """
        if y is None:
            raise DataError("Classifier requires y to be passed, but the target y is None")
        numbers, labels = self._images(X, fit=True), labels_of(y)
        if len(numbers) != len(labels):
            raise DataError(f"expected one label an image, found {len(numbers)} images, {len(labels)} labels")
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"expected at least 2 classes in y, found 1 class: {self.classes_.tolist()}")
        seed, indices = seed_of(self.random_state), indices.astype(np.int64)
        train, validation = Split(numbers, indices), Split(numbers[:0], indices[:0])
        if validation_data is not None:
            validation = self._validation(validation_data, numbers)
        elif self.validation:
            train, validation = split_validation(train, self.validation, seed)
        images = self._as_images(train, validation)
        network = cnn.Network(self._layers(numbers))
        config = resolve(self._document(seed, len(train), indices, network), "Classifier")
        trainer = Trainer(config, InMemory(self.verbose), self.callbacks, images, network)
        trainer.fit()
        self.history_ = trainer.history
        meta = {
            "classes": [str(c) for c in self.classes_],
            "image_shape": list(numbers.shape[1:]),
            "mean": trainer.images.mean.tolist(),
            "std": trainer.images.std.tolist(),
            "numbers": "uint8" if numbers.dtype == np.uint8 else "float",
        }
        self.model_ = Model(trainer.network, config, meta, "Classifier")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class of ``classes_``, (N, classes)."""
        self._check_fitted("predict_proba")
        return self.model_.predict(self._images(X)).probabilities

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest label of each image, (N,)."""
        self._check_fitted("predict")
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of right answers."""
        return float(np.average(self.predict(X) == labels_of(y), weights=sample_weight))

    def save(self, file: str | Path) -> None:
        """Write the trained network for ``cnn.load``, `cnn predict` and fine-tuning; labels become words."""
        self._check_fitted("save")
        model = self.model_
        about = {
            "classes": list(model.classes),
            "image_shape": list(model.image_shape),
            "mean": model.mean.tolist(),
            "std": model.std.tolist(),
            "numbers": "uint8" if model.takes_pixels else "float",
            "config": model.config.plain(),
        }
        checkpoint.save_network(file, model.network, **about)

    # -- what an estimator has ---------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> "Classifier":
        """Set parameters; return self. Raises ConfigError (a ValueError) for an unknown one."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(f'Classifier: unknown parameter "{name}".{did_you_mean(name, known)}')
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True),
        )

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {k: v for k, v in self.get_params().items() if repr(v) != repr(defaults[k].default)}
        return f"Classifier({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    # -- from parameters to a training -------------------------------------------------------------

    def _check_fitted(self, what: str) -> None:
        if hasattr(self, "model_"):
            return
        message = f"This Classifier is not fitted yet: call fit before {what}"
        if "sklearn" in sys.modules:  # who uses it, catches its error
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(message)
        raise NotFitted(message)

    def _images(self, X: Any, fit: bool = False) -> np.ndarray:
        """Return X as uint8 (N, C, H, W) or float32 (N, C, H, W) or (N, F), checked."""
        if hasattr(X, "toarray") and not hasattr(X, "to_numpy"):
            raise DataError("expected a dense array, found a sparse matrix; X.toarray() makes it one")
        self._check_names(X, fit)
        array = to_numpy(X)
        if array.ndim < 2:
            raise DataError(
                f"Expected 2D array or images, got {array.ndim}D array instead. Reshape your data using "
                "X.reshape(-1, 1) if it has one feature, X.reshape(1, -1) if it is one sample"
            )
        if not array.size:
            found = "feature(s)" if len(array) else "sample(s)"
            least = "while a minimum of 1 is required."
            raise DataError(f"Found array with 0 {found} (shape={array.shape}) {least}")
        array = self._oriented(array, fit)
        if not fit and array.shape[1:] != tuple(self.model_.image_shape):
            if array.ndim == 2:
                raise DataError(
                    f"X has {array.shape[1]} features, but Classifier is expecting "
                    f"{self.n_features_in_} features as input"
                )
            raise DataError(f"expected images of {tuple(self.model_.image_shape)}, found {array.shape[1:]}")
        if fit and array.ndim == 2:
            self.n_features_in_: int = array.shape[1]
        if array.ndim == 4 and (array.dtype == np.uint8 if fit else self.model_.takes_pixels):
            return array
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError("Input X contains NaN or infinity (or numbers too large for float32).")
        return array

    def _oriented(self, array: np.ndarray, fit: bool) -> np.ndarray:
        """Return four axes with the channels in axis 1, in the order that ``fit`` found."""
        if self.channels not in ("auto", "first", "last"):
            raise ConfigError(f'channels: expected "auto", "first" or "last", found {self.channels!r}')
        if array.ndim != 4:
            return channels_first(array)
        if self.channels != "auto":
            return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if self.channels == "last" else array
        return channels_first(array, None if fit else self.model_.image_shape[0])

    def _check_names(self, X: Any, fit: bool) -> None:
        """Remember the names of a data frame's columns, or compare them."""
        names, known = column_names(X), getattr(self, "feature_names_in_", None)
        if fit:
            if names is not None:
                self.feature_names_in_ = names
            elif known is not None:
                del self.feature_names_in_
        elif names is not None and known is not None and list(names) != list(known):
            raise DataError(
                "The feature names should match those that were passed during fit: "
                f"expected {', '.join(known[:5])} ..., found {', '.join(names[:5])} ..."
            )

    def _validation(self, data: tuple[Any, Any], numbers: np.ndarray) -> Split:
        X, y = data
        held, labels = self._images_like(X, numbers), labels_of(y)
        unknown = np.setdiff1d(labels, self.classes_).tolist()
        if unknown:
            raise DataError(f"validation_data: found the class {unknown[0]!r}, which y does not have")
        return Split(held, np.searchsorted(self.classes_, labels).astype(np.int64))

    def _images_like(self, X: Any, numbers: np.ndarray) -> np.ndarray:
        held = channels_first(to_numpy(X), numbers.shape[1]) if numbers.ndim == 4 else to_numpy(X)
        if held.shape[1:] != numbers.shape[1:]:
            raise DataError(f"validation_data: expected shape {numbers.shape[1:]}, found {held.shape[1:]}")
        return held.astype(numbers.dtype, copy=False)

    def _as_images(self, train: Split, validation: Split) -> Images:
        dataset = Dataset("arrays", tuple(str(c) for c in self.classes_), train, train.take(slice(0, 0)), {})
        return Images(dataset, train, validation, *normalization(train.images))

    def _layers(self, numbers: np.ndarray) -> list[Layer]:
        """Return fresh layers up to one output a class."""
        if self.pretrained is not None:
            trunk = self._pretrained_layers("uint8" if numbers.dtype == np.uint8 else "float")
        if self.layers is None:
            layers = default_layers(numbers.shape[1:]) if self.pretrained is None else trunk
        elif all(isinstance(layer, Layer) for layer in self.layers):
            layers = copy.deepcopy(list(self.layers))
        else:
            layers = from_config(list(self.layers))
        last = layers[-1] if layers else None
        if not (isinstance(last, Linear) and last.out_features == len(self.classes_)):
            flat = numbers.ndim == 2 or any(isinstance(layer, Flatten) for layer in layers)
            layers = [*layers, *([] if flat else [Flatten()]), Linear(len(self.classes_))]
        return layers

    def _pretrained_layers(self, numbers: str) -> list[Layer]:
        """Return the layers of ``pretrained``, but for a last Linear that is for other classes."""
        network, meta = fine_tuning.read(self.pretrained)
        learnt = (meta or {}).get("numbers", "uint8")
        if learnt != numbers:
            found = f"learnt from {learnt} images, found {numbers} ones"
            raise DataError(f"pretrained: {self.pretrained}: {found}")
        specs = [layer.spec() for layer in network.layers]
        if specs[-1]["type"] == "Linear" and specs[-1]["out_features"] != len(self.classes_):
            specs.pop()
        return from_config(specs)

    def _document(self, seed: int, count: int, indices: np.ndarray, network: cnn.Network) -> dict[str, Any]:
        """Return the config of the training."""
        try:
            specs = [layer.spec() for layer in network.layers]
        except ConfigError:  # a layer with arguments that no file can hold; the network is there
            specs = [{"type": "Flatten"}]
        batch_size = max(1, min(int(self.batch_size), count))
        optimizer = self.optimizer if isinstance(self.optimizer, dict) else {"type": self.optimizer}
        own = {"lr": float(self.lr), "weight_decay": float(self.weight_decay)}
        return {
            "name": "classifier",
            "seed": seed,
            "data": {
                "dataset": "arrays",
                "batch_size": batch_size,
                "drop_last": count % batch_size == 1 and batch_size > 1,  # which batch normalisation refuses
                "validation": 0.0,
                "augment": list(self.augment),
            },
            "model": {"layers": specs},
            "loss": {
                "label_smoothing": float(self.label_smoothing),
                **class_weights(self.class_weight, self.classes_, indices),
            },
            "optimizer": {**own, **optimizer},
            "schedule": self.schedule if isinstance(self.schedule, dict) else {"type": self.schedule},
            "train": {"epochs": self.epochs, "backend": self.backend, "snapshots": 0},
            **self._start(),
        }

    def _start(self) -> dict[str, Any]:
        if self.pretrained is None:
            return {}
        return {"start": {"weights": str(self.pretrained), "freeze": bool(self.freeze)}}
