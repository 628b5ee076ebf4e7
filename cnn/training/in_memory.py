"""What stands in for a run folder where a training shall leave no files: `cnn.Classifier`."""

import signal
from contextlib import nullcontext

from cnn.language import translate
from cnn.terminal import say


class InMemory:
    """Keeps the best weights in memory and nothing else.

    Parameters
    ----------
    verbose : bool
        Whether to print what a run folder's log would have, and to show the bar.
    """

    path, snapshots = "in memory", None
    reader_left = False  # its log may be lost, the training goes on

    def __init__(self, verbose=False):
        self.shows_progress = None if verbose else False
        self._verbose, self._best, self.score = verbose, {}, None

    def locked(self):
        """Nobody else can write here."""
        return nullcontext()

    def has_state(self):
        """Whether there is a checkpoint: never."""
        return False

    def begin(self, config, images):
        """Nothing is to be written."""

    def log(self, line, result=False):
        """Print a line if asked to."""
        if self._verbose:
            say(translate(line))

    def write_metrics(self, history):
        """The rows are the trainer's ``history``."""

    def save_last(self, trainer):
        """The network itself is the last state."""

    def save_best(self, trainer, score):
        """Copy the state of the network, averaged where there is an average."""
        with trainer.average.applied():
            self._best = {name: array.copy() for name, array in trainer.network.state().items()}
        self.score = score

    def draw(self, trainer):
        """There is no file to draw into."""

    def finish(self, trainer):
        """Put the best weights into the network; return how they did on the validation images."""
        trainer.network.load_state(self._best)
        score = self.score or {"epoch": 0, "loss": None, "accuracy": None}
        return {"epoch": score["epoch"], "val_loss": score["loss"], "val_accuracy": score["accuracy"]}

    def interrupted(self, message, signum):
        """Return what ends the training after a signal: nothing was saved that could go on."""
        return KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)
