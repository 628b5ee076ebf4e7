"""Where arrays of known lifetimes are placed, and that programs lie there."""

import numpy as np
import pytest

import cnn
from cnn.fast.machine.owner import Arena
from cnn.fast.machine.placement import Lifetimes
from cnn.layers import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Residual, SoftmaxCrossEntropy


def _random_lifetimes(rng, count):
    """Lifetimes and, per array, (size, start, end); some arrays are never given back."""
    lifetimes, open_, intervals, now = Lifetimes(), [], [], 0
    for _ in range(count):
        now += 1
        size = int(rng.integers(1, 40)) * 64
        open_.append(lifetimes.start(size))
        intervals.append([size, now, None])
        while open_ and rng.random() < 0.45:
            number = open_.pop(int(rng.integers(len(open_))))
            now += 1
            lifetimes.end(number)
            intervals[number][2] = now
    return lifetimes, [(size, start, now + 1 if end is None else end) for size, start, end in intervals]


@pytest.mark.parametrize("seed", range(20))
def test_arrays_that_live_at_the_same_time_never_share_a_byte(seed):
    lifetimes, intervals = _random_lifetimes(np.random.default_rng(seed), 60)
    total, places = lifetimes.place()
    assert [size for _, size in places] == [size for size, _, _ in intervals]
    live = np.zeros(intervals[-1][1] + 100, np.int64)
    for size, start, end in intervals:
        live[start:end] += size
    assert live.max() <= total <= 1.5 * live.max()
    owner = np.full((total, len(live)), -1, np.int16)  # of each byte at each time
    for number, ((offset, size), (_, start, end)) in enumerate(zip(places, intervals, strict=True)):
        area = owner[offset : offset + size, start:end]
        assert (area == -1).all()
        area[...] = number


def test_no_gaps_where_the_first_free_place_leaves_one():
    """Small, small, then the first goes and one of twice the size comes: the first gap is of no use to it."""
    lifetimes = Lifetimes()
    first = lifetimes.start(64)
    lifetimes.start(64)
    lifetimes.end(first)
    lifetimes.start(128)
    total, places = lifetimes.place()
    assert total == 192
    assert sorted(offset for offset, _ in places[1:]) in ([0, 128], [0, 64])


def _network():
    body = [Conv2d(16, 3, padding=1), BatchNorm2d(), ReLU(), Conv2d(16, 3, padding=1), BatchNorm2d()]
    network = cnn.Network(
        [Conv2d(16, 3, padding=1), ReLU(), Residual(body), ReLU(), MaxPool2d(2), Flatten(), Linear(5)]
    )
    network.build((3, 16, 16), rng=np.random.default_rng(0))
    return network


def _step(network, input_gradient, n=40):
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((n, 3, 16, 16), dtype=np.float32), rng.integers(0, 5, n)
    loss = SoftmaxCrossEntropy()
    network.zero_grad()
    loss.forward(network.forward(x, training=True), labels)
    dx = network.backward(loss.backward(), input_gradient=input_gradient)
    return network.grad.copy(), dx


def test_a_training_program_takes_the_memory_that_was_foretold():
    with cnn.backend.use_backend("numba"):
        network = _network()
        kept, rest = network._engine().memory((40, 3, 16, 16))
        _step(network, False)
        arena = network._engine()._mine.programs.arena
        assert len(arena.chunks) == 1
        assert arena.nbytes + arena.working_bytes <= max(1 << 20, kept + rest) + 4096


def test_another_way_back_than_the_one_that_was_foretold_is_right():
    """The images' gradient, then frozen layers: other arrays than those for which places were found."""
    with cnn.backend.use_backend("numba"):
        expected, wanted = _step(_network(), True)
        network = _network()
        for _ in range(2):
            found, _ = _step(network, False)
            np.testing.assert_array_equal(found, expected)
            found, dx = _step(network, True)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(dx, wanted)
        network.parameters()[0].trainable = False
        frozen, _ = _step(network, False)
        size = network.parameters()[0].data.size
        np.testing.assert_array_equal(frozen[size:], expected[size:])


def test_an_arena_that_expects_less_than_it_holds_takes_nothing_more():
    arena, dry = Arena(), Arena(dry=True)
    address, size = arena.grow(5 << 20)
    dry.release_dry(dry.take_dry(1 << 20))
    dry.take_dry(3 << 20)
    assert all(address <= at and at + n <= address + size for at, n in arena.expect(dry))
    assert len(arena.chunks) == 1
