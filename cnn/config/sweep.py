"""The [sweep] section: what `cnn sweep` searches, and how."""

from typing import Any, Literal

from pydantic import Field, model_validator

from cnn.config.sections import Section
from cnn.registry import Count

_LEAF = {"low", "high", "log", "step", "choices"}


class Dimension(Section):
    """The values that a key may take: low to high, or one of the choices."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = Field(False, description="draw the logarithm evenly")
    step: int | float | None = Field(None, gt=0, description="low, low + step, low + 2 step ...")
    choices: list[Any] | None = Field(None, min_length=2)

    @model_validator(mode="after")
    def _fits_together(self):
        ends = self.low is not None, self.high is not None
        if (self.choices is None) != all(ends) or any(ends) != all(ends):
            raise ValueError("expected low and high, or choices")
        if self.choices is not None:
            if self.log or self.step:
                raise ValueError("expected no log and no step beside choices")
            return self
        if self.low >= self.high:
            raise ValueError(f"low: found {self.low:g}, expected less than high = {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: expected low above 0, and no step")
        if self.whole and self.step is not None and not isinstance(self.step, int):
            raise ValueError(f"step: found {self.step:g}, expected an integer, as low and high are")
        return self

    @property
    def whole(self):
        """Whether the values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Sweep(Section):
    """A search over settings: many trials, each a run with values drawn from the space."""

    trials: Count = 20
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe: where good trials were, so far")
    pruner: Literal["median", "none"] = Field(
        "median",
        description="median: from its second epoch on a trial ends where half of the others were better",
    )
    startup: Count = Field(5, description="trials that finish before any is pruned")
    metric: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    space: dict[str, Dimension] = Field(min_length=1, description='key paths, such as "optimizer.lr"')


def with_flat_space(document):
    """Return a document where ``[sweep.space] optimizer.lr = {...}``, nested tables in TOML, has one key."""
    sweep = document.get("sweep")
    if isinstance(sweep, dict) and isinstance(sweep.get("space"), dict):
        document = {**document, "sweep": {**sweep, "space": dict(_leaves(sweep["space"], ""))}}
    return document


def _leaves(node, prefix):
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and not _LEAF & set(value):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
