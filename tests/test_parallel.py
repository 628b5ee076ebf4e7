"""Several processes train one network: the same bits for any number of them, and one that dies ends all."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

import cnn
from cnn.config import load_config
from cnn.layers import Conv2d, Flatten, GroupNorm, Linear, ReLU, SoftmaxCrossEntropy
from cnn.parallel.micro import MicroBatches
from cnn.parallel.sums import TreeSum, segments, share
from cnn.parallel.team import Alone

# -- the sum -------------------------------------------------------------------------------------


def arrays(count):
    rng = np.random.default_rng(count)
    return [
        (rng.standard_normal(50) * 2.0 ** rng.integers(-12, 12, 50)).astype(np.float32) for _ in range(count)
    ]


def whole(parts):
    tree = TreeSum()
    for first, count, array in parts:
        tree.add(first, count, array.copy())
    return tree.total()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 16, 31])
def test_the_bits_of_a_sum_do_not_depend_on_who_adds_what(count):
    values = arrays(count)
    alone = whole((k, 1, a) for k, a in enumerate(values))
    np.testing.assert_allclose(alone, np.sum(values, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-2)
    for size in range(1, count + 3):
        travelling = []
        for rank in range(size):
            tree, (first, last) = TreeSum(), share(count, rank, size)
            for k in range(first, last):
                tree.add(k, 1, values[k].copy())
            assert [(a, n) for a, n, _ in tree.parts] == segments(first, last)
            travelling += tree.parts
        np.testing.assert_array_equal(whole(travelling), alone)


def test_one_after_the_other_would_give_other_bits():
    values = arrays(13)
    alone = whole((k, 1, a) for k, a in enumerate(values))
    by_turns = values[0].copy()
    for a in values[1:]:
        by_turns += a
    assert (by_turns != alone).any()


def test_few_segments_travel_and_shares_cover_all():
    for first in range(40):
        for last in range(first + 1, 40):
            assert len(segments(first, last)) <= 2 * (last - first).bit_length()
    for count in (0, 1, 7, 16):
        for size in (1, 2, 3, 9):
            parts = [share(count, rank, size) for rank in range(size)]
            assert [k for a, b in parts for k in range(a, b)] == list(range(count))


# -- the gradient --------------------------------------------------------------------------------


def network(*more):
    made = cnn.Network([Conv2d(4, 3), *more, ReLU(), Flatten(), Linear(3)])
    made.build((1, 6, 6), rng=np.random.default_rng(0), dtype=np.float64)
    return made


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"class_weight": [1.0, 0.5, 3.0]}], ids=["plain", "s", "w"]
)
@pytest.mark.parametrize("rows", [False, True])
def test_micro_batches_give_the_gradient_of_the_batch(size, options, rows):
    rng, made = np.random.default_rng(1), network(GroupNorm(2))
    x, labels = rng.standard_normal((18, 1, 6, 6)), rng.integers(0, 3, 18)
    targets = rng.dirichlet(np.ones(3), 18) if rows else labels
    loss = SoftmaxCrossEntropy(**options)
    value = loss.forward(made.forward(x, training=True), targets)
    made.zero_grad()
    made.backward(loss.backward(), input_gradient=False)
    expected = made.grad.copy()
    micro = MicroBatches(made, loss, size, Alone())
    found, correct, signum = micro.gradient(x, targets)
    # the divisor is rounded to float32 once, which is what a training computes in
    np.testing.assert_allclose(found, value, rtol=1e-7)
    np.testing.assert_allclose(made.grad, expected, rtol=1e-6, atol=1e-9)
    answers = targets.argmax(axis=1) if rows else labels
    assert correct == np.count_nonzero(made.forward(x).argmax(axis=1) == answers)
    assert signum is None


# -- processes -----------------------------------------------------------------------------------

EPOCHS, STEPS = 3, 6
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
PROGRAM = """
import os, signal, sys
from cnn.cli import main
from cnn.parallel.micro import MicroBatches
gradient, what, rank, step = MicroBatches.gradient, sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
steps = iter(range(10**9))

def disturbed(self, x, labels, signum=None):
    if self.team.rank == rank and next(steps) == step:
        if what == "raise":
            raise RuntimeError("a disk that burns")
        os.kill(os.getpid(), getattr(signal, what))
    return gradient(self, x, labels, signum)

if what != "nothing":
    MicroBatches.gradient = disturbed
sys.exit(main(sys.argv[4:]))
"""

RESIDUAL = """
  { type = "Residual", body = [
    { type = "Conv2d", out_channels = 4, kernel_size = 3, padding = 1, bias = false },
    { type = "BatchNorm2d" },
  ] },
  { type = "ReLU" },
  { type = "MaxPool2d", kernel_size = 2 },
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a config and a run of it by one process in micro-batches."""
    folder = tmp_path_factory.mktemp("parallel")
    tiny.write_images(folder / "images")
    config = tiny.write_config(folder / "tiny.toml", folder / "images")
    text = config.read_text().replace('backend = "reference"', 'backend = "numba"')
    text = text.replace('  { type = "MaxPool2d", kernel_size = 2 },\n', RESIDUAL)
    config.write_text(text.replace("p = 0.1", "p = 0.3").replace("lr = 0.1\n", "lr = 0.1\nclip_norm = 1.0\n"))
    options = ["--set", "train.micro_batch=16", "--set", "data.batch_size=48", "--run", str(folder / "alone")]
    assert tiny.main(["train", str(config), *options]) == 0
    assert load_config(folder / "alone/config.toml").train.epochs == EPOCHS
    return folder


def mpiexec(place, processes, what, *argv):
    """Run a disturbed ``cnn train`` by processes; return (exit code, stdout, stderr, seconds)."""
    pytest.importorskip("mpi4py")
    version = MPIEXEC and subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout
    if not version or "Open MPI" not in version:
        pytest.skip("needs the mpiexec of Open MPI")
    environ = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [MPIEXEC, "-n", str(processes), "--oversubscribe", "--bind-to", "none", sys.executable, "-c"]
    command += [PROGRAM, *map(str, what), "train", *map(str, argv)]
    begin = time.monotonic()
    found = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environ, timeout=300)
    return found.returncode, found.stdout, found.stderr, time.monotonic() - begin


def same_run(place, name):
    """Whether a run has the weights and, but for times, the metrics of the undisturbed run of one process."""
    weights = [(place / run / "best.safetensors").read_bytes() for run in ("alone", name)]
    rows = []
    for run in ("alone", name):
        with open(place / run / "metrics.csv", encoding="utf-8") as file:
            rows.append([{**row, "images_per_second": 0, "seconds": 0} for row in csv.DictReader(file)])
    return weights[0] == weights[1] and rows[0] == rows[1] and len(rows[0]) == EPOCHS


NEW = ("tiny.toml", "--set", "data.batch_size=48", "--run")


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_gives_the_bits_of_one(place, processes):
    code, out, err, _ = mpiexec(place, processes, ("nothing", 0, 0), *NEW, f"p{processes}")
    assert code == 0, err
    assert out.count("test accuracy") == 1  # rank 0 alone prints and writes
    assert f"processes: {processes}; micro-batches of 16 images" in out
    assert same_run(place, f"p{processes}")


def test_an_exception_in_one_process_ends_all_with_its_message(place):
    code, _, err, seconds = mpiexec(place, 2, ("raise", 1, 3), *NEW, "raised")
    assert code != 0
    assert "cnn: rank 1 of 2: RuntimeError: a disk that burns" in err
    assert seconds < 60


@pytest.mark.parametrize(("killed", "others"), [(0, 3), (1, 1)])
def test_a_killed_process_ends_all_and_any_number_goes_on_with_the_same_bits(place, killed, others):
    run = f"killed{killed}"
    code, _, err, _ = mpiexec(place, 2, ("SIGKILL", killed, STEPS // 3 + 1), *NEW, run)
    assert code != 0
    assert not (place / run / "result.json").exists(), err
    code, out, err, _ = mpiexec(place, others, ("nothing", 0, 0), "--resume", "--run", run)
    assert code == 0, err
    assert "resuming after epoch" in out
    assert same_run(place, run)


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_saves(place, capsys):
    code, out, err, _ = mpiexec(place, 2, ("SIGTERM", 1, 3), *NEW, "signal")
    assert code != 0, out
    assert "and saved; continue with: cnn train --resume" in err
    assert tiny.run(capsys, "train", "--resume", "--run", place / "signal")[0] == 0
    assert same_run(place, "signal")


def test_without_mpi4py_the_extra_is_named(place, capsys, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    code, _, err = tiny.run(capsys, "train", place / "tiny.toml", "--run", place / "none")
    assert code == 3
    assert 'pip install "cnn[mpi]"' in err
