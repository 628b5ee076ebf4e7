"""The sections of a config file as pydantic models: every key, its type, its range, its default."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, PlainSerializer, PrivateAttr, model_validator

from cnn.config import sections
from cnn.config.sections import Section
from cnn.config.sweep import Sweep
from cnn.errors import ConfigError, did_you_mean
from cnn.layers import LOSSES, Parameter
from cnn.optimizers import AVERAGES, OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from cnn.registry import UNCOUNTED, Count, Fraction, NotNegative, Range, Rate
from cnn.targets import IGNORED, KINDS
from cnn.targets import NAMES as TARGETS

# a float, but written as 10 where it is whole
Epochs = Annotated[
    float,
    Range(ge=0, lt=UNCOUNTED),
    AfterValidator(lambda n: int(n) if n == int(n) else n),
    PlainSerializer(lambda n: n),
]
MOST_LAYERS, MOST_NESTING = 10_000, 32  # a network of a thousand layers is a deep one
Spec = dict[str, Any]  # {type = "Conv2d", ...}: checked against the constructor in cnn.config.specs


class Data(Section):
    """Which images, and how they become batches."""

    dataset: str = Field(
        min_length=1,
        description='"sample", a torchvision name such as "MNIST", or of your own images '
        '"folder" (also for a CSV file), "npz", "idx" or "parquet"',
    )
    root: str = Field("data", min_length=1, description="folder of the data set, relative to the current one")
    targets: Literal[TARGETS] = Field(
        "classes",
        description='what is told of an image: its class, "numbers" (regression), "labels" of which it may '
        'have several, or "masks", the class of each pixel; all but classes of "folder" and "npz" only',
    )
    columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="of a CSV file, those with the labels; default: all but the file's and the split's"
    )
    classes: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="names of the values 0, 1 ... of masks, or of what an .npz file holds"
    )
    batch_size: Count = 64
    drop_last: bool = Field(False, description="leave out an epoch's last batch where it is smaller")
    validation: Fraction = Field(
        0.1, description="share of the training images kept for validation, unless they have a part val"
    )
    image_size: Count | tuple[Count, Count] | None = Field(
        None, description='"folder" only: pixels, or [height, width], to which all images are resized'
    )
    mode: Literal["L", "RGB"] | None = Field(None, description='"folder" only: grey or colour')
    fit: Literal["stretch", "crop", "pad"] = Field(
        "stretch", description='"folder" only: how images of other shapes get image_size'
    )
    decode: Literal["full", "reduced"] = Field(
        "full",
        description='"folder", "parquet": "reduced" reads JPEG files of four times image_size and more from '
        "fewer of their frequencies, some five times faster, with slightly other pixels",
    )
    test: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="share of each class held out where your images have no test part; default 0.2"
    )
    skip_unreadable: bool = Field(False, description='"folder" only: leave out files that cannot be read')
    split: str | None = Field(None, description='"EMNIST" only: balanced, letters, digits ...')
    augment: list[Spec] = Field([], description="random changes of the training images, in this order")
    mixup: NotNegative = Field(0.0, description="alpha of mixup, for example 0.2; 0 mixes nothing")

    def options(self):
        """Return what ``load_dataset`` takes beside the name and the root."""
        names = {"image_size", "mode", "split", "fit", "test", "skip_unreadable", "decode"}
        names |= {"targets", "columns", "classes"}
        return self.model_dump(include=names, exclude_defaults=True)


class Model(Section):
    """The layers from the images to the logits."""

    layers: list[Spec] = Field(min_length=1)
    blocks: dict[str, list[Spec]] = Field({}, description='groups of layers, used as {block = "name"}')


class Group(Section):
    """Parameters that learn in their own way; of all groups that match, the later one wins."""

    match: str = Field(min_length=1, description='glob on "0.weight", or on "BatchNorm2d.bias"')
    lr_scale: NotNegative | None = Field(None, description="multiplies the learning rate")
    weight_decay: NotNegative | None = Field(None, description="instead of the optimizer's")
    trainable: bool | None = Field(None, description="false: stays as it starts")
    from_epoch: NotNegative | None = Field(None, description="frozen before")
    until_epoch: NotNegative | None = Field(None, description="frozen from here on")


class Optimizer(Section):
    """What is said about every optimizer beside its own arguments."""

    groups: list[Group] = Field([], description="parameters with a rate, decay or time of their own")

    def options(self):
        """Return what ``make_optimizer`` takes beside the parameters."""
        return self.model_dump(exclude={"groups"}, exclude_none=True)

    @model_validator(mode="after")
    def _fits_together(self):
        # the constructor judges what ranges cannot say
        make_optimizer(parameters=[Parameter("weight", np.zeros(1))], **self.options())
        return self


class Schedule(Section):
    """How the learning rate changes from step to step."""

    warmup_epochs: NotNegative = Field(0.0, description="the rate first rises evenly for so long")

    def options(self):
        """Return what ``make_schedule`` takes beside the type, the rate and the numbers of steps."""
        return self.model_dump(exclude={"type", "warmup_epochs"}, exclude_none=True)


class Train(Section):
    """How long, and on what."""

    epochs: Epochs = Field(10, description="9.9: the tenth epoch has nine tenths of its steps")
    backend: Literal["numba", "reference"] = "numba"
    threads: Count | None = Field(None, description="default: all cores; the results do not depend on it")
    micro_batch: Count | None = Field(
        None,
        description="images, a multiple of 16, whose gradients are added before those of others, in an order "
        "that any number of processes keeps to: the same bits; default: all of the batch, 16 under mpiexec",
    )
    batch_norm: Literal["batch", "rank"] = Field(
        "batch", description="mpiexec: statistics of the whole batch, or of the share of each process"
    )
    winograd: bool = Field(True, description="numba: 3x3 convolutions with fewer multiplications, float32")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="numba: bf16 stores activations and multiplies in bfloat16; sums are float32"
    )
    float32_layers: list[str] = Field(
        [], description='names like "0" or "3.body.0" of layers that stay float32 with precision = "bf16"'
    )
    checkpoint_every: Count = Field(1, description="epochs between two checkpoints")
    checkpoint_minutes: Rate = Field(5.0, description="a long epoch is saved this often as well")
    patience: Count | None = Field(
        None, description="end early after so many epochs without a better one on the validation images"
    )
    keep_top: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="checkpoints of the so many best epochs, in the folder top/ of the run"
    )
    loggers: list[Literal["tensorboard", "mlflow", "trackio"]] = Field(
        [], description="that get the numbers as well; each is an extra of the same name"
    )
    snapshots: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None, description="weights kept for `cnn explain --history`; default: 8 of a small network, else none"
    )


class Start(Section):
    """Fine-tuning: weights to start from, by name and shape, and how what was taken over learns."""

    weights: str = Field(min_length=1, description="a run folder, checkpoint, file of Network.save or .onnx")
    freeze: bool = Field(False, description="what was taken over stays as it is; only the head learns")
    thaw_epoch: NotNegative | None = Field(None, description="with freeze: all learns from this epoch on")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="the rate of each layer is so much of that of the next one: 0.8, the head's being 1"
    )


class Tta(Section):
    """Test-time augmentation: which views of an image the logits are averaged over."""

    flip: bool = Field(True, description="mirrored left to right as well")
    translate: Annotated[int, Field(ge=0)] = Field(0, description="pixels; crops of the reflect-padded image")
    crops: Literal[2, 4] = Field(2, description="2 of the corners, upper left and lower right, or all 4")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="of the images: those with the least confident answers; the others are seen once"
    )


@dataclass(frozen=True)
class Origin:
    """Where a config came from; it is the same config wherever that was."""

    source: Any = field(default="config", compare=False)  # the file
    overrides: tuple = field(default=(), compare=False)  # what --set changed in it


class Config(Section):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="the run folder is runs/<name>")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data
    model: Model
    loss: sections.of(LOSSES, default="SoftmaxCrossEntropy") = Field({}, validate_default=True)
    optimizer: sections.of(OPTIMIZERS, Optimizer)
    schedule: sections.of(SCHEDULES, Schedule) = Field({"type": "constant"}, validate_default=True)
    average: sections.of(AVERAGES) = Field({"type": "none"}, validate_default=True)
    train: Train = Train()
    start: Start | None = Field(None, description="fine-tuning; `cnn train --from` sets start.weights")
    tta: Tta | None = Field(None, description="for the test and `cnn evaluate --tta`")
    sweep: Sweep | None = Field(None, description="for `cnn sweep`: searched with Optuna (extra sweep)")
    _origin: Origin = PrivateAttr(Origin())

    @property
    def source(self):
        """The file that the config came from."""
        return self._origin.source

    @model_validator(mode="after")
    def _fits_together(self):
        if self.train.precision != "float32" and self.train.backend == "reference":
            raise ValueError(
                f'train.precision: found "{self.train.precision}", expected "float32" with '
                'train.backend = "reference", which has no other'
            )
        warmup, epochs = self.schedule.warmup_epochs, self.train.epochs
        if warmup and warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs: found {warmup:g}, expected less than train.epochs = {epochs}"
            )
        make_schedule(self.schedule.type, self.optimizer.lr, total_steps=1, **self.schedule.options())
        if (self.train.patience or self.schedule.type == "plateau") and not self.data.validation:
            what = "train.patience" if self.train.patience else 'schedule.type = "plateau"'
            raise ValueError(f"data.validation: found 0, expected more: {what} judges by validation images")
        self._targets_fit()
        return self

    def _targets_fit(self):
        """Raise ValueError where a section asks for what the targets have not."""
        kind, loss = KINDS[self.data.targets], self.loss
        because = f'with data.targets = "{kind.name}"'
        if kind.name != "classes" and self.data.dataset not in ("folder", "npz"):
            dataset = f'data.dataset: found "{self.data.dataset}", expected "folder" or "npz"'
            raise ValueError(f"{dataset} {because}")
        if kind.name == "masks" and self.data.mixup:
            raise ValueError(f"data.mixup: found {self.data.mixup:g}, expected 0 {because}")
        if kind.losses and loss.type in LOSSES.types() and loss.type not in kind.losses:
            expected = " or ".join(f'"{name}"' for name in kind.losses)
            raise ValueError(f'loss.type: found "{loss.type}", expected {expected} {because}')
        if kind.name == "masks" and getattr(loss, "ignore_index", IGNORED) != IGNORED:
            raise ValueError(
                f"loss.ignore_index: found {loss.ignore_index}, expected {IGNORED} {because}; a class "
                "counts for nothing with 0 in loss.class_weight"
            )
        if kind.name != "classes":
            for key, value in (("tta", self.tta), ("train.micro_batch", self.train.micro_batch)):
                if value is not None:
                    raise ValueError(f"{key}: expected none {because}")
        if not kind.has_accuracy and self.sweep is not None and self.sweep.metric == "val_accuracy":
            raise ValueError(f'sweep.metric: found "val_accuracy", expected "val_loss" {because}')

    def plain(self):
        """Return what a run depends on as dicts and lists, the keys without a value left out: no [sweep]."""
        sections = self.model_dump(mode="json", exclude_none=True, exclude={"sweep"})
        if not self.model.blocks:
            del sections["model"]["blocks"]
        if not self.optimizer.groups:
            del sections["optimizer"]["groups"]
        if self.average.type == "none":
            del sections["average"]
        for name in ("optimizer", "schedule"):  # the type first, as one writes it
            sections[name] = {"type": sections[name]["type"], **sections[name]}
        return sections


def expand_blocks(model):
    """Return the layer specs of ``model`` (``layers`` and ``blocks``) with every block written out.

    ``{block = "name", repeat = n}`` becomes the layers of that block, n times (default 1). Blocks may use
    blocks. Raises ConfigError, which starts with the key path, for an unknown block, for a circle, and for
    more layers or deeper nesting than ``MOST_LAYERS`` and ``MOST_NESTING``; these are counted before anything
    is written out.
    """
    blocks, written_out = (
        model.get("blocks", {}),
        {},
    )  # of each block: its layers, and how many with all inside

    def expand(specs, path, inside, depth):
        """Return (layers, how many with those inside of containers)."""
        layers, total = [], 0
        if depth > MOST_NESTING:
            raise ConfigError(f"{path[:60]} ...: layers nested more than {MOST_NESTING} deep")
        for i, spec in enumerate(specs):
            where = f"{path}[{i}]"
            if "block" in spec:
                name, repeat = check_use(spec, where, inside)
                if name not in written_out:
                    inner = (*inside, name)
                    written_out[name] = expand(blocks[name], f"model.blocks.{name}", inner, depth + 1)
                once, count = written_out[name]
                total += count * repeat
            else:
                parts = {key: nested(value, f"{where}.{key}", inside, depth) for key, value in spec.items()}
                once, repeat = [{key: value for key, (value, _) in parts.items()}], 1
                total += 1 + sum(count for _, count in parts.values())
            if total > MOST_LAYERS:
                raise ConfigError(f"{where}: more than {MOST_LAYERS:,} layers, blocks written out")
            if once:
                layers.extend({**layer} for _ in range(repeat) for layer in once)
        return layers, total

    def nested(value, path, inside, depth):
        """Expand the lists of layers that containers hold; leave every other value alone."""
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            return expand(value, path, inside, depth + 1)
        if isinstance(value, list) and value and all(isinstance(v, list) for v in value):
            if depth > MOST_NESTING:
                raise ConfigError(f"{path[:60]} ...: lists nested more than {MOST_NESTING} deep")
            parts = [nested(v, f"{path}[{i}]", inside, depth + 1) for i, v in enumerate(value)]
            return [part for part, _ in parts], sum(count for _, count in parts)
        return value, 0

    def check_use(spec, where, inside):
        """Return (name, repeat) of ``{block = name, repeat = n}``."""
        name, repeat = spec["block"], spec.get("repeat", 1)
        if extra := sorted(set(spec) - {"block", "repeat"}):
            raise ConfigError(f"{where}.{extra[0]}: unknown key, a block takes only block and repeat")
        if not isinstance(name, str) or name not in blocks:
            known = ", ".join(blocks) or "none"
            hint = did_you_mean(name, blocks)
            raise ConfigError(f"{where}.block: found {name!r}, expected one of model.blocks: {known}.{hint}")
        if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
            raise ConfigError(f"{where}.repeat: found {repeat!r}, expected an integer >= 1")
        if name in inside:
            raise ConfigError(f"{where}.block: {name!r} contains itself")
        return name, repeat

    return expand(model["layers"], "model.layers", (), 0)[0]
