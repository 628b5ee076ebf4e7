"""Compiled kernels are kept: what one process compiled, the next one only loads."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json
import numpy as np
from cnn import Network
from cnn.backend import compile_report
from cnn.layers import SoftmaxCrossEntropy, from_config
from cnn.optimizers import make_optimizer

def conv(channels, kernel=3, **more):
    return {"type": "Conv2d", "out_channels": channels, "kernel_size": kernel, **more}

body = [conv(32, padding=1), {"type": "BatchNorm2d"}, {"type": "ReLU"}, conv(32, padding=1)]
shapes = {
    "small": [conv(6, 5), {"type": "ReLU"}, {"type": "MaxPool2d", "kernel_size": 2}, {"type": "Flatten"}],
    "wide": [
        conv(32, 2), {"type": "GELU"}, conv(32, padding=1), {"type": "BatchNorm2d"}, {"type": "ReLU"},
        {"type": "Residual", "body": body}, {"type": "ReLU"}, conv(32, 1), conv(32, groups=32),
        conv(48, stride=2, padding=1), {"type": "AvgPool2d", "kernel_size": 2}, {"type": "Dropout"},
        {"type": "GlobalMaxPool2d"},
    ],
}
for layers in shapes.values():
    network = Network(from_config([*layers, {"type": "Linear", "out_features": 10}]))
    network.build((3, 24, 24))
    x, labels = np.zeros((32, 3, 24, 24), np.float32), np.arange(32) % 10
    loss = SoftmaxCrossEntropy()
    for kind in ("SGD", "Muon", "Adam", "RMSprop"):
        optimizer = make_optimizer(kind, network.parameters(), lr=0.1, clip_norm=1.0)
        loss.forward(network.forward(x, training=True), labels)
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
    network.predict(x)
    network.predict(x[:1])
print(json.dumps(compile_report()))
"""


def report(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_second_process_compiles_nothing(tmp_path):
    report(tmp_path)
    second = report(tmp_path)
    assert second["compiled"] == 0
    assert second["loaded"] > 40


LAUNCH = """
import sys
import numpy as np
from cnn.fast.kernels import activation
from cnn.fast.machine import jit

x = np.zeros(64, np.float32)
params = jit.table([x.ctypes.data, x.ctypes.data, 64, 0])
jit.launch(activation.forward_task(1, 4), 1, params.reshape([4] if sys.argv[1] == "flat" else [2, 2]))
"""


def test_what_was_compiled_around_a_loaded_kernel_starts_threads(tmp_path):
    """Numba lost that: the third process crashed."""
    for shape in ("flat", "square", "square"):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", LAUNCH, shape], env=environment, check=False)
        assert done.returncode == 0
