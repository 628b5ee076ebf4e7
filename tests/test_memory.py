"""What summary predicts is what a training process takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnn
from cnn.fast.blocked import LANES
from cnn.layers import BatchNorm2d, Conv2d, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, ReLU, Residual
from cnn.summary import training_memory

TRAIN = """
import numpy as np
import cnn
from cnn.layers import *
from cnn.optimizers import SGD
network = cnn.Network({layers})
network.build({shape})
x, labels = np.ones(({images}, *{shape}), np.float32), np.zeros({images}, np.int64)
loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.01, momentum=0.9)
for _ in range(3):
    loss.forward(np.asarray(network.forward(x, training=True)), labels)
    network.backward(loss.backward(), input_gradient=False)
    optimizer.step()
    network.zero_grad()
# not getrusage: that starts from the size of the process which started this one
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * peak, network.summary({images}).memory.total)
"""
LENET = (
    "[Conv2d(6, 5, padding=2), ReLU(), MaxPool2d(2), Conv2d(16, 5), ReLU(), MaxPool2d(2), "
    "Flatten(), Linear(120), ReLU(), Linear(84), ReLU(), Linear(10)]"
)
RESNET = (
    "[Conv2d(32, 3, padding=1), BatchNorm2d(), ReLU(), *[layer for _ in range(4) for layer in (Residual("
    "[Conv2d(32, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(32, 3, padding=1), BatchNorm2d()]), ReLU())], "
    "GlobalAvgPool2d(), Linear(10)]"
)


@pytest.mark.parametrize(
    ("layers", "shape", "images"),
    [(LENET, (1, 28, 28), 2048), (RESNET, (3, 32, 32), 128)],
    ids=["LeNet", "ResNet"],
)
def test_the_predicted_peak_is_that_of_a_process(layers, shape, images):
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak is read from /proc")
    command = [sys.executable, "-c", TRAIN.format(layers=layers, shape=shape, images=images)]
    for _ in range(2):  # the first may have to compile, which takes memory of its own
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    peak, predicted = map(int, answer)
    assert abs(predicted / peak - 1) < 0.2, f"predicted {predicted >> 20} MiB, found {peak >> 20} MiB"


def test_memory_grows_with_the_batch_by_what_steps_keep():
    layers = [Conv2d(4, 3, padding=1), BatchNorm2d(), ReLU(), MaxPool2d(2), Flatten(), Linear(2)]
    network = cnn.Network(layers)
    network.build((1, 8, 8))
    one, two = training_memory(network, 16), training_memory(network, 32)
    # the input, the convolution's output, a byte of each window, the pooled plane, the logits
    an_image = 4 * 64 + 4 * 256 + 64 + 4 * 64 + 4 * 2
    assert one.activations == 16 * an_image
    assert two.activations == 2 * one.activations
    assert one.parameters == two.parameters == 12 * sum(p.size for p in network.parameters())
    assert training_memory(network, 17) == two


def test_branches_count_once():
    body = [Conv2d(2, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(2, 3, padding=1), BatchNorm2d()]
    network = cnn.Network([Residual(body), ReLU(), GlobalAvgPool2d(), Linear(3)])
    network.build((2, 4, 4), rng=np.random.default_rng(0))
    # input, both convolutions' outputs, the ReLU in the body, the last one (kept for its sign), mean, logits
    assert training_memory(network, 16).activations == 16 * 4 * (32 * 4 + 32 + 2 + 3)


def test_gradients_are_counted_once_for_a_shape_that_comes_once_and_twice_for_others():
    def work(*widths):
        network = cnn.Network([Linear(width) for width in widths])
        network.build((3,))
        return network.summary(LANES).memory.work / (4 * LANES)  # numbers an image

    assert work(5, 7) == 3 + 5 + 7
    assert work(5, 5, 7) == work(5, 5, 5, 5, 7) == 3 + 2 * 5 + 7
