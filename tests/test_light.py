"""What runs where nothing but NumPy is installed, as in a browser: no other dependency is in its way.

The origin's example, a gradient check, training steps and the exercises run in a process in which every other
dependency is missing, and end with the numbers of this process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "light.py"
#: Everything that pyproject.toml names beside NumPy, and what comes with it.
MISSING = (
    "numba",
    "llvmlite",
    "tqdm",
    "pydantic",
    "safetensors",
    "tomli_w",
    "matplotlib",
    "PIL",
    "scipy",
    "torch",
)
BLOCK = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, {str(ROOT)!r})
import runpy
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def results(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone():
    return results(BLOCK)


@pytest.fixture(scope="module")
def here():
    return results(SCRIPT.read_text(encoding="utf-8"))


def test_the_origins_example(alone):
    np.testing.assert_allclose(alone["origin"], [0.1, 0.2, -0.75, 0.4, 0.05], rtol=1e-12)


def test_the_gradient_check_of_a_lenet_passes(alone):
    assert alone["gradcheck"]["ok"]
    assert alone["gradcheck"]["OK"] > 50


def test_twenty_training_steps_are_those_of_a_full_installation(alone, here):
    assert len(alone["losses"]) == 20
    assert alone["losses"][-1] < 0.97 * alone["losses"][0]
    np.testing.assert_allclose(alone["losses"], here["losses"], rtol=1e-9)
    np.testing.assert_allclose(alone["weights"], here["weights"], rtol=1e-9)


def test_exercises_are_judged(alone):
    assert alone["exercises"] == {
        "softmax_jacobian": "passed",
        "conv_dx": "passed",
        "residual_block": "passed",
    }
