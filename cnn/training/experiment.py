"""From a checked config to the objects of a run: data, network, loss, optimizer, schedule."""

import math
from dataclasses import dataclass
from functools import cached_property, wraps

import numpy as np

from cnn.config import expand_blocks, naming_file
from cnn.data import (
    NAMES,
    Batches,
    Dataset,
    Split,
    augment,
    is_own,
    load_dataset,
    normalization,
    own_shape,
    split_validation,
)
from cnn.data.named import emnist_classes
from cnn.errors import CheckpointError, ConfigError, DataError, ShapeError, did_you_mean
from cnn.layers import LOSSES, BatchNorm1d, BatchNorm2d, from_config
from cnn.layers.number_loss import Standardized
from cnn.network import Network
from cnn.optimizers import make_optimizer
from cnn.optimizers.averaging import make_average
from cnn.optimizers.groups import Groups
from cnn.optimizers.schedules import make_schedule
from cnn.targets import KINDS
from cnn.training.callbacks import EarlyStopping, TopCheckpoints
from cnn.training.loggers import TRACKERS, JsonLines
from cnn.training.whitening import whiten, whitened_layers

_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)
_SHAPES = {
    "sample": (_GREY, 10),
    "MNIST": (_GREY, 10),
    "FashionMNIST": (_GREY, 10),
    "KMNIST": (_GREY, 10),
    "CIFAR10": (_COLOUR, 10),
    "CIFAR100": (_COLOUR, 100),
    "SVHN": (_COLOUR, 10),
}
_WHITENING_IMAGES = 5000


def _of(key):
    """Decorate a function of a config: its ConfigErrors name the file and the key, at least ``key``."""

    def decorate(function):
        @wraps(function)
        def named(config, *args, **options):
            with naming_file(config, key):
                return function(config, *args, **options)

        return named

    return decorate


@dataclass(frozen=True, eq=False)
class Images:
    """The data of a run: what is trained on, what is kept aside, and how pixels become numbers."""

    dataset: Dataset
    train: Split
    validation: Split
    mean: np.ndarray
    std: np.ndarray

    @property
    def classes(self):
        """The names of the classes; label k means ``classes[k]``."""
        return self.dataset.classes

    @property
    def kind(self):
        """What is told of an image: one of ``cnn.targets.KINDS``."""
        return KINDS[self.dataset.targets]

    @cached_property
    def scale(self):
        """(mean, std) of each of the numbers to be told, over the training images; None of other targets."""
        if self.kind.name != "numbers":
            return None
        labels = self.train.labels.astype(np.float64)
        constant = labels.min(axis=0) == labels.max(axis=0)
        return labels.mean(axis=0), np.where(constant, 1.0, labels.std(axis=0))


@_of("data")
def load_images(config, own=True):
    """Return the Images of a config: loaded, split by its seed, mean and std of the training part.

    A part of its own for validation is taken as it is. Of your own images each class keeps its share.
    """
    dataset = read_dataset(config, own)
    train, validation = dataset.train, dataset.validation
    if validation is None:
        stratified = is_own(config.data.dataset) and dataset.targets == "classes"
        train, validation = split_validation(train, config.data.validation, config.seed, stratified)
    return Images(dataset, train, validation, *normalization(train.images))


@_of("data")
def read_dataset(config, own=True):
    """Return the Dataset of a config.

    ``own=False`` is for the config in a checkpoint, which may be a stranger's: nothing is downloaded for it
    and nothing written into the folder that it names.
    """
    download = "first use" if own else False
    return load_dataset(config.data.dataset, config.data.root, download, own, **config.data.options())


@_of("data")
def input_shape(config):
    """Return ((C, H, W), classes) of what the network will see, without reading a data set.

    Known for data sets with a name; of your own images in a folder one is opened, other files are read.
    Raises ConfigError for an unknown name, DataError when the folder has no image.
    """
    name = config.data.dataset
    if is_own(name):
        shape, classes = own_shape(name, config.data.root, **config.data.options())
    elif name == "EMNIST":
        shape, classes = _GREY, len(emnist_classes(config.data.split))
    elif name in _SHAPES:
        shape, classes = _SHAPES[name]
    else:
        raise ConfigError(
            f'data.dataset: found "{name}", expected one of {", ".join(NAMES)}.{did_you_mean(name, NAMES)}'
        )
    return augment.output_shape(augment.from_config(config.data.augment), shape), classes


@_of("data")
def training_batches(config, images):
    """Return the shuffled, augmented Batches of the training part."""
    return Batches(
        images.train.images,
        images.train.labels,
        config.data.batch_size,
        images.mean,
        images.std,
        augment=augment.from_config(config.data.augment),
        seed=config.seed,
        shuffle=True,
        drop_last=config.data.drop_last,
        mixup=config.data.mixup,
        classes=len(images.classes),
    )


@_of("data")
def evaluation_batches(config, split, mean, std):
    """Return the Batches of a split in its own order, free of chance."""
    least = 1 if config.data.targets == "masks" else 64  # needs no more memory than training does
    batch_size = max(least, config.data.batch_size)
    changes = augment.for_evaluation(augment.from_config(config.data.augment))
    return Batches(split.images, split.labels, batch_size, mean, std, augment=changes)


@_of("model.layers")
def build_network(config, input_shape, classes=None, network=None):
    """Return the built network of a config, its weights drawn from the config's seed.

    ``network`` stands in for the config's layers; what is built of it keeps its values. Raises ConfigError
    when a layer does not fit its input, and when the last layer does not give one number a class
    (``classes``: how many, None to leave that open).
    """
    if network is None:
        network = Network(from_config(layer_specs(config)), precision=config.train.precision)
        with naming_file(config, "train"):
            network.float32_layers = config.train.float32_layers
    output = network.build(input_shape, rng=np.random.default_rng(config.seed))
    kind = KINDS[config.data.targets]
    if kind.name == "masks":
        expected = kind.outputs(range(output[0] if classes is None else classes), input_shape[1:])
        if output != expected:
            raise ConfigError(
                f"model.layers: the last layer gives {output}, expected {expected}: a number for each class "
                "at each pixel of the image"
            )
        return network
    of = {"classes": "class", "labels": "label", "numbers": "column"}[kind.name]
    if len(output) != 1:
        raise ConfigError(
            f"model.layers: the last layer gives {output}, expected one number a {of}: add Flatten, Linear"
        )
    if classes is not None and output != (classes,):
        raise ConfigError(
            f"model.layers: the last layer gives {output[0]} numbers, expected {classes}, one a {of}"
        )
    return network


@_of("model.layers")
def check_parameters(config):
    """Raise what ``build_groups`` and ``whiten_network`` would, before a data set is read."""
    if not config.optimizer.groups and "whitening" not in str(config.model):
        return
    shape, classes = input_shape(config)
    network = build_network(config, shape, classes if config.start is None else None)
    build_groups(config, network)
    whitened_layers(network)


@_of("data.batch_size")
def check_last_batch(config, network, batches, total_steps):
    """Raise ConfigError where a batch of one image would reach a BatchNorm that needs more than one value."""
    count, size = batches.images_per_epoch, batches.batch_size
    last = count - (len(batches) - 1) * size
    if size > 1 and (last != 1 or total_steps < len(batches)):
        return
    for _, layer in network.walk():
        if isinstance(layer, BatchNorm1d | BatchNorm2d) and math.prod(layer.input_shape[1:]) == 1:
            advice = "set data.drop_last = true, or another data.batch_size" if size > 1 else "raise it"
            raise ConfigError(
                f"data.batch_size: {count:,} training images in batches of {size} give a batch of one, and "
                f"{layer.label} needs more than one value per channel: {advice}"
            )


@_of("model.layers")
def whiten_network(config, network, images):
    """Whiten the layers that ask for it with up to 5,000 training images, unaugmented.

    They are spread evenly over the training part: a data set may be sorted by class.
    """
    layers, total = whitened_layers(network), len(images.train)
    if not layers:
        return
    count = min(total, _WHITENING_IMAGES)
    chosen = images.train.take(np.arange(count) * total // count)
    batches = evaluation_batches(config, chosen, images.mean, images.std)
    x = np.concatenate([x for x, _ in batches.epoch(0)])
    for layer in layers:
        whiten(layer, x)


def layer_specs(config):
    """Return the layers of a config as plain dicts, blocks written out."""
    return expand_blocks(config.model.model_dump())


@_of("loss")
def build_loss(config, classes, scale=None):
    """Return the training loss; ConfigError where it does not fit so many classes.

    ``scale`` is (mean, std) of the numbers that a regression learns, as ``Images.scale``.
    """
    weights = getattr(config.loss, "class_weight", None)
    if weights is not None and len(weights) != classes:
        raise ConfigError(f"loss.class_weight: found {len(weights)} numbers, expected {classes}, one a class")
    if weights is not None and not any(weights):
        raise ConfigError("loss.class_weight: every weight is 0, expected at least one above 0")
    loss = LOSSES.make(config.loss.model_dump(exclude_none=True))
    try:
        loss.forward(np.zeros((1, classes), np.float32), np.zeros(1, np.int64))
    except (ShapeError, DataError) as error:
        raise ConfigError(f"loss: {error}") from error
    return loss if scale is None else Standardized(loss, *scale)


def loss_of(config, meta):
    """Return the training loss of a trained network, as ``load_trained`` returns it."""
    scale = (meta["target_mean"], meta["target_std"]) if meta.get("target_mean") else None
    return build_loss(config, len(meta["classes"]), scale)


@_of("optimizer.groups")
def build_groups(config, network, first=()):
    """Return the Groups of a config, after telling every parameter of a built network what they ask.

    ``first`` are groups that go before those of the config.
    """
    return Groups(network, [group.model_dump(exclude_none=True) for group in config.optimizer.groups], first)


@_of("optimizer")
def build_optimizer(config, network):
    """Return the optimizer of a config for a built network; ``build_groups`` goes before it."""
    if not network.parameters():
        raise ConfigError("model.layers: no layer has parameters, so there is nothing to train")
    return make_optimizer(parameters=network.parameters(), **config.optimizer.options())


def total_steps(config, steps_per_epoch):
    """Return the steps of the whole run: epochs * steps_per_epoch, a last part of a step counts as one."""
    return math.ceil(round(config.train.epochs * steps_per_epoch, 6))  # 0.1 * 30 is a little above 3


@_of("schedule")
def build_schedule(config, steps_per_epoch):
    """Return the function step -> learning rate."""
    schedule = config.schedule
    return make_schedule(
        schedule.type,
        lr=config.optimizer.lr,
        total_steps=max(1, total_steps(config, steps_per_epoch)),
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(schedule.warmup_epochs * steps_per_epoch),
        **schedule.options(),
    )


def own_callbacks(config):
    """Return the callbacks that the config asks for."""
    patience, top = config.train.patience, config.train.keep_top
    return [
        JsonLines(),
        *([EarlyStopping(patience)] if patience else []),
        *([TopCheckpoints(top)] if top else []),
        *(TRACKERS[name]() for name in config.train.loggers),
    ]


@_of("average")
def build_average(config, network, steps_per_epoch):
    """Return the average of the weights that a config asks for; the network holds its first weights."""
    options = config.average.model_dump()
    return make_average(options.pop("type"), network, total_steps(config, steps_per_epoch), **options)


def untrained(dataset, augment=(), targets="classes", loss="SoftmaxCrossEntropy"):
    """Return the document of the config of a network that came without one."""
    return {
        "data": {"dataset": dataset, "augment": list(augment), "targets": targets},
        "loss": {"type": loss},
        "model": {"layers": [{"type": "Flatten"}]},  # a config needs one; the network is the file's
        "optimizer": {"type": "SGD", "lr": 0.01},
        "train": {"epochs": 1},
    }


def load_trained(run_or_checkpoint, overrides=()):
    """Return (network, config, meta) of a run folder or a checkpoint; ``overrides`` change its config."""
    from cnn.config import resolve
    from cnn.training import checkpoint

    network, meta = checkpoint.load_network(run_or_checkpoint)
    path = checkpoint.find(run_or_checkpoint)
    document = meta["config"] or untrained("none")
    try:
        resolve(document, path, foreign=True)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    config = resolve(document, path, overrides)
    network.precision = config.train.precision
    network.float32_layers = config.train.float32_layers
    return network, config, meta
