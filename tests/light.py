"""Run by tests/test_light.py, and fit for any Python that has NumPy: prints JSON."""

import json
from pathlib import Path

import numpy as np

import cnn
from cnn.course.runner import judge_here
from cnn.data.sample import load_sample
from cnn.gradcheck import check_network
from cnn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, SoftmaxCrossEntropy
from cnn.optimizers import SGD

cnn.set_backend("reference")
SOLUTIONS = Path(cnn.__file__).resolve().parents[1] / "tests" / "solutions"


def lenet(dtype):
    """Return a LeNet, built from seed 0."""
    network = cnn.Network(
        [
            Conv2d(6, kernel_size=5, padding=2),
            ReLU(),
            MaxPool2d(2),
            Conv2d(16, kernel_size=5),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear(84),
            ReLU(),
            Linear(10),
        ]
    )
    network.build((1, 28, 28), rng=np.random.default_rng(0), dtype=dtype)
    return network


def origin():
    """Return p - y of the example that this project began with."""
    loss = SoftmaxCrossEntropy()
    loss.forward(np.log(np.array([[0.1, 0.2, 0.25, 0.4, 0.05]])), np.array([2]))
    return loss.backward()[0].tolist()


def checked():
    """Return what the gradient check of a LeNet counts."""
    digits = load_sample().train
    report = check_network(
        lenet(np.float64), digits.images[:3] / 255, digits.labels[:3], backends=("reference",), entries=2
    )
    return {"ok": report.ok, **report.counts()}


def trained():
    """Return (losses, the weights' sums and norms) of twenty steps in float64."""
    digits, network = load_sample().train, lenet(np.float64)
    loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(20):
        batch = slice(32 * step, 32 * step + 32)
        logits = network.forward(digits.images[batch] / 255, training=True)
        losses.append(loss.forward(logits, digits.labels[batch]))
        network.backward(loss.backward())
        optimizer.step()
        network.zero_grad()
    return losses, [float(np.linalg.norm(p.data)) for p in network.parameters()]


def judged():
    """Return {exercise: status} of some solutions."""
    names = ("softmax_jacobian", "conv_dx", "residual_block")
    return {name: judge_here(name, SOLUTIONS / f"{name}.py").status for name in names}


if __name__ == "__main__":
    losses, weights = trained()
    found = {"origin": origin(), "gradcheck": checked(), "losses": losses, "weights": weights}
    print(json.dumps({**found, "exercises": judged()}))
