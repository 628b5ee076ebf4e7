"""Judges of the exercises about the loss."""

import numpy as np

from cnn import reference as ops
from cnn.course.judges.gradient import check

ORIGIN = np.array([0.1, 0.2, 0.25, 0.4, 0.05])


def softmax(sheet, answer):
    """Probabilities of a batch, and of logits of 1000."""
    z = np.random.default_rng(0).normal(0, 2, (4, 5))
    large = np.array([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -999.0]])
    for what, logits in (("a batch", z), ("logits of 1000", large)):
        with np.errstate(all="ignore"):
            plain = np.exp(logits)
            naive = plain / plain.sum(1, keepdims=True)
            # the same mistakes are made with and without the largest logit subtracted
            both = [plain, np.exp(logits - logits.max(1, keepdims=True))]
            columns, whole = [e / e.sum(0) for e in both], [e / e.sum() for e in both]
        sheet.compare(
            what,
            answer.softmax,
            (logits.copy(),),
            {"p": ops.softmax_forward(logits)},
            overflow={"p": naive},
            axis=[{"p": p} for p in columns],
            whole_batch=[{"p": p} for p in whole],
            not_normalised=[{"p": e} for e in both],
        )


def softmax_jacobian(sheet, answer):
    """The matrix at the example and at random probabilities; it must give the gradient of softmax."""
    rng = np.random.default_rng(0)
    for what, p in (("the example", ORIGIN), ("random", ops.softmax_forward(rng.normal(0, 1, (1, 4)))[0])):
        outer, square = np.outer(p, p), np.diag(p * p)
        sheet.compare(
            what,
            answer.jacobian,
            (p.copy(),),
            {"J": np.diag(p) - outer},
            diagonal_only={"J": np.diag(p) - square},
            off_diagonal_sign={"J": np.diag(p) + outer - 2 * square},
            no_delta={"J": -outer},
        )

    def backward(dy, x):
        rows = [dy[n] @ answer.jacobian(ops.softmax_forward(x)[n]) for n in range(len(x))]
        return (np.array(rows),)

    check(sheet, ops.softmax_forward, backward, rng.normal(0, 1, (3, 5)))


def p_minus_y(sheet, answer):
    """Loss and gradient of the example, of a batch, of logits of 1000."""
    rng = np.random.default_rng(0)
    batch, labels = rng.normal(0, 2, (4, 5)), np.array([3, 0, 4, 0])
    large = np.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 0.0]])
    cases = (
        ("the example", np.log(ORIGIN)[None], np.array([2])),
        ("a batch", batch, labels),
        ("logits of 1000", large, np.array([0, 0])),
    )
    for what, z, label in cases:
        rows = np.eye(z.shape[1])[label]
        losses, p = ops.softmax_cross_entropy_forward(z, rows)
        n, dz = len(z), (p - rows) / len(z)
        with np.errstate(all="ignore"):
            naive = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            logarithm = -np.log(p[np.arange(n), label]).mean()
            broken = -np.log(naive[np.arange(n), label]).mean()
        infinite = logarithm if not np.isfinite(logarithm) else broken
        sheet.compare(
            what,
            answer.loss_and_gradient,
            (z.copy(), label.copy()),
            {"L": losses.mean(), "dz": dz},
            sum={"L": losses.sum(), "dz": dz * n},
            sign={"L": -losses.mean(), "dz": -dz},
            label_forgotten={"dz": p / n},
            softmax_twice={"dz": ops.softmax_backward(dz, p)},
            log_of_zero={"L": infinite, "dz": (naive - rows) / n},
        )

    def forward(x):
        return ops.softmax_cross_entropy_forward(x, np.eye(5)[labels])[0].mean(keepdims=True)

    def backward(dy, x):
        return (dy[0] * answer.loss_and_gradient(x, labels.copy())[1],)

    check(sheet, forward, backward, batch)
