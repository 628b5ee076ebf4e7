"""Where a training run stands, and how it says so: a bar on a terminal, a line an epoch."""

from dataclasses import dataclass, field

from cnn import terminal


@dataclass
class Progress:
    """Where a run stands; together with the arrays this is all that a resume needs."""

    epoch: int = 0  # finished epochs
    step: int = 0  # steps done in the running epoch
    loss_sum: float = 0.0  # the running epoch: sum over images
    correct: int = 0
    seen: int = 0
    epoch_seconds: float = 0.0  # of training steps in the running epoch
    seconds: float = 0.0  # of training and validation in finished epochs
    best: dict | None = None  # {"epoch", "loss", "accuracy"} on the validation images
    history: list = field(default_factory=list)  # the rows of metrics.csv
    gradients: list = field(default_factory=list)  # the rows of gradients.csv

    def running(self, loss, lr):
        """Return a line on the running epoch; ``loss`` is the last step's."""
        return f"loss {loss:.3f} accuracy {100 * self.correct / self.seen:.1f} % lr {lr:.2g}"


def bar(total, done):
    """Return a bar over the images of a whole run, so that its rate is images/s; off without a terminal."""
    return terminal.bar(
        total=total,
        initial=done,
        unit=" images",
        unit_scale=True,
        dynamic_ncols=True,
        leave=False,
        # tqdm itself writes ", " before what postfix holds
        bar_format="{desc} {percentage:3.0f} %|{bar}| {rate_fmt}, {remaining} left{postfix}",
    )


def epoch_line(row, epochs):
    """Return one row of metrics.csv as a line; ``epochs`` is how many there will be."""
    line = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.4f}  "
    line += f"accuracy {100 * row['train_accuracy']:.2f} %  "
    if row["val_loss"] is not None:
        line += f"validation loss {row['val_loss']:.4f} accuracy {100 * row['val_accuracy']:.2f} %  "
    return line + f"lr {row['lr']:.3g}  {row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s"
