"""A trained network with all that it needs to answer: its classes, and how images become its numbers. ::

model = cnn.load("runs/sample")
answers = model.predict(["seven.png", "photos/"])
print(answers.labels, answers.probabilities)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn.backend import use_backend
from cnn.config import resolve
from cnn.data import Split
from cnn.data.arrays import as_pixels, channels_first, fitted, of_pillow, to_numpy
from cnn.data.image_file import EXTENSIONS
from cnn.data.picture import read_picture
from cnn.errors import ConfigError, DataError
from cnn.network import Network
from cnn.notebook import html_table
from cnn.targets import KINDS
from cnn.training import experiment
from cnn.training.evaluation import evaluate

__all__ = ["Model", "Predictions", "load", "load_trained"]

_SHOWN, _ROWS = 10, 100  # rows of a repr, and in a notebook
_LOSSES = {"softmax": "SoftmaxCrossEntropy", "sigmoid": "BCEWithLogitsLoss"}  # of an ONNX file of ours


def load(trained: str | Path) -> "Model":
    """Return the Model of a run folder, a checkpoint, a file of ``Network.save``, or an ONNX file.

    A file that names no classes has "0", "1" ...; where it says nothing on preprocessing, pixels are divided
    by 255. Raises CheckpointError when it cannot be read.
    """
    network, config, meta = load_trained(trained)
    return Model(network, config, meta, str(trained))


def load_trained(trained: str | Path, overrides: Sequence[str] = ()) -> tuple[Network, Any, dict[str, Any]]:
    """Return (network, config, meta) of what ``load`` takes; ``overrides`` change the config of a run.

    Of a file without a config it has defaults; classes, mean and std are numbers, 0 and 1 where a file says
    nothing.
    """
    if not str(trained).endswith(".onnx"):
        network, config, meta = experiment.load_trained(trained, overrides)
        if not meta["classes"]:
            meta = {**meta, "classes": [str(k) for k in range(network.output_shape[0])]}
        return network, config, meta
    from cnn.interop.onnx_read import read_onnx

    network, about, _ = read_onnx(trained)
    channels = about.image_shape[0]
    crop = [{"type": "CenterCrop", "size": list(about.crop)}] if about.crop else []
    dataset = "onnx" if about.targets == "classes" else "folder"
    document = experiment.untrained(dataset, crop, about.targets, _LOSSES.get(about.ending, "MSELoss"))
    config = resolve(document, str(trained))
    meta = {
        "classes": about.classes or [str(k) for k in range(network.output_shape[0])],
        "image_shape": list(about.image_shape),
        "mean": about.mean or [0.0] * channels,
        "std": about.std or [1.0] * channels,
    }
    return network, config, meta


class Model:
    """A trained network, its classes and its preprocessing.

    Attributes
    ----------
    network : Network
    config : Config
        Of the training.
    classes : tuple of str
    image_shape : (C, H, W) of the images before evaluation crops them, or (F,)
    mean, std : one number a channel
        x = (pixel / 255 - mean) / std; of a network that learnt from floats x = (value - mean) / std.
    """

    def __init__(self, network: Network, config: Any, meta: dict[str, Any], name: str = "") -> None:
        self.network, self.config, self.name = network, config, name
        self.classes = tuple(meta["classes"])
        self.image_shape = tuple(meta["image_shape"])
        self.mean, self.std = np.asarray(meta["mean"]), np.asarray(meta["std"])
        self._meta = {key: meta[key] for key in ("classes", "target_mean", "target_std") if key in meta}
        self.takes_pixels = meta.get("numbers", "uint8") == "uint8"

    def predict(self, images: Any, tta: bool = False) -> "Predictions":
        """Return the Predictions for images, preprocessed as those of the training were.

        Parameters
        ----------
        images
            A file, a folder (all image files below it, sorted), a pattern such as "photos/*.jpg", a Pillow
            image, an array; or a list of such. Arrays are (N, C, H, W), (N, H, W, C) or, of a grey network,
            (N, H, W); one axis less is one image (`cnn.data.arrays` has the rules). Integers count from 0 to
            255, floats from 0 to 1, and other sizes are resized as files are. A network that learnt from
            float arrays takes numbers of any size in the shape that it was trained on.
        tta : bool
            Average over the views that [tta] of the config describes.

        Raises DataError naming the file or the shape that does not fit.
        """
        if tta and self.config.tta is None:
            raise ConfigError("predict: tta: the config has no [tta] section, which says how to average")
        kind = KINDS[self.config.data.targets]
        found, pixels = self._gathered(images)
        names = [f"image {k}" if name is None else name for k, name in enumerate(found)]
        if len(pixels) == 0:
            return Predictions(np.empty((0, len(self.classes))), self.classes, names, kind.name)
        split = Split(pixels, kind.empty(len(pixels), self.classes, pixels.shape[2:]))
        batches = experiment.evaluation_batches(self.config, split, self.mean, self.std)
        with use_backend(self.config.train.backend), np.errstate(all="ignore"):
            views = self.config.tta if tta else None
            loss = experiment.loss_of(self.config, self._meta)
            told = evaluate(self.network, batches, views, loss, kind.name)
        return Predictions(told.answers, self.classes, names, kind.name)

    def _gathered(self, images: Any) -> tuple[list[str | None], np.ndarray]:
        """Return (names, one array) of whatever ``predict`` takes."""
        if isinstance(images, (list, tuple)) and (not images or any(map(_is_one, images))):
            parts = [self._gathered(part) for part in images]
            empty = np.empty((0, *self.image_shape), np.uint8)
            return [n for names, _ in parts for n in names], np.concatenate([a for _, a in parts] or [empty])
        if isinstance(images, (str, Path)):
            files = _files(images)
            return list(files), np.stack([self._read(file) for file in files])
        if isinstance(images, Image.Image):
            name = getattr(images, "filename", "") or None
            pixels = of_pillow(images, self._image_shape(), name or "image", self.config.data.fit)
            return [name], self._numbers(pixels[None])
        array = self._array(images)
        return [None] * len(array), array

    def _read(self, file: str | Path) -> np.ndarray:
        shape = self._image_shape()
        data = self.config.data
        return self._numbers(read_picture(file, shape, self.mean, fit=data.fit, decode=data.decode)[0])

    def _numbers(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels as they are, or for a network that learnt from floats as numbers from 0 to 1."""
        return pixels if self.takes_pixels else pixels / np.float32(255)

    def _image_shape(self) -> tuple[int, ...]:
        if len(self.image_shape) != 3:
            raise DataError(f"{self.name}: the network takes {self.image_shape[0]} features, not image files")
        return self.image_shape

    def _array(self, images: Any) -> np.ndarray:
        """Return an array as (N, *image_shape)."""
        array, shape = to_numpy(images), self.image_shape
        if array.ndim == len(shape) or (array.ndim == 2 and len(shape) == 3):  # one image
            grey_stack = array.ndim == 3 and shape[0] == 1 and 1 not in (array.shape[0], array.shape[2])
            array = array if grey_stack else array[None]
        if len(shape) == 3:
            array = channels_first(array, shape[0] if array.ndim == 4 else None)
        if array.ndim != len(shape) + 1 or array.shape[1] != shape[0]:
            raise DataError(f"{self.name}: expected images of shape {shape}, found {np.shape(images)}")
        if self.takes_pixels and len(shape) == 3:
            return fitted(as_pixels(array), shape[1:])
        if array.shape[1:] != shape:
            raise DataError(f"{self.name}: expected arrays of shape {shape}, found {array.shape[1:]}")
        return array.astype(np.float32)

    def __getstate__(
        self,
    ) -> dict[str, Any]:  # the classes of a config are made at run time, so it is copied as its plain dict
        return {**vars(self), "config": self.config.plain()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, config=resolve(state["config"], state["name"]))

    def __repr__(self) -> str:
        shape, more = "x".join(map(str, self.image_shape)), " ..." if len(self.classes) > 5 else ""
        return f"Model({self.name!r}: {shape} -> {', '.join(self.classes[:5])}{more})"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network answers for N images.

    Attributes
    ----------
    answers : array
        As ``cnn.targets`` has them for ``targets``: `probabilities`, `values` or `masks`.
    classes : tuple of str
        The names of the classes, the numbers or the labels.
    names : list of N str
        The files; "image 0" ... where there are none.
    targets : "classes", "numbers", "labels" or "masks"
    """

    answers: np.ndarray
    classes: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    targets: str = "classes"

    @property
    def probabilities(self) -> np.ndarray:
        """Of classes or labels, (N, classes): the softmax of the outputs, or their sigmoid after a training
        with BCEWithLogitsLoss; the outputs themselves of classes that MSELoss or L1Loss taught."""
        return self._answers("classes", "labels")

    @property
    def values(self) -> np.ndarray:
        """Of numbers, (N, K)."""
        return self._answers("numbers")

    @property
    def masks(self) -> np.ndarray:
        """The class of each pixel as the network sees the image, (N, H, W) uint8."""
        return self._answers("masks")

    def _answers(self, *kinds: str) -> np.ndarray:
        if self.targets not in kinds:
            have = {"numbers": "values", "masks": "masks"}.get(self.targets, "probabilities")
            raise AttributeError(f"predictions of {self.targets} have {have}, not {' or '.join(kinds)}")
        return self.answers

    @property
    def indices(self) -> np.ndarray:
        """The number of the likeliest class of each image, (N,)."""
        return self._answers("classes").argmax(axis=1)

    @property
    def labels(self) -> np.ndarray | list[list[str]]:
        """The name of the likeliest class of each image, (N,); of labels a list of those above one half."""
        if self.targets == "labels":
            return [KINDS["labels"].given(row, self.classes) for row in self.answers]
        return np.array(self.classes, dtype=object)[self.indices]

    def top(self, k: int = 3) -> list[list[tuple[str, float]]]:
        """Return for each image its k likeliest classes, as lists of (name, probability)."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[c], float(row[c])) for c in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.answers)

    def _lines(self, count: int) -> list[tuple[str, str]]:
        kind = KINDS[self.targets]
        rows = zip(self.names[:count], self.answers[:count], strict=True)
        return [(name, kind.line(answer, self.classes)) for name, answer in rows]

    def _repr_html_(self) -> str:
        header: tuple[str, ...] = ("image", "answer")
        rows: list[tuple[str, ...]] = [*self._lines(_ROWS)]
        if self.targets == "classes":
            header = ("image", *(f"{place}." for place in range(1, 1 + min(3, len(self.classes)))))
            rows = [
                (name, *(f"{c} {100 * p:.1f} %" for c, p in best))
                for name, best in zip(self.names[:_ROWS], self.top()[:_ROWS], strict=True)
            ]
        shown = f"{len(rows):,} of " if len(rows) < len(self) else ""
        return html_table(header, rows, f"{shown}{len(self):,} images")

    def __repr__(self) -> str:
        lines = ["  ".join(row) for row in self._lines(_SHOWN)]
        if len(self) > _SHOWN:
            lines.append(f"... and {len(self) - _SHOWN:,} more")
        return "\n".join(lines) or "no images"


def _is_one(part: Any) -> bool:
    """Whether a list's entry is an image of its own, rather than a row of one array."""
    return isinstance(part, (str, Path, Image.Image)) or getattr(part, "ndim", 0) >= 2


def _files(name: str | Path) -> list[str]:
    """Return the image files that a name stands for."""
    path = Path(name)
    if path.is_dir():
        found = sorted(str(f) for f in path.rglob("*") if f.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"{path}: found no image file in this folder")
        return found
    if any(sign in str(name) for sign in "*?[") and not path.exists():
        found = sorted(glob(str(name), recursive=True))
        if not found:
            raise DataError(f"{name}: found no file of this pattern")
        return found
    return [str(name)]
