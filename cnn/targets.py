"""What a network is to say of an image, the values of ``data.targets``: how it is stored and judged.

    classes   one class                            labels (N,) int64             accuracy
    numbers   numbers, such as an age              labels (N, K) float32         MAE, RMSE, R2 of each
    labels    labels that do not exclude another   labels (N, K) uint8, 0 or 1   F1 of each
    masks     the class of each pixel              labels (N, H, W) uint8        IoU of each, pixel accuracy

K outputs have names, in every kind ``Dataset.classes``. What is judged are the *answers* of a network:
probabilities (N, K) of classes and labels, the numbers themselves (N, K), masks (N, H, W) of classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn.errors import DataError
from cnn.metrics import confusion_matrix, iou, label_scores, number_scores

Array = np.ndarray
_NEAR, _FEW_PIXELS = 0.25, 0.05  # what counts as learned: of a number's spread, of an image's pixels
IGNORED = 255  # in a mask: a pixel that nobody judged, as in Pascal VOC


class Classes:
    """One class an image."""

    name, loss = "classes", "SoftmaxCrossEntropy"
    losses: tuple[str, ...] | None = None  # those that fit; None: all do
    told = "probabilities"  # what `by_name` tells
    has_accuracy = by_accuracy = True  # whether there is one; whether it says which epoch is the best

    def outputs(self, names: Sequence[str], plane: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that a network gives for one image of ``plane`` (H, W)."""
        return (len(names),)

    def checked(self, labels: Array, names: Sequence[str], images: Array, where: str) -> Array:
        """Return labels as they are stored; DataError, which names ``where``, for what cannot be."""
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{where}: expected integer labels (N,), found {labels.dtype} {labels.shape}")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if wrong.size:
            raise DataError(
                f"{where}: expected labels 0 to {len(names) - 1}, "
                f"found {labels[wrong[0]]} at index {wrong[0]} ({wrong.size} out of range)"
            )
        return np.ascontiguousarray(labels, dtype=np.int64)

    def empty(self, count: int, names: Sequence[str], plane: Sequence[int]) -> Array:
        """Return labels that stand for none: of images that are only to be predicted."""
        return np.zeros(count, np.int64)

    def wrong(self, outputs: Array, labels: Array, loss: Any) -> Array | None:
        """Return for each image how wrong its outputs are, from 0 to 1; None where that has no measure."""
        rows = labels if labels.ndim == 1 else labels.argmax(axis=1)  # of two mixed ones the heavier
        return outputs.argmax(axis=1) != rows

    def missed(self, outputs: Array, labels: Array, loss: Any) -> Array:
        """Return for each image whether its outputs are wrong enough to say that it was not learned."""
        return np.asarray(self.wrong(outputs, labels, loss)) > 0

    def scores(self, answers: Array, labels: Array, names: Sequence[str]) -> dict[str, float]:
        """Return {name: number} of what judges the answers to all images."""
        return {"accuracy": float((answers.argmax(axis=1) == labels).mean())}

    def words(self, scores: dict[str, float]) -> str:
        """Return the scores as a part of a sentence."""
        return f"accuracy {100 * scores['accuracy']:.2f} %"

    def by_name(self, answer: Array, names: Sequence[str]) -> dict[str, float]:
        """Return {name: number} of the answer to one image."""
        return dict(zip(names, answer.tolist(), strict=True))

    def line(self, answer: Array, names: Sequence[str], top: int | None = 3) -> str:
        """Return the answer to one image as a line, of many names the ``top`` first."""
        best = sorted(self.by_name(answer, names).items(), key=lambda item: -item[1])[:top]
        return "  ".join(f"{name} {100 * p:.1f} %" for name, p in best)


class Numbers(Classes):
    """Some numbers an image: regression."""

    name, loss, told = "numbers", "MSELoss", "values"
    losses = ("MSELoss", "L1Loss")
    has_accuracy = by_accuracy = False

    def checked(self, labels: Array, names: Sequence[str], images: Array, where: str) -> Array:
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.ndim != 2 or labels.shape[1] != len(names) or labels.dtype.kind not in "iuf":
            expected = f"expected {len(names)} numbers an image"
            raise DataError(f"{where}: {expected}, found {labels.dtype} {labels.shape}")
        labels = np.ascontiguousarray(labels, dtype=np.float32)
        if not np.isfinite(labels).all():
            row = int(np.flatnonzero(~np.isfinite(labels).all(axis=1))[0])
            raise DataError(f"{where}: expected finite numbers of single precision, found others at {row}")
        return labels

    def empty(self, count: int, names: Sequence[str], plane: Sequence[int]) -> Array:
        return np.zeros((count, len(names)), np.float32)

    def wrong(self, outputs: Array, labels: Array, loss: Any) -> Array | None:
        return None

    def missed(self, outputs: Array, labels: Array, loss: Any) -> Array:
        return (np.abs(loss.answers(outputs) - labels) > _NEAR * loss.std).any(axis=1)

    def scores(self, answers: Array, labels: Array, names: Sequence[str]) -> dict[str, float]:
        scores = number_scores(labels, answers)
        return {key: _mean(values) for key, values in zip(("mae", "rmse", "r2"), scores, strict=True)}

    def line(self, answer: Array, names: Sequence[str], top: int | None = 3) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self.by_name(answer, names).items())

    def words(self, scores: dict[str, float]) -> str:
        return f"MAE {scores['mae']:.4g}, RMSE {scores['rmse']:.4g}, R2 {scores['r2']:.4f}"


class Labels(Classes):
    """Labels of which an image may have any, or none."""

    name, loss = "labels", "BCEWithLogitsLoss"
    losses = ("BCEWithLogitsLoss",)
    by_accuracy = False  # where labels are rare, it is high from the start

    def checked(self, labels: Array, names: Sequence[str], images: Array, where: str) -> Array:
        if labels.ndim != 2 or labels.shape[1] != len(names) or not np.isin(labels, (0, 1)).all():
            expected = f"expected {len(names)} numbers 0 or 1 an image"
            raise DataError(f"{where}: {expected}, found {labels.dtype} {labels.shape}")
        return np.ascontiguousarray(labels, dtype=np.uint8)

    def empty(self, count: int, names: Sequence[str], plane: Sequence[int]) -> Array:
        return np.zeros((count, len(names)), np.uint8)

    def wrong(self, outputs: Array, labels: Array, loss: Any) -> Array | None:
        return ((outputs > 0) != (labels > 0.5)).mean(axis=1)

    def scores(self, answers: Array, labels: Array, names: Sequence[str]) -> dict[str, float]:
        right = (answers > 0.5) == (labels > 0)
        return {"accuracy": float(right.mean()), "f1": _mean(label_scores(labels, answers)[2])}

    def given(self, answer: Array, names: Sequence[str]) -> list[str]:
        """Return the names of the labels of an image."""
        return [name for name, p in zip(names, answer, strict=True) if p > 0.5]

    def line(self, answer: Array, names: Sequence[str], top: int | None = None) -> str:
        """Return the labels that are given, or with ``top`` the likeliest."""
        count = len(self.given(answer, names)) if top is None else top
        return super().line(answer, names, count) or "no label"

    def words(self, scores: dict[str, float]) -> str:
        return f"F1 {100 * scores['f1']:.2f} %, accuracy {100 * scores['accuracy']:.2f} % of all labels"


class Masks(Classes):
    """A class for each pixel; pixels of IGNORED count for nothing."""

    name, loss, told = "masks", "SoftmaxCrossEntropy", "shares"
    losses = ("SoftmaxCrossEntropy",)

    def outputs(self, names: Sequence[str], plane: Sequence[int]) -> tuple[int, ...]:
        return (len(names), *plane)

    def checked(self, labels: Array, names: Sequence[str], images: Array, where: str) -> Array:
        if labels.shape != (len(images), *images.shape[2:]) or labels.dtype.kind not in "iu":
            expected = f"expected integer masks {(len(images), *images.shape[2:])}"
            raise DataError(f"{where}: {expected}, found {labels.dtype} {labels.shape}")
        wrong = (labels >= len(names)) & (labels != IGNORED) | (labels < 0)
        if wrong.any():
            place = np.unravel_index(wrong.argmax(), wrong.shape)
            raise DataError(
                f"{where}: expected pixels from 0 to {len(names) - 1}, or {IGNORED} for those that do not "
                f"count, found {labels[place]} in mask {place[0]}"
            )
        return np.ascontiguousarray(labels, dtype=np.uint8)

    def empty(self, count: int, names: Sequence[str], plane: Sequence[int]) -> Array:
        return np.zeros((count, *plane), np.uint8)

    def wrong(self, outputs: Array, labels: Array, loss: Any) -> Array | None:
        counted = labels != getattr(loss, "ignore_index", IGNORED)
        wrong = (outputs.argmax(axis=1) != labels) & counted
        return wrong.sum(axis=(1, 2)) / np.maximum(counted.sum(axis=(1, 2)), 1)

    def missed(self, outputs: Array, labels: Array, loss: Any) -> Array:
        return np.asarray(self.wrong(outputs, labels, loss)) > _FEW_PIXELS

    def scores(self, answers: Array, labels: Array, names: Sequence[str]) -> dict[str, float]:
        confusion = self.confusion(answers, labels, names)
        accuracy = float(np.trace(confusion) / max(1, confusion.sum()))
        return {"accuracy": accuracy, "mean_iou": _mean(iou(confusion))}

    @staticmethod
    def confusion(answers: Array, labels: Array, names: Sequence[str]) -> Array:
        """Return how many pixels of each class got each answer, (K, K)."""
        total = np.zeros((len(names), len(names)), int)
        for answer, label in zip(answers, labels, strict=True):
            counted = label != IGNORED
            total += confusion_matrix(label[counted], answer[counted], len(names))
        return total

    def by_name(self, answer: Array, names: Sequence[str]) -> dict[str, float]:
        """Return {name: share of the pixels}."""
        shares = np.bincount(answer.ravel(), minlength=len(names)) / answer.size
        return dict(zip(names, shares.tolist(), strict=True))

    def words(self, scores: dict[str, float]) -> str:
        return f"mean IoU {100 * scores['mean_iou']:.2f} %, pixel accuracy {100 * scores['accuracy']:.2f} %"


def _mean(values: Array) -> float:
    """Return the mean of the numbers that are numbers, 0 where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


KINDS: dict[str, Any] = {kind.name: kind for kind in (Classes(), Numbers(), Labels(), Masks())}
NAMES = tuple(KINDS)
