"""What an exported file says about itself: how images become numbers, the classes, a model card."""

import json
from dataclasses import dataclass, field

#: The function that makes a network's outputs its answers, by the loss that it was trained with.
ENDINGS = {"SoftmaxCrossEntropy": "softmax", "BCEWithLogitsLoss": "sigmoid"}
_WHAT = {
    "classes": "An image classifier",
    "numbers": "A network that tells numbers of an image,",
    "labels": "A network that tells which labels an image has,",
    "masks": "A network that tells the class of each pixel,",
}


@dataclass(frozen=True)
class About:
    """What a network needs beside its weights.

    Parameters
    ----------
    name : str
    classes : list of str
        Class k is ``classes[k]``.
    image_shape : (C, H, W)
        The images before evaluation crops them.
    crop : (H, W) or None
        The middle of the images that the network takes.
    mean, std : lists of C floats
        x = (pixel / 255 - mean) / std.
    card : str
        The model card, Markdown.
    targets : str
        What is told of an image, see ``cnn.targets``.
    ending : "softmax", "sigmoid" or "none"
        What makes the outputs the answers.
    """

    name: str = "network"
    classes: list = field(default_factory=list)
    image_shape: tuple | None = None
    crop: tuple | None = None
    mean: list | None = None
    std: list | None = None
    card: str = ""
    targets: str = "classes"
    ending: str = "softmax"

    def metadata(self):
        """Return what ONNX and safetensors files hold beside the weights: strings by name."""
        entries = {"cnn.name": self.name, "cnn.card": self.card}
        if (self.targets, self.ending) != ("classes", "softmax"):
            entries |= {"cnn.targets": self.targets, "cnn.ending": self.ending}
        for key in ("classes", "image_shape", "crop", "mean", "std"):
            value = getattr(self, key)
            if value:
                entries[f"cnn.{key}"] = json.dumps(value)
        return entries


def describe(network, config, meta, result=None):
    """Return the About of a trained network.

    Parameters
    ----------
    network, config, meta
        As ``cnn.training.experiment.load_trained`` returns them.
    result : dict, optional
        result.json of the run, for the model card.
    """
    shape, seen = tuple(meta["image_shape"]), tuple(network.input_shape)
    facts = {
        "name": config.name,
        "classes": [str(name) for name in meta["classes"]],
        "image_shape": shape,
        "crop": seen[1:] if seen[1:] != shape[1:] else None,
        "mean": [float(v) for v in meta["mean"]],
        "std": [float(v) for v in meta["std"]],
        "targets": config.data.targets,
        "ending": ENDINGS.get(config.loss.type, "none"),
    }
    return About(card=_card(network, config, facts, result or {}), **facts)


def _card(network, config, facts, result):
    c, h, w = facts["image_shape"]
    crop = "" if facts["crop"] is None else f", of which the middle {facts['crop'][0]}x{facts['crop'][1]}"
    channels = {1: "grey", 3: "RGB"}.get(c, f"{c} channels")
    lines = [
        f"# {facts['name']}",
        "",
        f"{_WHAT[facts['targets']]} trained with cnn.",
        "",
        f"- Input: {channels}, {h}x{w} pixels{crop}; x = (pixel / 255 - mean) / std with "
        f"mean {_numbers(facts['mean'])} and std {_numbers(facts['std'])}",
        f"- {facts['targets'].capitalize()}: {', '.join(facts['classes'])}",
        f"- Parameters: {sum(p.size for p in network.parameters()):,}",
        f"- Training data: {config.data.dataset}; {config.train.epochs} epochs, batches of "
        f"{config.data.batch_size}, {config.optimizer.type}, seed {config.seed}",
    ]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in result.items() if _is_plain(value)]
    return "\n".join(lines) + "\n"


def _numbers(values):
    return ", ".join(f"{v:.4f}" for v in values)


def _is_plain(value):
    return isinstance(value, int | float | str) and not isinstance(value, bool)
