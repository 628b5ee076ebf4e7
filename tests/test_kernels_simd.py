"""Vector code for the registers of other processors: each target in its own process."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cnn.fast import kernels
from cnn.fast.kernels import linear
from cnn.fast.machine import simd

CHECK = """
import numpy as np
import cnn
from cnn import layers, reference
from cnn.fast import kernels
from cnn.fast.machine import simd

print(simd.vector_registers(), simd.blocks(4), simd.blocks(8))
rng = np.random.default_rng(0)
rest = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
for dtype, tolerance, c, k in ((np.float32, 2e-5, 16, 20), (np.float64, 1e-12, 20, 9)):
    x = rng.standard_normal((18, c, 6, 7)).astype(dtype)
    w = rng.standard_normal((k, c, 3, 3)).astype(dtype)
    dy = rng.standard_normal((18, k, 6, 7)).astype(dtype)
    results = []
    for module in (kernels, reference):
        dw = np.zeros_like(w)
        module.conv2d_backward_weight(dy, x, dw, *rest)
        results.append((
            module.conv2d_forward(x, w, None, *rest),
            module.conv2d_backward_input(dy, w, x.shape, *rest),
            dw,
            module.linear_forward(x.reshape(18, -1)[:, :c], w[:, :, 0, 0], None),
        ))
    for fast, plain in zip(*results, strict=True):
        fast, plain = np.asarray(fast), np.asarray(plain)
        assert np.abs(fast - plain).max() <= tolerance * np.abs(plain).max()

    network = cnn.Network([
        layers.Conv2d(20, 3, padding=1), layers.BatchNorm2d(), layers.ReLU(), layers.MaxPool2d(2, stride=1),
        layers.Conv2d(33, 3, padding=1), layers.Conv2d(20, 3, stride=2), layers.Flatten(), layers.Linear(40),
    ])
    network.build((3, 11, 12), rng=rng, dtype=dtype)
    for n in (1, 4):
        x = rng.standard_normal((n, 3, 11, 12)).astype(dtype)
        with cnn.use_backend("reference"):
            plain = np.asarray(network.forward(x))
        assert np.abs(network.predict(x) - plain).max() <= tolerance * np.abs(plain).max()

    x = rng.standard_normal((18, 20, 6, 7)).astype(dtype)
    results = []
    for backend in ("numba", "reference"):
        with cnn.use_backend(backend):
            network = cnn.Network([layers.Conv2d(5, 3), layers.ReLU(), layers.MaxPool2d(2)])
            network.build((20, 6, 7), rng=np.random.default_rng(1), dtype=dtype)
            y = np.asarray(network.forward(x, training=True))
            dx = np.asarray(network.backward(np.ones_like(y)))
            results.append((y, dx, *[p.grad for p in network.parameters()]))
    for fast, plain in zip(*results, strict=True):
        assert np.abs(fast - plain).max() <= tolerance * max(1, np.abs(plain).max())
"""


@pytest.mark.parametrize(
    "variable", ["NUMBA_CPU_NAME=haswell", "NUMBA_CPU_NAME=generic", "NUMBA_DISABLE_JIT=1"]
)
def test_kernels_are_right_on_other_targets(variable, tmp_path):
    name, value = variable.split("=")
    if value == "haswell" and simd.vector_registers()[0] < 32:
        pytest.skip("this processor has no AVX2")
    if value == "haswell" and simd.vector_registers() == (32, 16):
        pytest.skip("every other test runs on these registers")
    environment = os.environ | {name: value, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if value == "generic":
        assert done.stdout.startswith("(16, ")


def test_register_blocks_leave_room_for_operands():
    _, count = simd.vector_registers()
    for itemsize in (4, 8):
        outer, (rows, columns) = simd.blocks(itemsize)
        parts = 16 // simd.width(itemsize)
        assert all(rows_ * pixels * parts < count for rows_, pixels in outer)
        assert outer[-1][0] == 1
        assert rows * columns < count


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (64, 400, 120), (33, 130, 10), (200, 18, 7)])
def test_linear_agrees_with_numpy(shape, dtype):
    n, features, out_features = shape
    rng = np.random.default_rng(0)
    shapes = (n, features), (out_features, features), (out_features,), (n, out_features)
    x, w, b, dy = (rng.standard_normal(size).astype(dtype) for size in shapes)
    dw = np.ones_like(w)
    kernels.linear_backward_weight(dy, x, dw)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for got, expected in (
        (kernels.linear_forward(x, w, b), x @ w.T + b),
        (linear.linear_forward(x, w, None, relu=True), np.maximum(x @ w.T, 0)),
        (kernels.linear_backward_input(dy, w), dy @ w),
        (dw, 1 + dy.T @ x),
    ):
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance * scale)
