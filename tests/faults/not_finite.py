"""NaN and Inf, planted wherever a training holds numbers: no weight and no file takes them."""

import json
import re
import shutil
from itertools import count
from pathlib import Path

import numpy as np

from faults import place
from faults.trial import NOTICED, Fault, Trial

_NAMED = re.compile(r"epoch \d+(, step \d+ of \d+)?: .*(holds (NaN|Inf)|the loss is (nan|inf))")


def planted(rng):
    """Another place, value, optimizer and backend each time."""
    place.write(train=16)
    for number in count():
        kind = list(_PLACES)[number % len(_PLACES)]
        name, values = rng.choice(list(place.RECIPES.items()))
        backend = rng.choice(("reference", "numba"))
        value = rng.choice((np.nan, np.inf, -np.inf))
        step, where, validation = rng.randrange(1, 7), rng.random(), rng.choice((0, 0.2))
        values = [*values, f"train.backend={backend}", f"data.validation={validation}", "train.epochs=4"]
        what = f"{kind}: {value} at {where:.3f} in step {step}, {name}, {backend}, validation {validation}"
        yield Trial(kind, what, lambda k=kind, v=values, x=value, s=step, w=where: _stopped(k, v, x, s, w))


def _stopped(kind, values, value, step, where):
    from cnn.config import load_config
    from cnn.errors import NumericError
    from cnn.training import checkpoint, run_folder
    from cnn.training.loop import Trainer

    shutil.rmtree("run", ignore_errors=True)
    Path("run").mkdir()
    trainer = Trainer(load_config(place.CONFIG, values), run_folder.RunFolder("run"))
    taken = _PLACES[kind](trainer, value, step, where)
    try:
        trainer.fit()
    except NumericError as error:
        if not _NAMED.search(str(error)):
            raise Fault(f"names no step and no number: {error}") from error
    else:
        raise Fault("trained to its end")
    if kind not in _IN_THE_WEIGHTS and not np.isfinite(trainer.network.data).all():
        raise Fault("the weights have taken it")
    if taken and kind == "gradient" and (trainer.network.data != taken[0]).any():
        raise Fault("the step was taken")
    for path in Path("run").rglob("*.safetensors"):
        for name, array in checkpoint.load(path)[0].items():
            if not np.isfinite(array).all():
                raise Fault(f"{path} holds {name}, which is not finite")
    for path in Path("run").glob("*.json"):
        json.loads(path.read_text(), parse_constant=_no_json)
    return NOTICED


def _no_json(text):
    raise Fault(f"a file of JSON holds {text}")


def _at(array, where):
    return int(where * array.size) if array.size else 0


def _before_each(trainer, name, owner, plant, step):
    """Call ``plant()`` before, and its result after, the ``step``-th call of a method of ``owner``."""
    function, calls = getattr(owner, name), [0]

    def called(*args, **options):
        calls[0] += 1
        after = plant(*args) if calls[0] == step + 1 else None  # the first call only warms up
        result = function(*args, **options)
        if after is not None:
            after()
        return result

    setattr(owner, name, called)


def _gradient(trainer, value, step, where):
    taken = []

    def plant(*_):
        def after():
            trainer.network.grad[_at(trainer.network.grad, where)] = value
            taken.append(trainer.network.data.copy())

        return after

    _before_each(trainer, "backward", trainer.network, plant, step)
    return taken


def _huge_gradient(trainer, value, step, where):
    def after():
        trainer.network.grad.fill(3e38)
        trainer.optimizer.lr = 1e38

    _before_each(trainer, "backward", trainer.network, lambda *_: after, step)


def _weight(trainer, value, step, where):
    def plant(*_):
        trainer.network.data[_at(trainer.network.data, where)] = value

    _before_each(trainer, "forward", trainer.network, plant, step)


def _statistic(trainer, value, step, where):
    def plant(*_):
        buffers = {k: a for k, a in trainer.network.state().items() if "running" in k}
        array = list(buffers.values())[int(where * len(buffers))]
        array.flat[0] = value

    _before_each(trainer, "step", trainer.optimizer, plant, step)


def _momentum(trainer, value, step, where):
    def plant(*_):
        state = {k: a for k, a in trainer.optimizer.state().items() if a.dtype.kind == "f" and a.size > 1}
        if not state:  # plain SGD keeps nothing
            trainer.network.data[0] = value
            return
        array = next(iter(state.values()))
        array.flat[_at(array, where)] = value

    _before_each(trainer, "step", trainer.optimizer, plant, step)


def _logits(trainer, value, step, where):
    def plant(logits, *_):
        logits.flat[_at(logits, where)] = value

    _before_each(trainer, "forward", trainer.loss, plant, step)


_PLACES = {
    "gradient": _gradient,
    "huge gradient and rate": _huge_gradient,
    "weight": _weight,
    "running statistic": _statistic,
    "momentum": _momentum,
    "logits": _logits,
}
#: Planted into the weights themselves, or into what the update makes of them within one call.
_IN_THE_WEIGHTS = {"weight", "huge gradient and rate", "momentum"}
