"""Numbers that judge answers."""

import numpy as np


def confusion_matrix(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class got each answer.

        M[k, j] = number of n with labels[n] = k and answers[n] = j

    Shapes
    ------
    labels, answers : (N,) integers below ``classes``;  M : (classes, classes) int
    """
    pairs = np.asarray(labels).astype(np.int64) * classes + answers
    return np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (recall, precision, f1) of each class; NaN where there is nothing to divide by.

        recall[k] = M[k, k] / sum_j M[k, j]        precision[k] = M[k, k] / sum_j M[j, k]
        f1[k] = 2 M[k, k] / (sum_j M[k, j] + sum_j M[j, k])

    f1 is the harmonic mean of the other two, and 0 where the class was never given and never right.

    Shapes
    ------
    confusion : (classes, classes) as of `confusion_matrix`;  each result : (classes,) float64
    """
    right, of_class, given = np.diag(confusion).astype(float), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / of_class, right / given, 2 * right / (of_class + given)


def top_k_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """Return the share of images whose class is among the k most probable ones."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities > of_label[:, None]).sum(axis=1) < k).mean())


def likely_mislabelled(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (indices, answers) of images whose label is likely wrong, the likeliest first.

        t[k] = mean of p[n, k] over the n with label k          how sure the network is of class k as a rule
        suspected:  the most probable j with p[n, j] >= t[j] is not label[n];   answer[n] = j
        ordered by  p[n, answer] - p[n, label]

    The images should not have been trained on: a network learns wrong labels by heart.

    Shapes
    ------
    labels : (N,) integers;  probabilities : (N, classes)

    References
    ----------
    Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021.
    """
    classes, rows = probabilities.shape[1], np.arange(len(labels))
    sums = np.bincount(labels, probabilities[rows, labels], classes)
    counts = np.bincount(labels, minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    answers = confident.argmax(axis=1)
    margins = probabilities[rows, answers] - probabilities[rows, labels]
    suspected = np.flatnonzero((confident.max(axis=1) >= 0) & (answers != labels) & (margins > 0))
    suspected = suspected[np.argsort(-margins[suspected], kind="stable")]
    return suspected, answers[suspected]


def number_scores(targets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (MAE, RMSE, R2) of each of K numbers; R2 is NaN where the targets are all equal.

        MAE = mean over n of |v - t|,   RMSE = sqrt(mean over n of (v - t)^2)
        R2 = 1 - sum over n of (v - t)^2 / sum over n of (t - mean t)^2

    R2 is 1 for right values, 0 for the mean of the targets, and below 0 for worse than that.

    Shapes
    ------
    targets, values : (N, K);  each result : (K,) float64
    """
    targets, errors = targets.astype(np.float64), values.astype(np.float64) - targets
    squares, spread = np.square(errors), np.square(targets - targets.mean(axis=0)).sum(axis=0)
    r2 = np.where(spread > 0, 1 - squares.sum(axis=0) / np.where(spread > 0, spread, 1), np.nan)
    return np.abs(errors).mean(axis=0), np.sqrt(squares.mean(axis=0)), r2


def label_scores(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (recall, precision, f1) of each of K labels, given where its probability is above 0.5.

    NaN where there is nothing to divide by: f1 where no image has the label and none was given it.

    Shapes
    ------
    targets : (N, K) of 0 and 1;  probabilities : (N, K);  each result : (K,) float64
    """
    has, given = targets > 0, probabilities > 0.5
    right, of_label, of_answer = ((a & b).sum(axis=0) for a, b in ((has, given), (has, has), (given, given)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / of_label, right / of_answer, 2 * right / (of_label + of_answer)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class; NaN for a class that is nowhere.

        IoU[k] = M[k, k] / (sum over j of M[k, j] + sum over j of M[j, k] - M[k, k])

    Shapes
    ------
    confusion : (classes, classes) as of `confusion_matrix`;  result : (classes,) float64

    References
    ----------
    Jaccard, "Étude comparative de la distribution florale", 1901; Everingham et al., "The Pascal Visual
    Object Classes Challenge", IJCV 2010, section 4.
    """
    right = np.diag(confusion).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / (confusion.sum(axis=0) + confusion.sum(axis=1) - right)
