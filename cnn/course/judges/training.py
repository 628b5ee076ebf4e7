"""Judges of the exercises about training."""

from functools import partial

import numpy as np

from cnn.backend import use_backend
from cnn.course.judges.gradient import check_answer
from cnn.course.marks import NotFilledIn
from cnn.layers import BatchNorm1d, Conv2d, Layer, Linear, ReLU, Sequential, SoftmaxCrossEntropy
from cnn.network import Network
from cnn.optimizers import SGD


def momentum(sheet, answer):
    """One step, and three in a row."""
    rng = np.random.default_rng(0)
    lr, m, decay = 0.2, 0.9, 0.05
    weight, velocity, gradients = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 2, 3))

    def run(steps, sign=1, damp=1.0, inside=False, decay=decay, up=1):
        w, v = weight, velocity
        for g in gradients[:steps]:
            g = g + decay * w
            v = sign * m * v + damp * (lr * g if inside else g)
            w = w - up * (v if inside else lr * v)
        return {"weight": w, "velocity": v}

    for what, steps in (("one step", 1), ("three steps", 3)):

        def repeated(w, v, steps=steps):
            for g in gradients[:steps]:
                w, v = answer.step(w, g.copy(), v, lr, m, decay)
            return w, v

        sheet.compare(
            what,
            repeated,
            (weight, velocity),
            run(steps),
            velocity_sign=run(steps, sign=-1),
            damped=run(steps, damp=1 - m),
            lr_inside=run(steps, inside=True),
            no_decay=run(steps, decay=0),
            ascent=run(steps, up=-1),
        )


def numerical_gradient(sheet, answer):
    """A cubic, whose differences are known exactly, at a matrix and at a vector."""
    rng, h = np.random.default_rng(0), 1e-2
    for what, shape in (("a vector", (4,)), ("a matrix", (2, 3))):
        x, factor = rng.normal(size=shape), rng.normal(size=shape)

        def f(x, factor=factor):
            return float((factor * x**3).sum())

        # of c x^3: the central difference is c (3 x^2 + h^2), the one-sided c (3 x^2 + 3 x h + h^2)
        right = factor * (3 * x**2 + h**2)
        given = x.copy()
        try:
            found = answer.numerical_gradient(f, given, h)
        except NotImplementedError:
            raise NotFilledIn from None
        except Exception as error:
            sheet.note(f"{what}: gradient", sheet._raised(error))
            continue
        if not np.array_equal(given, x):
            sheet.note(f"{what}: x afterwards", mistake="not-restored")
            continue
        sheet.note(f"{what}: x afterwards")
        sided = factor * (3 * x**2 + 3 * x * h + h**2)
        wrong = [("one-sided", sided), ("not-halved", 2 * right)]
        sheet.values(f"{what}: gradient", found, right, wrong)


class _Recorder:
    """Stands for a network, a loss or an optimizer, notes what is called, and passes it on."""

    def __init__(self, name, target, calls):
        self._name, self._target, self._calls = name, target, calls

    def __getattr__(self, attribute):
        found = getattr(self._target, attribute)
        if not callable(found):
            return found

        def call(*arguments, **named):
            self._calls.append(f"{self._name}.{attribute}")
            return found(*arguments, **named)

        return call


def training_step(sheet, answer):
    """Three steps of a small network with batch normalisation, against the same by the book."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(3, 8, 4)), rng.integers(3, size=(3, 8))

    def run(step):
        network = Network([Linear(5), BatchNorm1d(), ReLU(), Linear(3)])
        network.build((4,), rng=np.random.default_rng(1), dtype=np.float64)
        # a state in which evaluation differs from training
        network.layers[1].running_mean[...], network.layers[1].running_var[...] = 0.3, 2.0
        optimizer, loss = SGD(network.parameters(), lr=0.1, momentum=0.9), SoftmaxCrossEntropy()
        start = network.data.copy()
        with use_backend("reference"):
            values = [step(network, loss, optimizer, x, y) for x, y in zip(images, labels, strict=True)]
        return {"losses": np.array(values, object), "weights": network.data.copy(), "start": start}

    def by_the_book(network, loss, optimizer, x, y, training=True, clear=True, late=False):
        value = loss.forward(network.forward(x, training), y)
        if late:
            optimizer.step()
            network.zero_grad()
        network.backward(loss.backward())
        if not late:
            optimizer.step()
            if clear:
                network.zero_grad()
        return value

    def variant(**options):
        result = run(lambda *arguments: by_the_book(*arguments, **options))
        return {"losses": result["losses"], "weights": result["weights"]}

    right, calls = variant(), []

    def attempt():
        def recorded(network, loss, optimizer, x, y):
            parts = zip(("network", "loss", "optimizer"), (network, loss, optimizer), strict=True)
            return answer.training_step(*(_Recorder(*part, calls) for part in parts), x.copy(), y.copy())

        result = run(recorded)
        return result["losses"], result["weights"]

    still = run(lambda *_: 0.0)["start"]
    sheet.compare(
        "three steps",
        attempt,
        (),
        right,
        no_zero_grad=variant(clear=False),
        evaluation_mode=variant(training=False),
        cleared_too_early={"weights": still},
        one_step_late=variant(late=True),
    )


class _Block(Layer):
    """The learner's class as a layer, for the gradient check."""

    needs_build = True

    def __init__(self, block, parts):
        self._block, self._parts = block, parts

    def forward(self, x, training=False):
        return np.asarray(self._block.forward(x, training))

    def backward(self, dy):
        return np.asarray(self._block.backward(dy))

    def parameters(self):
        return [p for part in self._parts for p in part.parameters()]


def residual_block(sheet, answer):
    """With x itself as shortcut, and with a convolution; then the gradient check of the second."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 4))
    with use_backend("reference"):
        for what, has_shortcut in (("shortcut x", False), ("a convolution as shortcut", True)):
            layers = [Conv2d(3, kernel_size=3, padding=1), ReLU(), Conv2d(3, kernel_size=3, padding=1)]
            body = Sequential(layers)
            body.build((3, 4, 4), rng=rng, dtype=np.float64)
            shortcut = Conv2d(3, kernel_size=1) if has_shortcut else None
            if shortcut is not None:
                shortcut.build((3, 4, 4), rng=rng, dtype=np.float64)
            worked, block = sheet.call(f"{what}: y", lambda b=body, s=shortcut: answer.ResidualBlock(b, s))
            if not worked:
                continue
            total = body.forward(x, True) + (x if shortcut is None else shortcut.forward(x, True))
            sheet.compare(
                what, partial(block.forward, training=True), (x.copy(),), {"y": np.maximum(total, 0)}
            )
            if not sheet.trials[-1].passed:
                continue
            dy = rng.normal(size=total.shape)
            g = np.where(total > 0, dy, 0)
            _compare_backward(sheet, what, block, body, shortcut, dy, g)
        if all(trial.passed for trial in sheet.trials):
            parts = [body] if shortcut is None else [body, shortcut]
            check_answer(sheet, _Block(block, parts), x)


def _compare_backward(sheet, what, block, body, shortcut, dy, g):
    """Compare dx with the right one and with those of typical mistakes."""

    def past(layer, gradient):
        return gradient if layer is None else layer.backward(gradient)

    inside, beside = body.backward(g), past(shortcut, g)
    bypassed = {"dx": inside + g} if shortcut is not None else {}
    sheet.compare(
        what,
        block.backward,
        (dy,),
        {"dx": inside + beside},
        no_shortcut={"dx": inside},
        no_body={"dx": beside},
        no_relu={"dx": body.backward(dy) + past(shortcut, dy)},
        shortcut_before_relu={"dx": inside + past(shortcut, dy)},
        identity_shortcut=bypassed,
    )
