"""Test-time augmentation against the reference implementation of airbench, and on the command line."""

import json

import helpers
import numpy as np
import pytest
import tiny

from cnn.config import load_config
from cnn.data import Batches
from cnn.data.augment import CenterCrop
from cnn.errors import ConfigError
from cnn.layers import Conv2d, Flatten, Linear, ReLU
from cnn.network import Network
from cnn.training import evaluation
from cnn.training.loop import Trainer
from cnn.training.tta import averaged_logits, least_confident


def network(shape=(2, 6, 7)):
    net = Network([Conv2d(3, 3), ReLU(), Flatten(), Linear(4)])
    net.build(shape, rng=np.random.default_rng(1), dtype=np.float64)
    return net


def airbench(f, x, t, crops):
    """airbench94's infer_mirror_translate (and, for t = 0, infer_mirror) with PyTorch's padding and flips."""
    torch = pytest.importorskip("torch")

    def mirror(v):
        return 0.5 * f(v.numpy()) + 0.5 * f(v.flip(-1).numpy())

    x = torch.from_numpy(x)
    if t == 0:
        return mirror(x)
    padded = torch.nn.functional.pad(x, (t,) * 4, "reflect")
    end = 2 * t
    starts = {2: [(0, 0), (end, end)], 4: [(0, 0), (end, end), (0, end), (end, 0)]}[crops]
    moved = [mirror(padded[:, :, r : r + x.shape[2], c : c + x.shape[3]]) for r, c in starts]
    return 0.5 * mirror(x) + 0.5 * np.mean(moved, axis=0)


@pytest.mark.parametrize(("translate", "crops"), [(0, 2), (1, 2), (2, 2), (1, 4), (3, 4)])
def test_as_in_airbench(translate, crops, rng):
    f, x = network().predict, rng.standard_normal((5, 2, 6, 7))
    y = averaged_logits(f, x, flip=True, translate=translate, crops=crops)
    assert y.dtype == np.float64
    assert helpers.error_of(y, airbench(f, x, translate, crops)) < 1e-12


def test_without_flip_no_mirror_image_is_seen(rng):
    f, x = network().predict, rng.standard_normal((3, 2, 6, 7))
    assert np.array_equal(averaged_logits(f, x, flip=False), f(x))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    up_left, down_right = f(padded[:, :, :6, :7]), f(padded[:, :, 4:, 4:])
    expected = 0.5 * f(x) + 0.25 * up_left + 0.25 * down_right
    assert helpers.error_of(averaged_logits(f, x, flip=False, translate=2), expected) < 1e-12


def test_the_average_sees_every_view_of_a_recorded_call(rng):
    seen = []
    x = rng.standard_normal((2, 1, 5, 5))
    averaged_logits(lambda v: seen.append(v) or np.zeros((len(v), 3)), x, translate=1, crops=4)
    assert len(seen) == 10
    assert all(v.shape == x.shape and v.flags.c_contiguous for v in seen)
    assert len({v.tobytes() for v in seen}) == 10


def test_a_nan_stays_visible(rng):
    x = rng.standard_normal((2, 2, 6, 7))
    x[1, 0, 3, 3] = np.nan
    y = averaged_logits(network().predict, x, translate=1)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


def test_evaluate_averages_the_logits_and_not_the_probabilities(rng):
    net = network((1, 6, 6))
    images, labels = rng.integers(0, 256, (9, 1, 6, 6)).astype(np.uint8), rng.integers(0, 4, 9)
    batches = Batches(images, labels, 4, 0.3, 0.2, dtype=np.float64)
    tta = load_config_with(tta={"translate": 1}).tta
    z = averaged_logits(net.predict, (images / 255 - 0.3) / 0.2, True, 1, 2)
    loss, accuracy, probabilities, *_ = evaluation.evaluate(net, batches, tta)
    assert helpers.error_of(probabilities, np.exp(z) / np.exp(z).sum(1, keepdims=True)) < 1e-9
    assert accuracy == (z.argmax(1) == labels).mean()
    assert loss == pytest.approx(-np.log(probabilities[np.arange(9), labels]).mean())


@pytest.mark.parametrize(("share", "count"), [(1.0, 12), (0.5, 6), (0.25, 3), (0.26, 4), (0.01, 1)])
def test_the_least_confident_are_those_of_the_smallest_margins(share, count, rng):
    z = rng.standard_normal((12, 5))
    margins = np.diff(np.sort(z, axis=1)[:, -2:]).ravel()
    chosen = least_confident(z, share)
    assert list(chosen) == sorted(sorted(range(12), key=lambda n: margins[n])[:count])


def test_margins_that_are_equal_infinite_or_nan():
    nan, inf = np.nan, np.inf
    z = np.array([[3.0, 1], [5, 3], [0, inf], [nan, 1], [inf, inf], [2, 2], [-inf, -inf]])
    #    margin        2       2      inf    NaN       NaN        0      NaN
    order = [3, 4, 6, 5, 0, 1, 2]
    for count in range(1, 8):
        assert list(least_confident(z, count / 7)) == sorted(order[:count])
    assert list(least_confident(np.zeros((4, 1)), 0.5)) == [0, 1]  # one number an image: no second largest


def test_only_a_share_of_all_images_is_seen_from_every_view(rng):
    net = network((1, 6, 6))
    images, labels = rng.integers(0, 256, (30, 1, 6, 6)).astype(np.uint8), rng.integers(0, 4, 30)
    batches = Batches(images, labels, 4, 0.3, 0.2, dtype=np.float64)
    x = (images / 255 - 0.3) / 0.2
    plain, views = net.predict(x), averaged_logits(net.predict, x, True, 1, 2)
    top = np.sort(plain, axis=1)
    chosen = np.argsort(top[:, -1] - top[:, -2])[:9]  # of the whole split, not of each batch
    expected = plain.copy()
    expected[chosen] = views[chosen]
    seen = []
    predict = net.predict
    net.predict = lambda x, batch_size: seen.append(len(x)) or predict(x)
    probabilities = evaluation.evaluate(
        net, batches, load_config_with(tta={"translate": 1, "share": 0.3}).tta
    )[2]
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    assert helpers.error_of(probabilities, expected) < 1e-9
    assert sum(seen) == 30 + 6 * 9
    assert set(seen) <= {4, 2, 1}  # whole batches, as in training


def test_evaluation_crops_the_chosen_images_too(rng):
    images = rng.integers(0, 256, (7, 1, 8, 8)).astype(np.uint8)
    batches = Batches(images, np.zeros(7, int), 3, 0.0, 1.0, augment=[CenterCrop(6)])
    parts = list(batches.of(np.array([5, 0, 6, 2])))
    assert [list(numbers) for numbers, _ in parts] == [[5, 0, 6], [2]]
    whole = np.concatenate([x for x, _ in batches.epoch(0)])
    assert np.array_equal(np.concatenate([x for _, x in parts]), whole[[5, 0, 6, 2]])
    assert list(batches.of(np.array([], int))) == []


def load_config_with(**sections):
    from cnn.config import bundled_config, resolve

    plain = load_config(bundled_config()).plain()
    return resolve(plain | sections, "test")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"translate": -1}, "tta.translate: found -1, expected at least 0"),
        ({"crops": 3}, "tta.crops: found 3, expected 2 or 4"),
        ({"share": 0}, "tta.share: found 0, expected a number above 0"),
        ({"share": 1.5}, "tta.share: found 1.5, expected at most 1"),
        ({"flp": True}, 'tta.flp: unknown key. Did you mean "flip"?'),
    ],
)
def test_mistakes_in_the_section(section, message):
    with pytest.raises(ConfigError) as error:
        load_config_with(tta=section)
    assert message in str(error.value)


def test_a_translation_beyond_the_image_fails_before_training():
    with pytest.raises(ConfigError, match=r"tta\.translate: found 28, expected at most 27 pixels"):
        Trainer(load_config_with(tta={"translate": 28}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two runs of one recipe, trained with and without [tta]."""
    folder = tmp_path_factory.mktemp("tta")
    tiny.write_images(folder / "images")
    config = tiny.write_config(folder / "tiny.toml", folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, extra in {"with": ["--set", "tta.translate=1"], "without": []}.items():
            assert tiny.main(["train", str(config), "--run", name, "--set", "train.epochs=1", *extra]) == 0
    return folder


def test_the_final_test_reports_both(trained):
    results = {name: json.loads((trained / name / "result.json").read_text()) for name in ("with", "without")}
    extra = results["with"].keys() - results["without"].keys()
    assert extra == {"tta_loss", "tta_accuracy"}
    same = ("test_loss", "test_accuracy", "val_loss")
    assert all(results["with"][key] == results["without"][key] for key in same)
    assert results["with"]["tta_loss"] != results["with"]["test_loss"]
    line = (trained / "with" / "log.txt").read_text().splitlines()[-1]
    assert f"({100 * results['with']['tta_accuracy']:.2f} % with TTA)" in line


def test_evaluate_takes_the_section_of_the_run(trained, capsys):
    result = json.loads((trained / "with" / "result.json").read_text())
    code, out, _ = tiny.run(capsys, "evaluate", trained / "with", "--tta")
    assert code == 0
    tested = f"loss {result['tta_loss']:.4f}, accuracy {100 * result['tta_accuracy']:.2f} %"
    assert out.endswith(f"{tested}, with test-time augmentation\n")
    assert f"loss {result['test_loss']:.4f}" in tiny.run(capsys, "evaluate", trained / "with")[1]


def test_without_a_section_evaluate_says_what_is_missing(trained, capsys):
    code, out, err = tiny.run(capsys, "evaluate", trained / "without", "--tta")
    assert (code, out) == (2, "")
    assert "the config has no [tta] section" in err
    given = tiny.run(capsys, "evaluate", trained / "without", "--tta", "--set", "tta.translate=1")[1]
    assert given == tiny.run(capsys, "evaluate", trained / "with", "--tta")[1]
