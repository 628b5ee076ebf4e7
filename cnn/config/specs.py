"""Checks ``{type = "Conv2d", ...}`` tables against the annotated constructor of the class they name.

So a new layer or augmentation is known to the config, and to its JSON Schema, as soon as it exists.
"""

import inspect
import json
import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cnn.config.models import expand_blocks
from cnn.config.report import show
from cnn.errors import ConfigError, did_you_mean

_WORDS = {int: "integer", float: "number", bool: "true or false", str: "string", dict: "table"}


def layer_types():
    """Return the layer classes by name."""
    from cnn.layers import layer_types

    return layer_types()


def augmentation_types():
    """Return the augmentation classes by name."""
    from cnn.data import augment

    return augment.types()


def check_model(model):
    """Return one line for each mistake in the layers and blocks of a ``[model]`` section."""
    return [
        *_check_list(model.layers, "model.layers", layer_types(), "layer"),
        *(
            line
            for name, specs in model.blocks.items()
            for line in _check_list(specs, f"model.blocks.{name}", layer_types(), "layer")
        ),
    ]


def check_layers(layers):
    """Return one line for each mistake in a list of layers without blocks, as a checkpoint has it."""
    try:
        expand_blocks({"layers": layers})  # counts layers and depth
    except ConfigError as error:
        return [str(error)]
    return _check_list(layers, "layers", layer_types(), "layer")


def check_augmentations(augment):
    """Return one line for each mistake in ``data.augment``."""
    return _check_list(augment, "data.augment", augmentation_types(), "augmentation")


@cache
def arguments(cls):
    """Return {name: (annotation, default)} of a constructor; ``inspect.Parameter.empty`` is no default."""
    hints = get_type_hints(cls.__init__)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def layer_depth(annotation):
    """Return 1 for ``list`` (of layers, in a container), 2 for ``list[list]``, 0 for everything else."""
    if annotation == list[list]:
        return 2
    return int(list in (annotation, *get_args(annotation)))


def adapter(annotation):
    """Return the strict pydantic checker of an annotation."""
    return TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _check_list(specs, path, known, what):
    return [line for i, spec in enumerate(specs) for line in _check(spec, f"{path}[{i}]", known, what)]


def _check(spec, path, known, what):
    """Return the mistakes of one table, those of the layers inside of it included."""
    if not isinstance(spec, dict):
        return [f'{path}: found {show(spec)}, expected a table such as {{type = "{next(iter(known))}"}}']
    if "block" in spec:
        return []  # expand_blocks has checked it
    if "type" not in spec:
        return [f'{path}.type: missing, expected a name such as "{next(iter(known))}".{_close(spec, known)}']
    name = spec["type"]
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(name, known) or f" There are {', '.join(sorted(known))}."
        return [f"{path}.type: found {show(name)}, expected a known {what}.{hint}"]
    cls, errors = known[name], []
    expected = arguments(cls)
    for key in spec:
        if key not in expected and key != "type":
            hint = did_you_mean(key, expected) or f" It takes {', '.join(expected) or 'none'}."
            errors.append(f"{path}.{key}: unknown argument of {name}.{hint}")
    for key, (annotation, default) in expected.items():
        if key not in spec:
            if default is inspect.Parameter.empty:
                errors.append(f"{path}.{key}: missing, {name} needs it: expected {words(annotation)}")
        elif depth := layer_depth(annotation):
            errors += _check_nested(spec[key], f"{path}.{key}", known, what, depth)
        else:
            errors += _check_value(spec[key], annotation, f"{path}.{key}")
    if not errors and not any(layer_depth(annotation) for annotation, _ in expected.values()):
        errors += _construct(cls, spec, path)
    return errors


def _close(spec, known):
    """Guess the type from a misspelt key such as ``tpye``, or from a layer's name used as a key."""
    return next((hint for key in spec if (hint := did_you_mean(key, ["type", *known]))), "")


def _check_nested(value, path, known, what, depth):
    """Return the mistakes of the list of layers (depth 1), or of lists of layers (2), in a container."""
    if not isinstance(value, list):
        return [f"{path}: found {show(value)}, expected a list of {what}s"]
    if depth == 1:
        return _check_list(value, path, known, what)
    return [line for i, v in enumerate(value) for line in _check_nested(v, f"{path}[{i}]", known, what, 1)]


def _check_value(value, annotation, path):
    try:
        adapter(annotation).validate_json(json.dumps(value, default=str))
    except ValidationError:
        return [f"{path}: found {show(value)}, expected {words(annotation)}"]
    return []


def _construct(cls, spec, path):
    """Let the constructor judge what types cannot say, such as a kernel size of 0."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items() if k != "type"}
    try:
        cls(**values)
    except ConfigError as error:
        return [f"{path}: {error}"]
    return []


def words(annotation):
    """Return an annotation in words: ``int | tuple[int, int]`` is "an integer or 2 integers"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(show(value) for value in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(words(part) for part in parts if part is not type(None))
    if origin is tuple and Ellipsis not in parts:
        return f"{len(parts)} {_WORDS.get(parts[0], 'value')}s"
    if origin in (list, tuple) and parts:
        return f"a list of {_WORDS.get(parts[0], 'value')}s"
    word = _WORDS.get(annotation, "value")
    return word if word == "true or false" else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
