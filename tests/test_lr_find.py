"""The range test of the learning rate: its arithmetic on known curves, and the command."""

import json
import math

import numpy as np
import pytest

from cnn import cli
from cnn.errors import ConfigError
from cnn.training.lr_find import analyse, smooth


def known_curve(steepest, steps, noise=0.0, low=1e-6, high=10.0):
    """Losses that fall fastest over log lr at ``steepest``, and explode two decades later."""
    rates = low * (high / low) ** (np.arange(steps) / (steps - 1))
    x = np.log10(rates / steepest)
    losses = 0.4 + 1.9 / (1 + np.exp(x / 0.2)) + np.exp(8 * (x - 2))
    losses += noise * np.random.default_rng(0).normal(size=steps)
    return rates[losses < 10], losses[losses < 10]


@pytest.mark.parametrize("steepest", [1e-4, 3e-3, 0.1])
@pytest.mark.parametrize("steps", [60, 150, 600])
def test_the_suggestion_is_where_the_loss_falls_fastest_over_log_lr(steepest, steps):
    found = analyse(*known_curve(steepest, steps)).suggestion
    assert abs(math.log10(found / steepest)) < 7 / steps + 0.02


@pytest.mark.parametrize("steepest", [1e-3, 0.05])
def test_noise_moves_it_little(steepest):
    found = analyse(*known_curve(steepest, 150, noise=0.05)).suggestion
    assert 1 / 2 < found / steepest < 2


def test_a_slope_over_lr_itself_would_be_found_far_to_the_left():
    """Why the gradient is one over log lr: divided by lr, the first noise of the curve is the steepest."""
    rates, losses = known_curve(0.05, 150, noise=0.02)
    over_lr = np.gradient(losses, rates)
    assert rates[np.argmin(over_lr)] < 1e-4
    assert analyse(rates, losses).suggestion > 0.02


def test_slopes_are_those_of_a_straight_line_over_log10():
    rates = np.logspace(-5, 0, 101)
    curve = analyse(rates, 3 - 0.25 * np.log10(rates))
    inner = curve.slopes[np.isfinite(curve.slopes)]
    assert len(inner) > 80
    np.testing.assert_allclose(inner, -0.25, rtol=1e-9)


def test_the_smoothed_curve_starts_at_the_first_loss():
    assert smooth([2.3, 2.3, 2.3]) == pytest.approx([2.3, 2.3, 2.3], rel=1e-14)
    assert smooth([1.0, 0.0])[1] == pytest.approx(0.09 / 0.19)


def test_a_loss_that_never_falls_suggests_nothing():
    rates = np.logspace(-6, 1, 100)
    rng = np.random.default_rng(0)
    assert analyse(rates, 2.3 + 0.005 * rng.normal(size=100)).suggestion is None
    assert analyse(rates, 2.3 + np.linspace(0, 1, 100)).suggestion is None


SMALL = [
    "--set", 'model.layers=[{type = "Flatten"}, {type = "Linear", out_features = 10}]',
    "--set", "data.augment=[]", "--set", "train.backend=reference",
]  # fmt: skip


def test_the_command_suggests_a_rate_that_trains_and_leaves_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lr-find", *SMALL, "--json", "curve.json", "--out", "curve.png"]) == 0
    out = capsys.readouterr().out
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert f"optimizer.lr={curve['suggestion']:.2g}" in out
    assert 1e-4 < curve["suggestion"] < 1
    assert np.all(np.diff(np.log(curve["lr"])) == pytest.approx(np.log(curve["lr"][1] / curve["lr"][0])))
    assert {path.name for path in tmp_path.iterdir()} == {"curve.json", "curve.png"}
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["lr-find", *SMALL, "--language", "zh"]) == 0
    assert "建议" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--low", "1", "--high", "0.1"], "0 < low < high"), (["--steps", "5"], "at least 20")],
)
def test_a_wrong_range_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lr-find", *SMALL, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert issubclass(ConfigError, ValueError)
