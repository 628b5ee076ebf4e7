"""Augmentations against a slow independent NumPy form, their chances, and their config."""

import numpy as np
import pytest

from cnn.data import augment
from cnn.data.augment import (
    AlternatingFlip,
    CenterCrop,
    Cutout,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomTranslate,
)
from cnn.errors import ConfigError


@pytest.fixture
def images():
    return np.random.default_rng(7).integers(1, 256, (40, 3, 9, 12), dtype=np.uint8)


def apply(augmentation, images, seed=3, epoch=0):
    rng = np.random.default_rng(seed)
    return augmentation.apply(images.copy(), rng, np.arange(len(images)), epoch)


def pad(images, by, mode):
    border = ((0, 0), (0, 0), (by, by), (by, by))
    return np.pad(images, border, mode="constant" if mode == "zero" else "reflect")


def crops(image, size, by, mode):
    """Every crop of the padded image, by (top, left)."""
    padded = pad(image[None], by, mode)[0]
    h, w = padded.shape[1] - size[0] + 1, padded.shape[2] - size[1] + 1
    return {
        (top, left): padded[:, top : top + size[0], left : left + size[1]]
        for top in range(h)
        for left in range(w)
    }


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("pixels", [0, 1, 3, 8])
def test_translate_moves_by_the_shift_drawn_and_fills_like_numpy_pad(images, mode, pixels):
    out = apply(RandomTranslate(pixels, mode), images)
    tops, lefts = np.random.default_rng(3).integers(-pixels, pixels + 1, (2, len(images)))
    for image, moved, top, left in zip(images, out, tops, lefts, strict=True):
        expected = crops(image, image.shape[1:], pixels, mode)[top + pixels, left + pixels]
        np.testing.assert_array_equal(moved, expected)


def test_translate_by_more_than_the_image_leaves_black():
    out = apply(RandomTranslate(30), np.full((200, 1, 4, 5), 9, np.uint8))
    assert (out == 0).all(axis=(1, 2, 3)).any()
    assert set(np.unique(out)) == {0, 9}


def test_translate_shows_every_shift_about_equally_often():
    images = np.zeros((6000, 1, 7, 7), np.uint8)
    images[:, 0, 3, 3] = 1
    out = apply(RandomTranslate(2), images)
    where = out.reshape(len(out), -1).argmax(axis=1)
    seen = np.bincount(where, minlength=49).reshape(7, 7)
    assert seen[1:6, 1:6].sum() == 6000
    assert np.abs(seen[1:6, 1:6] - 240).max() < 5 * np.sqrt(240)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize(("size", "padding"), [(None, 4), (6, 0), ((5, 12), 2), (9, 1), ((13, 3), 2)])
def test_crop_is_one_of_the_windows_of_the_padded_image(images, size, padding, mode):
    crop = RandomCrop(size, padding, mode)
    out = apply(crop, images)
    h, w = crop.size or images.shape[2:]
    assert out.shape == (len(images), *crop.output_shape(images.shape[1:]))
    seen = set()
    for image, cut in zip(images, out, strict=True):
        windows = crops(image, (h, w), padding, mode)
        matches = [place for place, window in windows.items() if np.array_equal(window, cut)]
        assert matches
        seen.add(matches[0])
    assert len(seen) > 5


def test_crop_reaches_every_window():
    image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    out = apply(RandomCrop(3), np.repeat(image, 200, axis=0))
    assert set(out[:, 0, 0, 0]) == {0, 1, 4, 5}


def test_crop_with_padding_is_the_translation_of_the_same_reach(images):
    places = {apply(RandomCrop(padding=1), images[:1], seed).tobytes() for seed in range(200)}
    shifts = {apply(RandomTranslate(1), images[:1], seed).tobytes() for seed in range(200)}
    assert len(places) == 9
    assert places == shifts


@pytest.mark.parametrize("size", [(9, 12), (4, 4), (5, 7), (11, 15)])
def test_center_crop_takes_the_middle(images, size):
    out = apply(CenterCrop(size), images)
    top, left = (9 - size[0]) // 2, (12 - size[1]) // 2
    expected = pad(images, 5, "zero")[:, :, top + 5 : top + 5 + size[0], left + 5 : left + 5 + size[1]]
    np.testing.assert_array_equal(out, expected)


def test_flip_mirrors_the_images_drawn_and_leaves_the_others(images):
    out = apply(RandomHorizontalFlip(0.3), images)
    chosen = np.random.default_rng(3).random(len(images)) < 0.3
    np.testing.assert_array_equal(out, np.where(chosen[:, None, None, None], images[..., ::-1], images))


@pytest.mark.parametrize("width", [1, 2, 7])
@pytest.mark.parametrize("p", [0, 1])
def test_flip_of_probability_0_and_1_is_certain(p, width):
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3, width), dtype=np.uint8)
    out = apply(RandomHorizontalFlip(p), images)
    np.testing.assert_array_equal(out, images[..., ::-1] if p else images)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_flip_happens_as_often_as_p_says(p):
    images = np.tile(np.array([0, 1], np.uint8), (10_000, 1, 1, 1))
    flipped = apply(RandomHorizontalFlip(p), images)[:, 0, 0, 0].mean()
    assert abs(flipped - p) < 5 * np.sqrt(p * (1 - p) / 10_000)


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs():
    images = np.tile(np.array([0, 1], np.uint8), (10_000, 1, 1, 1))
    flips = [apply(AlternatingFlip(), images, epoch, epoch)[:, 0, 0, 0] for epoch in range(4)]
    assert abs(flips[0].mean() - 0.5) < 0.025
    np.testing.assert_array_equal(flips[0] + flips[1], 1)
    np.testing.assert_array_equal(flips[0], flips[2])
    np.testing.assert_array_equal(flips[1], flips[3])
    agreement = np.corrcoef(flips[0][:-1], flips[0][1:])[0, 1]  # neighbours flip independently
    assert abs(agreement) < 0.05


def test_alternating_flip_goes_by_the_image_not_by_its_place_in_the_batch(images):
    order = np.random.default_rng(0).permutation(len(images))
    straight = AlternatingFlip().apply(images.copy(), None, np.arange(len(images)), 0)
    shuffled = AlternatingFlip().apply(images[order], None, order, 0)
    np.testing.assert_array_equal(shuffled, straight[order])


@pytest.mark.parametrize("size", [1, 4, 5, 20])
def test_cutout_blackens_one_clipped_square(images, size):
    out = apply(Cutout(size), images)
    rng = np.random.default_rng(3)
    centres = zip(rng.integers(0, 9, len(images)), rng.integers(0, 12, len(images)), strict=True)
    for image, cut, (cy, cx) in zip(images, out, centres, strict=True):
        rows, columns = np.arange(9)[:, None], np.arange(12)
        top, left = cy - size // 2, cx - size // 2
        hole = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
        np.testing.assert_array_equal(cut, np.where(hole, 0, image))
        assert hole[cy, cx]


@pytest.mark.parametrize("augmentation", [
    RandomHorizontalFlip(), AlternatingFlip(), RandomTranslate(2), RandomTranslate(2, "reflect"),
    RandomCrop(7, 2), CenterCrop(6), Cutout(4), RandomAffine(degrees=20),
], ids=repr)  # fmt: skip
def test_gathering_is_applying_to_the_chosen_images_and_leaves_the_split_alone(images, augmentation):
    before, chosen = images.copy(), np.array([31, 2, 39, 2, 0])
    expected = augmentation.apply(images[chosen], np.random.default_rng(5), chosen, 1)
    found = augmentation.gather(images, chosen, np.random.default_rng(5), 1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(images, before)


def test_what_evaluation_needs_is_the_size_alone(images):
    chain = [RandomHorizontalFlip(), RandomCrop(8, 2), Cutout(3), RandomTranslate(1), RandomCrop(padding=1)]
    kept = augment.for_evaluation(chain)
    assert [repr(a) for a in kept] == ["CenterCrop(size=(8, 8))"]
    shape = images.shape[1:]
    assert augment.output_shape(kept, shape) == augment.output_shape(chain, shape) == (3, 8, 8)
    assert augment.for_evaluation(kept)[0] is kept[0]


def test_config_builds_every_type():
    entries = [
        {"type": "RandomHorizontalFlip"},
        {"type": "AlternatingFlip"},
        {"type": "RandomTranslate", "pixels": 2, "mode": "reflect"},
        {"type": "RandomCrop", "size": [32, 30], "padding": 4},
        {"type": "CenterCrop", "size": 30},
        {"type": "Cutout", "size": 8},
        {"type": "RandomAffine", "degrees": 5},
        {"type": "RandomVerticalFlip"},
        {"type": "RandomRotation", "degrees": 5},
        {"type": "RandomResizedCrop"},
        {"type": "ColorJitter", "brightness": 0.2},
    ]
    built = augment.from_config(entries)
    assert [type(a).__name__ for a in built] == [e["type"] for e in entries]
    assert set(augment.types()) == {e["type"] for e in entries}
    assert [repr(a) for a in built[1:4]] == [
        "AlternatingFlip()",
        "RandomTranslate(pixels=2, mode='reflect')",
        "RandomCrop(size=(32, 30), padding=4, mode='zero')",
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("Cutout", "augment: expected a list"),
        (["Cutout"], r"augment\[0\]: augmentation: expected a table"),
        ([{"size": 3}], r"augment\[0\]: augmentation type: found None"),
        ([{"type": "Cutout", "size": 3}, {"type": "Cutot"}], r'augment\[1\]: .*"Cutout"\?'),
        ([{"type": "Cutout", "siz": 3}], r'augment\[0\]: Cutout: unknown argument "siz".*mean "size"\?'),
        ([{"type": "AlternatingFlip", "p": 1}], r'AlternatingFlip: unknown argument "p". It takes none'),
        ([{"type": "RandomTranslate"}], r'augment\[0\]: RandomTranslate: the argument "pixels" is missing'),
        ([{"type": "RandomTranslate", "pixels": -1}], r"augment\[0\]: RandomTranslate: pixels: .* found -1"),
        ([{"type": "RandomTranslate", "pixels": 1.5}], "pixels: expected an integer >= 0, found 1.5"),
        ([{"type": "RandomTranslate", "pixels": True}], "found True"),
        ([{"type": "RandomTranslate", "pixels": 1, "mode": "zeros"}], 'mode: expected "zero" or "reflect"'),
        ([{"type": "RandomHorizontalFlip", "p": 1.5}], "p: expected a probability from 0 to 1, found 1.5"),
        ([{"type": "RandomHorizontalFlip", "p": "half"}], "found 'half'"),
        ([{"type": "RandomHorizontalFlip", "p": float("nan")}], "found nan"),
        ([{"type": "RandomCrop"}], "expected size, padding or both"),
        ([{"type": "RandomCrop", "size": 0}], "RandomCrop: size"),
        ([{"type": "RandomCrop", "size": [3, 4, 5]}], "RandomCrop: size"),
        ([{"type": "CenterCrop", "size": "8"}], "CenterCrop: size"),
        ([{"type": "Cutout", "size": 0}], "Cutout: size: expected an integer >= 1, found 0"),
    ],
)
def test_a_bad_config_is_refused_by_entry_and_key(entries, message):
    with pytest.raises(ConfigError, match=message):
        augment.from_config(entries)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (RandomTranslate(9, "reflect"), "reaches at most 8 pixels beyond images of 9x12"),
        (RandomCrop(padding=9, mode="reflect"), "reaches at most 8 pixels"),
        (RandomCrop(size=(8, 15), padding=1), "crop of 8x15 pixels is larger than the padded image of 11x14"),
        (RandomCrop(size=12, padding=1), "larger"),
    ],
)
def test_an_augmentation_too_large_for_the_images_is_refused(augmentation, message):
    with pytest.raises(ConfigError, match=message):
        augment.output_shape([augmentation], (3, 9, 12))
