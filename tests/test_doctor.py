"""The doctor names each planted fault, and is silent on healthy networks."""

import dataclasses
import json

import numpy as np
import pytest

from cnn import cli
from cnn.config import resolve
from cnn.data import Split
from cnn.doctor import FAIL, OK, WARN, Finding, Report, data, examine
from cnn.training import experiment

LAYERS = [
    {"type": "Flatten"},
    {"type": "Linear", "out_features": 24},
    {"type": "ReLU"},
    {"type": "Linear", "out_features": 16},
    {"type": "ReLU"},
    {"type": "Linear", "out_features": 10},
]


def config(layers=LAYERS, optimizer=None, **sections):
    sgd = {"type": "SGD", "lr": 0.05, "momentum": 0.9}
    document = {
        "data": {"dataset": "sample"},
        "model": {"layers": layers},
        "optimizer": optimizer if optimizer and "type" in optimizer else {**sgd, **(optimizer or {})},
        "train": {"epochs": 1, "backend": "reference"},
        **sections,
    }
    return resolve(document, "test.toml")


@pytest.fixture(scope="module")
def images():
    """A third of the sample at half its size, so that a test takes a moment."""
    whole = changed(experiment.load_images(config()), halved)
    few = dataclasses.replace(
        whole, train=whole.train.take(slice(0, 1200)), validation=whole.validation.take(slice(0, 200))
    )
    return with_test(few, whole.dataset.test.take(slice(0, 400)))


def halved(pixels):
    n, c, h, w = pixels.shape
    return pixels.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5)).astype(np.uint8)


def with_train(images, train_images=None, labels=None):
    old = images.train
    split = Split(
        old.images if train_images is None else train_images, old.labels if labels is None else labels
    )
    mean, std = experiment.normalization(split.images)
    return dataclasses.replace(images, train=split, mean=mean, std=std)


def with_test(images, test):
    dataset = images.dataset
    return dataclasses.replace(images, dataset=dataclasses.replace(dataset, test=test))


def built(config):
    return experiment.build_network(config, (1, 14, 14), 10)


def sad(report):
    """The checks that are not OK."""
    return {f.check: f.verdict for f in report.findings if f.verdict != OK}


# -- healthy ----------------------------------------------------------------------------------------


CONVOLUTIONS = [
    {"type": "Conv2d", "out_channels": 8, "kernel_size": 2, "stride": 2},
    {"type": "BatchNorm2d"},
    {"type": "ReLU"},
    *LAYERS,
]


@pytest.mark.parametrize("layers", [LAYERS, CONVOLUTIONS])
def test_a_healthy_config_gets_no_complaint(images, layers):
    report = examine(config(layers), images)
    assert sad(report) == {}, str(report)
    assert report.exit_code == 0
    assert report["initial loss"].value == pytest.approx(np.log(10), abs=0.3)


def test_examining_leaves_the_network_as_it_was(images):
    network = built(config([*LAYERS[:-1], {"type": "Dropout", "p": 0.5}, LAYERS[-1]]))
    before = {name: array.copy() for name, array in network.state().items()}
    examine(config(), images, network)
    assert network.layers[5].p == 0.5
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_the_same_config_gets_the_same_report(images):
    assert examine(config(), images).to_json() == examine(config(), images).to_json()


def test_a_last_layer_of_zeros_is_no_fault(images):
    report = examine(
        config([*LAYERS[:-1], {**LAYERS[-1], "weight_init": "zeros", "bias_init": "zeros"}]), images
    )
    assert sad(report) == {}, str(report)


# -- planted faults: the network ----------------------------------------------------------------------


def test_lr_a_hundred_times_too_high(images):
    report = examine(config(optimizer={"lr": 5.0}), images)
    assert report["learning rate"].verdict == FAIL, str(report)
    assert "0.05" in report["learning rate"].advice
    assert report.exit_code == 5


def test_lr_far_too_low(images):
    report = examine(config(optimizer={"lr": 5e-6}), images)
    assert report["learning rate"].verdict == WARN, str(report)
    assert report["update to weight"].verdict == WARN


def test_adam_with_the_lr_of_sgd(images):
    report = examine(config(optimizer={"type": "Adam", "lr": 1.0}), images)
    assert report["learning rate"].verdict == FAIL, str(report)


def test_all_weights_zero(images):
    zeros = {"weight_init": "zeros", "bias_init": "zeros"}
    layers = [{**s, **zeros} if s["type"] in ("Conv2d", "Linear") else s for s in LAYERS]
    report = examine(config(layers), images)
    assert report["initial weights"].verdict == FAIL, str(report)
    assert report["gradients"].verdict == FAIL
    assert report["overfits 32 images"].verdict == FAIL


def test_exploding_initial_weights(images):
    network = built(config())
    for p in network.parameters():
        p.data = p.data * 30
    report = examine(config(), images, network)
    assert report["initial loss"].verdict == FAIL, str(report)


def test_dead_relus(images):
    network = built(config())
    network.layers[3].bias.data[...] = -100
    report = examine(config(), images, network)
    assert report["dead units"].verdict == FAIL, str(report)
    assert "layer 4" in report["dead units"].advice
    assert report["gradients"].verdict == FAIL


def test_softmax_applied_twice(images):
    report = examine(config([*LAYERS, {"type": "Softmax"}]), images)
    assert report["logits"].verdict == FAIL, str(report)
    assert "Softmax" in report["logits"].advice


def test_relu_after_the_last_layer(images):
    report = examine(config([*LAYERS, {"type": "ReLU"}]), images)
    assert report["logits"].verdict == WARN, str(report)


def test_deep_saturated_sigmoids(images):
    hidden = [{"type": "Linear", "out_features": 32, "weight_init": "he_normal"}, {"type": "Sigmoid"}]
    layers = [{"type": "Flatten"}, *hidden * 6, LAYERS[-1]]
    network = built(config(layers))
    for layer in network.layers[1:-1:2]:
        layer.weight.data = layer.weight.data * 20
    report = examine(config(layers), images, network)
    assert report["saturation"].verdict == FAIL, str(report)
    assert "Sigmoid" in report["saturation"].advice


def test_vanishing_gradients(images):
    hidden = [{"type": "Linear", "out_features": 32}, {"type": "Sigmoid"}]
    report = examine(config([{"type": "Flatten"}, *hidden * 8, LAYERS[-1]]), images)
    assert report["gradients"].verdict in (WARN, FAIL), str(report)
    assert "vanishes" in report["gradients"].advice
    assert "layer 1" in report["gradients"].advice


def test_a_nan_weight_is_found_at_its_layer(images):
    network = built(config())
    network.layers[3].weight.data[0, 0] = np.nan
    report = examine(config(), images, network)
    assert report["NaN and Inf"].verdict == FAIL
    assert "layer 3 (Linear)" in report["NaN and Inf"].measured
    json.dumps(report.to_json(), allow_nan=False)


def test_a_weight_decay_that_forbids_learning(images):
    report = examine(config(optimizer={"weight_decay": 10.0}), images)
    assert report["overfits 32 images"].verdict == FAIL, str(report)


# -- planted faults: the data -------------------------------------------------------------------------


def examine_data(images, class_weight=None):
    """The findings on the data alone, which need no network."""
    return Report(data.check(config(loss={"class_weight": class_weight} if class_weight else {}), images))


def test_shuffled_labels(images):
    labels = np.random.default_rng(0).permutation(images.train.labels)
    report = examine_data(with_train(images, labels=labels))
    assert report["labels fit images"].verdict == FAIL, str(report)


@pytest.mark.parametrize(("std", "verdict"), [(1.0, WARN), (1 / 255, FAIL)])
def test_pixels_that_are_not_normalised(images, std, verdict):
    raw = dataclasses.replace(images, mean=np.zeros(1), std=np.full(1, std))
    assert examine_data(raw)["normalisation"].verdict == verdict


def test_test_images_that_were_trained_on(images):
    test = images.dataset.test
    mixed = np.concatenate([test.images[:300], images.train.images[:100]])
    labels = np.concatenate([test.labels[:300], images.train.labels[:100]])
    report = examine_data(with_test(images, Split(mixed, labels)))
    assert report["test leak"].verdict == FAIL
    assert "100 of 400" in report["test leak"].measured


def test_copies_with_other_labels(images):
    doubled, labels = images.train.images.copy(), images.train.labels.copy()
    doubled[600:] = doubled[:600]
    labels[600:] = (labels[:600] + 1) % 10
    report = examine_data(with_train(images, doubled, labels))
    assert report["duplicates"].verdict == FAIL
    assert "600 of them" in report["duplicates"].measured


def test_a_class_without_images(images):
    keep = images.train.labels != 7
    report = examine_data(dataclasses.replace(images, train=images.train.take(keep)))
    assert report["label counts"].verdict == FAIL
    assert '"7"' in report["label counts"].advice


def test_inverted_test_images(images):
    test = images.dataset.test
    report = examine_data(with_test(images, Split(255 - test.images, test.labels)))
    assert report["test pixels"].verdict in (WARN, FAIL)


def test_blank_images(images):
    pixels = images.train.images.copy()
    pixels[5:20] = 0
    report = examine_data(with_train(images, pixels))
    assert report["blank images"].verdict == WARN
    assert "number 5" in report["blank images"].advice


def changed(images, make):
    train, validation, test = (make(s.images) for s in (images.train, images.validation, images.dataset.test))
    there = with_test(with_train(images, train), Split(test, images.dataset.test.labels))
    return dataclasses.replace(there, validation=Split(validation, images.validation.labels))


def test_a_channel_that_never_changes(images):
    empty = changed(images, lambda x: np.concatenate([x, np.full_like(x, 255)], axis=1))
    report = examine_data(empty)
    assert report["channels"].verdict == FAIL
    assert "channel 1 is 255" in report["channels"].measured


def test_grey_images_stored_as_colour(images):
    assert examine_data(changed(images, lambda x: x.repeat(3, axis=1)))["channels"].verdict == WARN


def test_folders_sorted_as_text(images):
    names = ("0", "1", "10", "2", "3", "4", "5", "6", "7", "8")
    dataset = dataclasses.replace(images.dataset, classes=names)
    report = examine_data(dataclasses.replace(images, dataset=dataset))
    assert report["classes"].verdict == WARN
    assert '"10"' in report["classes"].measured


def test_class_weights_in_the_wrong_order(images):
    rare = (images.train.labels < 5) | (np.arange(len(images.train)) % 4 == 0)
    weights = [2.0] * 5 + [0.5] * 5
    few = dataclasses.replace(images, train=images.train.take(rare))
    assert examine_data(few, weights)["classes"].verdict == WARN
    assert examine_data(few, weights[::-1])["classes"].verdict == OK


# -- the command --------------------------------------------------------------------------------------


def test_the_command_prints_verdicts_and_writes_json(tmp_path, capsys):
    path = tmp_path / "findings.json"
    small = "model.layers=[{type='Flatten'}, {type='Linear', out_features=10}]"
    changes = [
        "--set",
        "train.backend='reference'",
        "--set",
        small,
        "--set",
        "optimizer.lr=0.01",
        "--json",
        str(path),
    ]
    assert cli.main(["doctor", *changes]) == 0
    out = capsys.readouterr().out
    assert "initial loss" in out
    assert "0 WARN, 0 FAIL" in out
    assert json.loads(path.read_text())["verdict"] == OK


def test_a_report_shows_advice_and_fails_with_its_worst_finding():
    report = Report([Finding("a", OK, "1", "1"), Finding("b", FAIL, "2", "1", "make it 1", 2.0)])
    assert report.exit_code == 5
    assert "FAIL  b  2  expected 1\n      -> make it 1" in str(report)
    assert report.to_json()["counts"] == {"OK": 1, "WARN": 0, "FAIL": 1}


def test_a_set_without_validation_images_is_examined(images):
    none = dataclasses.replace(images, validation=images.validation.take(slice(0, 0)))
    leak = next(f for f in data.check(config(), none) if "validation" in f.check)
    assert leak.verdict == OK


def test_a_single_training_image_is_a_finding_and_no_accident(images):
    one = with_train(images, images.train.images[:1], images.train.labels[:1])
    finding = next(f for f in data.check(config(), one) if f.check == "labels fit images")
    assert finding.verdict == WARN
    assert "1 training image" in finding.measured
    assert isinstance(examine(config(), one), Report)
