"""Batches: what is in them, their order, resuming, and the thread that prepares them."""

import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest

from cnn.data import Batches, Split, normalization, split_validation
from cnn.data.augment import (
    AlternatingFlip,
    Augmentation,
    Cutout,
    RandomCrop,
    RandomHorizontalFlip,
    RandomTranslate,
)
from cnn.errors import ConfigError, DataError
from cnn.fast import kernels
from cnn.pixels import Pixels

AUGMENT = (AlternatingFlip(), RandomHorizontalFlip(), RandomTranslate(2), Cutout(3))


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (53, 3, 8, 7), dtype=np.uint8), rng.integers(0, 10, 53)


def make(data, batch_size=10, **options):
    options = {"augment": AUGMENT, "shuffle": True, "seed": 5} | options
    return Batches(*data, batch_size, *normalization(data[0]), **options)


def epoch_bits(batches, epoch, **options):
    return [(x.tobytes(), y.tobytes()) for x, y in batches.epoch(epoch, **options)]


def running():
    return [thread for thread in threading.enumerate() if thread.name == "cnn-batches"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_the_correctly_rounded_normalised_images(data, dtype):
    images, labels = data
    mean, std = np.array([0.3, 0.5, 0.2]), np.array([0.1, 2.0, 0.7])
    batches = Batches(images, labels, 10, mean, std, dtype=dtype)
    xs, ys = zip(*batches.epoch(0), strict=True)
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_array_equal(np.concatenate(xs), expected.astype(dtype))
    np.testing.assert_array_equal(np.concatenate(ys), labels)
    assert {x.dtype for x in xs} == {np.dtype(dtype)}
    assert {y.dtype for y in ys} == {np.dtype(np.int64)}


@pytest.mark.parametrize("batch_size", [1, 10, 52, 53, 54, 1000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_image_comes_exactly_once_with_its_label(batch_size, shuffle):
    images = np.arange(53, dtype=np.uint8).reshape(53, 1, 1, 1)
    batches = Batches(images, np.arange(53) * 2, batch_size, 0.0, 1 / 255, shuffle=shuffle)
    xs, ys = zip(*batches.epoch(3), strict=True)
    numbers = np.concatenate(xs).ravel().round().astype(int)
    assert len(xs) == len(batches) == -(-53 // batch_size)
    assert batches.images_per_epoch == 53
    assert sorted(numbers) == list(range(53))
    assert (np.diff(numbers) == 1).all() == (not shuffle)
    np.testing.assert_array_equal(np.concatenate(ys), numbers * 2)


def test_drop_last_leaves_out_the_partial_batch_only(data):
    sizes = [len(x) for x, _ in make(data, drop_last=True).epoch(0)]
    assert sizes == [10] * 5
    assert make(data, drop_last=True).images_per_epoch == 50
    assert [len(x) for x, _ in make(data).epoch(0)] == [10] * 5 + [3]
    assert len(make(data, batch_size=53, drop_last=True)) == 1


@pytest.fixture
def by_itself(monkeypatch):
    """Every batch is a group of its own."""
    monkeypatch.setattr("cnn.data.batches.GROUP_BYTES", 1)


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("group", [1, 2, 4, 6, 100])  # batches of 10 images of 168 bytes
@pytest.mark.parametrize("start", range(7))
def test_an_epoch_resumed_at_any_step_goes_on_with_the_same_bits(data, start, group, prefetch, monkeypatch):
    monkeypatch.setattr("cnn.data.batches.GROUP_BYTES", group * 1680)
    whole = epoch_bits(make(data), 4)
    assert len(whole) == 6
    assert epoch_bits(make(data), 4, start_step=start, prefetch=prefetch) == whole[start:]


def test_every_epoch_and_seed_has_an_order_of_its_own():
    images = np.arange(53, dtype=np.uint8).reshape(53, 1, 1, 1)

    def order(seed, epoch):
        batches = Batches(images, np.arange(53), 10, 0.0, 1.0, seed=seed, shuffle=True)
        return tuple(np.concatenate([labels for _, labels in batches.epoch(epoch)]))

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(4)}) == 12


def test_batches_depend_on_seed_and_epoch_and_nothing_else(data):
    batches = make(data)
    first = epoch_bits(batches, 0)
    assert epoch_bits(batches, 1) != first
    assert epoch_bits(batches, 0) == first  # whatever was drawn in between
    assert epoch_bits(make(data, seed=6), 0) != first
    assert epoch_bits(make(data, seed=5), 0) == first


@pytest.mark.parametrize("group", [1, 3, 100])
def test_augmentation_differs_between_steps_epochs_and_seeds(data, group, monkeypatch):
    monkeypatch.setattr("cnn.data.batches.GROUP_BYTES", group * 1680)
    same = np.repeat(data[0][:1], 40, axis=0), np.zeros(40, int)
    batches = make(same, augment=(RandomTranslate(3),), shuffle=False)
    other = make(same, augment=(RandomTranslate(3),), shuffle=False, seed=6)
    drawn = epoch_bits(batches, 0) + epoch_bits(batches, 1) + epoch_bits(other, 0)
    assert len(set(drawn)) == len(drawn) == 12


def test_the_source_is_never_written_to(data):
    before = data[0].copy()
    x, _ = next(make(data, augment=(RandomHorizontalFlip(1), Cutout(5))).epoch(0))
    x[...] = 0
    np.testing.assert_array_equal(data[0], before)


@pytest.mark.parametrize("batch_size", [1, 10, 52, 60])
@pytest.mark.parametrize("group", [1, 3])
def test_groups_change_neither_which_images_come_nor_their_labels(data, batch_size, group, monkeypatch):
    monkeypatch.setattr("cnn.data.batches.GROUP_BYTES", group * batch_size * 168)
    plain = Batches(*data, batch_size, 0.0, 1 / 255, shuffle=True)
    moved = Batches(*data, batch_size, 0.0, 1 / 255, shuffle=True, augment=(RandomHorizontalFlip(1),))
    for (x, labels), (y, same), start in zip(
        plain.epoch(1), moved.epoch(1), range(0, 53, batch_size), strict=True
    ):
        np.testing.assert_array_equal(y, x[..., ::-1])
        np.testing.assert_array_equal(same, labels)
        order = plain._order(1)[start : start + batch_size]
        np.testing.assert_array_equal(x, data[0][order])
        np.testing.assert_array_equal(labels, data[1][order])


def test_an_augmentation_sees_a_group_of_small_batches_and_a_large_batch_alone(data, monkeypatch):
    monkeypatch.setattr("cnn.data.batches.GROUP_BYTES", 3 * 1680)
    for batch_size, expected in ((10, [30, 23]), (40, [40, 13])):
        counter = _Counter()
        list(make(data, batch_size, augment=(counter,)).epoch(0))
        assert counter.sizes == expected


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two cores")
def test_the_thread_takes_one_core_and_the_caller_all_of_his(data):
    seen = []

    class Look(Augmentation):
        def apply(self, images, rng, indices, epoch):
            seen.append((threading.current_thread().name, numba.get_num_threads()))
            return images

    batches = make(data, augment=(Look(),))
    list(batches.epoch(0, prefetch=True)), list(batches.epoch(0, prefetch=False))
    assert seen == [("cnn-batches", 1), (threading.current_thread().name, numba.config.NUMBA_NUM_THREADS)]


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("augment", [(), AUGMENT], ids=["plain", "augmented"])
def test_pixels_stand_for_the_numbers_of_the_batch(data, augment, prefetch):
    batches = make(data, augment=augment)
    pairs = zip(batches.epoch(2, 1), batches.epoch(2, 1, prefetch, as_pixels=True), strict=True)
    for (x, labels), (y, same) in pairs:
        assert type(y) is Pixels
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(np.asarray(y), x)
        np.testing.assert_array_equal(same, labels)
    mixed = make(data, augment=augment, mixup=0.5, classes=10)
    (x, _), (y, _) = next(mixed.epoch(0)), next(mixed.epoch(0, as_pixels=True))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("as_pixels", [False, True])
@pytest.mark.parametrize(("change", "found"), [
    (lambda images: images / 255, r"found float64 \(53, 3, 8, 7\) after Odd\(\)"),
    (lambda images: images[..., 1:], r"expected uint8 images \(53, 3, 8, 7\).*found uint8 \(53, 3, 8, 6\)"),
])  # fmt: skip
def test_an_augmentation_that_does_not_say_what_it_returns_is_refused(data, change, found, as_pixels):
    class Odd(Augmentation):
        def apply(self, images, rng, indices, epoch):
            return change(images)

    with pytest.raises(DataError, match=found):
        next(make(data, augment=(Odd(),)).epoch(0, as_pixels=as_pixels))


def test_an_augmentation_may_return_any_view(data):
    class Turn(Augmentation):
        def apply(self, images, rng, indices, epoch):
            return images[..., ::-1]

    turned = make(data, augment=(Turn(), RandomHorizontalFlip(1), Turn()))
    assert epoch_bits(turned, 0) == epoch_bits(make(data, augment=(Turn(),)), 0)


@pytest.mark.parametrize("kernel", ["normalize", "window", "flip", "blacken"])
def test_kernels_refuse_what_they_would_misread(kernel):
    images, zero = np.zeros((2, 3, 4, 5), np.uint8), np.zeros(2, np.int64)
    table, out = np.zeros((3, 256), np.float32), np.zeros((2, 3, 4, 5), np.float32)
    call = {
        "normalize": lambda images: kernels.normalize_pixels(images, zero, table, out),
        "window": lambda images: kernels.cut_windows(images, zero, zero, zero, True, np.empty_like(images)),
        "flip": lambda images: kernels.flip_images(images, zero == 0),
        "blacken": lambda images: kernels.blacken_squares(images, zero, zero, 3),
    }[kernel]
    call(images)
    for bad in (images[..., ::-1], images[:, :, ::2], images.astype(np.int16), np.asfortranarray(images)):
        with pytest.raises(ValueError, match="expected a C-contiguous array of uint8, found"):
            call(bad)


def test_a_batch_belongs_to_its_consumer(data):
    expected = epoch_bits(make(data), 0)
    kept = list(make(data).epoch(0, prefetch=True))
    assert [(x.tobytes(), y.tobytes()) for x, y in kept] == expected


def test_a_crop_gives_the_batch_its_shape(data):
    batches = make(data, augment=(RandomCrop(5),))
    assert batches.image_shape == (3, 5, 5)
    assert {x.shape[1:] for x, _ in batches.epoch(0)} == {(3, 5, 5)}


def test_views_and_other_label_types_do(data):
    images, labels = data
    swapped = np.asfortranarray(images)[::-1]
    expected = epoch_bits(make((images[::-1].copy(), labels)), 0)
    assert epoch_bits(make((swapped, labels.astype(np.uint8))), 0) == expected


def test_the_thread_gives_the_same_bits_and_ends_with_the_epoch(data):
    assert epoch_bits(make(data), 0, prefetch=True) == epoch_bits(make(data), 0)
    assert not running()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_the_thread_ends_when_the_consumer_stops_early(data, taken):
    batches = make(data, batch_size=1).epoch(0, prefetch=True)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert not running()


def test_the_thread_ends_when_the_consumer_raises(data):
    with pytest.raises(ZeroDivisionError):
        for _x, _y in make(data, batch_size=1).epoch(0, prefetch=True):
            1 / 0  # noqa: B018
    deadline = time.monotonic() + 10
    while running() and time.monotonic() < deadline:  # the traceback holds the iterator for a moment
        time.sleep(0.01)
    assert not running()


class _Counter(Augmentation):
    """Counts the batches that were prepared, and fails at one of them."""

    def __init__(self, fails_at=None):
        self.prepared, self.fails_at, self.sizes = 0, fails_at, []

    def apply(self, images, rng, indices, epoch):
        self.prepared += 1
        self.sizes.append(len(indices))
        if self.prepared == self.fails_at:
            raise FloatingPointError("the third batch")
        return images


def test_the_thread_stays_at_most_two_batches_ahead(data, by_itself):
    counter = _Counter()
    batches = make(data, batch_size=1, augment=(counter,)).epoch(0, prefetch=True)
    next(batches)
    deadline = time.monotonic() + 10
    while counter.prepared < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert counter.prepared == 4  # one taken, two waiting, one in the producer's hand
    batches.close()
    assert counter.prepared <= 5


def test_an_error_in_the_thread_reaches_the_consumer_at_its_place(data, by_itself):
    batches = make(data, augment=(_Counter(fails_at=3),)).epoch(0, prefetch=True)
    next(batches), next(batches)
    with pytest.raises(FloatingPointError, match="the third batch"):
        next(batches)
    assert not running()


def test_a_program_that_ends_in_mid_epoch_does_not_hang():
    program = (
        "import numpy as np; from cnn.data import Batches\n"
        "b = Batches(np.zeros((50, 1, 4, 4), np.uint8), np.zeros(50), 1, 0.0, 1.0).epoch(0, prefetch=True)\n"
        "next(b); raise SystemExit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 7


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="plain Python holds the GIL")
@pytest.mark.parametrize("kernel", ["normalize", "window", "flip", "blacken"])
def test_preparing_batches_lets_other_threads_run(kernel):
    n, zero = 20_000, np.zeros(20_000, np.int64)
    images, target = np.zeros((2, n, 1, 48, 48), np.uint8)
    call = {
        "normalize": lambda: kernels.normalize_pixels(
            images, zero, np.zeros((1, 256), np.float32), np.empty((n, 1, 48, 48), np.float32)
        ),
        "window": lambda: kernels.cut_windows(images, zero, zero, zero, True, target),
        "flip": lambda: kernels.flip_images(images, zero == 0),
        "blacken": lambda: kernels.blacken_squares(images, zero, zero, 48),
    }[kernel]
    call()  # compile
    interval = sys.getswitchinterval()
    sys.setswitchinterval(30)  # nobody takes the GIL by force
    try:
        # on a busy machine this thread may miss its turn, though not five times in a row
        assert max(_turns_during(call) for _ in range(5)) > 3
    finally:
        sys.setswitchinterval(interval)


def _turns_during(call):
    turns, done = 0, threading.Event()

    def work():
        call()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        turns += 1
        time.sleep(0.0005)
    thread.join()
    return turns


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size: expected an integer >= 1, found 0"),
        ({"batch_size": 2.5}, ConfigError, "batch_size"),
        ({"batch_size": True}, ConfigError, "batch_size"),
        ({"batch_size": 54, "drop_last": True}, ConfigError, "54 with drop_last leaves no batch of 53"),
        ({"mean": [0.1, 0.2]}, ConfigError, "mean: expected 3 finite numbers, one a channel"),
        ({"mean": float("nan")}, ConfigError, "mean: expected 3 finite"),
        ({"std": 0.0}, ConfigError, "std: expected numbers above 0"),
        ({"dtype": np.float16}, ConfigError, "dtype: expected float32 or float64, found float16"),
        ({"seed": -1}, ConfigError, "seed: expected an integer >= 0, found -1"),
        ({"seed": 0.5}, ConfigError, "seed"),
        ({"augment": (RandomCrop(20),)}, ConfigError, "larger than the padded image"),
        ({"images": np.zeros((53, 3, 8, 7), int)}, DataError, "expected uint8 images .*found int64"),
        ({"images": np.zeros((53, 3, 8, 7)), "augment": (RandomCrop(4),)}, ConfigError, "found float64"),
        ({"images": np.zeros((53, 8, 7), np.uint8)}, DataError, "expected uint8 images"),
        ({"images": np.zeros((0, 3, 8, 7), np.uint8), "labels": []}, DataError, "N >= 1"),
        ({"labels": np.zeros(52, int)}, DataError, r"expected 53 labels, found shape \(52,\)"),
    ],
)
def test_bad_arguments_are_refused(data, change, error, message):
    arguments = {"images": data[0], "labels": data[1], "batch_size": 10, "mean": 0.5, "std": 0.5} | change
    with pytest.raises(error, match=message):
        Batches(**arguments)


@pytest.mark.parametrize(
    ("epoch", "start", "message"), [(-1, 0, "epoch"), (0, -1, "start_step"), (0, 7, "0 to 6")]
)
def test_an_impossible_place_to_start_is_refused_at_once(data, epoch, start, message):
    with pytest.raises(ConfigError, match=message):
        make(data).epoch(epoch, start)


def test_normalization_is_the_mean_and_std_of_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 5, 4), dtype=np.uint8)
    images[:, 1] //= 3
    mean, std = normalization(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-13)


def test_a_constant_channel_normalises_to_zero():
    images = np.full((4, 2, 3, 3), 77, np.uint8)
    images[0, 1] = 0
    mean, std = normalization(images)
    assert std[0] == 1
    assert 0 < std[1] < 1
    (x, _), *_ = Batches(images, np.zeros(4), 4, mean, std).epoch(0)
    assert np.abs(x[:, 0]).max() < 1e-7


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 5), (0.5, 26), (0.99, 52), (0.01, 1)])
def test_the_validation_split_parts_the_images(fraction, count):
    images = np.arange(53, dtype=np.uint8).reshape(53, 1, 1, 1)
    train, validation = split_validation(Split(images, np.arange(53)), fraction, seed=2)
    assert len(validation) == count
    np.testing.assert_array_equal(np.sort(np.r_[train.labels, validation.labels]), np.arange(53))
    for part in (train, validation):
        np.testing.assert_array_equal(part.images.ravel(), part.labels)
        assert (np.diff(part.labels) > 0).all()


def test_the_validation_split_depends_on_the_seed_alone():
    split = Split(np.zeros((100, 1, 1, 1), np.uint8), np.arange(100))
    drawn = [split_validation(split, 0.2, seed)[1].labels.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_validation_keeps_everything():
    split = Split(np.zeros((10, 1, 1, 1), np.uint8), np.arange(10))
    train, validation = split_validation(split, 0, seed=0)
    assert train is split
    assert len(validation) == 0
    assert validation.images.shape == (0, 1, 1, 1)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, 0.01, 0.99, float("nan")])
def test_a_validation_fraction_that_leaves_a_part_empty_is_refused(fraction):
    split = Split(np.zeros((10, 1, 1, 1), np.uint8), np.arange(10))
    with pytest.raises(ConfigError, match="validation: "):
        split_validation(split, fraction, seed=0)


@pytest.mark.parametrize(("how", "code"), [("sys.exit(7)", 7), ("raise ValueError", 1), ("break", 0)])
def test_a_program_that_ends_in_mid_epoch_ends(how, code):
    script = f"""
import sys
import cnn, numpy as np
from cnn.data import Batches

batches = Batches(np.zeros((50, 1, 4, 4), np.uint8), np.zeros(50), 1, 0.0, 1.0).epoch(0, prefetch=True)
for x, y in batches:
    {how}
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=100, check=False)
    assert process.returncode == code


@pytest.mark.parametrize("shape", [(20, 3), (20, 3, 5, 4)])
def test_floats_are_standardised_as_they_are(rng, shape):
    numbers = rng.normal(5, 3, shape)
    numbers[:, 1] = 0.1  # a constant
    mean, std = normalization(numbers)
    batches = Batches(numbers, np.arange(20), 8, mean, std, dtype=np.float64)
    x = np.concatenate([x for x, _ in batches.epoch(0)])
    axes = (0, *range(2, len(shape)))
    np.testing.assert_allclose(x.mean(axis=axes), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=axes), [1, 0, 1], atol=1e-12)
    shuffled = Batches(numbers, np.arange(20), 8, mean, std, shuffle=True, dtype=np.float64)
    for epoch in (0, 1):
        for got, labels in shuffled.epoch(epoch, as_pixels=True, prefetch=True):
            np.testing.assert_array_equal(got, x[labels])
