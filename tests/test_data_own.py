"""One's own images as people have them: folders, CSV files, .npz, IDX, Parquet; names and splits."""

import gzip
import logging
import os
import shutil

import numpy as np
import pytest
from data_files import idx
from PIL import Image
from test_data_folder import picture, save, user_folder  # noqa: F401 -- a fixture

from cnn.data import cache, image_file, load_dataset, own_shape, split_validation
from cnn.data.dataset import Split
from cnn.data.decode import Unreadable
from cnn.data.listing import class_folders
from cnn.errors import ConfigError, DataError, MissingExtra


def photos(root, counts, suffix=".png"):
    """Write so many pictures into each folder of {folder: count}."""
    for seed, (folder, count) in enumerate(counts.items()):
        for number in range(count):
            save(root / folder / f"{number:02}{suffix}", picture(100 * seed + number))
    return root


# -- layouts --------------------------------------------------------------------------------------


def test_one_folder_is_split_by_class_whatever_the_seed(tmp_path):
    photos(tmp_path / "set", {"ant": 20, "bee": 10, "cow": 5})
    data = load_dataset("folder", tmp_path / "set")
    assert data.classes == ("ant", "bee", "cow")
    assert np.bincount(data.test.labels).tolist() == [4, 2, 1]
    assert np.bincount(data.train.labels).tolist() == [16, 8, 4]
    assert set(data.train.names) | set(data.test.names) == {
        f"{name}/{k:02}.png" for name, n in (("ant", 20), ("bee", 10), ("cow", 5)) for k in range(n)
    }
    for split in (data.train, data.test):  # every name belongs to its pixels and its label
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            expected = np.asarray(Image.open(tmp_path / "set" / name))
            np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)
            assert name.startswith(data.classes[label])
    half = load_dataset("folder", tmp_path / "set", test=0.5)
    assert np.bincount(half.test.labels).tolist() == [10, 5, 2]


def test_a_new_photo_moves_hardly_any_other_between_the_parts(tmp_path):
    photos(tmp_path / "set", {"ant": 40, "bee": 40})
    before = set(load_dataset("folder", tmp_path / "set").test.names)
    for number in range(3):
        save(tmp_path / "set" / "ant" / f"new{number}.png", picture(900 + number))
    after = set(load_dataset("folder", tmp_path / "set").test.names)
    assert len(before ^ after) <= 6


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_a_validation_folder_is_taken_as_it_is(tmp_path, name):
    photos(
        tmp_path / "set",
        {"train/ant": 6, "train/bee": 6, f"{name}/ant": 2, f"{name}/bee": 3, "test/ant": 1, "test/bee": 1},
    )
    data = load_dataset("folder", tmp_path / "set")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 5, 2]
    assert data.validation.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.validation.names[0] == f"{name}/ant/00.png"
    assert set(data.digests) == {"train", "validation", "test"}
    again = load_dataset("folder", tmp_path / "set")  # from the cache
    np.testing.assert_array_equal(again.validation.images, data.validation.images)
    assert again.validation.names.tolist() == data.validation.names.tolist()


def test_training_and_validation_folders_without_a_test_hold_out_some_training_images(tmp_path):
    photos(tmp_path / "set", {"train/ant": 10, "train/bee": 10, "val/ant": 2, "val/bee": 2})
    data = load_dataset("folder", tmp_path / "set")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 4]
    assert all(name.startswith("train/") for name in data.test.names)


def test_sub_folders_of_a_class_are_read_and_a_circle_of_links_ends(tmp_path):
    photos(tmp_path / "set", {"ant/2024/may": 3, "ant": 3, "bee/a": 4})
    os.symlink(tmp_path / "set" / "ant", tmp_path / "set" / "ant" / "2024" / "again")
    data = load_dataset("folder", tmp_path / "set")
    assert len(data.train) + len(data.test) == 10
    assert "ant/2024/may/00.png" in {*data.train.names, *data.test.names}


def test_what_is_passed_over_is_counted(tmp_path, caplog):
    photos(tmp_path / "set", {"train/ant": 3, "train/bee": 3, "test/ant": 1, "test/bee": 1, "extra/ant": 2})
    for path in ("train/ant/a.cr2", "train/ant/b.CR2", "train/bee/notes.txt", "test/ant/README"):
        (tmp_path / "set" / path).write_bytes(b"x")
    save(tmp_path / "set" / "train" / "loose.png", picture(0))
    listing = class_folders(tmp_path / "set")
    assert dict(listing.passed_over) == {
        ".cr2 files": 2,
        ".txt files": 1,
        "files without an extension": 1,
        "images in extra/": 2,
        "images outside of the class folders": 1,
    }
    with caplog.at_level(logging.WARNING, "cnn.data"):
        load_dataset("folder", tmp_path / "set")
    assert f"{tmp_path / 'set'}: not read: 2 images in extra/" in caplog.text


def test_photos_of_iphones_name_the_extra_that_reads_them():
    assert image_file.with_extra(".heic") == '.heic files (pip install "cnn[heic]" reads them)'


def test_jfif_is_jpeg(tmp_path):
    photos(tmp_path / "set", {"ant": 2, "bee": 2}, ".jpg")
    (tmp_path / "set" / "ant" / "00.jpg").rename(tmp_path / "set" / "ant" / "00.JFIF")
    data = load_dataset("folder", tmp_path / "set")
    assert len(data.train) + len(data.test) == 4


def test_a_root_one_folder_too_high_is_said_to_be_so(tmp_path):
    photos(tmp_path / "set" / "photos", {"ant": 2, "bee": 2})
    with pytest.raises(DataError, match=r'at least two, found 1; did you mean data.root = ".*photos"'):
        load_dataset("folder", tmp_path / "set")


def test_the_photo_folder_stays_as_it_is_and_old_caches_go(tmp_path):
    root = photos(tmp_path / "set", {"ant": 2, "bee": 2})
    before = sorted(root.rglob("*"))
    old = tmp_path / "user" / "cnn" / "0123456789abcdef" / "folder-01234567.safetensors"
    kept = tmp_path / "user" / "cnn" / "kernels-0" / "x.nbi"
    for path in (old, kept):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    load_dataset("folder", root)
    assert sorted(root.rglob("*")) == before
    assert not old.parent.exists()
    assert kept.exists()
    assert len(list((tmp_path / "user" / "cnn").glob("*/folder-*.safetensors"))) == 1
    cache.remove_unused(tmp_path / "user" / "cnn")
    assert len(list((tmp_path / "user" / "cnn").glob("*/folder-*.safetensors"))) == 1


# -- unreadable files -----------------------------------------------------------------------------


def test_all_unreadable_files_are_listed_or_left_out(tmp_path, caplog):
    root = photos(tmp_path / "set", {"ant": 10, "bee": 10})
    for name in ("ant/00.png", "ant/03.png", "bee/01.png", "bee/02.png"):
        (root / name).write_bytes(b"no image")
    with pytest.raises(
        Unreadable, match=r"4 of 20 image files cannot be read: .* and 1 more; data.skip"
    ) as error:
        load_dataset("folder", root)
    assert len(error.value.problems) == 4
    with caplog.at_level(logging.WARNING, "cnn.data"):
        data = load_dataset("folder", root, skip_unreadable=True)
    assert "4 of 20 image files cannot be read" in caplog.text
    assert len(data.train) + len(data.test) == 16
    for split in (data.train, data.test):
        for image, name in zip(split.images, split.names, strict=True):
            np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(Image.open(root / name)))
    assert own_shape("folder", root, skip_unreadable=True) == ((3, 6, 5), 2)


def test_a_class_without_any_readable_image_is_an_error(tmp_path):
    root = photos(tmp_path / "set", {"ant": 4, "bee": 4})
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="expected readable images of class bee"):
        load_dataset("folder", root, skip_unreadable=True)


# -- the shape of photos --------------------------------------------------------------------------


def test_crop_and_pad_keep_the_aspect_ratio(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    for name in ("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"):
        save(tmp_path / "set" / name, wide)
    images = {
        fit: load_dataset("folder", tmp_path / "set", image_size=10, fit=fit).train.images[0, 0]
        for fit in ("stretch", "crop", "pad")
    }
    assert (images["crop"] == 255).all()
    assert images["stretch"][:, 4:6].min() == 255
    assert images["stretch"][:, :2].max() == 0
    assert images["pad"][:3].max() == 0  # 30 pixels wide become 10, 10 high become 3 in the middle
    assert images["pad"][5, 5] == 255
    with pytest.raises(ConfigError, match="needs image_size"):
        load_dataset("folder", tmp_path / "set", fit="crop")


# -- CSV ------------------------------------------------------------------------------------------


def listed(tmp_path, header, rows, name="labels.csv"):
    photos(tmp_path / "set", {"img": 8})
    text = "\n".join([header, *rows] if header else rows)
    (tmp_path / "set" / name).write_text(text + "\n")
    return tmp_path / "set" / name


@pytest.mark.parametrize("header", ["file,label", "image,class", "label;path", "", "file_name,what"])
def test_a_csv_file_of_files_and_labels(tmp_path, header):
    swap = header.startswith("label")
    mark = ";" if ";" in header else ","
    pairs = [(f"img/{k:02}.png", "dog" if k % 2 else "cat") for k in range(8)]
    rows = [mark.join(pair[::-1] if swap else pair) for pair in pairs]
    if header == "file_name,what":
        path = listed(tmp_path, header, [row.removeprefix("img/") for row in rows])
        shutil.move(path, tmp_path / "set" / "img" / "metadata.csv")
        root = tmp_path / "set" / "img"
    else:
        root = listed(tmp_path, header, rows)
    data = load_dataset("folder", root)
    assert data.classes == ("cat", "dog")
    found = dict(
        zip([*data.train.names, *data.test.names], [*data.train.labels, *data.test.labels], strict=True)
    )
    assert {name.removeprefix("img/"): int(label) for name, label in found.items()} == {
        f"{k:02}.png": k % 2 for k in range(8)
    }


def test_a_csv_file_may_tell_the_parts_and_numbers_sort_as_numbers(tmp_path):
    parts = ["train", "train", "train", "val", "test", "Train", "valid", "test"]
    rows = [f"img/{k:02}.png,{(2, 10)[k % 2]},{part}" for k, part in enumerate(parts)]
    data = load_dataset("folder", listed(tmp_path, "file,label,split", rows))
    assert data.classes == ("2", "10")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [4, 2, 2]


BAD = {
    r"line 3: found no file .*99.png \(2 such lines\)": ("file,label", "img/00.png,a img/99.png,b no.png,b"),
    "line 3: expected a label, found none": ("file,label", "img/00.png,a img/01.png,"),
    "labels of at least two classes, found 1": ("file,label", "img/00.png,a img/01.png,a"),
    r'of files .*found flie, lable, x. Did you mean "file"': ("flie,lable,x", "img/00.png,a,1"),
    r'such as train.*found tran. Did you mean "train"': ("file,label,split", "img/00.png,a,tran"),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_csv_file_is_one_clear_line(tmp_path, message):
    header, rows = BAD[message]
    with pytest.raises(DataError, match=message):
        load_dataset("folder", listed(tmp_path, header, rows.split()))


# -- arrays and packed files ----------------------------------------------------------------------


def arrays(count=20, shape=(6, 5, 3)):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 4


@pytest.mark.parametrize(
    "names", [("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("X", "y")]
)
@pytest.mark.parametrize("shape", [(6, 5, 3), (3, 6, 5), (6, 5)])
def test_a_npz_file(tmp_path, names, shape):
    x, y = arrays(shape=shape)
    np.savez(tmp_path / "a.npz", **dict(zip(names, (x, y[:, None]), strict=True)))
    data = load_dataset("npz", tmp_path / "a.npz", test=0.25)
    assert data.input_shape == ((1, 6, 5) if len(shape) == 2 else (3, 6, 5))
    assert np.bincount(data.train.labels).tolist() == [4, 4, 4, 4] or len(data.train) == 15
    expected = x[:, None] if len(shape) == 2 else x if shape[0] == 3 else x.transpose(0, 3, 1, 2)
    rows = {row.tobytes(): int(label) for row, label in zip(expected, y, strict=True)}
    for split in (data.train, data.test):
        assert all(
            rows[image.tobytes()] == label for image, label in zip(split.images, split.labels, strict=True)
        )


def test_a_npz_file_with_all_parts_text_labels_and_floats(tmp_path):
    x, y = arrays()
    words = np.array(["d", "a", "c", "b"])[y]
    np.savez(
        tmp_path / "a.npz", x_train=x[:12] / 255, y_train=words[:12], x_val=x[12:16], y_val=words[12:16],
        x_test=x[16:], y_test=words[16:],
    )  # fmt: skip
    data = load_dataset("npz", tmp_path / "a.npz")
    assert data.classes == ("a", "b", "c", "d")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]
    np.testing.assert_array_equal(data.train.images, x[:12].transpose(0, 3, 1, 2))
    assert [data.classes[k] for k in data.test.labels] == words[16:].tolist()


def test_a_wrong_npz_file_is_one_clear_line(tmp_path):
    for name, content in {"a": {"z": np.zeros(3)}, "b": {"x": np.array([{}]), "y": np.zeros(1)}}.items():
        np.savez(tmp_path / f"{name}.npz", **content)
        with pytest.raises(DataError, match=r"expected (arrays x_train|a .npz file of arrays)"):
            load_dataset("npz", tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match="no such file"):
        load_dataset("npz", tmp_path / "gone.npz")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_gzipped_or_not(tmp_path, zipped):
    x, y = arrays(shape=(6, 5))
    for part, chosen in (("train", slice(0, 15)), ("t10k", slice(15, 20))):
        for kind, array in (("images-idx3", x[chosen]), ("labels-idx1", y[chosen].astype(np.uint8))):
            content = idx(array)
            path = tmp_path / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)
    data = load_dataset("idx", tmp_path)
    np.testing.assert_array_equal(data.train.images[:, 0], x[:15])
    np.testing.assert_array_equal(data.test.labels, y[15:])
    assert data.classes == ("0", "1", "2", "3")
    assert own_shape("idx", tmp_path) == ((1, 6, 5), 4)


def test_parquet_as_hugging_face_writes_it(tmp_path):
    import io
    import json

    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    x, y = arrays()

    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    about = json.dumps(
        {"info": {"features": {"label": {"names": ["n", "o", "p", "q"], "_type": "ClassLabel"}}}}
    )
    for part, chosen in (("train", slice(0, 14)), ("test", slice(14, 20))):
        table = pyarrow.table({"image": [png(image) for image in x[chosen]], "label": y[chosen].tolist()})
        table = table.replace_schema_metadata({"huggingface": about})
        parquet.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    for _ in range(2):  # the second time from the cache
        data = load_dataset("parquet", tmp_path)
        assert data.classes == ("n", "o", "p", "q")
        np.testing.assert_array_equal(data.train.images, x[:14].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(data.test.labels, y[14:])


def test_parquet_without_its_extra_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=r'pip install "cnn\[parquet\]"'):
        load_dataset("parquet", tmp_path / "a.parquet")


# -- the validation part --------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_stratified_split_keeps_the_shares_of_the_classes(fraction):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    split = Split(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), labels, np.arange(100).astype(object))
    train, held_out = split_validation(split, fraction, seed=4, stratified=True)
    assert len(held_out) == round(100 * fraction)
    counts = np.bincount(held_out.labels, minlength=3)
    np.testing.assert_allclose(counts, fraction * np.array([60, 30, 10]), atol=1)
    assert sorted([*train.names, *held_out.names]) == list(range(100))
    assert (held_out.images.ravel() == held_out.names.astype(int)).all()
    other = split_validation(split, fraction, seed=5, stratified=True)[1]
    assert other.names.tolist() != held_out.names.tolist()
