"""Averages of the weights over the steps of training: smoother than the weights of any one step.

    average = make_average("ema", network, total_steps=1000, decay=0.999)
    average.step(n)                        # after step n = 1, 2, ... of the optimizer
    with average.applied(): ...            # the network holds the weights to be judged and kept

What is averaged are all parameters and the running statistics of normalisation. "fast" is what the optimizer
trains, "slow" the average.

References
----------
Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", arXiv:1907.08610.
Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498 (the decay that rises).
Tarvainen, Valpola, "Mean teachers are better role models", arXiv:1703.01780 (the running average).
"""

from contextlib import contextmanager
from typing import Annotated

import numpy as np

from cnn.errors import CheckpointError
from cnn.registry import Count, Fraction, NotNegative, Registry, Share, checked

#: Every average that a config can name.
AVERAGES = Registry("average", supplied=("network", "total_steps"))


@AVERAGES.base
class Average:
    """No averaging: the weights are what the optimizer made of them. Also what the others share."""

    def __init__(self, network, total_steps):
        self.total_steps = total_steps

    def step(self, number):
        """Take note of step ``number`` (from 1) of the optimizer; may change the network."""

    @contextmanager
    def applied(self):
        """While this holds, the network has the weights that are judged and kept."""
        yield

    def state(self):
        """Return all that a later run needs to go on bit for bit: name -> array (live)."""
        return {}

    def load_state(self, state):
        """Take over what ``state`` returned; CheckpointError, and nothing changed, where it does not fit."""
        own = self.state()
        for name, array in own.items():
            found = np.shape(state[name]) if name in state else "nothing"
            if found != array.shape:
                raise CheckpointError(f'average: entry "{name}" expected shape {array.shape}, found {found}')
        for name, array in own.items():
            array[...] = state[name]


class _Slow(Average):
    """Holds a second copy of everything that is averaged."""

    def __init__(self, network, total_steps):
        super().__init__(network, total_steps)
        names = {
            f"{place}.{name}": array
            for place, layer in network.walk()
            if not layer.children()
            for name, array in layer.buffers().items()
            if np.issubdtype(array.dtype, np.floating)  # a counter has no average
        }
        self._fast = {"parameters": network.data, **names}
        self._slow = {name: array.copy() for name, array in self._fast.items()}
        self._scratch = {name: np.empty_like(array) for name, array in self._fast.items()}

    def _mix(self, decay):
        """slow = decay * slow + (1 - decay) * fast"""
        for name, slow in self._slow.items():
            # as slow + (1 - decay) * (fast - slow): what never changes stays the same to the last bit
            difference = np.subtract(self._fast[name], slow, out=self._scratch[name])
            difference *= 1 - decay
            slow += difference

    def _copy(self, target, source):
        for name, array in target.items():
            array[...] = source[name]

    def state(self):
        return dict(self._slow)


class Lookahead(_Slow):
    """Every few steps the weights are pulled back towards where they were, at last they become the average.

    After the steps n = every, 2 * every, ...:

        slow = d * slow + (1 - d) * fast;   fast = slow          d = decay * (n / total_steps)^ramp

    and after the last step fast = slow.

    Parameters
    ----------
    network : Network
        Built, with the weights that training starts from.
    total_steps : int
    every : int
    decay : float, 0 to 1
        d at the end; airbench94 takes 0.95^5.
    ramp : float
        0 keeps d the same all the time.

    Raises ConfigError for a value out of range.
    """

    @checked
    def __init__(
        self,
        network,
        total_steps,
        every: Annotated[Count, "steps"] = 5,
        decay: Annotated[Share, "share of the average that stays, at the end of the run"] = 0.95**5,
        ramp: Annotated[NotNegative, "before, that share is less by (step / steps)^ramp"] = 3.0,
    ):
        super().__init__(network, total_steps)
        self.every, self.decay, self.ramp = every, decay, ramp

    def step(self, number):
        if number % self.every == 0:
            self._mix(self.decay * min(1.0, number / self.total_steps) ** self.ramp)
            self._copy(self._fast, self._slow)
        if number == self.total_steps:
            self._copy(self._fast, self._slow)


class EMA(_Slow):
    """A running average beside the training, which it does not touch; it is what is judged and kept.

        slow = fast after the first step, then   slow = decay * slow + (1 - decay) * fast

    as ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn`` and ``use_buffers``.

    Parameters
    ----------
    network : Network
        Built.
    total_steps : int
        Plays no part.
    decay : float, 0 to below 1
        Averages over about 1 / (1 - decay) steps.

    Raises ConfigError for a value out of range.
    """

    @checked
    def __init__(
        self,
        network,
        total_steps,
        decay: Annotated[Fraction, "averages over about 1 / (1 - decay) steps"] = 0.999,
    ):
        super().__init__(network, total_steps)
        self.decay = decay

    def step(self, number):
        self._mix(self.decay if number > 1 else 0.0)

    @contextmanager
    def applied(self):
        """While this holds, the network has the average."""
        self._copy(self._scratch, self._fast)
        self._copy(self._fast, self._slow)
        try:
            yield
        finally:
            self._copy(self._fast, self._scratch)


AVERAGES.register(Average, "none")
AVERAGES.register(Lookahead, "lookahead")
AVERAGES.register(EMA, "ema")


def make_average(type, network, total_steps, **options):
    """Return the average called ``type`` ("none", "lookahead" or "ema") with its ``options``."""
    return AVERAGES.make({"type": type, **options}, network=network, total_steps=total_steps)
