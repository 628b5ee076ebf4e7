"""Image folders: what is read, what is refused, and when the cache is believed."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from cnn.data import decode, load_dataset, read_image
from cnn.data.image_file import read_with_bits
from cnn.errors import DataError


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    """Keep the user's own cache out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


def picture(seed, size=(6, 5), colour=True):
    """Random pixels: (h, w, 3) or (h, w) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Three classes; three images each to train on and two to test on."""
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("ant", "bee", "cow")):
            for number in range(count):
                seed = label * 10 + number + 100 * (part == "test")
                save(tmp_path / "set" / part / name / f"{number}.png", picture(seed))
    return tmp_path / "set"


def test_classes_are_the_folders_in_order_and_images_keep_their_pixels(root):
    data = load_dataset("folder", root)
    assert data.classes == ("ant", "bee", "cow")
    assert data.input_shape == (3, 6, 5)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(data.train.images[4], picture(11).transpose(2, 0, 1))
    np.testing.assert_array_equal(data.test.images[5], picture(121).transpose(2, 0, 1))


def test_many_images_and_a_thread_pool_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(decode.os.path, "getsize", lambda path: 1_000_000)
    for part in ("train", "test"):
        for number in range(200):
            value = np.full((4, 4), number, np.uint8)
            save(tmp_path / "set" / part / "ab"[number % 2] / f"{number:03}.png", value)
    images = load_dataset("folder", tmp_path / "set").train.images[:, 0, 0, 0]
    assert images.tolist() == [*range(0, 200, 2), *range(1, 200, 2)]


def test_hidden_and_foreign_files_are_passed_over(root):
    (root / "train" / ".git").mkdir()
    (root / "train" / "notes.txt").write_text("x")
    (root / "train" / "ant" / "._0.png").write_text("x")
    (root / "train" / "ant" / "Thumbs.db").write_text("x")
    (root / "train" / "ant" / "more.png").mkdir()
    assert len(load_dataset("folder", root).train) == 9


@pytest.mark.parametrize("extension", ["png", "PNG", "bmp", "webp", "tif", "gif", "ppm", "jpg", "jpeg"])
def test_the_usual_formats_are_read(tmp_path, extension):
    pixels = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    options = {"lossless": True} if extension == "webp" else {}
    save(tmp_path / f"a.{extension}", pixels, **options)
    image = read_image(tmp_path / f"a.{extension}")
    np.testing.assert_allclose(image.transpose(1, 2, 0).astype(int), pixels.astype(int), atol=2)


def test_the_mode_is_that_of_the_first_image_or_the_one_asked_for(root):
    assert load_dataset("folder", root, mode="L").input_shape == (1, 6, 5)
    grey = load_dataset("folder", root, mode="L").train.images[0, 0]
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(picture(0)).convert("L")))
    for path in root.glob("*/*/*.png"):
        save(path, picture(1, colour=False))
    assert load_dataset("folder", root).input_shape == (1, 6, 5)
    colour = load_dataset("folder", root, mode="RGB").train.images[0]
    np.testing.assert_array_equal(colour, np.repeat(picture(1, colour=False)[None], 3, axis=0))


def test_a_grey_image_among_coloured_ones_becomes_rgb(root):
    save(root / "train" / "cow" / "1.png", picture(1, colour=False))
    assert (np.ptp(load_dataset("folder", root).train.images[7], axis=0) == 0).all()


def test_a_coloured_image_among_grey_ones_is_refused_unless_the_mode_is_given(root):
    save(root / "train" / "ant" / "0.png", picture(1, colour=False))
    with pytest.raises(DataError, match=r'ant/1.png: expected a grey image .*found RGB; mode = "RGB" or "L"'):
        load_dataset("folder", root)
    assert load_dataset("folder", root, mode="L").input_shape == (1, 6, 5)


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    save(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", mode="L")[0], values >> 8)


def test_black_and_white_is_0_and_255(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", mode="L")[0], np.eye(4) * 255)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.fromarray(picture(0)).quantize(8)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").shape == (3, 6, 5)


def test_the_orientation_of_the_camera_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    save(tmp_path / "a.png", picture(0), exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(picture(0), -1).transpose(2, 0, 1))


@pytest.mark.parametrize("image_size", [(4, 7), [4, 7]])
def test_image_size_is_height_then_width(root, image_size):
    save(root / "train" / "bee" / "0.png", picture(5, size=(20, 30)))
    data = load_dataset("folder", root, image_size=image_size)
    assert data.input_shape == (3, 4, 7)
    expected = Image.fromarray(picture(5, size=(20, 30))).resize((7, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.train.images[3], np.asarray(expected).transpose(2, 0, 1))
    assert load_dataset("folder", root, image_size=8).input_shape == (3, 8, 8)


def test_images_of_two_sizes_are_refused_naming_both(root):
    save(root / "test" / "bee" / "1.png", picture(5, size=(7, 5)))
    with pytest.raises(
        DataError, match=r"bee/1.png: expected 6x5 pixels, the size of .*ant/0.png, found 7x5; image_size"
    ):
        load_dataset("folder", root)


def damaged(root, kind):
    path = root / "train" / "bee" / "2.png"
    if kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut png":
        save(path, picture(0, size=(50, 50)))
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "cut jpeg":
        save(path.with_suffix(".jpg"), picture(0, size=(50, 50)))
        path.unlink()
        path = path.with_suffix(".jpg")
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "floats":
        path.unlink()
        path = path.with_suffix(".tif")
        Image.fromarray(np.zeros((6, 5), np.float32)).save(path)
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "cut png", "cut jpeg", "floats"])
def test_an_unreadable_image_is_named(root, kind):
    path = damaged(root, kind)
    with pytest.raises(DataError, match=rf"bee/{path.name}: expected an image") as error:
        load_dataset("folder", root, mode="L")
    assert "\n" not in str(error.value)
    assert not list(root.glob("cnn-cache"))


def test_a_file_to_predict_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.png: expected an image file, found no such file"):
        read_image(tmp_path / "gone.png")


def remove(path):
    for child in path.iterdir():
        if child.is_dir():
            remove(child)
        else:
            child.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train", r"train: expected a folder, found none \(No such file"),
        ("test/bee", r"test: expected the classes of .*train, found no bee/"),
        ("train/bee", r"test/bee: expected only classes that .*train has"),
    ],
)
def test_a_missing_folder_is_named(root, gone, message):
    remove(root / gone)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", root)


def test_a_class_without_images_is_named(root):
    for path in (root / "test" / "cow").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"test/cow: expected images \(.png, .*\), found none"):
        load_dataset("folder", root)


def test_a_train_folder_without_classes_is_refused(tmp_path):
    save(tmp_path / "train" / "0.png", picture(0))
    with pytest.raises(DataError, match=r"train: expected a folder for each class .*found none"):
        load_dataset("folder", tmp_path)


@pytest.fixture
def reads(monkeypatch):
    """Count the image files that are opened."""
    counted = []

    def counting(path, *args, **kwargs):
        counted.append(path)
        return read_with_bits(path, *args, **kwargs)

    monkeypatch.setattr(decode, "read_with_bits", counting)
    return counted


def test_a_second_load_reads_the_cache_alone(root, reads):
    first = load_dataset("folder", root)
    assert reads
    reads.clear()
    second = load_dataset("folder", root)
    assert not reads
    assert second.classes == first.classes
    np.testing.assert_array_equal(second.train.images, first.train.images)
    np.testing.assert_array_equal(second.test.labels, first.test.labels)


def add(root):
    save(root / "train" / "cow" / "new.png", picture(0))


def delete(root):
    (root / "test" / "ant" / "0.png").unlink()


def rename_file(root):
    (root / "test" / "ant" / "0.png").rename(root / "test" / "ant" / "9.png")


def rename_class(root):
    for part in ("train", "test"):
        (root / part / "cow").rename(root / part / "dog")


def touch(root):
    os.utime(root / "train" / "ant" / "0.png", ns=(1, 1))


@pytest.mark.parametrize("edit", [add, delete, rename_file, rename_class, touch])
def test_any_edit_makes_the_cache_stale(root, reads, edit):
    load_dataset("folder", root)
    reads.clear()
    edit(root)
    data = load_dataset("folder", root)
    assert len(reads) > 0
    assert len(data.train) == 9 + (edit is add)
    assert len(data.test) == 6 - (edit is delete)
    assert data.classes[2] == ("dog" if edit is rename_class else "cow")


def test_every_mode_and_size_has_its_own_cache(root, reads):
    load_dataset("folder", root)
    load_dataset("folder", root, mode="L")
    load_dataset("folder", root, image_size=4)
    reads.clear()
    shapes = [
        load_dataset("folder", root).input_shape,
        load_dataset("folder", root, mode="L").input_shape,
        load_dataset("folder", root, image_size=4).input_shape,
    ]
    assert not reads
    assert shapes == [(3, 6, 5), (1, 6, 5), (3, 4, 4)]


def test_a_set_that_needs_more_memory_than_there_is_says_how_much(root, monkeypatch):
    def fail(shape, dtype):
        raise MemoryError

    monkeypatch.setattr(decode.np, "empty", fail)
    with pytest.raises(DataError, match=r"15 images of 6x5 pixels need 0.0 GB of memory"):
        load_dataset("folder", root)
