"""What a checkpoint says about itself, as typed models: a file may be a stranger's, so all is checked."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cnn.config import check_layers
from cnn.config.report import describe
from cnn.errors import CheckpointError
from cnn.training.progress import Count, Score

_MOST_PIXELS = 1 << 28  # of one image, all channels
Size = Annotated[int, Field(ge=1, le=1 << 20)]


class Record(BaseModel):
    """What all parts share: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class DataDigest(Record):
    """SHA-256 of labels, class names and pixels, as ``cnn.data.Dataset.digests`` has them."""

    train: str
    test: str
    validation: str | None = None


class Header(Record):
    """The header of best.safetensors and last.safetensors."""

    config: dict[str, Any]
    layers: list[dict[str, Any]] = Field(min_length=1)
    classes: list[str]  # empty in a file of Network.save that names none; a run has them
    image_shape: list[Size] = Field(min_length=1, max_length=3)  # (F,) for features
    input_shape: list[Size] = Field(min_length=1, max_length=3)
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    epoch: Annotated[int, Field(ge=0)] = 0
    score: Score | None = None
    progress: dict[str, Any] | None = None  # ``cnn.training.progress.Progress`` checks it
    numbers: Literal["uint8", "float"] = "uint8"  # float: mean and std are in the units of the data
    target_mean: list[float] | None = None  # of a regression: its outputs are in units of target_std
    target_std: list[Annotated[float, Field(gt=0)]] | None = None
    taken: list[str] | None = None  # parameters and buffers of another run that this one began with
    data: DataDigest | None = None
    processor: str | None = None

    @model_validator(mode="after")
    def _sizes_agree(self):
        for name in ("mean", "std"):
            found = len(getattr(self, name))
            if found != self.image_shape[0]:
                raise ValueError(
                    f"{name}: found {found} numbers, expected {self.image_shape[0]}, one a channel"
                )
        for name in ("target_mean", "target_std"):
            found = getattr(self, name)
            wrong = len(self.classes if found is None else found) != len(self.classes)
            if wrong or (found is None) != (self.target_mean is None):
                raise ValueError(f"{name}: expected {len(self.classes)} numbers, one an output")
        if self.config and not self.classes:
            raise ValueError("classes: found none, expected at least 1 of them")
        if len(self.image_shape) != len(self.input_shape):
            found = f"found {self.image_shape}, expected as many sizes as input_shape {self.input_shape}"
            raise ValueError(f"image_shape: {found}")
        for name in ("image_shape", "input_shape"):
            size = 1
            for length in getattr(self, name):
                size *= length
            if size > _MOST_PIXELS:
                raise ValueError(f"{name}: {size:,} numbers an image, expected at most {_MOST_PIXELS:,}")
        return self


class SnapshotHeader(Record):
    """The header of ``snapshots/<step>.safetensors``."""

    step: Count


def check_header(meta, path):
    """Return the Header that ``meta`` (JSON data) is; raises CheckpointError naming file and key."""
    header = validated(Header, meta, path)
    errors = check_layers(header.layers)
    if errors:
        raise CheckpointError(f"{path}: the header: {errors[0]}")
    return header


def validated(model, data, path):
    """Return the model that JSON data stand for; CheckpointError with the first mistake."""
    try:
        return model.model_validate_json(json.dumps(data))
    except RecursionError as error:
        raise CheckpointError(f"{path}: the header is nested too deep") from error
    except ValidationError as error:
        first = describe(error, model, data if isinstance(data, dict) else {})[0]
        raise CheckpointError(f"{path}: the header: {first}; expected a file of `cnn train`") from None
