"""The range test of a learning rate: train while the rate grows, and read the loss over it.

Steps t = 0 .. T - 1 have the rates lr[t] = low * (high / low)^(t / (T - 1)), evenly spaced on a logarithm.
The suggestion is where the loss falls fastest *over log lr*: at the lowest slope of a straight line fitted to
the losses of the rates within a factor of two. (A difference over lr itself would carry a factor 1 / lr, and
be steepest at the far left whatever the network does.)

References
----------
Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
"""

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cnn.errors import ConfigError
from cnn.report.plots import lines

_BETA = 0.9  # of the smoothed curve, which is for the eye and finds the bottom
_REACH = math.log10(2)  # decades to either side that a slope is fitted over
_EXPLODED = 4.0  # times the lowest smoothed loss: there the test ends
_FALL = 0.02  # of the first loss: less is noise


@dataclass(frozen=True)
class Curve:
    """What a range test measured: arrays over the steps, and the rate that they suggest (None: no fall).

    ``slopes`` are dL / d log10(lr), NaN where too few points are near.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    slopes: np.ndarray
    suggestion: float | None

    def to_json(self):
        """Return plain data; what is not finite is None."""
        columns = {"lr": self.rates, "loss": self.losses, "smoothed": self.smoothed, "slope": self.slopes}
        plain = {
            name: [float(v) if math.isfinite(v) else None for v in values] for name, values in columns.items()
        }
        return {"suggestion": self.suggestion, **plain}


def find_learning_rate(trainer, low=1e-6, high=10.0, steps=100):
    """Run the range test with a fresh Trainer, which is used up by it; return the Curve.

    Raises ConfigError unless 0 < low < high and steps >= 20.
    """
    if not 0 < low < high < math.inf:
        raise ConfigError(f"learning rates: expected 0 < low < high, found {low:g} and {high:g}")
    if steps < 20:
        raise ConfigError(f"steps: expected at least 20, found {steps}")
    rates = low * (high / low) ** (np.arange(steps) / (steps - 1))
    losses = []
    with np.errstate(all="ignore"):  # it is meant to explode in the end
        for rate, (x, labels) in zip(rates, islice(_batches(trainer), steps), strict=True):
            trainer.optimizer.lr = rate
            logits = np.asarray(trainer.network.forward(x, training=True))
            losses.append(trainer.loss.forward(logits, labels))
            if not math.isfinite(losses[-1]) or smooth(losses)[-1] > _EXPLODED * min(smooth(losses)):
                break
            trainer.network.zero_grad()
            trainer.network.backward(trainer.loss.backward(), input_gradient=False)
            trainer.optimizer.step()
    return analyse(rates[: len(losses)], losses)


def _batches(trainer):
    epoch = 0
    while True:
        yield from trainer.batches.epoch(epoch, as_pixels=True)
        epoch += 1


def analyse(rates, losses):
    """Return the Curve of losses measured at rising rates."""
    rates, losses = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    smoothed = smooth(losses)
    slopes = _slopes(np.log10(rates), losses)
    bottom = int(np.nanargmin(smoothed))
    falling = np.where(np.arange(len(rates)) <= bottom, slopes, np.nan)
    fell = losses[0] - smoothed[bottom] > _FALL * abs(losses[0])
    if not fell or not (falling < 0).any():
        return Curve(rates, losses, smoothed, slopes, None)
    return Curve(rates, losses, smoothed, slopes, float(rates[np.nanargmin(falling)]))


def draw(path, curve, title=""):
    """Draw losses, smoothed losses and the suggestion over log10(lr) into the PNG file ``path``."""
    x, top = np.log10(curve.rates), 1.5 * float(curve.losses[0])
    series = {"loss": (x, curve.losses), "smoothed": (x, curve.smoothed)}
    if curve.suggestion is not None:
        series[f"suggested: {curve.suggestion:.2g}"] = ([math.log10(curve.suggestion)] * 2, [0.0, top])
    lines(path, series, title, "log10 of the learning rate", "training loss", ylim=(0, top))


def smooth(losses):
    """Return m[t] / (1 - beta^t) with m[t] = beta m[t-1] + (1 - beta) L[t]: a mean that starts unbiased."""
    mean, found = 0.0, []
    for t, loss in enumerate(losses, 1):
        mean = _BETA * mean + (1 - _BETA) * loss
        found.append(mean / (1 - _BETA**t))
    return np.array(found)


def _slopes(x, y):
    """Return the slope of the least-squares line through the points within ``_REACH`` of each x."""
    found = np.full(len(x), np.nan)
    for i, center in enumerate(x):
        near = np.flatnonzero((np.abs(x - center) <= _REACH) & np.isfinite(y))
        # at an end the points lie on one side only, and the slope would be another place's
        if len(near) >= 3 and x[0] <= center - _REACH / 2 and center + _REACH / 2 <= x[-1]:
            found[i] = np.polyfit(x[near] - center, y[near], 1)[0]
    return found
