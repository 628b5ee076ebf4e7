"""The sections of a config file as pydantic models: every key, its type, its range, its default."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from cnn.errors import ConfigError, did_you_mean

Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]  # zero included, one excluded
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# a float, but written as 10 where it is whole
Epochs = Annotated[
    float, Field(ge=0), AfterValidator(lambda n: int(n) if n == int(n) else n), PlainSerializer(lambda n: n)
]
Spec = dict[str, Any]  # {type = "Conv2d", ...}: checked against the constructor in cnn.config.specs


class Section(BaseModel):
    """What all sections share: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Section):
    """Which images, and how they become batches."""

    dataset: str = Field(
        min_length=1, description='"sample", a torchvision name such as "MNIST", or "folder"'
    )
    root: str = Field("data", min_length=1, description="folder of the data set, relative to the current one")
    batch_size: Count = 64
    drop_last: bool = Field(False, description="leave out an epoch's last batch where it is smaller")
    validation: Fraction = Field(0.1, description="share of the training images kept for validation")
    image_size: Count | tuple[Count, Count] | None = Field(
        None, description='"folder" only: pixels, or [height, width], to which all images are resized'
    )
    mode: Literal["L", "RGB"] | None = Field(None, description='"folder" only: grey or colour')
    split: str | None = Field(None, description='"EMNIST" only: balanced, letters, digits ...')
    augment: list[Spec] = Field([], description="random changes of the training images, in this order")
    mixup: NotNegative = Field(0.0, description="alpha of mixup, for example 0.2; 0 mixes nothing")

    def options(self):
        """Return what ``load_dataset`` takes beside the name and the root."""
        return self.model_dump(include={"image_size", "mode", "split"}, exclude_none=True)


class Model(Section):
    """The layers from the images to the logits."""

    layers: list[Spec] = Field(min_length=1)
    blocks: dict[str, list[Spec]] = Field({}, description='groups of layers, used as {block = "name"}')


class Loss(Section):
    """Softmax and cross-entropy in one."""

    label_smoothing: Fraction = 0.0
    class_weight: list[NotNegative] | None = Field(None, description="one number a class")


class Group(Section):
    """Parameters that learn in their own way; of all groups that match, the later one wins."""

    match: str = Field(min_length=1, description='glob on "0.weight", or on "BatchNorm2d.bias"')
    lr_scale: NotNegative | None = Field(None, description="multiplies the learning rate")
    weight_decay: NotNegative | None = Field(None, description="instead of the optimizer's")
    trainable: bool | None = Field(None, description="false: stays as it starts")
    from_epoch: NotNegative | None = Field(None, description="frozen before")
    until_epoch: NotNegative | None = Field(None, description="frozen from here on")


class Optimizer(Section):
    """What every optimizer takes."""

    weight_decay: NotNegative = 0.0
    decay_all: bool = Field(False, description="decay biases and norms as well")
    clip_norm: Rate | None = Field(None, description="largest norm of the whole gradient")
    groups: list[Group] = Field([], description="parameters with a rate, decay or time of their own")

    def options(self):
        """Return what ``make_optimizer`` takes beside the parameters."""
        return self.model_dump(exclude={"groups"}, exclude_none=True)


class Momentum(Optimizer):
    """What SGD and Muon share."""

    lr: Rate
    momentum: Fraction = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self):
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs a momentum above 0")
        return self


class SGD(Momentum):
    """Stochastic gradient descent."""

    type: Literal["SGD"]
    decoupled: bool = Field(False, description="weight decay stays out of the velocity (SGDW)")


class Muon(Momentum):
    """Orthogonalised steps for the filters of convolutions, SGD for the rest."""

    type: Literal["Muon"]
    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_steps: Count = Field(5, description="turns of the polynomial that orthogonalises")
    normalize: bool = Field(False, description="brings all filters to the length sqrt(K) before each step")


class Adam(Optimizer):
    """Adam, the decay added to the gradient."""

    type: Literal["Adam"]
    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Rate = 1e-8


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    type: Literal["AdamW"]
    weight_decay: NotNegative = 1e-2


class RMSprop(Optimizer):
    """Gradient divided by a running root mean square."""

    type: Literal["RMSprop"]
    lr: Rate = 1e-2
    alpha: Fraction = 0.99
    eps: Rate = 1e-8
    momentum: Fraction = 0.0


class Schedule(Section):
    """How the learning rate changes from step to step."""

    warmup_epochs: NotNegative = Field(0.0, description="the rate first rises evenly for so long")

    def options(self):
        """Return what ``make_schedule`` takes beside the type, the rate and the numbers of steps."""
        return self.model_dump(exclude={"type", "warmup_epochs"}, exclude_none=True)


class Constant(Schedule):
    """lr all the time."""

    type: Literal["constant"]


class Step(Schedule):
    """lr * gamma after every milestone."""

    type: Literal["step"]
    milestones: list[Rate] | None = Field(None, min_length=1, description="epochs from the start of the run")
    step_size: Rate | None = Field(None, description="instead: epochs between two milestones")
    gamma: Share = 0.1

    @model_validator(mode="after")
    def _one_of_two(self):
        if (self.milestones is None) == (self.step_size is None):
            raise ValueError("expected either milestones or step_size, in epochs")
        return self


class Cosine(Schedule):
    """Half a cosine from lr down to min_lr."""

    type: Literal["cosine"]
    min_lr: NotNegative = 0.0


class Linear(Schedule):
    """A straight line from lr down to min_lr."""

    type: Literal["linear"]
    min_lr: NotNegative = 0.0


class OneCycle(Schedule):
    """Up to lr, then down almost to zero (Smith and Topin, arXiv:1708.07120)."""

    type: Literal["one_cycle"]
    peak: Share = Field(0.3, description="share of the steps going up")
    start_factor: Share = Field(0.04, description="the first rate, as a part of lr")
    final_factor: Share = Field(4e-6, description="the last rate, as a part of lr")
    shape: Literal["cosine", "linear"] = "cosine"


class NoAverage(Section):
    """The weights are what the optimizer made of them."""

    type: Literal["none"]


class Lookahead(Section):
    """Weights pulled back towards their average every few steps, and at the end replaced by it."""

    type: Literal["lookahead"]
    every: Count = Field(5, description="steps")
    decay: Share = Field(0.7737809375, description="share of the average that stays, at the end of the run")
    ramp: NotNegative = Field(3.0, description="before, that share is less by (step / steps)^ramp")


class EMA(Section):
    """A running average of the weights beside the training: what is evaluated and kept."""

    type: Literal["ema"]
    decay: Fraction = Field(0.999, description="averages over about 1 / (1 - decay) steps")


class Train(Section):
    """How long, and on what."""

    epochs: Epochs = Field(10, description="9.9: the tenth epoch has nine tenths of its steps")
    backend: Literal["numba", "reference"] = "numba"
    threads: Count | None = Field(None, description="default: all cores; the results do not depend on it")
    winograd: bool = Field(True, description="numba: 3x3 convolutions with fewer multiplications, float32")
    checkpoint_every: Count = Field(1, description="epochs between two checkpoints")
    checkpoint_minutes: Rate = Field(5.0, description="a long epoch is saved this often as well")
    snapshots: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None, description="weights kept for `cnn explain --history`; default: 8 of a small network, else none"
    )


class Tta(Section):
    """Test-time augmentation: which views of an image the logits are averaged over."""

    flip: bool = Field(True, description="mirrored left to right as well")
    translate: Annotated[int, Field(ge=0)] = Field(0, description="pixels; crops of the reflect-padded image")
    crops: Literal[2, 4] = Field(2, description="2 of the corners, upper left and lower right, or all 4")


class Config(Section):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="the run folder is runs/<name>")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data
    model: Model
    loss: Loss = Loss()
    optimizer: Annotated[SGD | Muon | Adam | AdamW | RMSprop, Field(discriminator="type")]
    schedule: Annotated[Constant | Step | Cosine | Linear | OneCycle, Field(discriminator="type")] = Constant(
        type="constant"
    )
    average: Annotated[NoAverage | Lookahead | EMA, Field(discriminator="type")] = NoAverage(type="none")
    train: Train = Train()
    tta: Tta | None = Field(None, description="for the test and `cnn evaluate --tta`")

    @model_validator(mode="after")
    def _fits_together(self):
        warmup, epochs = self.schedule.warmup_epochs, self.train.epochs
        if warmup and warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs: found {warmup:g}, expected less than train.epochs = {epochs}"
            )
        if getattr(self.schedule, "min_lr", 0) > self.optimizer.lr:
            lowest, lr = self.schedule.min_lr, self.optimizer.lr
            raise ValueError(f"schedule.min_lr: found {lowest:g}, expected at most optimizer.lr = {lr:g}")
        return self

    def plain(self):
        """Return the whole config as dicts and lists, the keys without a value left out."""
        sections = self.model_dump(mode="json", exclude_none=True)
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
    blocks. Raises ConfigError, which starts with the key path, for an unknown block and for a circle.
    """
    blocks = model.get("blocks", {})

    def expand(specs, path, inside):
        for i, spec in enumerate(specs):
            where = f"{path}[{i}]"
            if not isinstance(spec, dict) or "block" not in spec:
                yield {k: nested(v, f"{where}.{k}", inside) for k, v in spec.items()}
                continue
            name, repeat = spec["block"], spec.get("repeat", 1)
            if extra := sorted(set(spec) - {"block", "repeat"}):
                raise ConfigError(f"{where}.{extra[0]}: unknown key, a block takes only block and repeat")
            if not isinstance(name, str) or name not in blocks:
                known = ", ".join(blocks) or "none"
                hint = did_you_mean(name, blocks)
                raise ConfigError(
                    f"{where}.block: found {name!r}, expected one of model.blocks: {known}.{hint}"
                )
            if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
                raise ConfigError(f"{where}.repeat: found {repeat!r}, expected an integer >= 1")
            if name in inside:
                raise ConfigError(f"{where}.block: {name!r} contains itself")
            once = list(expand(blocks[name], f"model.blocks.{name}", (*inside, name)))
            for _ in range(repeat):
                yield from ({**layer} for layer in once)

    def nested(value, path, inside):
        """Expand the lists of layers that containers hold; leave every other value alone."""
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            return list(expand(value, path, inside))
        if isinstance(value, list) and value and all(isinstance(v, list) for v in value):
            return [nested(v, f"{path}[{i}]", inside) for i, v in enumerate(value)]
        return value

    return list(expand(model["layers"], "model.layers", ()))
