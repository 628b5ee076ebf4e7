"""The page of `cnn explain` where a network ends with another loss than softmax with cross-entropy."""

import numpy as np

from cnn.errors import ConfigError, NumericError, did_you_mean


def explain_outputs(network, config, meta, source, label, training):
    """Return (HTML text, one line about the answer); see ``cnn.commands.explain.explain``.

    ``source`` is the image with its target, None where nobody told it; ``label`` is the text of --label.
    """
    from importlib.metadata import version

    from cnn.backend import use_backend
    from cnn.data import Split
    from cnn.explain.collect import collect
    from cnn.explain.page import build_page
    from cnn.targets import KINDS
    from cnn.training import experiment

    kind, classes = KINDS[config.data.targets], meta["classes"]
    scale = None
    if kind.name == "numbers":
        scale = np.array(meta["target_mean"]), np.array(meta["target_std"])
    told = source.label if label is None else target_of(label, kind, classes)
    empty = kind.empty(1, classes, source.pixels.shape[1:])
    labels = empty if told is None or kind.name != "masks" else told[None]
    batches = experiment.evaluation_batches(
        config, Split(source.pixels[None], labels), meta["mean"], meta["std"]
    )
    x, labels = next(iter(batches.epoch(0)))
    loss = experiment.loss_of(config, meta)
    with use_backend(config.train.backend), np.errstate(all="ignore"):
        outputs = np.asarray(network.predict(x))
        if not np.isfinite(outputs).all():
            raise NumericError("the network answers NaN or Inf for this image")
        answer = outputs.argmax(axis=1)[0] if kind.name == "masks" else np.asarray(loss.answers(outputs))[0]
        target = _target(kind, told, labels, answer, len(classes), scale)
        plain = getattr(loss, "loss", loss)  # of numbers, in units of their spread
        nodes = collect(network, np.asarray(x)[0], target, training=training, loss=plain)
    about = {
        "label": 0,
        "known": told is not None,
        "remarks": source.remarks,
        "training": training,
        "smoothing": 0,
        "rate": config.optimizer.lr,
        "source": source.name,
        "backend": f"{config.train.backend} (cnn {version('cnn')}, float32)",
        "mean": [float(v) for v in meta["mean"]],
        "std": [float(v) for v in meta["std"]],
    }
    if scale is not None:
        about["units"] = {"mean": scale[0].tolist(), "std": scale[1].tolist()}
    line = kind.line(answer if kind.name != "masks" else answer.astype(np.uint8), classes)
    return build_page(nodes, config.name, classes, about), f"tells {line}"


def _target(kind, told, labels, answer, count, scale):
    """Return what the loss compares the outputs with; the answer itself where nobody told what is right."""
    if kind.name == "masks":
        return (labels[0] if told is not None else answer).astype(np.int64)
    if kind.name == "classes":
        return np.eye(count, dtype=np.float32)[int(answer.argmax()) if told is None else int(told)]
    if kind.name == "labels":
        return (answer > 0.5 if told is None else told).astype(np.float32)
    return ((answer if told is None else np.asarray(told, np.float64)) - scale[0]) / scale[1]


def target_of(text, kind, names):
    """Return the target that --label tells: a class, numbers or names with commas between them."""
    if kind.name == "masks":
        raise ConfigError("--label: a mask cannot be told in words; --image I takes one of the test split")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if kind.name == "numbers":
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(values) != len(names):
            raise ConfigError(f'--label: found "{text}", expected {len(names)} numbers: {", ".join(names)}')
        return values
    for part in parts:
        if part not in names:
            hint = did_you_mean(part, names)
            raise ConfigError(f'--label: found "{part}", expected one of {", ".join(names)}.{hint}')
    if kind.name == "labels":
        return np.array([name in parts for name in names])
    if len(parts) != 1:
        raise ConfigError(f'--label: found "{text}", expected one class')
    return list(names).index(parts[0])
