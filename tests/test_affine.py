"""RandomAffine: against torchvision for given parameters, what it draws, and what it refuses."""

import numpy as np
import pytest

from cnn.backend import operations
from cnn.config import bundled_config, load_config
from cnn.data import augment
from cnn.data.affine import RandomAffine, inverse_matrices
from cnn.errors import ConfigError


def moved(x, angles, shifts, scales, shears, mode="zero"):
    out = np.full_like(x, 77)
    parameters = (np.asarray(v, float) for v in (angles, shifts, scales, shears))
    matrices = inverse_matrices(*parameters, x.shape[2:])
    operations().resample_images(x, matrices, mode == "reflect", out)
    return out


def pixels(rng, shape=(1, 2, 9, 12)):
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("case", range(60))
def test_as_in_torchvision(case):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchvision.transforms.functional")
    rng = np.random.default_rng(case)
    x = pixels(rng, (1, *rng.integers(1, 4, 1), *rng.integers(1, 15, 2)))
    angle, scale, shear = rng.uniform(-180, 180), rng.uniform(0.4, 2.5), rng.uniform(-50, 50)
    shift = rng.integers(-4, 5, 2)
    expected = functional.affine(
        torch.from_numpy(x[0]), angle, shift.tolist(), scale, [shear, 0.0],
        functional.InterpolationMode.BILINEAR,
    ).numpy()  # fmt: skip
    y = moved(x, [angle], [shift], [scale], [shear])[0]
    # PyTorch works in float32, so a value half-way between two levels may go either way
    assert np.abs(y.astype(int) - expected).max() <= 1


def test_nothing_to_do_changes_nothing(rng):
    x = pixels(rng, (3, 2, 9, 12))
    for mode in ("zero", "reflect"):
        assert np.array_equal(moved(x, np.zeros(3), np.zeros((3, 2)), np.ones(3), np.zeros(3), mode), x)
    assert np.array_equal(RandomAffine(0).apply(x, rng, None, 0), x)


@pytest.mark.parametrize("size", [7, 8])
def test_a_quarter_turn_is_clockwise_and_exact(size, rng):
    x = pixels(rng, (1, 1, size, size))
    assert np.array_equal(moved(x, [90], [(0, 0)], [1], [0])[0, 0], np.rot90(x[0, 0], -1))


def test_a_shift_goes_right_and_down_and_what_comes_in_is_black_or_mirrored(rng):
    x = pixels(rng)
    black = moved(x, [0], [(3, -2)], [1], [0])
    assert np.array_equal(black[..., :-2, 3:], x[..., 2:, :-3])
    assert not black[..., :3].any()
    assert not black[..., -2:, :].any()
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (3, 0)), mode="reflect")
    assert np.array_equal(moved(x, [0], [(3, -2)], [1], [0], "reflect"), padded[:, :, 2:, :12])


def test_mirrors_beyond_mirrors(rng):
    x = pixels(rng, (1, 1, 3, 4))
    padded = np.pad(x, ((0, 0), (0, 0), (7, 7), (9, 9)), mode="reflect")
    for dx, dy in [(9, 7), (-9, 7), (-9, -7)]:
        found = moved(x, [0], [(dx, dy)], [1], [0], "reflect")
        assert np.array_equal(found, padded[:, :, 7 - dy : 10 - dy, 9 - dx : 13 - dx])
    one = pixels(rng, (1, 1, 1, 1))
    assert np.array_equal(moved(one, [33], [(2, 1)], [1.5], [20], "reflect"), one)


def test_a_flat_image_stays_flat_under_reflection(rng):
    for level in (0, 1, 254, 255):
        x = np.full((8, 3, 6, 5), level, np.uint8)
        y = RandomAffine(180, (0.5, 0.5), (0.3, 3), 40, "reflect").apply(x, rng, None, 0)
        assert np.array_equal(y, x)


def test_every_image_has_its_own_draw_within_the_ranges(monkeypatch):
    drawn = {}

    def record(angles, shifts, scales, shears, size):
        drawn.update(angles=angles, shifts=shifts, scales=scales, shears=shears, size=size)
        return inverse_matrices(angles, shifts, scales, shears, size)

    monkeypatch.setattr("cnn.data.affine.inverse_matrices", record)
    x = np.zeros((2000, 1, 10, 20), np.uint8)
    RandomAffine((-10, 30), (0.1, 0.3), (0.8, 1.5), 5).apply(x, np.random.default_rng(0), None, 0)
    ranges = {"angles": (-10, 30), "scales": (0.8, 1.5), "shears": (-5, 5)}
    for name, (low, high) in ranges.items():
        values = drawn[name]
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
    assert set(np.unique(drawn["shifts"][:, 0])) == {-2, -1, 0, 1, 2}  # 0.1 of 20 columns
    assert set(np.unique(drawn["shifts"][:, 1])) == {-3, -2, -1, 0, 1, 2, 3}  # 0.3 of 10 rows
    assert drawn["size"] == (10, 20)


def test_the_same_generator_gives_the_same_bits_and_the_input_stays(rng):
    x = pixels(rng, (5, 3, 8, 8))
    before, change = x.copy(), RandomAffine(20, (0.1, 0.1), (0.9, 1.1), 10)
    one, two = (change.apply(x, np.random.default_rng(4), None, 0) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(x, before)
    assert not np.array_equal(one, change.apply(x, np.random.default_rng(5), None, 0))


def test_from_a_config():
    (change,) = augment.from_config([{"type": "RandomAffine", "degrees": 15, "scale": [0.9, 1.1]}])
    assert (change.degrees, change.scale) == ((-15, 15), (0.9, 1.1))
    assert (change.translate, change.shear, change.mode) == (None, None, "zero")
    assert change.for_evaluation() is None
    assert change.output_shape((3, 8, 9)) == (3, 8, 9)
    assert "degrees=(-15.0, 15.0)" in repr(change)


def test_from_toml():
    entry = 'data.augment=[{type="RandomAffine", degrees=15, translate=[0.1, 0], shear=[0, 5.5]}]'
    config = load_config(bundled_config(), [entry])
    (change,) = augment.from_config(config.data.augment)
    assert (change.degrees, change.translate, change.shear) == ((-15, 15), (0.1, 0), (0, 5.5))
    with pytest.raises(ConfigError, match=r"degrees: found \"a\", expected a number or 2 num"):
        load_config(bundled_config(), ['data.augment=[{type="RandomAffine", degrees="a"}]'])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degrees": 400}, "degrees: expected two numbers from -360 to 360, found"),
        ({"degrees": (20, 10)}, "degrees: expected the smaller number first"),
        ({"degrees": -5}, "degrees: expected the smaller number first"),
        ({"degrees": "x"}, "degrees: expected two numbers"),
        ({"degrees": 0, "translate": 0.1}, "translate: expected two numbers from 0 to 1, found 0.1"),
        ({"degrees": 0, "translate": (0.1, 1.1)}, "translate: expected two numbers"),
        ({"degrees": 0, "scale": 0.9}, "scale: expected two numbers from 0.01 to 100, found 0.9"),
        ({"degrees": 0, "scale": (0, 1)}, "scale: expected two numbers"),
        ({"degrees": 0, "scale": (0.9, float("nan"))}, "scale: expected two numbers"),
        ({"degrees": 0, "shear": 90}, "shear: expected two numbers from -80 to 80"),
        ({"degrees": 0, "mode": "reflekt"}, 'Did you mean "reflect"?'),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ConfigError) as error:
        RandomAffine(**arguments)
    assert "RandomAffine" in str(error.value)
    assert message in str(error.value)
