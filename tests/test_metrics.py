"""Numbers that judge answers, against definitions worked out by hand and against labels known to be wrong."""

import csv
import json

import numpy as np
import pytest
import tiny

from cnn.metrics import class_scores, confusion_matrix, likely_mislabelled, top_k_accuracy


def test_recall_precision_and_f1_are_those_of_the_definition():
    labels, answers = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    recall, precision, f1 = class_scores(confusion_matrix(labels, answers, 4))
    np.testing.assert_allclose(recall[:3], [2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(precision[:2], [2 / 4, 1 / 2])
    np.testing.assert_allclose(f1[:2], [2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2), 1 / 2])
    assert f1[2] == 0
    assert np.isnan([recall[3], precision[2], precision[3], f1[3]]).all()


def test_top_k_counts_the_classes_that_are_more_probable():
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    labels = np.array([0, 0, 2])
    assert [top_k_accuracy(labels, p, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_wrong_labels_are_found_and_right_ones_left_alone():
    rng = np.random.default_rng(0)
    truth = np.arange(600) % 3
    p = rng.dirichlet(np.ones(3), 600) * 0.3 + 0.7 * np.eye(3)[truth]
    labels, wrong = truth.copy(), rng.permutation(600)[:30]
    labels[wrong] = (truth[wrong] + 1) % 3
    found, answers = likely_mislabelled(labels, p)
    assert set(found) <= set(wrong)
    assert len(found) >= 15
    np.testing.assert_array_equal(answers, truth[found])
    margins = p[found, answers] - p[found, labels[found]]
    assert (np.diff(margins) <= 0).all()
    assert len(likely_mislabelled(truth, np.eye(3)[truth])[0]) == 0


def test_the_doctor_names_wrong_labels_where_neighbours_tell_them():
    import dataclasses

    from cnn.config import bundled_config, load_config
    from cnn.data import Split
    from cnn.doctor import data
    from cnn.training import experiment

    config = load_config(bundled_config())
    images = experiment.load_images(config)
    rng, labels = np.random.default_rng(1), images.train.labels.copy()
    wrong = rng.permutation(len(labels))[:100]
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, 100)) % 10
    names = np.array([f"photos/{k:04}.png" for k in range(len(labels))], object)
    found = data._wrong_labels(
        config, dataclasses.replace(images, train=Split(images.train.images, labels, names))
    )
    assert found.verdict == data.WARN
    assert "photos/" in found.measured
    assert 40 <= found.value <= 110
    noise = rng.integers(0, 256, images.train.images.shape, dtype=np.uint8)
    found = data._wrong_labels(config, dataclasses.replace(images, train=Split(noise, labels)))
    assert found.verdict == data.OK
    assert "not told by neighbours" in found.measured


def test_evaluate_lists_wrong_labels_with_names_and_writes_its_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_config(tmp_path / "tiny.toml", tiny.write_images(tmp_path / "images"))
    assert tiny.run(capsys, "train", "tiny.toml", "--run", "run", "--set", "train.epochs=5")[0] == 0
    (tmp_path / "images/test/row/03.png").rename(tmp_path / "images/test/corner/wrong.png")
    files = ("--json", "e.json", "--confusion", "c.csv", "--predictions", "p.csv")
    code, out, _ = tiny.run(capsys, "evaluate", "run", "--set", "data.root=images", *files)
    assert code == 3  # these are not the images of the run
    (tmp_path / "run" / "split.csv").unlink()
    code, out, _ = tiny.run(capsys, "evaluate", "run", *files)
    assert code == 0
    assert "likely wrong labels (1):" in out
    assert "test/corner/wrong.png: corner, or row (" in out
    lines = [line.split() for line in out.splitlines()]
    assert lines[4][0] == "mean"
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["likely_mislabelled"] == [
        {"file": "test/corner/wrong.png", "label": "corner", "answer": "row"}
    ]
    assert np.sum(record["confusion"]) == record["images"] == 30
    table = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert table[0] == ["", *record["classes"]]
    assert [[int(n) for n in row[1:]] for row in table[1:]] == record["confusion"]
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == 30
    found = next(row for row in rows if row["file"] == "test/corner/wrong.png")
    assert (found["label"], found["answer"]) == ("corner", "row")
    assert sum(float(found[name]) for name in record["classes"]) == pytest.approx(1, abs=1e-4)
