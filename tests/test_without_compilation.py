"""With ``NUMBA_DISABLE_JIT=1`` loops run as plain Python: for a debugger, and without waiting for LLVM."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        # everything in plain NumPy: layers, losses and a network that learns
        (["test_origin.py", "test_layers_dropout.py", "test_network.py"], "reference"),
        # the optimizers' loops, as they stand
        (["test_twins.py"], "named and (sgd_update or adam_update or rmsprop_update or squared_norm)"),
    ],
    ids=["reference", "optimizers"],
)
def test_runs_with_compilation_off(files, chosen):
    tests = Path(__file__).parent
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(tests / f for f in files),
            "-k",
            chosen,
        ],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=tests.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 8
