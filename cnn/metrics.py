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
