"""One of any number of processes that work through a search, trial by trial, until none is left."""

import json
import os
import signal
import socket
import time

from cnn.errors import ConfigError, NumericError
from cnn.files import write_atomically
from cnn.terminal import say
from cnn.training.callbacks import Callback
from cnn.training.interruption import Interrupted
from cnn.training.one_run import train_in
from cnn.tuning import results, space
from cnn.tuning.study import SharedStudy

_POLL_SECONDS = 1.0
_DESCRIPTION = "sweep.json"


class Judge(Callback):
    """Tells a trial's validation curve to the study, and ends the training where that is hopeless."""

    def __init__(self, trial, metric, reported):
        self.trial, self.metric, self.reported = trial, metric, set(reported)
        self.pruned_at = None

    def on_fit_begin(self, trainer):
        """Judge the last epoch of a resumed run once more: its process may have been killed just then."""
        if trainer.history:
            self._judge(trainer, trainer.history[-1])

    def on_epoch_end(self, trainer, row):
        """Judge an epoch."""
        self._judge(trainer, row)

    def _judge(self, trainer, row):
        if row["epoch"] not in self.reported:
            self.trial.report(row[self.metric], row["epoch"])
            self.reported.add(row["epoch"])
        if row["epoch"] < trainer.epochs and self.trial.should_prune():
            self.pruned_at = row["epoch"]
            self.trial.set_user_attr("pruned_at", row["epoch"])
            trainer.stop(f"pruned, {self.metric} {row[self.metric]:.4f} is worse than the median there")


def work(config, configure, folder, prepare=lambda config: None):
    """Take trials of a search until all are finished; return the SharedStudy.

    Parameters
    ----------
    config : Config
        With a [sweep] section.
    configure : function
        From a list of overrides to the Config of a trial.
    folder : Path
        Shared by all workers: ``journal.log``, ``trial-0000`` ... (run folders), the tables and the page.
    prepare : function
        Called with the Config of each trial before it is trained.

    A trial whose numbers are no longer finite, or whose values make no network, is recorded as failed. Raises
    ConfigError when the folder belongs to another search, Interrupted after a signal: the trial that was
    running goes on with the next worker that is free.
    """
    if not config.data.validation:
        raise ConfigError("sweep: expected data.validation above 0, which trials are compared by")
    for override in space.extremes(config.sweep.space):
        configure([override])
    _check_same_search(config, folder)
    study = SharedStudy(folder, config.sweep, config.seed)
    told = False
    while True:
        claim = study.claim()
        if claim is not None:
            with claim.lock:
                _run(study, claim, config, configure, folder, prepare)
            results.write(study, folder, config)
        elif not study.running():
            break
        else:
            if not told:
                say(f"waiting for {study.running()} trials of other workers")
            told = True
            time.sleep(_POLL_SECONDS)
    results.write(study, folder, config)
    return study


def _run(study, claim, config, configure, folder, prepare):
    settings = space.overrides(claim.values)
    begun = study.trials()[claim.number]
    attempts = begun.user_attrs.get("attempts", 0) + 1
    claim.trial.set_user_attr("attempts", attempts)
    claim.trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
    place, again = folder / f"trial-{claim.number:04}", " (taken up again)" if claim.again else ""
    say(f"[{claim.number + 1}/{config.sweep.trials}] {', '.join(settings)}: {place}{again}")
    judge = Judge(claim.trial, config.sweep.metric, begun.intermediate_values)
    judge.pruned_at = begun.user_attrs.get("pruned_at")
    try:
        chosen = configure(settings)
        prepare(chosen)
        result = train_in(place, chosen, [judge])
    except (NumericError, ConfigError) as error:  # a rate that is too high is a result, too
        problem = str(error).splitlines()[0]
        say(f"failed: {problem}")
        study.finish(claim, None, {"failed": problem}, "FAIL")
        return
    except (Interrupted, KeyboardInterrupt) as error:
        signum = getattr(error, "exit_code", 128 + signal.SIGINT) - 128
        raise Interrupted(
            f"sweep interrupted in trial {claim.number}; the same command goes on in {folder}", signum
        ) from error
    value = result[config.sweep.metric]
    study.finish(claim, value, {"result": result}, "PRUNED" if judge.pruned_at else "COMPLETE")


def _check_same_search(config, folder):
    """Write what is searched, or compare it with what other workers wrote; more trials may be asked for."""
    wanted = {"config": config.plain(), "sweep": config.sweep.model_dump(mode="json", exclude={"trials"})}
    path = folder / _DESCRIPTION
    if not path.exists():
        write_atomically(path, json.dumps(wanted, indent=1).encode())
    try:
        found = dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        found = {}
    for part, value in wanted.items():
        began = found.get(part) or {}
        changed = sorted(key for key in {*value, *began} if began.get(key) != value.get(key))
        if changed:
            raise ConfigError(
                f"{folder}: began as a search with another {'sweep.' * (part == 'sweep')}{changed[0]}; "
                "choose another --out"
            )
