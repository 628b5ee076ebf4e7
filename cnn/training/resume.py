"""The state of a run on the disk: what is saved, what a resume takes over, and what it refuses.

last.safetensors holds all that the next step depends on, best.safetensors the weights to be tested. The last
is written before the best of the same epoch: where a run was killed between the two, the best is written
again from the last.
"""

from pydantic import ValidationError

from cnn.backend import processor
from cnn.config import load_config, resolve
from cnn.config.report import show
from cnn.errors import CheckpointError, ConfigError
from cnn.report import gradients
from cnn.training import checkpoint, experiment, finite
from cnn.training.header import check_header
from cnn.training.progress import Progress

_FREE_TO_CHANGE = (
    "train.epochs",
    "train.threads",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "data.root",
    "train.loggers",
    "train.patience",
    "train.keep_top",
)


def header(trainer):
    """Return what every checkpoint of a run says about itself."""
    images = trainer.images
    scale = dict(zip(("target_mean", "target_std"), images.scale or (), strict=False))
    return {
        "config": trainer.config.plain(),
        "layers": experiment.layer_specs(trainer.config),
        "classes": list(images.classes),
        "input_shape": list(trainer.network.input_shape),
        "image_shape": list(images.dataset.input_shape),
        "mean": images.mean.tolist(),
        "std": images.std.tolist(),
        **{name: values.tolist() for name, values in scale.items()},
        "data": images.dataset.digests,
        "processor": processor(),
        "epoch": trainer.progress.epoch,
        **({} if trainer.start is None else {"taken": trainer.start.taken}),
    }


def _sections(trainer):
    return {
        "network": trainer.network.state(),
        "optimizer": trainer.optimizer.state(),
        "average": trainer.average.state(),
    }


def _tensors(sections):
    return {f"{part}/{name}": array for part, state in sections.items() for name, array in state.items()}


def save_last(trainer):
    """Write last.safetensors; raises NumericError, and writes nothing, where a number in it is not finite."""
    tensors = _tensors(_sections(trainer))
    _refuse_not_finite(trainer, tensors)
    trainer.progress.history = trainer.run.digest(trainer.history)
    checkpoint.save(trainer.run.last, tensors, {**header(trainer), "progress": trainer.progress.record()})


def save_weights(trainer, path, score):
    """Write a file such as best.safetensors: the weights, averaged where there is an average; as above."""
    with trainer.average.applied():
        tensors = _tensors({"network": trainer.network.state()})
        _refuse_not_finite(trainer, tensors)
        checkpoint.save(path, tensors, {**header(trainer), "score": score})


def _refuse_not_finite(trainer, tensors):
    found = finite.first_not_finite(tensors)
    if found is not None:
        raise trainer.numeric_error(found)


def began_with(run):
    """Return the Config that a run began with: its checkpoint's, before the first one its config.toml's."""
    if not run.last.exists():
        return load_config(run.config)
    with checkpoint.opened(run.last) as file:
        plain = check_header(file.description, run.last).config
    try:
        # resolved again: a key that is newer than the checkpoint has its default
        return resolve(plain, run.last, foreign=True)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def restore(trainer):
    """Take over last.safetensors; without one (killed before the first) start from the beginning.

    Raises CheckpointError when a checkpoint is missing, cannot be read or does not fit, or when the data have
    changed; ConfigError when the run has trained longer than is asked for; NumericError for NaN and Inf.
    """
    run = trainer.run
    if not run.last.exists():
        if run.best.exists() or len(run.read_metrics()) > 1:
            raise CheckpointError(
                f"{run.last}: missing, but {run.path} holds results of training; put it back, or start anew "
                "in another folder (--run)"
            )
        run.log("no checkpoint yet: starting from the beginning")
        return
    with checkpoint.opened(run.last) as file:
        if file.version != checkpoint.FORMAT:
            raise CheckpointError(
                f"{run.last}: format {file.version}, written by an earlier version of cnn, expected "
                f"{checkpoint.FORMAT}: it can be evaluated, not resumed"
            )
        saved = check_header(file.description, run.last)
        progress = _progress(trainer, saved)
        _check_data(trainer, saved)
        done = _check_length(trainer, progress)
        rewrite_best = _check_best(trainer, saved, progress)
        sections = _sections(trainer)
        for name, arrays in sections.items():
            checkpoint.restore(file, name, arrays, run.last)
    checkpoint.check_finite(_tensors(sections), run.last)
    try:
        trainer.optimizer.load_state(sections["optimizer"])  # what in it is not a live array
    except ConfigError as error:
        raise CheckpointError(f"{run.last}: {error}") from error
    trainer.progress, trainer.history = progress, run.read_metrics()[: progress.epoch]
    if len(trainer.history) < progress.epoch:
        run.log(
            f"{run.metrics}: found {len(trainer.history)} whole rows, expected {progress.epoch}; "
            "the curves lack the others"
        )
    elif progress.history not in (None, run.digest(trainer.history)):
        run.log(f"{run.metrics}: changed since the checkpoint was written; the curves show what it says now")
    if saved.processor != processor():
        run.log(
            f"another type of processor: the run began on {saved.processor}, this is {processor()}; "
            "it goes on, but the last bits may differ"
        )
    if rewrite_best:
        save_weights(trainer, run.best, progress.best)
    if progress.cut is not None and trainer.total_steps > done:
        _reopen(trainer)
    run.log(f"resuming after epoch {trainer.progress.epoch}, step {trainer.progress.step}")


def _progress(trainer, saved):
    path = trainer.run.last
    if saved.progress is None:
        raise CheckpointError(f"{path}: holds no state to resume")
    try:
        progress = Progress(**saved.progress)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, ("progress", *first["loc"])))
        raise CheckpointError(
            f"{path}: holds no state to resume ({where[:80]}: {first['msg'][:80]})"
        ) from None
    widths = {len(row) for row in progress.gradients}
    steps = progress.cut["step"] if progress.cut else progress.step
    sound = widths <= {1 + len(gradients.layer_names(trainer.network))} and progress.epoch == saved.epoch
    sound = sound and all(row[0] <= progress.epoch + 1 and min(row) >= 0 for row in progress.gradients if row)
    if not sound or steps > len(trainer.batches) or progress.correct > progress.seen:
        raise CheckpointError(
            f"{path}: holds no state to resume (progress: numbers that do not fit this run)"
        )
    return progress


def _check_data(trainer, saved):
    now, path = header(trainer), trainer.run.last
    where = f"{path}: %s changed since the run began (data.root = {trainer.config.data.root})"
    for name in ("classes", "input_shape", "image_shape"):
        if list(getattr(saved, name)) != now[name]:
            raise CheckpointError(where % f"{name} of the data")
    for part, what in (("train", "training"), ("test", "test"), ("validation", "validation")):
        if saved.data is None or getattr(saved.data, part) != now["data"].get(part):
            raise CheckpointError(where % f"the {what} images, or the labels or classes of them,")
    for name in ("mean", "std"):
        if getattr(saved, name) != now[name]:
            raise CheckpointError(where % f"{name} of the data")


def _check_length(trainer, progress):
    """Return the steps that were taken; ConfigError when there are to be fewer."""
    steps = len(trainer.batches)
    done = progress.epoch * steps + progress.step
    if progress.cut is not None:
        done = (progress.epoch - 1) * steps + progress.cut["step"]
    if done > trainer.total_steps:
        raise ConfigError(
            f"--resume: train.epochs: found {trainer.config.train.epochs}, expected at least "
            f"{done / steps:.6g}: so many have been trained; start a new run to train fewer"
        )
    return done


def _check_best(trainer, saved, progress):
    """Return whether best.safetensors is to be written again; CheckpointError when it cannot be used."""
    path, epochs = trainer.run.best, trainer.config.train.epochs
    if progress.best is None:
        return False
    current = progress.best["epoch"] == progress.epoch and progress.step == 0
    if not path.exists():
        if current:
            return True
        raise CheckpointError(
            f"{path}: missing, expected the weights of epoch {progress.best['epoch']}; put it back, or start "
            "a new run"
        )
    with checkpoint.opened(path) as file:
        best = check_header(file.description, path)
        file.check()
    if best.epoch > progress.epoch and epochs != saved.config.get("train", {}).get("epochs"):
        raise ConfigError(
            f"--resume: train.epochs: found {epochs}, expected {saved.config['train']['epochs']} as before: "
            f"{path} is of epoch {best.epoch}, {trainer.run.last.name} of epoch {progress.epoch}, and the "
            "epochs between have to be trained again first"
        )
    if best.epoch < progress.best["epoch"]:
        if current:
            return True
        raise CheckpointError(
            f"{path}: found the weights of epoch {best.epoch}, expected those of {progress.best['epoch']}"
        )
    return False


def _reopen(trainer):
    """Go on inside of the epoch that was the last one and was cut short."""
    p = trainer.progress
    p.epoch -= 1
    p.step, p.loss_sum, p.epoch_seconds = p.cut["step"], p.cut["loss_sum"], p.cut["epoch_seconds"]
    p.correct, p.seen, p.seconds = p.cut["correct"], p.cut["seen"], max(0.0, p.seconds - p.epoch_seconds)
    if p.best is not None and p.best["epoch"] > p.epoch:
        p.best = None  # it had not seen the whole epoch, and its row goes
    p.cut, trainer.history = None, trainer.history[: p.epoch]
    steps = len(trainer.batches)
    trainer.run.log(f"epoch {p.epoch + 1} had ended after step {p.step} of {steps} and goes on")


def check_same_experiment(config, began):
    """Raise ConfigError when ``config`` differs from ``began`` (plain dicts) in what shapes the result.

    Free to change on a resume: how long, how many threads, how often to save, and where the data lie.
    """
    before, now = flat(began), flat(config)
    for key in [*now, *(key for key in before if key not in now)]:
        if key.partition(",")[0] not in _FREE_TO_CHANGE and before.get(key) != now.get(key):
            found, expected = (show(values[key]) if key in values else "nothing" for values in (now, before))
            raise ConfigError(
                f"--resume: {key}: found {found}, expected {expected} as the run began; "
                "start a new run to change it"
            )


def flat(value, path=""):
    """Return {"optimizer.lr": 0.1, "model.layers[0].type": "Conv2d", ...}."""
    if isinstance(value, dict):
        parts = [(f"{path}.{key}".lstrip("."), part) for key, part in value.items()]
    elif isinstance(value, list) and all(isinstance(part, dict | list) for part in value):
        parts = [(f"{path}, entries", len(value))]
        parts += [(f"{path}[{i}]", part) for i, part in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for where, part in parts for key, leaf in flat(part, where).items()}
