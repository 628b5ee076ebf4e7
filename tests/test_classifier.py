"""cnn.Classifier: forms of images and labels, what it shares with other estimators, what it saves."""

import copy
import pickle
import sys

import numpy as np
import pytest
import tiny

import cnn
from cnn.backend import get_threads, set_threads
from cnn.classifier import NotFitted
from cnn.data import load_dataset
from cnn.errors import ArgumentError, ConfigError, DataError
from cnn.layers import BatchNorm2d, Conv2d, Flatten, GlobalAvgPool2d, Linear, ReLU

QUICK = {"epochs": 4, "layers": [{"type": "Linear", "out_features": 16}, {"type": "ReLU"}]}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = get_threads()
    set_threads(1)
    yield
    set_threads(before)


@pytest.fixture(scope="module")
def digits():
    """600 digits of three classes as uint8 (N, 1, 28, 28), and their labels."""
    data = load_dataset("sample").train
    some = np.flatnonzero(data.labels < 3)[:600]
    return data.images[some], data.labels[some]


@pytest.fixture
def features(rng):
    """Three clouds in five dimensions, and words for labels."""
    labels = np.repeat(["ash", "elm", "oak"], 40)
    X = rng.normal(size=(120, 5)) + 3 * np.eye(5)[np.repeat([0, 1, 2], 40)]
    order = rng.permutation(120)
    return X[order], labels[order]


def small_layers():
    return [Conv2d(6, 3, stride=2), BatchNorm2d(), ReLU(), GlobalAvgPool2d(), Flatten()]


def test_three_lines_learn_digits(digits):
    X, y = digits
    model = cnn.Classifier(epochs=3).fit(X[:500], y[:500])
    assert model.score(X[500:], y[500:]) >= 0.95
    assert [row["epoch"] for row in model.history_] == [1, 2, 3]
    assert model.predict_proba(X[:7]).shape == (7, 3)
    np.testing.assert_allclose(model.predict_proba(X[:7]).sum(axis=1), 1, rtol=1e-6)


def torch_tensor(X):
    return pytest.importorskip("torch").from_numpy(X)


FORMS = {
    "NHWC": lambda X: X.transpose(0, 2, 3, 1),
    "NHW": lambda X: X[:, 0],
    "tensor": torch_tensor,
    "list of arrays": list,
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_images_trains_the_same_network(digits, form):
    X, y = digits[0][:120], digits[1][:120]
    options = {"epochs": 1, "augment": [{"type": "RandomTranslate", "pixels": 1}]}
    plain = cnn.Classifier(small_layers(), **options).fit(X, y)
    other = cnn.Classifier(small_layers(), **options).fit(FORMS[form](X), list(y))
    assert plain.model_.network.data.tobytes() == other.model_.network.data.tobytes()
    np.testing.assert_array_equal(other.predict(FORMS[form](X)), plain.predict(X))


@pytest.mark.parametrize(
    ("shape", "channels", "found"),
    [
        ((6, 9, 8, 3), "auto", (3, 9, 8)),
        ((6, 3, 9, 8), "auto", (3, 9, 8)),
        ((6, 8, 9, 8), "auto", (8, 9, 8)),  # no short axis: the channels are axis 1
        ((6, 3, 9, 4), "auto", (3, 9, 4)),  # both are short: axis 1
        ((6, 3, 9, 4), "last", (4, 3, 9)),
        ((6, 9, 8, 3), "first", (9, 8, 3)),
    ],
)
def test_the_axis_of_the_channels_is_told_by_rules(rng, shape, channels, found):
    X = rng.normal(size=shape)
    model = cnn.Classifier([GlobalAvgPool2d()], epochs=1, channels=channels).fit(X, [0, 1] * 3)
    assert model.model_.image_shape == found
    assert model.predict(X).shape == (6,)


LABELS = {
    "strings": np.array(["ash", "elm", "oak"]),
    "negative integers": np.array([-5, 0, 7]),
    "floats": np.array([1.0, 2.0, 30.0]),
    "objects": np.array(["ash", "elm", "oak"], dtype=object),
    "unsigned": np.array([3, 4, 5], np.uint8),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind_come_back_as_they_were(features, kind):
    X, y = features[0], LABELS[kind][np.unique(features[1], return_inverse=True)[1]]
    model = cnn.Classifier(lr=1e-2, epochs=10).fit(X, y)
    assert model.predict(X).dtype == y.dtype
    assert list(model.classes_) == sorted(set(y))
    assert model.score(X, y) > 0.9


def test_bools_and_data_frames_and_series(features):
    pandas = pytest.importorskip("pandas")
    X, y = pandas.DataFrame(features[0], columns=list("abcde")), pandas.Series(features[1] == "elm")
    model = cnn.Classifier(lr=1e-2, epochs=10).fit(X, y)
    assert model.predict(X).dtype == bool
    assert model.score(X, y) > 0.9
    assert list(model.feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X.rename(columns={"a": "z"}))


def test_the_same_seed_gives_the_same_bits_and_another_one_others(features):
    X, y = features
    one, two, other = (cnn.Classifier(**QUICK, random_state=seed).fit(X, y) for seed in (1, 1, 2))
    assert one.model_.network.data.tobytes() == two.model_.network.data.tobytes()
    assert one.model_.network.data.tobytes() != other.model_.network.data.tobytes()
    again = one.fit(X, y)
    assert again.model_.network.data.tobytes() == two.model_.network.data.tobytes()
    drawn = [cnn.Classifier(**QUICK, random_state=r).fit(X, y) for r in (None, np.random.RandomState(3))]
    assert drawn[0].model_.network.data.tobytes() != drawn[1].model_.network.data.tobytes()


def test_fit_leaves_the_layers_of_the_caller_alone_and_adds_the_head(digits):
    X, y = digits[0][:60], digits[1][:60]
    layers = small_layers()
    model = cnn.Classifier(layers, epochs=1).fit(X, y)
    assert not any(layer.built for layer in layers)
    assert [type(x).__name__ for x in model.model_.network][-2:] == ["Flatten", "Linear"]
    whole = cnn.Classifier([*small_layers(), Linear(3)], epochs=1).fit(X, y)
    assert len(whole.model_.network) == len(model.model_.network)
    trained = list(model.model_.network)[:-1]
    frozen = cnn.Classifier(trained, epochs=1, lr=1e-12).fit(X, y)  # built layers keep their values
    np.testing.assert_allclose(frozen.model_.network[0].weight.data, trained[0].weight.data, atol=1e-8)


def test_the_best_epoch_on_the_validation_images_is_kept(features):
    X, y = features
    held = X[:30], y[:30]
    model = cnn.Classifier(**{**QUICK, "epochs": 6}, lr=0.1).fit(X[30:], y[30:], validation_data=held)
    best = max(row["val_accuracy"] for row in model.history_)
    assert model.score(*held) == best
    shared = cnn.Classifier(**QUICK, validation=0.25).fit(X, y)
    assert all(row["val_loss"] is not None for row in shared.history_)
    with pytest.raises(DataError, match="'yew', which y does not have"):
        cnn.Classifier(**QUICK).fit(X, y, validation_data=(X[:1], ["yew"]))


def test_class_weights_by_label_and_balanced(features):
    X, y = features
    weights = {"oak": 1e4, "elm": 1e-4, "ash": 1e-4}
    heavy = cnn.Classifier(lr=3e-2, epochs=10, class_weight=weights).fit(X, y)
    assert (heavy.predict(X) == "oak").mean() > 0.8
    few = np.flatnonzero((y != "oak") | (np.arange(len(y)) % 8 == 0))
    model = cnn.Classifier(**QUICK, class_weight="balanced").fit(X[few], y[few])
    counts = np.unique(y[few], return_counts=True)[1]
    assert model.model_.config.loss.class_weight == pytest.approx(list(len(few) / (3 * counts)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros((4, 2)) + 1j}, DataError, "Complex data not supported"),
        ({"X": np.full((4, 2), np.nan)}, DataError, "NaN or infinity"),
        ({"X": [[1, 2]] * 3}, DataError, "one label an image, found 3 images, 4 labels"),
        ({"X": np.zeros(4)}, DataError, "Reshape your data"),
        ({"X": [[{}, 1]] * 4}, ArgumentError, "found objects"),
        ({"y": [0.5, 1, 2, 3]}, DataError, "Unknown label type: continuous"),
        ({"y": [1] * 4}, DataError, r"at least 2 classes in y, found 1 class: \[1\]"),
        ({"y": None}, DataError, "requires y"),
        ({"channels": "middle"}, ConfigError, 'channels: expected "auto"'),
        ({"optimizer": "Adamm"}, ConfigError, 'Did you mean "Adam"'),
        ({"lr": -1.0}, ConfigError, "optimizer.lr"),
        ({"class_weight": 3}, ConfigError, "class_weight: expected a dict"),
        ({"augment": [{"type": "Cutout", "size": 1}]}, ConfigError, "expected uint8 images to change"),
    ],
)
def test_mistakes_are_refused_in_a_line(change, error, message):
    given = {"X": np.zeros((4, 2)) + np.arange(4)[:, None], "y": [0, 1, 0, 1]} | change
    X, y = given.pop("X"), given.pop("y")
    with pytest.raises(error, match=message):
        cnn.Classifier(**given).fit(X, y)


def test_an_unfitted_one_says_so_without_scikit_learn_as_well(monkeypatch):
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(NotFitted, match="not fitted yet: call fit before predict"):
        cnn.Classifier().predict([[1.0]])


def test_it_is_saved_for_load_and_the_commands(digits, tmp_path, capsys):
    X, y = digits[0][:90], digits[1][:90]
    model = cnn.Classifier(small_layers(), epochs=1).fit(X, np.array(["no", "one", "two"])[y])
    model.save(tmp_path / "c.safetensors")
    answers = cnn.load(tmp_path / "c.safetensors").predict(X)
    np.testing.assert_array_equal(answers.probabilities, model.predict_proba(X))
    assert list(answers.labels) == list(model.predict(X))
    files = list((tiny.write_images(tmp_path / "images", 1, 1) / "test").rglob("*.png"))
    code, out, _ = tiny.run(capsys, "predict", tmp_path / "c.safetensors", *files)
    assert code == 0
    assert "two" in out


def test_floats_are_saved_with_their_own_units(features, tmp_path):
    X, y = features[0] * 100, features[1]
    model = cnn.Classifier(**QUICK).fit(X, y)
    model.save(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(
        cnn.load(tmp_path / "c.safetensors").predict(X).probabilities, model.predict_proba(X)
    )


def test_progress_is_printed_only_if_asked_for(features, capsys):
    cnn.Classifier(**QUICK).fit(*features)
    assert capsys.readouterr() == ("", "")
    cnn.Classifier(**QUICK, verbose=True).fit(*features)
    assert "epoch 4/4" in capsys.readouterr().out


def test_callbacks_are_told(features):
    class Rows(cnn.Callback):
        rows = 0

        def on_epoch_end(self, trainer, row):
            Rows.rows += 1

    cnn.Classifier(**QUICK, callbacks=[Rows()]).fit(*features)
    assert Rows.rows == 4


def test_copies_predict_the_same(features):
    model = cnn.Classifier(**QUICK).fit(*features)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.predict_proba(features[0]), model.predict_proba(features[0]))
        twin.fit(*features)


def test_it_is_fine_tuned_for_other_classes(digits, tmp_path):
    X, y = digits
    cnn.Classifier(small_layers(), epochs=2).fit(X, y).save(tmp_path / "three.safetensors")
    before = cnn.Network.load(tmp_path / "three.safetensors").state()
    source, even = str(tmp_path / "three.safetensors"), np.where(y == 1, "odd", "even")
    model = cnn.Classifier(pretrained=source, freeze=True, epochs=2, lr=1e-2).fit(X, even)
    after = model.model_.network.state()
    assert after["5.weight"].shape == (2, 6)
    for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert after[name].tobytes() == before[name].tobytes(), name
    np.testing.assert_array_equal(model.model_.mean, cnn.load(source).mean)
    same = cnn.Classifier(pretrained=source, freeze=True, epochs=1, lr=1e-9).fit(X, y)  # its head as well
    np.testing.assert_allclose(same.predict_proba(X), cnn.load(source).predict(X).probabilities, atol=1e-5)
    free = cnn.Classifier(pretrained=source, epochs=1).fit(X[:60], y[:60])
    assert (free.model_.network["0.weight"].data != before["0.weight"]).any()
    with pytest.raises(DataError, match="learnt from uint8 images, found float ones"):
        cnn.Classifier(pretrained=source).fit(X / 255, y)


# -- with scikit-learn ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checks_of_estimators():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    found = checks.check_estimator(cnn.Classifier(), on_fail=None, on_skip=None)
    assert len(found) > 50
    assert {one["check_name"]: one["exception"] for one in found if one["status"] == "failed"} == {}
    skipped = [one["check_name"] for one in found if one["status"] == "skipped"]
    assert skipped in ([], ["check_array_api_input"])  # arrays of GPUs: there is no such kernel


@pytest.mark.filterwarnings("ignore")
def test_cross_validation_search_pipelines_and_clones(features):
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = features
    assert cross_val_score(cnn.Classifier(lr=1e-2, epochs=10), X, y, cv=3).mean() > 0.9
    search = GridSearchCV(cnn.Classifier(**QUICK), {"lr": [1e-6, 3e-2]}, cv=2).fit(X, y)
    assert search.best_params_ == {"lr": 3e-2}
    pipeline = make_pipeline(StandardScaler(), cnn.Classifier(lr=1e-2, epochs=10)).fit(X, y)
    assert pipeline.score(X, y) > 0.9
    twin = clone(cnn.Classifier(small_layers(), lr=0.5))
    assert twin.lr == 0.5
    assert not hasattr(twin, "model_")


@pytest.mark.filterwarnings("ignore")
def test_images_go_through_cross_validation(digits):
    pytest.importorskip("sklearn")
    from sklearn.model_selection import cross_val_score

    X, y = digits[0][:240], digits[1][:240]
    assert cross_val_score(cnn.Classifier(epochs=4, lr=1e-2), X, y, cv=2).mean() > 0.8
