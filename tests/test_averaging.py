"""Averages of the weights, against a few lines of PyTorch."""

import numpy as np
import pytest

import cnn
from cnn.errors import CheckpointError, ConfigError
from cnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, ReLU
from cnn.optimizers.averaging import EMA, Lookahead, make_average

torch = pytest.importorskip("torch")
STEPS = 23


def pair():
    """Return (network, torch model) with one state."""
    network = cnn.Network([Conv2d(3, 3), BatchNorm2d(), ReLU(), Dropout(0.3), Flatten(), Linear(4)])
    network.build((2, 5, 5), rng=np.random.default_rng(0), dtype=np.float64)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(27, 4)
    ).double()
    model.load_state_dict({k: torch.tensor(network.state()[k]) for k in shared(network)}, strict=False)
    return network, model


def shared(network):
    return [name for name, array in network.state().items() if array.dtype == np.float64]


def move(network, model, number):
    """Change both as a step of training would: by the same random amounts, dropout counting on."""
    rng = np.random.default_rng(number)
    for name in shared(network):
        change = rng.standard_normal(network.state()[name].shape)
        network.state()[name][...] += change
        model.state_dict()[name].add_(torch.tensor(change))


def assert_equal(network, model):
    for name in shared(network):
        np.testing.assert_allclose(
            network.state()[name], model.state_dict()[name].numpy(), rtol=1e-12, atol=1e-12, err_msg=name
        )


class LookaheadState:
    """That of airbench94.py."""

    def __init__(self, model):
        self.slow = {k: v.clone() for k, v in model.state_dict().items()}

    def update(self, model, decay):
        for slow, fast in zip(self.slow.values(), model.state_dict().values(), strict=True):
            if fast.is_floating_point():
                slow.lerp_(fast, 1 - decay)
                fast.copy_(slow)


@pytest.mark.parametrize("total", [STEPS, 20])
def test_lookahead_is_that_of_airbench(total):
    network, model = pair()
    average, other = Lookahead(network, total, every=5, decay=0.95**5, ramp=3), LookaheadState(model)
    schedule = 0.95**5 * (torch.arange(total + 1) / total) ** 3
    for number in range(1, total + 1):
        move(network, model, number)
        average.step(number)
        if number % 5 == 0:
            other.update(model, schedule[number].double().item())
        if number == total:
            other.update(model, 1.0)
        for name in shared(network):
            # airbench works its decays out in float32
            np.testing.assert_allclose(
                network.state()[name], model.state_dict()[name].numpy(), rtol=0, atol=1e-6, err_msg=name
            )


def test_ema_is_the_averaged_model_of_pytorch():
    network, model = pair()
    swa = torch.optim.swa_utils
    other = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(0.9), use_buffers=True)
    average = EMA(network, STEPS, decay=0.9)
    for number in range(1, STEPS + 1):
        move(network, model, number)
        before = {name: array.copy() for name, array in network.state().items()}
        average.step(number)
        other.update_parameters(model)
        with average.applied():
            assert_equal(network, other.module)
        for name, array in network.state().items():
            np.testing.assert_array_equal(array, before[name])


def test_an_error_inside_gives_the_trained_weights_back():
    network, model = pair()
    average = EMA(network, STEPS)
    average.step(1)
    move(network, model, 1)
    expected = network.data.copy()
    with pytest.raises(KeyError), average.applied():
        assert not np.array_equal(network.data, expected)
        raise KeyError
    np.testing.assert_array_equal(network.data, expected)


@pytest.mark.parametrize("kind", [Lookahead, EMA])
def test_a_loaded_state_continues_bit_for_bit(kind):
    network, model = pair()
    average = kind(network, STEPS)
    for number in range(1, STEPS + 1):
        if number == 12:
            twin, _ = pair()
            twin.load_state(network.state())
            second = kind(twin, STEPS)
            second.step(1)
            second.load_state({name: array.copy() for name, array in average.state().items()})
        move(network, model, number)
        average.step(number)
        if number >= 12:
            move(twin, model, number)
            second.step(number)
    for one, two in ((network.state(), twin.state()), (average.state(), second.state())):
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_what_does_not_move_stays_the_same_to_the_last_bit():
    network, _ = pair()
    before = network.data.copy()
    for average in (Lookahead(network, 9, every=1, decay=0.3), EMA(network, 9, decay=0.7)):
        for number in range(1, 10):
            average.step(number)
        with average.applied():
            np.testing.assert_array_equal(network.data, before)


def test_no_average_does_nothing():
    network, _ = pair()
    before = network.data.copy()
    average = make_average("none", network, 5)
    average.step(5)
    with average.applied():
        np.testing.assert_array_equal(network.data, before)
    assert average.state() == {}


@pytest.mark.parametrize(
    ("type", "options", "message"),
    [
        ("emma", {}, r'found "emma", .*Did you mean "ema"'),
        ("ema", {"decay": 1.0}, "decay: expected a finite number of at least 0 and below 1, found 1.0"),
        ("lookahead", {"decay": 1.5}, "decay: expected .* of at least 0 and at most 1, found 1.5"),
        ("lookahead", {"every": 0}, "every: expected a whole number of at least 1, found 0"),
        ("lookahead", {"ramp": -1}, "ramp: expected a finite number of at least 0, found -1"),
    ],
)
def test_bad_options_are_refused_by_name(type, options, message):
    with pytest.raises(ConfigError, match=message):
        make_average(type, pair()[0], STEPS, **options)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    average = EMA(pair()[0], STEPS)
    before = {name: array.copy() for name, array in average.state().items()}
    wrong = {name: array + 1 for name, array in before.items()}
    with pytest.raises(CheckpointError, match=r'"1.running_mean" expected shape .* found nothing'):
        average.load_state({k: v for k, v in wrong.items() if k != "1.running_mean"})
    with pytest.raises(CheckpointError, match=r'"1.running_var" expected shape \(3,\), found \(2,\)'):
        average.load_state({**wrong, "1.running_var": np.zeros(2)})
    assert all(np.array_equal(array, before[name]) for name, array in average.state().items())
