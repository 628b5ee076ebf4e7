"""Where targets other than classes come from: tables, folders of masks, .npz; masks under augmentation."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from cnn.config import resolve
from cnn.data import Batches, augment, load_dataset
from cnn.errors import ConfigError, DataError
from cnn.metrics import iou, label_scores, number_scores
from cnn.targets import IGNORED, KINDS


def write_images(root, count=10, size=(8, 6), suffix=".png"):
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(root / f"{i}{suffix}")
    return root


def write_csv(path, header, row):
    path.write_text("\n".join([header, *(row(i) for i in range(10))]) + "\n")
    return path


def by_name(dataset):
    """Return {name: label} of all images."""
    splits = [s for s in (dataset.train, dataset.validation, dataset.test) if s is not None]
    return {name: label for split in splits for name, label in zip(split.names, split.labels, strict=True)}


def test_numbers_are_all_columns_but_that_of_the_files(tmp_path):
    path = write_csv(write_images(tmp_path) / "t.csv", "age,file,weight", lambda i: f"{i},{i}.png,{i / 4}")
    dataset = load_dataset("folder", path, targets="numbers")
    assert (dataset.targets, dataset.classes) == ("numbers", ("age", "weight"))
    assert dataset.train.labels.dtype == np.float32
    assert {name: tuple(label) for name, label in by_name(dataset).items()} == {
        f"{i}.png": (i, i / 4) for i in range(10)
    }
    chosen = load_dataset("folder", path, targets="numbers", columns=["weight"])
    assert chosen.classes == ("weight",)
    assert chosen.train.labels.shape == (8, 1)


@pytest.mark.parametrize(
    ("header", "row", "classes"),
    [
        ("file,tags", lambda i: f'{i}.png,"{"a" * (i % 2)} b{" c" * (i > 5)}"', ("a", "b", "c")),
        ("file,labels", lambda i: f"{i}.png,{'a;' * (i % 2)}b{';c d' * (i > 5)}", ("a", "b", "c d")),
        ("file,a,b,c", lambda i: f"{i}.png,{i % 2},1,{int(i > 5)}", ("a", "b", "c")),
        ("file,a,b,c", lambda i: f"{i}.png,{i % 2 == 1},true,{i > 5}", ("a", "b", "c")),
    ],
    ids=["spaces", "semicolons", "columns", "words"],
)
def test_labels_are_names_in_a_column_or_columns_of_flags(tmp_path, header, row, classes):
    path = write_csv(write_images(tmp_path) / "t.csv", header, row)
    dataset = load_dataset("folder", path, targets="labels")
    assert dataset.classes == classes
    assert {name: tuple(label) for name, label in by_name(dataset).items()} == {
        f"{i}.png": (i % 2, 1, int(i > 5)) for i in range(10)
    }


@pytest.mark.parametrize(
    ("targets", "options", "header", "row", "message"),
    [
        ("numbers", {}, "file,age", lambda i: f"{i}.png,{'old' if i == 3 else i}", "line 5: age: expected"),
        ("numbers", {}, "file,age", lambda i: f"{i}.png,{'nan' if i == 3 else i}", "line 5: age: expected"),
        ("numbers", {"columns": ["agee"]}, "file,age", lambda i: f"{i}.png,1", 'Did you mean "age"'),
        ("numbers", {}, "age,weight", lambda i: "1,2", "expected a column of files"),
        ("numbers", {}, "file", lambda i: f"{i}.png", "expected a column of numbers beside"),
        ("labels", {}, "file,a,b", lambda i: f"{i}.png,1,{2 if i == 1 else 0}", "line 3: b: expected 0 or 1"),
        ("numbers", {}, "file,age", lambda i: f"x{i}.png,1", "line 2: found no file"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_says_where(tmp_path, targets, options, header, row, message):
    path = write_csv(write_images(tmp_path) / "t.csv", header, row)
    with pytest.raises(DataError) as error:
        load_dataset("folder", path, targets=targets, **options)
    assert message in str(error.value)


def write_masks(root, layout, values=lambda mask: mask, size=(8, 6), count=10):
    """Write images and masks with the values 0, 1, 2; return {stem: mask}."""
    rng, masks = np.random.default_rng(1), {}
    for part in ("train", "val", "test") if "PART" in layout else ("",):
        images, beside = (root / layout.replace("KIND", k).replace("PART", part) for k in ("images", "masks"))
        write_images(images, count, size)
        beside.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            masks[i] = values(rng.integers(0, 3, size, dtype=np.uint8))
            Image.fromarray(masks[i]).save(beside / f"{i}.png")
    return masks


@pytest.mark.parametrize("layout", ["KIND", "PART/KIND", "KIND/PART"])
def test_masks_lie_beside_the_images(tmp_path, layout):
    masks = write_masks(tmp_path, layout)
    dataset = load_dataset("folder", tmp_path, targets="masks", classes=["ground", "road", "sky"])
    assert dataset.classes == ("ground", "road", "sky")
    assert (dataset.validation is not None) == ("PART" in layout)
    test = dataset.test
    for name, mask in zip(test.names, test.labels, strict=True):
        np.testing.assert_array_equal(mask, masks[int(name.rpartition("/")[2].removesuffix(".png"))])


def test_255_does_not_count_unless_there_is_nothing_else_but_0(tmp_path):
    write_masks(tmp_path / "a", "KIND", lambda m: np.where(m == 2, 255, m).astype(np.uint8))
    assert load_dataset("folder", tmp_path / "a", targets="masks").classes == ("0", "1")
    masks = write_masks(tmp_path / "b", "KIND", lambda m: np.where(m > 0, 255, 0).astype(np.uint8))
    dataset = load_dataset("folder", tmp_path / "b", targets="masks")
    assert dataset.classes == ("0", "1")
    np.testing.assert_array_equal(by_name(dataset)["images/3.png"], masks[3] > 0)


def test_resized_masks_keep_their_values(tmp_path):
    masks = write_masks(tmp_path, "KIND", size=(8, 6))
    dataset = load_dataset("folder", tmp_path, targets="masks", image_size=(16, 12))
    mask = by_name(dataset)["images/2.png"]
    np.testing.assert_array_equal(mask, masks[2].repeat(2, axis=0).repeat(2, axis=1))
    padded = load_dataset("folder", tmp_path, targets="masks", image_size=(8, 8), fit="pad")
    mask = by_name(padded)["images/2.png"]
    np.testing.assert_array_equal(mask[:, 1:7], masks[2])
    assert (mask[:, [0, 7]] == IGNORED).all()


def test_masks_that_do_not_fit_are_named(tmp_path):
    write_masks(tmp_path, "KIND")
    with pytest.raises(DataError, match=r"expected pixels from 0 to 1, or 255 .* found 2"):
        load_dataset("folder", tmp_path, targets="masks", classes=["a", "b"])
    Image.fromarray(np.zeros((9, 6), np.uint8)).save(tmp_path / "masks/4.png")
    with pytest.raises(DataError, match=r"4\.png: expected 8x6 pixels, the size of .*4\.png, found 9x6"):
        load_dataset("folder", tmp_path, targets="masks")
    Image.fromarray(np.arange(144, dtype=np.uint8).reshape(8, 6, 3)).save(tmp_path / "masks/4.png")
    with pytest.raises(DataError, match=r"4\.png: expected a mask .*grey or palette.*found RGB"):
        load_dataset("folder", tmp_path, targets="masks")
    (tmp_path / "masks/4.png").unlink()
    with pytest.raises(DataError, match=r"4\.png: expected a mask .*masks/4\.png for it, found none"):
        load_dataset("folder", tmp_path, targets="masks")
    with pytest.raises(DataError, match="expected the folders images/ and masks/"):
        load_dataset("folder", write_images(tmp_path / "empty"), targets="masks")


def test_who_forgets_to_say_what_the_targets_are_is_told(tmp_path, capsys):
    write_masks(tmp_path / "streets", "KIND")
    code, _, error = tiny.run(capsys, "new", tmp_path / "streets")
    assert (code, 'did you mean data.targets = "masks"?' in error) == (3, True)
    path = write_csv(write_images(tmp_path / "a") / "t.csv", "file,label", lambda i: f"{i}.png,{i + 0.5}")
    with pytest.raises(DataError, match=r'10 different numbers, such as 9\.5.*data\.targets = "numbers"'):
        load_dataset("folder", path)
    write_csv(path, "file,label", lambda i: f"{i}.png,{i % 2 + 0.5}")  # two classes, whatever they are called
    assert load_dataset("folder", path).classes == ("0.5", "1.5")


def test_a_changed_mask_or_number_is_noticed_by_the_cache(tmp_path):
    masks = write_masks(tmp_path / "m", "KIND")
    load_dataset("folder", tmp_path / "m", targets="masks")
    Image.fromarray(2 - masks[0]).save(tmp_path / "m/masks/0.png")
    mask = by_name(load_dataset("folder", tmp_path / "m", targets="masks"))["images/0.png"]
    np.testing.assert_array_equal(mask, 2 - masks[0])
    path = write_csv(write_images(tmp_path / "n") / "t.csv", "file,age", lambda i: f"{i}.png,{i}")
    load_dataset("folder", path, targets="numbers")
    write_csv(path, "file,age", lambda i: f"{i}.png,{i + 1}")
    assert by_name(load_dataset("folder", path, targets="numbers"))["3.png"] == 4


@pytest.mark.parametrize(
    ("targets", "shape", "top"), [("numbers", (12, 2), 99), ("labels", (12, 3), 2), ("masks", (12, 5, 4), 4)]
)
def test_npz_holds_any_targets(tmp_path, targets, shape, top):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, top, shape).astype(np.float32 if targets == "numbers" else np.uint8)
    np.savez(tmp_path / "d.npz", x=rng.integers(0, 256, (12, 5, 4), dtype=np.uint8), y=labels)
    dataset = load_dataset("npz", tmp_path / "d.npz", targets=targets)
    assert dataset.targets == targets
    assert len(dataset.classes) == (labels.max() + 1 if targets == "masks" else shape[1])
    assert len(dataset.train) + len(dataset.test) == 12


CHANGES = [
    {"type": "RandomHorizontalFlip"},
    {"type": "RandomVerticalFlip"},
    {"type": "AlternatingFlip"},
    {"type": "RandomTranslate", "pixels": 3},
    {"type": "RandomCrop", "size": 10, "padding": 2, "mode": "reflect"},
    {"type": "CenterCrop", "size": 8},
    {"type": "RandomAffine", "degrees": 30, "translate": [0.2, 0.2], "scale": [0.7, 1.3], "mode": "reflect"},
    {"type": "RandomRotation", "degrees": 45},
    {"type": "RandomResizedCrop", "scale": [0.3, 1.0]},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change["type"])
def test_masks_go_where_their_images_go(change):
    """The image is its own mask, in two large areas: they agree but where an edge was interpolated."""
    rng = np.random.default_rng(0)
    masks = np.zeros((24, 16, 16), np.uint8)
    for mask, top, left in zip(masks, rng.integers(2, 8, 24), rng.integers(2, 8, 24), strict=True):
        mask[top : top + 6, left : left + 6] = 1
    images = (100 + 100 * masks)[:, None]
    noise = {"type": "ColorJitter", "brightness": 0.05}
    chain = augment.from_config([noise, {"type": "Cutout", "size": 1}, change])
    batches = Batches(images, masks, 8, 0.0, 1 / 255, augment=chain, seed=3, shuffle=True)
    again = Batches(images, masks, 8, 0.0, 1 / 255, augment=chain, seed=3, shuffle=True)
    for (x, y), (_, same) in zip(batches.epoch(1), again.epoch(1), strict=True):
        assert y.shape == (8, *batches.image_shape[1:])
        np.testing.assert_array_equal(y, same)
        pixels = np.asarray(x)[:, 0]
        outside, hidden = y == IGNORED, pixels < 60
        exact = change["type"] in ("RandomHorizontalFlip", "RandomVerticalFlip", "AlternatingFlip")
        if not exact:  # black is what came from outside, or a pixel that Cutout hid
            assert (hidden | ~outside | (pixels < 90)).all()
        agree = (pixels > 150) == (y == 1)
        least = 0.93 if "degrees" in change or "scale" in change else 0.995
        assert agree[~outside & ~hidden].mean() > least


def test_an_augmentation_that_does_not_say_how_masks_move_is_refused():
    class Own(augment.Augmentation):
        def apply(self, images, rng, indices, epoch):
            return images

    images = np.zeros((4, 1, 5, 5), np.uint8)
    batches = Batches(images, images[:, 0], 2, 0.0, 1.0, augment=[Own()])
    with pytest.raises(ConfigError, match="Own: expected a method move"):
        next(iter(batches.epoch(0)))


def test_mixup_mixes_numbers_as_it_mixes_images():
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1).repeat(2, axis=3) * 30
    labels = (np.arange(8) * 30 / 255.0).astype(np.float32)[:, None]
    batches = Batches(images, labels, 8, 0.0, 1.0, mixup=0.5, seed=1)
    x, y = next(iter(batches.epoch(0)))
    np.testing.assert_allclose(x[:, 0, 0, 0], y[:, 0], rtol=1e-5)
    assert not np.allclose(np.sort(y[:, 0]), labels[:, 0])


def document(**data):
    return {
        "data": {"dataset": "folder", **data},
        "model": {"layers": [{"type": "Flatten"}]},
        "optimizer": {"type": "SGD", "lr": 0.1},
    }


@pytest.mark.parametrize(("targets", "loss"), [(kind.name, kind.loss) for kind in KINDS.values()])
def test_the_loss_is_the_one_that_fits_unless_it_is_named(targets, loss):
    config = resolve(document(targets=targets), "c.toml")
    assert config.loss.type == loss
    assert getattr(config.loss, "ignore_index", None) == {"masks": 255, "classes": -100}.get(targets)
    assert resolve(config.plain(), "c.toml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["data.targets=number"], 'found "number", expected "classes", "numbers", "labels" or "masks"'),
        (["data.targets=numbers", "loss.type=BCEWithLogitsLoss"], 'expected "MSELoss" or "L1Loss" with'),
        (["data.targets=labels", "loss.type=MSELoss"], 'expected "BCEWithLogitsLoss" with data.targets'),
        (["data.targets=masks", "loss.ignore_index=0"], "loss.ignore_index: found 0, expected 255"),
        (["data.targets=masks", "data.mixup=0.2"], "data.mixup: found 0.2, expected 0"),
        (["data.targets=masks", "tta.flip=true"], "tta: expected none with"),
        (["data.targets=numbers", "train.micro_batch=4"], "train.micro_batch: expected none with"),
        (["data.targets=numbers", "data.dataset=MNIST"], 'data.dataset: found "MNIST", expected "folder"'),
    ],
)  # fmt: skip
def test_sections_that_do_not_fit_the_targets_are_refused(override, message):
    with pytest.raises(ConfigError) as error:
        resolve(document(), "c.toml", override)
    assert message in str(error.value)


def test_a_network_of_another_shape_is_refused_with_the_shape(tmp_path, capsys):
    write_masks(tmp_path / "images", "KIND")
    config = document(root=str(tmp_path / "images"), targets="masks", batch_size=4)
    config["model"]["layers"] = [{"type": "Conv2d", "out_channels": 3, "kernel_size": 3}]
    (tmp_path / "c.toml").write_text(to_toml(config))
    code, _, error = tiny.run(capsys, "train", tmp_path / "c.toml", "--run", tmp_path / "run")
    assert code == 2
    assert "the last layer gives (3, 6, 4), expected (3, 8, 6)" in error
    assert not (tmp_path / "run").exists()


def to_toml(config):
    import tomli_w

    return tomli_w.dumps(config)


def test_scores_are_their_definitions():
    rng = np.random.default_rng(0)
    right, told = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    mae, rmse, r2 = number_scores(right, told)
    for k in range(2):
        t, v = right[:, k].tolist(), told[:, k].tolist()
        mean = sum(t) / 50
        assert mae[k] == pytest.approx(sum(abs(a - b) for a, b in zip(t, v, strict=True)) / 50)
        assert rmse[k] == pytest.approx((sum((a - b) ** 2 for a, b in zip(t, v, strict=True)) / 50) ** 0.5)
        rest = sum((a - b) ** 2 for a, b in zip(t, v, strict=True))
        assert r2[k] == pytest.approx(1 - rest / sum((a - mean) ** 2 for a in t))
    sklearn = pytest.importorskip("sklearn.metrics")
    assert np.mean(r2) == pytest.approx(sklearn.r2_score(right, told))
    labels, p = rng.integers(0, 2, (60, 3)), rng.random((60, 3))
    f1 = sklearn.f1_score(labels, p > 0.5, average=None)
    np.testing.assert_allclose(label_scores(labels, p)[2], f1)
    matrix = sklearn.confusion_matrix(rng.integers(0, 3, 90), rng.integers(0, 3, 90))
    pairs = [(k, j) for k in range(3) for j in range(3) for _ in range(matrix[k, j])]
    expected = sklearn.jaccard_score(*zip(*pairs, strict=True), average=None)
    np.testing.assert_allclose(iou(matrix), expected)


def test_pixels_that_do_not_count_change_no_score():
    kind, rng = KINDS["masks"], np.random.default_rng(0)
    labels, answers = rng.integers(0, 3, (2, 4, 6, 6), dtype=np.uint8)
    before = kind.scores(answers[:, :4], labels[:, :4], "abc")
    labels[:, 4:] = IGNORED
    assert kind.scores(answers, labels, "abc") == before
    assert json.dumps(before)
