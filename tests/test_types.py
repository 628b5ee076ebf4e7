"""What an editor or mypy is told of the public names: right uses pass, wrong ones are noticed."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[1]

RIGHT = """
import numpy as np
import cnn

network = cnn.Network([])
shape: tuple[int, ...] = network.build((1, 28, 28), rng=np.random.default_rng(0))
logits: np.ndarray = network.predict(np.zeros((2, 1, 28, 28)))
model = cnn.Classifier(epochs=3).fit([[0.0]], [0])
share: float = model.score([[0.0]], [0])
answers = cnn.load("runs/x").predict(["a.png"])
p: np.ndarray = answers.probabilities
first: tuple[str, float] = answers.top(2)[0][0]


class Plot(cnn.Callback):
    def on_epoch_end(self, trainer: object, row: dict[str, object]) -> None:
        print(row["epoch"])


with cnn.use_backend("reference"):
    cnn.set_threads(2)
"""
WRONG = {
    'cnn.Network([]).build("28x28")': 'Argument 1 to "build"',
    'cnn.Classifier(epochs="3")': 'Argument "epochs" to "Classifier"',
    "cnn.set_threads(None)": 'Argument 1 to "set_threads"',
    'cnn.load("x").predikt("a.png")': 'no attribute "predikt"',
    "cnn.use_backend(3)": 'Argument 1 to "use_backend"',
}


def test_uses_of_the_public_names_are_checked(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    lines = ["import cnn", *WRONG]
    (tmp_path / "wrong.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--no-error-summary"]
    command += ["--follow-imports", "silent", "--ignore-missing-imports", "right.py", "wrong.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(ROOT), "PATH": ""}
    )
    found = done.stdout.splitlines()
    assert [line for line in found if line.startswith("right.py")] == [], done.stdout + done.stderr
    for number, (line, message) in enumerate(WRONG.items(), 2):
        assert any(f"wrong.py:{number}: " in one and message in one for one in found), (line, done.stdout)
