"""The trials of a search in a shared folder, which any number of processes take from; no server.

Optuna keeps the trials in ``journal.log``, to which every process appends. A trial belongs to the process
that holds the kernel's lock on its claim, so the trial of a killed one is free at once, on whichever machine
that was, and is taken up again under its number and with its values.
"""

import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnn.errors import ConfigError
from cnn.files import locked
from cnn.interop.extras import require
from cnn.tuning import space

_CLAIMS = ".claims"
_WAIT_SECONDS = 0.05


@dataclass
class Claim:
    """A trial that this process works on, until ``lock`` is closed."""

    number: int
    values: dict  # {key path: value}
    trial: Any  # of Optuna
    again: bool  # whether another process began it
    lock: ExitStack = field(repr=False)


class SharedStudy:
    """The trials of one search.

    Parameters
    ----------
    folder : Path
    sweep : cnn.config.sweep.Sweep
    seed : int
        What is drawn for a trial depends on it and on the trial's number (and, with "tpe", on what was known
        then).
    """

    def __init__(self, folder, sweep, seed):
        self.folder, self.sweep, self.seed = Path(folder), sweep, seed
        self._optuna = require("optuna", "sweep", "a search")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        with self._alone(), _quiet():
            journal = self._optuna.storages.journal.JournalFileBackend(str(self.folder / "journal.log"))
            self._study = self._optuna.create_study(
                study_name="sweep",
                storage=self._optuna.storages.JournalStorage(journal),
                direction="maximize" if sweep.metric == "val_accuracy" else "minimize",
                pruner=self._pruner(),
                load_if_exists=True,
            )

    def claim(self):
        """Return the Claim of a trial whose process is gone, else of a new one; None for neither."""
        with self._alone() as known:
            trials = self.trials()
            if known:
                for trial in trials:
                    if not trial.state.is_finished() and (lock := self._lock(trial.number)):
                        begun = self._optuna.trial.Trial(self._study, trial._trial_id)
                        return self._claim(begun, lock, again=True)
            if len(trials) < self.sweep.trials:
                lock = self._lock(len(trials)) or ExitStack()
                self._study.sampler = self._sampler(len(trials))
                return self._claim(self._study.ask(), lock, again=False)
        return None

    def _claim(self, trial, lock, again):
        self._study.sampler = self._sampler(trial.number)
        with _quiet():
            values = space.suggest(trial, self.sweep.space)
        return Claim(trial.number, values, trial, again, lock)

    def finish(self, claim, value, attributes, state):
        """Record the result of a trial: ``state`` is "COMPLETE", "PRUNED" or "FAIL" (without a value)."""
        with self._alone():
            now = self.trials()[claim.number]
            if not now.state.is_finished():
                for name, content in attributes.items():
                    claim.trial.set_user_attr(name, content)
                state = self._optuna.trial.TrialState[state]
                self._study.tell(claim.trial, value if state.name == "COMPLETE" else None, state)
        claim.lock.close()

    def trials(self):
        """Return the trials as Optuna's FrozenTrial, by number."""
        return self._study.get_trials(deepcopy=False)

    def running(self):
        """Return how many trials are not finished."""
        return sum(not trial.state.is_finished() for trial in self.trials())

    def importances(self):
        """Return {key path: share} of what decides which trials are good (PED-ANOVA); {} for too few trials.

        References
        ----------
        Watanabe, Bansal, Hutter, "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary
        subspaces", IJCAI 2023.
        """
        complete = [t for t in self.trials() if t.state.name == "COMPLETE"]
        if len(complete) < 4 or len({t.value for t in complete}) < 2:
            return {}
        evaluator = self._optuna.importance.PedAnovaImportanceEvaluator()
        with _quiet():
            return self._optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def _lock(self, number):
        """Return an ExitStack that holds the claim of a trial, None where another process holds it."""
        folder = self.folder / _CLAIMS / f"{number:04}"
        folder.mkdir(parents=True, exist_ok=True)
        stack = ExitStack()
        try:
            stack.enter_context(locked(folder))
        except ConfigError:
            return None
        return stack

    @contextmanager
    def _alone(self):
        """While this holds, no other process takes or finishes a trial; yields whether there are locks."""
        folder = self.folder / _CLAIMS
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            known = None
            while known is None:
                try:
                    known = stack.enter_context(locked(folder))
                except ConfigError:
                    time.sleep(_WAIT_SECONDS)
            yield known

    def _sampler(self, number):
        seed = (self.seed + 7919 * number) % 2**32  # else workers that begin together would draw the same
        if self.sweep.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(seed=seed)

    def _pruner(self):
        if self.sweep.pruner == "none":
            return self._optuna.pruners.NopPruner()
        return self._optuna.pruners.MedianPruner(n_startup_trials=self.sweep.startup, n_warmup_steps=2)


@contextmanager
def _quiet():
    """Without Optuna's notices of what may change in its next versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
