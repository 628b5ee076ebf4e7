"""Mixup: what is mixed with what, that a resume mixes the same, and how it trains."""

import os
import signal

import numpy as np
import pytest
import tiny

from cnn.config import load_config
from cnn.data import Batches
from cnn.data.mixup import mix
from cnn.errors import ConfigError
from cnn.layers import SoftmaxCrossEntropy
from cnn.training import checkpoint
from cnn.training.loop import Trainer


def arrays(n=40, classes=5):
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (n, 2, 4, 3), dtype=np.uint8), rng.integers(0, classes, n)


def make(mixup=0.4, dtype=np.float32, **options):
    options = {"seed": 3, "shuffle": True, "classes": 5} | options
    return Batches(*arrays(), 16, 0.4, 0.3, mixup=mixup, dtype=dtype, **options)


class Chosen:
    """A generator that returns what the test has chosen."""

    def __init__(self, weight, partner):
        self.weight, self.partner = weight, partner

    def beta(self, a, b):
        assert a == b == 0.7
        return self.weight

    def permutation(self, n):
        return np.array(self.partner)


def test_the_equation():
    x, labels = np.random.default_rng(0).standard_normal((3, 1, 2, 2)), np.array([2, 0, 2])
    mixed, rows = mix(x.copy(), labels, 4, 0.7, Chosen(0.75, [1, 2, 0]))
    np.testing.assert_allclose(mixed, 0.75 * x + 0.25 * x[[1, 2, 0]])
    np.testing.assert_array_equal(rows, [[0.25, 0, 0.75, 0], [0.75, 0, 0.25, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_weight_a_batch_for_images_and_labels_alike(dtype):
    mixed, plain = list(make(dtype=dtype).epoch(1)), list(make(0.0, dtype).epoch(1))
    weights = []
    for (x, rows), (x0, labels) in zip(mixed, plain, strict=True):
        assert x.dtype == rows.dtype == dtype
        assert rows.shape == (len(labels), 5)
        np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-6)
        # the weight that explains the first image whose partner has another label
        own = rows[np.arange(len(rows)), labels]
        weight = float(own.min())
        assert set(np.round(own.astype(float), 6)) <= {round(weight, 6), 1.0}
        for i in range(len(x)):
            explained = [
                np.allclose(x[i], weight * x0[i] + (1 - weight) * x0[j], atol=1e-5)
                and np.isclose(rows[i, labels[j]], 1 - weight + weight * (labels[i] == labels[j]), atol=1e-6)
                for j in range(len(x))
            ]
            assert any(explained)
        weights.append(weight)
    assert len(set(weights)) == len(weights)


def test_the_weights_have_the_distribution_of_the_paper():
    weights = [mix(np.zeros((2, 1)), np.array([0, 1]), 2, 0.2, np.random.default_rng(s)) for s in range(4000)]
    drawn = np.array([float(rows.max(axis=1)[0]) for _, rows in weights])
    variance = 1 / (4 * (2 * 0.2 + 1))  # of Beta(a, a)
    moved = [float(rows[0, 0]) for _, rows in weights if rows[0, 0] != 1]
    assert (drawn >= 0.5).all()
    assert np.var([*moved, *(1 - np.array(moved))]) == pytest.approx(variance, rel=0.1)


def bits(batches, epoch, **options):
    return [(x.tobytes(), rows.tobytes()) for x, rows in batches.epoch(epoch, **options)]


def test_a_resumed_epoch_mixes_the_same_bits():
    whole = bits(make(), 2)
    assert len(whole) == 3
    assert bits(make(), 2, start_step=1, prefetch=True) == whole[1:]
    assert bits(make(), 1) != whole
    assert bits(make(seed=4), 2) != whole


def test_mixing_leaves_order_and_augmentation_as_they_were():
    """Images that are mixed with themselves show it: alpha near 0 gives a weight of almost 0 or 1."""
    for (x, _), (x0, _) in zip(make(1e-6).epoch(0), make(0.0).epoch(0), strict=True):
        assert sorted(map(float, x.sum(axis=(1, 2, 3)).round(2))) == sorted(
            map(float, x0.sum(axis=(1, 2, 3)).round(2))
        )


@pytest.mark.parametrize("mixup", [-0.1, float("nan"), float("inf"), True, "0.2"])
def test_alpha_out_of_range(mixup):
    with pytest.raises(ConfigError, match="mixup: expected"):
        make(mixup)


@pytest.mark.parametrize("classes", [None, 4])
def test_mixup_needs_the_number_of_classes(classes):
    with pytest.raises(ConfigError, match="mixup: classes: expected at least 5"):
        make(classes=classes)


def test_the_loss_of_a_mixed_row_is_the_mixed_loss(rng):
    logits, a, b = rng.standard_normal((4, 6)), rng.integers(0, 6, 4), rng.integers(0, 6, 4)
    loss = SoftmaxCrossEntropy(label_smoothing=0.2)
    rows = 0.3 * np.eye(6)[a] + 0.7 * np.eye(6)[b]
    assert loss.forward(logits, rows) == pytest.approx(
        0.3 * loss.forward(logits, a) + 0.7 * loss.forward(logits, b), rel=1e-12
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixup")
    tiny.write_images(folder / "images")
    tiny.write_config(folder / "tiny.toml", folder / "images")
    return folder


def test_a_stopped_run_goes_on_with_the_same_bits(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    mixed = ["--set", "data.mixup=0.5"]
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "whole", *mixed)[0] == 0
    step, count = Trainer._step, []

    def stopping(self, x, labels):
        assert labels.ndim == 2
        count.append(1)
        if len(count) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, labels)

    monkeypatch.setattr(Trainer, "_step", stopping)
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "parts", *mixed)[0] == 143
    assert len(count) == 8
    assert tiny.run(capsys, "train", "--resume", "--run", "parts")[0] == 0
    whole, parts = (checkpoint.load(workplace / run / "last.safetensors")[0] for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(whole[key].tobytes() == parts[key].tobytes() for key in whole)
    plain = load_config(workplace / "whole" / "config.toml").plain()
    assert plain["data"]["mixup"] == 0.5


def test_training_accuracy_counts_the_heavier_label(workplace):
    trainer = Trainer(load_config(workplace / "tiny.toml", ["data.mixup=0.5"]))
    x, rows = next(trainer.batches.epoch(0))
    trainer._step(x, rows)
    logits = Trainer(trainer.config).network.forward(x, training=True)
    assert trainer.progress.correct == (np.asarray(logits).argmax(1) == rows.argmax(1)).sum()
    assert trainer.progress.seen == len(x)
