"""Where a training run stands, and how it says so: a bar on a terminal, a line an epoch."""

from dataclasses import asdict
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from cnn import terminal

Count = Annotated[int, Field(ge=0, lt=2**53)]
Right = Count | Annotated[float, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0)]


class Score(TypedDict):
    """The epoch of the best weights, and what they reach on the validation images (None without any)."""

    epoch: Count
    loss: float | None
    accuracy: Annotated[float, Field(ge=0, le=1)] | None


class CutEpoch(TypedDict):
    """How far the last epoch of a run of, say, 1.5 epochs came: a longer run goes on from there."""

    step: Count
    loss_sum: float
    correct: Right
    seen: Count
    epoch_seconds: Seconds


@dataclass(config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Progress:
    """Where a run stands; together with the arrays and metrics.csv this is all that a resume needs.

    It is read from files: pydantic checks every value when one is made.
    """

    epoch: Count = 0  # finished epochs
    step: Count = 0  # steps done in the running epoch
    loss_sum: float = 0.0  # the running epoch: sum over images
    correct: Right = 0  # of masks, shares of the pixels of an image
    seen: Count = 0
    epoch_seconds: Seconds = 0.0  # of training steps in the running epoch
    seconds: Seconds = 0.0  # of training and validation in finished epochs
    best: Score | None = None
    cut: CutEpoch | None = None  # the last epoch, where the run ended before its last step
    history: str | None = None  # the digest of the rows of metrics.csv
    gradients: list[list[float]] = Field(default_factory=list)  # the rows of gradients.csv: at most some 200

    def record(self):
        """Return what a checkpoint keeps."""
        return asdict(self)

    def running(self, loss, lr, has_accuracy=True):
        """Return a line on the running epoch; ``loss`` is the last step's."""
        accuracy = f"accuracy {100 * self.correct / self.seen:.1f} % " if has_accuracy else ""
        return f"loss {loss:.3f} {accuracy}lr {lr:.2g}"


def bar(total, done, show=None):
    """Return a bar over the images of a whole run, so that its rate is images/s.

    ``show=None`` shows it on a terminal and in a notebook only.
    """
    return terminal.bar(
        show,
        total=total,
        initial=done,
        unit=" images",
        unit_scale=True,
        dynamic_ncols=True,
        leave=False,
        # tqdm itself writes ", " before what postfix holds
        bar_format="{desc} {percentage:3.0f} %|{bar}| {rate_fmt}, {remaining} left{postfix}",
    )


def epoch_line(row, epochs, smoothed=False):
    """Return one row of metrics.csv as a line; ``epochs`` is how many there will be.

    With ``smoothed`` labels the training loss is called so: it cannot be compared with the validation loss.
    """
    loss = "smoothed loss" if smoothed else "loss"
    line = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  {loss} {row['train_loss']:.4f}  "
    if row["train_accuracy"] is not None:
        line += f"accuracy {100 * row['train_accuracy']:.2f} %  "
    if row["val_loss"] is not None:
        line += f"validation loss {row['val_loss']:.4f} "
        line += f"accuracy {100 * row['val_accuracy']:.2f} %  " if row["val_accuracy"] is not None else " "
    return line + f"lr {row['lr']:.3g}  {row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s"
