"""What summary predicts is what a training process takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnn
from cnn.layers import BatchNorm2d, Conv2d, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, ReLU, Residual, Tanh
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
    # the input, the convolution's output, a byte of each window, the pooled plane; not the logits
    an_image = 4 * 64 + 4 * 256 + 64 + 4 * 64
    assert one.activations == 16 * an_image
    assert two.activations == 2 * one.activations
    assert one.parameters == two.parameters == 12 * sum(p.size for p in network.parameters())
    assert training_memory(network, 17).activations == two.activations


def test_branches_count_once():
    body = [Conv2d(2, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(2, 3, padding=1), BatchNorm2d()]
    network = cnn.Network([Residual(body), ReLU(), GlobalAvgPool2d(), Linear(3)])
    network.build((2, 4, 4), rng=np.random.default_rng(0))
    # input, both convolutions' outputs, the ReLU in the body, the last one (kept for its sign), mean
    assert training_memory(network, 16).activations == 16 * 4 * (32 * 4 + 32 + 2)


def test_a_gradient_takes_the_memory_of_what_is_no_longer_needed():
    def total(*widths):
        network = cnn.Network([layer for width in widths for layer in (Linear(width), Tanh())])
        network.build((widths[0],))
        memory = training_memory(network, 4096)
        return (memory.activations + memory.work) / (4 * 4096)  # numbers an image

    # the input and eight outputs are kept; without that the gradients would take 16 * 64 more
    assert 9 * 64 <= total(*[64] * 8) < 9 * 64 + 4 * 64
