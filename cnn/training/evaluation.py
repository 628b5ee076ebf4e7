"""What a network answers to all images of a split, and how good that is."""

from typing import NamedTuple

import numpy as np

from cnn.errors import NumericError
from cnn.layers import SoftmaxCrossEntropy
from cnn.targets import IGNORED, KINDS
from cnn.training.tta import averaged_logits, least_confident


class Evaluation(NamedTuple):
    """Of N images: the loss, the accuracy (None where there is none), the answers and what was right.

    ``answers`` and ``scores`` are as ``cnn.targets`` has them; ``labels`` are those of the images as the
    network saw them: masks are cut as the images are.
    """

    loss: float
    accuracy: float | None
    answers: np.ndarray
    labels: np.ndarray
    scores: dict


def evaluate(network, batches, tta=None, loss=None, targets="classes"):
    """Return the Evaluation of a network over Batches, in their order.

        loss = average over n of  log(sum over k of exp(z[n, k])) - z[n, label[n]],  in float64

    Plain cross-entropy: label smoothing and class weights belong to training. Of another ``loss`` of the
    training ``judge()`` gives the loss and ``answers`` the probabilities. With ``tta`` (the [tta] section of
    a config) z is averaged over the views that it describes, of the ``share`` of least confident images. Of
    masks only one batch of outputs is held.

    Raises NumericError when a logit is NaN or infinite.
    """
    kind = KINDS[targets]
    if kind.name == "masks":
        loss = loss or SoftmaxCrossEntropy(ignore_index=IGNORED)
        value, answers, labels = _of_pixels(network, batches, loss)
        scores = kind.scores(answers, labels, range(network.output_shape[0]))
        return Evaluation(value, scores["accuracy"], answers, labels, scores)
    plain = {"flip": False}
    views = {**plain, "share": 1.0} if tta is None else tta.model_dump()
    share = views.pop("share")
    logits, labels = [], []

    def predict(x):
        return network.predict(x, batch_size=len(x))

    for x, y in batches.epoch(0):
        logits.append(averaged_logits(predict, x, **(views if share == 1 else plain)))
        labels.append(y)
    logits, labels = np.concatenate(logits), np.concatenate(labels)
    if share < 1:
        for numbers, x in batches.of(least_confident(logits, share)):
            logits[numbers] = averaged_logits(predict, x, **views)
    _check(np.count_nonzero(~np.isfinite(logits).all(axis=1)), len(logits))
    if loss is not None and type(loss) is not SoftmaxCrossEntropy:
        value, answers = loss.judge().forward(logits, labels), np.asarray(loss.answers(logits), np.float64)
    else:
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1)
        value = float((np.log(total) - shifted[np.arange(len(labels)), labels]).mean())
        answers = exponentials / total[:, None]
    scores = kind.scores(answers, labels, range(logits.shape[1]))
    return Evaluation(value, scores.get("accuracy"), answers, labels, scores)


def _of_pixels(network, batches, loss):
    """Return (loss over the pixels that count, masks, right masks)."""
    judge, total, count, broken, masks, labels = loss.judge(), 0.0, 0, 0, [], []
    for x, y in batches.epoch(0):
        z = np.asarray(network.predict(x, batch_size=len(x)))
        broken += np.count_nonzero(~np.isfinite(z).all(axis=(1, 2, 3)))
        counted = np.count_nonzero(y != getattr(judge, "ignore_index", IGNORED))
        if counted:
            total, count = total + judge.forward(z, y) * counted, count + counted
        masks.append(z.argmax(axis=1).astype(np.uint8))
        labels.append(y)
    _check(broken, sum(map(len, labels)))
    return float(total / max(1, count)), np.concatenate(masks), np.concatenate(labels)


def _check(broken, total):
    if broken:
        raise NumericError(f"the network answers NaN or Inf for {broken:,} of {total:,} images")
