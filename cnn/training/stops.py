"""How a training ends before its time: signals, a reader that has left, NaN and Inf; each in words."""

import signal

import numpy as np

from cnn.errors import NumericError
from cnn.training import finite

READER_LEFT = 13  # SIGPIPE, which Windows does not name


def stop_if_asked(trainer, interruption):
    """After a signal, or when nobody reads the output any more: save and raise Interrupted."""
    reader_left = trainer.run is not None and trainer.run.reader_left
    signum = interruption.signum or (READER_LEFT if reader_left else None)
    if signum is None:
        return
    trainer.save_last()
    trainer.draw()
    p = trainer.progress
    why = "interrupted" if interruption.signum else "the reader of the output left"
    message = (
        f"{why} in epoch {p.epoch + 1}, step {p.step} of {trainer.steps_of_epoch()}, and saved; "
        f"continue with: cnn train --resume --run {trainer.run.path}"
    )
    trainer.run.log(f"stopped by {signal.Signals(signum).name}, and saved")
    raise trainer.run.interrupted(message, signum)


def before_first_step(trainer, signum):
    """Return the error after a signal while the kernels are compiled: there is nothing to save."""
    trainer.run.log(f"stopped by {signal.Signals(signum).name} before the first step")
    return trainer.run.interrupted(
        "interrupted before the first step; nothing is lost; start with: "
        f"cnn train --resume --run {trainer.run.path}",
        signum,
    )


def loss_error(trainer, loss, x, labels):
    """Return the NumericError for a loss of NaN or Inf: it names what made it so."""
    weights = getattr(trainer.loss, "class_weight", None)
    if weights is not None and labels.ndim == 1 and not np.array(weights)[labels].any():
        message = f"all {len(labels)} images of the batch have loss.class_weight 0, so their mean loss is 0/0"
        advice = "raise data.batch_size, give these classes a weight or leave their images out"
        return numeric_error(trainer, message, advice, step=True)
    found = finite.activation(trainer.network, x)
    return numeric_error(trainer, f"the loss is {loss}" + (f": {found}" if found else ""), step=True)


def numeric_error(trainer, what, advice=None, step=False):
    """Return the NumericError that ends the run, after a line in the log; ``step``: before its update."""
    p, kept = trainer.progress, "no checkpoint yet"
    if trainer.run.has_state():
        kept = "last.safetensors keeps the state of the last checkpoint"
    advice = advice or "lower optimizer.lr, add schedule.warmup_epochs or set optimizer.clip_norm = 1.0"
    place = (
        f"epoch {p.epoch + 1}, step {p.step + 1} of {trainer.steps_of_epoch()}"
        if step
        else f"epoch {p.epoch + (p.step > 0)}"
    )
    stopped = f"{place}: {what} (lr {trainer.optimizer.lr:.3g})"
    trainer.run.log(f"stopped: {stopped}")
    return NumericError(f"{stopped}; {advice}\n{trainer.run.path}: {kept}")
