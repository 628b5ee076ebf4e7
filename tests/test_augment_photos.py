"""Augmentations for photos: colour, rotation, resized crops, upside down; against NumPy and torchvision."""

import numpy as np
import pytest

from cnn.backend import operations
from cnn.data import augment
from cnn.data.augment import ColorJitter, RandomAffine, RandomResizedCrop, RandomRotation, RandomVerticalFlip
from cnn.data.colour import color_matrices
from cnn.errors import ConfigError


@pytest.fixture
def images():
    smooth = np.random.default_rng(7).integers(1, 256, (40, 3, 5, 7), dtype=np.uint8)
    return smooth.repeat(4, axis=2).repeat(4, axis=3)


def apply(augmentation, images, seed=3):
    return augmentation.apply(images.copy(), np.random.default_rng(seed), np.arange(len(images)), 0)


def test_a_vertical_flip_turns_the_chosen_images_upside_down(images):
    out, chosen = apply(RandomVerticalFlip(0.5), images), np.random.default_rng(3).random(40) < 0.5
    assert 5 < chosen.sum() < 35
    np.testing.assert_array_equal(out[chosen], images[chosen][:, :, ::-1])
    np.testing.assert_array_equal(out[~chosen], images[~chosen])


def test_a_rotation_is_the_affine_map_that_only_turns(images, backend):
    turned = apply(RandomRotation((10, 40), "reflect"), images)
    np.testing.assert_array_equal(turned, apply(RandomAffine((10, 40), mode="reflect"), images))
    square = np.ascontiguousarray(images[:, :, :20, :20])
    np.testing.assert_array_equal(apply(RandomRotation((90, 90)), square), np.rot90(square, -1, (2, 3)))


def test_a_resized_crop_is_the_part_that_was_drawn(backend):
    """Of an image whose pixels say where they are, the corners of the result say which part it shows."""
    rows, columns = np.mgrid[:64, :96]
    images = np.broadcast_to(np.stack([2 * rows, 2 * columns]), (200, 2, 64, 96)).astype(np.uint8)
    out = apply(RandomResizedCrop((0.2, 0.5), (0.5, 2.0)), images).astype(float) / 2
    height = (out[:, 0, -1, 48] - out[:, 0, 0, 48]) * 64 / 63
    width = (out[:, 1, 32, -1] - out[:, 1, 32, 0]) * 96 / 95
    area, ratio = height * width / (64 * 96), width / height
    assert 0.18 < area.min() < 0.24
    assert 0.45 < area.max() < 0.52
    assert ratio.min() > 0.45
    assert ratio.max() < 2.2
    assert out[:, 0, 0, 48].min() < 6  # parts lie everywhere
    assert out[:, 0, -1, 48].max() > 57
    whole = apply(RandomResizedCrop((1, 1), (1.5, 1.5)), images)
    np.testing.assert_array_equal(whole, images)
    assert augment.for_evaluation([RandomResizedCrop()]) == []


def test_each_amount_is_the_one_of_torchvision(images, backend):
    functional = pytest.importorskip("torchvision.transforms.functional")
    import torch

    n, ones, zeros = len(images), np.ones(len(images)), np.zeros(len(images))
    means, x = images.mean(axis=(2, 3)), torch.from_numpy(images)
    factors = np.random.default_rng(0).uniform(0.3, 1.8, n)
    for place, adjust in enumerate(
        (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    ):
        amounts = [ones, ones, ones]
        amounts[place] = factors
        out = np.empty_like(images)
        operations().recolor_images(images, color_matrices(*amounts, zeros, means), out)
        expected = np.stack([adjust(one, f).numpy() for one, f in zip(x, factors, strict=True)])
        assert np.abs(out.astype(int) - expected).max() <= 2  # it cuts off where ours rounds


def test_hue_goes_round_the_circle_and_leaves_grey_and_luma_alone():
    ones, zeros = np.ones(1), np.zeros((1, 3))
    for turn in (0.0, 1.0):
        matrix = color_matrices(ones, ones, ones, np.array([turn]), zeros)[0]
        np.testing.assert_allclose(matrix, np.eye(3, 4), atol=1e-9)
    third = color_matrices(ones, ones, ones, np.array([1 / 3]), zeros)[0, :, :3]
    np.testing.assert_allclose(np.linalg.matrix_power(third, 3), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(third @ [5, 5, 5], [5, 5, 5], atol=0.02)
    luma = [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luma @ third, luma, atol=1e-9)
    assert np.abs(third - np.eye(3)).max() > 0.5


def test_the_amounts_are_drawn_from_their_ranges(images):
    flat = np.full((500, 3, 4, 4), 100, np.uint8)
    brighter = apply(ColorJitter(brightness=0.3), flat)[:, 0, 0, 0] / 100
    assert 0.70 <= brighter.min() < 0.72
    assert 1.28 < brighter.max() <= 1.30
    np.testing.assert_array_equal(apply(ColorJitter(contrast=0.9, saturation=0.9, hue=0.5), flat), flat)
    np.testing.assert_array_equal(
        apply(ColorJitter(0.4, 0.4, 0.4, 0.1), images), apply(ColorJitter(0.4, 0.4, 0.4, 0.1), images)
    )
    grey = apply(ColorJitter(brightness=0.2, contrast=0.5), images[:, :1])
    assert grey.shape == images[:, :1].shape
    with pytest.raises(ConfigError, match="saturation and hue need images of 3 channels, found 1"):
        ColorJitter(hue=0.1).output_shape((1, 8, 8))


BAD = [
    (ColorJitter, {}, "expected brightness, contrast"),
    (ColorJitter, {"hue": 0.6}, "hue: expected a number from 0 to 0.5, found 0.6"),
    (ColorJitter, {"brightness": -1}, "brightness: expected a number from 0, found -1"),
    (RandomVerticalFlip, {"p": 2}, "RandomVerticalFlip: p: expected a probability"),
    (RandomResizedCrop, {"scale": (0, 1)}, "RandomResizedCrop: scale: expected two numbers"),
    (RandomResizedCrop, {"ratio": (2, 1)}, "RandomResizedCrop: ratio: expected the smaller number first"),
    (RandomRotation, {"degrees": "a"}, "degrees: expected two numbers"),
]


@pytest.mark.parametrize(("kind", "arguments", "message"), BAD)
def test_arguments_out_of_range_are_refused(kind, arguments, message):
    with pytest.raises(ConfigError, match=message):
        kind(**arguments)


def test_a_config_can_name_them():
    from cnn.config import bundled_config, load_config

    entries = '[{type="RandomVerticalFlip"}, {type="RandomRotation", degrees=9}, {type="RandomResizedCrop"}'
    config = load_config(bundled_config(), [f'data.augment={entries}, {{type="ColorJitter", contrast=0.2}}]'])
    made = augment.from_config(config.data.augment)
    assert [type(one).__name__ for one in made] == [
        "RandomVerticalFlip", "RandomRotation", "RandomResizedCrop", "ColorJitter",
    ]  # fmt: skip
    assert "degrees=(-9.0, 9.0)" in repr(made[1])
