"""The JSON Schema of a config file, for editors that complete and check while one types."""

import inspect

from cnn.config import specs
from cnn.config.models import Config
from cnn.layers import LAYERS
from cnn.registry import nesting


def json_schema():
    """Return the JSON Schema (draft 2020-12): the sections, every layer and every augmentation."""
    from cnn.data.augment import AUGMENTATIONS  # brings Numba, which reading a config does without

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    schema["required"].remove("name")  # defaults to the name of the file
    definitions = schema["$defs"]
    block = {
        "type": "object",
        "properties": {"block": {"type": "string"}, "repeat": {"type": "integer", "minimum": 1}},
        "required": ["block"],
        "additionalProperties": False,
    }
    layers = {name: _table(LAYERS, name) for name in LAYERS.types()}
    augmentations = {name: _table(AUGMENTATIONS, name) for name in AUGMENTATIONS.types()}
    definitions["AnyLayer"] = {"anyOf": [*layers.values(), block]}
    definitions["AnyAugmentation"] = {"anyOf": list(augmentations.values())}
    model, data = definitions["Model"]["properties"], definitions["Data"]["properties"]
    model["layers"]["items"] = {"$ref": "#/$defs/AnyLayer"}
    model["blocks"]["additionalProperties"]["items"] = {"$ref": "#/$defs/AnyLayer"}
    data["augment"]["items"] = {"$ref": "#/$defs/AnyAugmentation"}
    return schema


def _table(types, name):
    """Return the schema of ``{type = name, ...}``."""
    cls = types.find(name)
    properties, required = {"type": {"const": name}}, ["type"]
    for key, (annotation, default) in types.arguments(cls).items():
        if depth := nesting(annotation):
            properties[key] = {"$ref": "#/$defs/AnyLayer"}
            for _ in range(depth):
                properties[key] = {"type": "array", "items": properties[key]}
        else:
            properties[key] = specs.adapter(annotation).json_schema()
        if default is inspect.Parameter.empty:
            required.append(key)
    return {
        "type": "object",
        "title": name,
        "description": (inspect.getdoc(cls) or name).split("\n\n")[0],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
