"""A user's own picture: what is said of it, and how --invert and --center bring it to the training images."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnn.data.picture import describe, read_picture

SHAPE, MEAN = (1, 28, 28), [0.13]


def seven(path, ink=255, ground=0, box=(8, 8, 18, 25), size=(28, 28), mode="L"):
    """Write a 7 that fills ``box`` and return the path."""
    image = Image.new("L", size, ground)
    left, top, right, bottom = box
    draw = ImageDraw.Draw(image)
    draw.line(
        [(left, top), (right, top), ((left + right) // 2, bottom)], fill=ink, width=max(2, size[0] // 14)
    )
    image.convert(mode).save(path)
    return path


def middle(pixels):
    ink = pixels[0].astype(float)
    rows, columns = np.indices(ink.shape)
    return (rows * ink).sum() / ink.sum(), (columns * ink).sum() / ink.sum()


def test_a_picture_like_the_training_images_is_taken_as_it_is(tmp_path):
    path = seven(tmp_path / "good.png")
    pixels, remarks = read_picture(path, SHAPE, MEAN)
    assert remarks == []
    np.testing.assert_array_equal(pixels[0], np.asarray(Image.open(path)))


def test_dark_ink_on_light_paper_is_said_and_invert_makes_it_white_on_black(tmp_path):
    path = seven(tmp_path / "paper.png", ink=0, ground=255)
    _, remarks = read_picture(path, SHAPE, MEAN)
    assert remarks == ["inverted"]
    assert "light ground" in describe("inverted", MEAN)
    pixels, remarks = read_picture(path, SHAPE, MEAN, invert=True)
    assert remarks == []
    expected, _ = read_picture(seven(tmp_path / "good.png"), SHAPE, MEAN)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    "box", [(1, 1, 10, 17), (12, 12, 16, 17), (1, 3, 26, 27)], ids=["corner", "small", "large"]
)
def test_ink_off_the_middle_or_of_another_size_is_said_and_center_mends_it(tmp_path, box):
    path = seven(tmp_path / "corner.png", box=box)
    assert read_picture(path, SHAPE, MEAN)[1] == ["offcentre"]
    pixels, remarks = read_picture(path, SHAPE, MEAN, center=True)
    assert remarks == []
    assert middle(pixels) == pytest.approx((13.5, 13.5), abs=1.2)
    rows = np.flatnonzero((pixels[0] > 60).any(axis=1))
    assert 18 <= rows[-1] - rows[0] + 1 <= 21


def test_center_works_on_the_picture_in_its_own_size(tmp_path):
    path = seven(tmp_path / "photo.png", ink=0, ground=255, box=(300, 500, 420, 700), size=(800, 1000))
    pixels, remarks = read_picture(path, SHAPE, MEAN, invert=True, center=True)
    assert remarks == []
    assert pixels.max() > 200
    assert middle(pixels) == pytest.approx((13.5, 13.5), abs=1.2)


def test_transparency_is_said_and_put_on_white_where_the_picture_is_changed(tmp_path):
    mask = Image.open(seven(tmp_path / "mask.png"))
    image = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), mask=mask)
    image.save(tmp_path / "sticker.png")
    pixels, remarks = read_picture(tmp_path / "sticker.png", SHAPE, MEAN)
    assert remarks == ["transparent", "blank"]  # black ink over hidden black
    assert pixels.max() == 0
    pixels, remarks = read_picture(tmp_path / "sticker.png", SHAPE, MEAN, invert=True)
    assert remarks == []
    np.testing.assert_array_equal(pixels[0] > 128, np.asarray(mask) > 128)


def test_photographs_in_colour_are_not_judged_by_the_rules_for_ink(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    pixels, remarks = read_picture(tmp_path / "photo.png", (3, 32, 32), [0.49, 0.48, 0.45])
    assert pixels.shape == (3, 32, 32)
    assert remarks == []
