"""Checks ``{type = "Conv2d", ...}`` tables against the annotated constructor of the class they name.

So a new layer or augmentation is known to the config, and to its JSON Schema, as soon as it exists.
"""

import inspect
import json

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cnn.config.models import expand_blocks
from cnn.config.report import show
from cnn.errors import ConfigError, did_you_mean
from cnn.layers import LAYERS, LOSSES
from cnn.registry import nesting, nothing_imported, words


def check_model(model):
    """Return one line for each mistake in the layers and blocks of a ``[model]`` section."""
    return [
        *_check_list(model.layers, "model.layers", LAYERS),
        *(
            line
            for name, specs in model.blocks.items()
            for line in _check_list(specs, f"model.blocks.{name}", LAYERS)
        ),
    ]


def check_layers(layers):
    """Return one line for each mistake in a list of layers without blocks, as a checkpoint has it."""
    try:
        expand_blocks({"layers": layers})  # counts layers and depth
    except ConfigError as error:
        return [str(error)]
    with nothing_imported():  # a file that somebody else may have written does not decide what is imported
        return _check_list(layers, "layers", LAYERS)


def check_augmentations(augment):
    """Return one line for each mistake in ``data.augment``."""
    from cnn.data.augment import AUGMENTATIONS  # brings Numba, which reading a config does without

    return _check_list(augment, "data.augment", AUGMENTATIONS)


def check_loss(loss):
    """Return one line for each mistake in a ``[loss]`` section that names a class from outside."""
    spec = loss.model_dump()
    return _check(spec, "loss", LOSSES) if spec["type"] not in LOSSES.types() else []


def adapter(annotation):
    """Return the strict pydantic checker of an annotation."""
    return TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _check_list(specs, path, types):
    return [line for i, spec in enumerate(specs) for line in _check(spec, f"{path}[{i}]", types)]


def _check(spec, path, types):
    """Return the mistakes of one table, those of the layers inside of it included."""
    known = types.types()
    if not isinstance(spec, dict):
        return [f'{path}: found {show(spec)}, expected a table such as {{type = "{types.example}"}}']
    if "block" in spec:
        return []  # expand_blocks has checked it
    if "type" not in spec:
        return [f'{path}.type: missing, expected a name such as "{types.example}".{_close(spec, known)}']
    name = spec["type"]
    try:
        cls = types.find(name)
    except ConfigError as error:
        return [f"{path}.type: {error}"]
    expected, errors = types.arguments(cls), []
    for key in spec:
        if key not in expected and key != "type":
            hint = did_you_mean(key, expected) or f" It takes {', '.join(expected) or 'none'}."
            errors.append(f"{path}.{key}: unknown argument of {name}.{hint}")
    for key, (annotation, default) in expected.items():
        if key not in spec:
            if default is inspect.Parameter.empty:
                errors.append(f"{path}.{key}: missing, {name} needs it: expected {words(annotation)}")
        elif depth := nesting(annotation):
            errors += _check_nested(spec[key], f"{path}.{key}", types, depth)
        else:
            errors += _check_value(spec[key], annotation, f"{path}.{key}")
    if not errors and not any(nesting(annotation) for annotation, _ in expected.values()):
        errors += _construct(types, spec, path)
    return errors


def _close(spec, known):
    """Guess the type from a misspelt key such as ``tpye``, or from a layer's name used as a key."""
    return next((hint for key in spec if (hint := did_you_mean(key, ["type", *known]))), "")


def _check_nested(value, path, types, depth):
    """Return the mistakes of the list of layers (depth 1), or of lists of layers (2), in a container."""
    if not isinstance(value, list):
        return [f"{path}: found {show(value)}, expected a list of {types.what}s"]
    if depth == 1:
        return _check_list(value, path, types)
    return [line for i, v in enumerate(value) for line in _check_nested(v, f"{path}[{i}]", types, 1)]


def _check_value(value, annotation, path):
    try:
        adapter(annotation).validate_json(json.dumps(value, default=str))
    except ValidationError:
        return [f"{path}: found {show(value)}, expected {words(annotation)}"]
    return []


def _construct(types, spec, path):
    """Let the constructor judge what types cannot say, such as a kernel size of 0."""
    try:
        types.make(spec)
    except ConfigError as error:
        return [f"{path}: {error}"]
    return []
