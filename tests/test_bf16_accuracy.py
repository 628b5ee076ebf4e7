"""precision="bf16" learns what float32 learns: the same accuracy over seeds, and stable where float32 is."""

import numpy as np
import pytest

from cnn.backend import use_backend
from cnn.config import bundled_config, load_config, resolve
from cnn.training import evaluation, experiment
from cnn.training.in_memory import InMemory
from cnn.training.loop import Trainer

SEEDS = range(4)
CONV = {"type": "Conv2d", "out_channels": 16, "kernel_size": 3, "padding": 1, "bias": False}
LAYERS = [
    CONV,
    {"type": "MaxPool2d", "kernel_size": 2},
    {"type": "BatchNorm2d"},
    {"type": "ReLU"},
    CONV,  # multiplies pairs of bfloat16
    {"type": "MaxPool2d", "kernel_size": 2},
    {"type": "BatchNorm2d"},
    {"type": "ReLU"},
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 10},
]


@pytest.fixture(scope="module")
def results():
    """(precision, factor of the rate, seed) -> (training losses of three epochs, test accuracy)."""
    found, plain = {}, load_config(bundled_config()).plain()
    images = None
    for precision in ("float32", "bf16"):
        for factor in (1, 3):
            for seed in SEEDS:
                sections = {
                    "seed": seed,
                    "data": {"dataset": "sample", "validation": 0.5},
                    "model": {"layers": LAYERS},
                    "optimizer": {"type": "SGD", "lr": factor * 0.1, "momentum": 0.9, "nesterov": True},
                    "schedule": {"type": "one_cycle"},
                    "train": {"epochs": 3, "precision": precision, "snapshots": 0},
                }
                config = resolve(plain | sections, "test")
                images = images or experiment.load_images(config)
                trainer = Trainer(config, InMemory(), images=images)
                trainer.fit()
                with use_backend("numba"):
                    accuracy = evaluation.evaluate(
                        trainer.network, trainer.evaluation_batches(images.dataset.test)
                    )[1]
                losses = [row["train_loss"] for row in trainer.history]
                found[precision, factor, seed] = losses, accuracy
    return found


def test_accuracy_differs_by_no_more_than_seeds_do(results):
    exact, narrow = (np.array([results[p, 1, seed][1] for seed in SEEDS]) for p in ("float32", "bf16"))
    assert exact.mean() > 0.95
    difference = narrow - exact
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    # two standard errors, and half a standard error of 1,000 test images where seeds happen to agree
    assert abs(difference.mean()) < 2 * error + 0.003


def test_both_compute_something_of_their_own(results):
    assert all(results["float32", 1, seed] != results["bf16", 1, seed] for seed in SEEDS)


def test_at_three_times_the_rate_bf16_learns_where_float32_does(results):
    for seed in SEEDS:
        exact, narrow = (results[p, 3, seed][0] for p in ("float32", "bf16"))
        assert exact[-1] < 0.3, "float32 itself has to be stable for this to say anything"
        assert narrow[2] < narrow[1] < narrow[0]
        assert narrow[2] < 2 * exact[2]
