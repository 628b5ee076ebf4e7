"""Numbers that judge answers."""

import numpy as np


def confusion_matrix(labels, answers, classes):
    """Return how often each class got each answer.

        M[k, j] = number of n with labels[n] = k and answers[n] = j

    Shapes
    ------
    labels, answers : (N,) integers below ``classes``;  M : (classes, classes) int
    """
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, answers), 1)
    return matrix


def class_scores(confusion):
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


def top_k_accuracy(labels, probabilities, k):
    """Return the share of images whose class is among the k most probable ones."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities > of_label[:, None]).sum(axis=1) < k).mean())


def likely_mislabelled(labels, probabilities):
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
