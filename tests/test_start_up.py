"""What a command imports: a start takes as long as its imports do, so the light commands have few."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import io, json, sys
from contextlib import redirect_stdout
from cnn.cli import main
with redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""
NUMBERS = {"numpy", "numba", "scipy", "pydantic", "PIL", "tqdm", "torch"}
CONFIG = str(ROOT / "configs" / "mnist_lenet.toml")


def _imported(*argv):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-c", SCRIPT, *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout)
    assert code == 0
    return set(modules)


@pytest.mark.parametrize(
    "argv", [["--version"], ["--help"], ["help", "summary"], ["train", "--help"]], ids=str
)
def test_what_only_prints_a_text_imports_no_numbers(argv):
    assert not _imported(*argv) & {*NUMBERS, "cnn.network", "cnn.fast", "cnn.config", "cnn.training"}


def test_the_version_needs_next_to_nothing():
    ours = {name for name in _imported("--version") if name.partition(".")[0] == "cnn"}
    assert ours == {"cnn", "cnn.cli", "cnn.commands", "cnn.errors", "cnn.language", "cnn.terminal"}


def test_summary_imports_no_pictures_no_checkpoints_and_loads_no_kernel():
    modules = _imported("summary", CONFIG)
    assert {"numba", "cnn.fast.engine"} <= modules  # the memory is that of the compiled program
    unneeded = {"PIL", "tqdm", "cnn.data.folder", "cnn.training.checkpoint"}
    # what Numba imports before it compiles a function or loads its own cache
    assert not modules & {*unneeded, "numba.np.arraymath", "scipy.linalg"}


def test_a_network_gives_its_parts_when_they_are_asked_for():
    code = "import cnn, sys; assert 'numpy' not in sys.modules; cnn.Network([cnn.layers.Linear(2)])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0
