"""The one interface of whatever wants to know how a training goes: loggers, progress, early ends."""

from collections.abc import Iterable
from typing import Any

__all__ = ["Callback", "Callbacks", "EarlyStopping", "TopCheckpoints"]


class Callback:
    """What is told how a training goes; a subclass writes the methods that it needs.

    ``trainer`` is the ``cnn.training.loop.Trainer``: its ``config``, ``network``, ``optimizer``,
    ``progress``, ``history`` (one row an epoch, the columns of metrics.csv) and ``run`` (the RunFolder) may
    be read; ``trainer.stop(why)`` ends the training after the running epoch. An exception of a callback ends
    it at once. ::

        class Plot(cnn.Callback):
            def on_epoch_end(self, trainer, row):
                print(row["epoch"], row["train_loss"], row["val_loss"])
    """

    def on_fit_begin(self, trainer: Any) -> None:
        """Before the first step, of a resumed run as well: ``trainer.history`` has its earlier epochs."""

    def on_epoch_begin(self, trainer: Any) -> None:
        """Before the first step of an epoch; ``trainer.progress.epoch`` are finished."""

    def on_step_end(self, trainer: Any, loss: float) -> None:
        """After each step; ``loss`` is that of its batch before the step, a float."""

    def on_epoch_end(self, trainer: Any, row: dict[str, Any]) -> None:
        """After the validation, and before the checkpoint, of an epoch; ``row`` is its row of metrics.csv."""

    def on_fit_end(self, trainer: Any, result: dict[str, Any]) -> None:
        """After the test; ``result`` is what result.json holds."""


class Callbacks:
    """Several callbacks as one; ``of_steps`` says whether any of them asks for every step."""

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self.all = list(callbacks)
        asked = [getattr(type(c), "on_step_end", Callback.on_step_end) for c in self.all]
        self.of_steps = any(method is not Callback.on_step_end for method in asked)

    def tell(self, moment: str, *values: Any) -> None:
        """Call the method ``moment`` of each, in their order; what a class lacks it is not told."""
        for callback in self.all:
            method = getattr(callback, moment, None)
            if method is not None:
                method(*values)


class EarlyStopping(Callback):
    """Ends a training after ``patience`` epochs without a better one on the validation images."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_fit_begin(self, trainer: Any) -> None:
        self.on_epoch_end(trainer, None)  # a run that has ended so stays so when it is resumed

    def on_epoch_end(self, trainer: Any, row: dict[str, Any] | None) -> None:
        best = trainer.progress.best
        if best is not None and trainer.progress.epoch - best["epoch"] >= self.patience:
            trainer.stop(f"no better epoch on the validation images since epoch {best['epoch']}")


def quality(row: dict[str, Any], kind: Any) -> tuple[float, ...]:
    """Return what is larger for the better epoch: higher accuracy on the validation images, then lower loss.

    Numbers have no accuracy, and that of labels which are rare is high for nothing: there only the loss
    counts. ``row`` has "val_accuracy" and "val_loss", ``kind`` is one of ``cnn.targets.KINDS``.
    """
    return (row["val_accuracy"], -row["val_loss"]) if kind.by_accuracy else (-row["val_loss"],)


class TopCheckpoints(Callback):
    """Keeps the weights of the ``count`` best epochs, as top/epoch-0007.safetensors of the run folder.

    The order is that of best.safetensors (`quality`); without validation images the later epoch is the better
    one.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def on_epoch_end(self, trainer: Any, row: dict[str, Any]) -> None:
        def order(row: dict[str, Any]) -> tuple[float, ...]:
            if row["val_loss"] is None:
                return (row["epoch"],)
            return *quality(row, trainer.images.kind), -row["epoch"]

        best = sorted(trainer.history, key=order, reverse=True)[: self.count]
        folder, wanted = trainer.run.top, {f"epoch-{r['epoch']:04d}.safetensors" for r in best}
        if row in best:
            folder.mkdir(exist_ok=True)
            score = {"epoch": row["epoch"], "loss": row["val_loss"], "accuracy": row["val_accuracy"]}
            trainer.run.save_weights(trainer, folder / f"epoch-{row['epoch']:04d}.safetensors", score)
        for file in folder.glob("epoch-*.safetensors"):
            if file.name not in wanted:
                file.unlink()
