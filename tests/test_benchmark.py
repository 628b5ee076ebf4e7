"""scripts/benchmark.py: who is compared with whom. The measuring itself needs the other frameworks."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import benchmark
import benchmark_turns as turns
import benchmark_worker

from cnn import backend, reference

ROUNDS = {
    "cnn float32": [2.0, 4.0, 2.0],
    "cnn bf16": [1.0, 1.0, 2.0],
    "torch float32": [9.0, 9.0, 9.0],
    "openvino float32": [8.0, 8.0, 7.0],
    "openvino bf16": [3.0, 3.0, 4.0],
}


def test_float32_is_compared_with_the_best_float32_and_bf16_with_the_best_of_all():
    assert turns._ratio(ROUNDS, "float32") == {"peer": "openvino float32", "rounds": [4.0, 2.0, 3.5]}
    assert turns._ratio(ROUNDS, "bf16") == {"peer": "openvino bf16", "rounds": [3.0, 3.0, 2.0]}
    slow = ROUNDS | {"openvino bf16": [10.0, 10.0, 10.0]}
    assert turns._ratio(slow, "bf16")["peer"] == "openvino float32"


@pytest.mark.parametrize("arguments", [[], ["--eager"], ["--precision", "float32"], ["--precision", "bf16"]])
def test_the_modes_that_are_tried(arguments):
    options = benchmark.parse(["steps", *arguments])
    modes = turns._variants("torch", options, "step")
    assert {"NCHW", "channels_last"} <= set(modes)
    assert ("channels_last compiled" in modes) == ("--eager" not in arguments)
    assert ("channels_last bf16" in modes) == ("bf16" in options.precisions)
    assert turns._variants("cnn", options, "step") == options.precisions
    assert not any("compiled" in mode for mode in turns._variants("torch", options, "convolution"))


def test_a_row_has_a_cell_for_every_title_and_none_for_what_was_left_out():
    options = argparse.Namespace(precisions=["float32", "bf16"], peers=turns.TO_PREDICT, against=None)
    ratios = {p: turns._ratio(ROUNDS, p) for p in options.precisions}
    row = {"times": ROUNDS, "ratios": ratios, "modes": dict.fromkeys(ROUNDS, "float32")}
    titles = turns.header(options, turns.TO_PREDICT)
    cells = dict(zip(titles, turns.cells(row, options, turns.TO_PREDICT), strict=True))
    assert cells["OpenVINO bf16, ms"] == "3000.000"
    assert cells["onnxruntime, ms"] == cells["PyTorch bf16, ms"] == "–"
    assert cells["ratio float32"] == "3.50 (2.00–4.00)"


def test_different_numbers_are_not_compared():
    marks = {"logits": [10.0, 2.0]}
    assert turns.disagreement(marks, {"logits": [10.0, 2.1]}) == pytest.approx(0.01)
    assert turns.disagreement(marks, {"logits": [10.1, 5.0]}, norms_only=True) < 0.011


@pytest.mark.parametrize("direction", ["forward", "d-input", "d-weight"])
def test_float32_is_measured_in_float32_beside_a_run_in_bf16(direction):
    case, ours = (16, 16, 3, 8, 1, 1, 1), benchmark_worker.Cnn(backend.get_threads())
    runs = {p: ours.convolution(case, 16, direction, p)[0] for p in ("float32", "bf16")}
    before, narrow, after = (np.array(runs[p](), np.float32) for p in ("float32", "bf16", "float32"))
    assert np.array_equal(before, after)
    assert not np.array_equal(before, narrow)
    x, weight, bias, dy = benchmark_worker.operands(case, 16)
    geometry, exact = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1), np.zeros_like(weight)
    if direction == "forward":
        exact = reference.conv2d_forward(x, weight, bias, *geometry)
    elif direction == "d-input":
        exact = reference.conv2d_backward_input(dy, weight, x.shape, *geometry)
    else:
        reference.conv2d_backward_weight(dy, x, exact, *geometry)
    assert np.abs(after - exact).max() < 1e-5 * np.abs(exact).max()
