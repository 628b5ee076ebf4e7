"""Words for mistakes in a config: what pydantic found, as ``key path: found VALUE, expected ...``."""

import json
from typing import get_args

from pydantic import BaseModel

from cnn.errors import did_you_mean

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "union_tag_not_found": 'a table with "type"',
}


def describe(error, model, document):
    """Return one line for each mistake of a ValidationError about ``document``, without repeats.

    ``model`` is the pydantic class that refused the document; its fields feed "did you mean".
    """
    expected = {}  # what each member of a union wants of one value, by what precedes it
    for detail in error.errors():
        found, comma, wanted = _line(detail, model, document).partition(", expected ")
        expected.setdefault((found, comma), {})[wanted] = True
    return [f"{found}{comma}{' or '.join(wanted)}" for (found, comma), wanted in expected.items()]


def key_path(keys):
    """Return "a.b[2].c" for ("a", "b", 2, "c")."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")


def show(value):
    """Return a value as the config file would spell it, shortened to about sixty characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(detail, model, document):
    location, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    path = key_path(_without_tag(location, document))
    if kind == "extra_forbidden":
        known = _known_keys(location, model)
        hint = did_you_mean(location[-1], known) or f" There are {', '.join(dict.fromkeys(known))}."
        return f"{path}: unknown key.{hint}"
    if kind == "missing":
        return f"{path}: missing, expected a value"
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    found, hint = detail["input"], ""
    if kind == "union_tag_not_found":
        return f"{path}.type: missing, expected one of {_tags(location, model)}"
    if kind == "union_tag_invalid":
        path, found, expected = f"{path}.type", context["tag"], context["expected_tags"]
        hint = did_you_mean(found, [tag.strip("' ") for tag in expected.split(",")])
        expected = f"one of {expected}".replace("'", '"')
    elif kind == "literal_error":
        expected = context["expected"].replace("'", '"')
        hint = did_you_mean(found, [word.strip('" ') for word in expected.replace(" or ", ",").split(",")])
    else:
        expected = _EXPECTED.get(kind) or _limit(kind, context) or _lowered(detail["msg"])
    return f"{path}: found {show(found)}, expected {expected}{hint and f'.{hint}'}"


def _limit(kind, context):
    """Return the words for a value out of range, None for other mistakes."""
    words = {
        "greater_than": ("gt", "a number above {}"),
        "greater_than_equal": ("ge", "at least {}"),
        "less_than": ("lt", "a number below {}"),
        "less_than_equal": ("le", "at most {}"),
        "too_short": ("min_length", "at least {} of them"),
        "too_long": ("max_length", "at most {} of them"),
        "string_too_short": ("min_length", "at least {} character"),
    }
    if kind == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-' only, as it names a folder"
    if kind not in words:
        return None
    key, text = words[kind]
    limit = context[key]
    return text.format(f"{limit:g}" if isinstance(limit, float) else limit)


def _lowered(message):
    return message.removeprefix("Input should be ").removeprefix("Value error, ")


def _without_tag(location, document):
    """Return a pydantic location as a path in the document, without the names of a union's members.

    ("optimizer", "SGD", "lr") is optimizer.lr, and ("data", "image_size", "constrained-int") data.image_size.
    """
    path, node = [], document
    for part in location:
        if isinstance(node, dict):
            # a section that leaves out its type has the default one; names of classes are capitalised
            stated = node.get("type", part if str(part)[:1].isupper() else None)
            if part not in node and stated == part:
                continue
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _known_keys(location, model):
    """Return the keys of the table in which the last part of ``location`` lies."""
    classes = [model]
    for key in (key for key in location[:-1] if isinstance(key, str)):
        tagged = [cls for cls in classes if _tag(cls) == key]
        fields = (cls.model_fields[key] for cls in classes if key in cls.model_fields)
        # a key that is no field is the user's, in a table of tables
        classes = tagged or [m for field in fields for m in models_of(field.annotation)] or classes
    return [name for cls in classes for name in cls.model_fields]


def _tags(location, model):
    """Return the types that the table at ``location`` can have, as words."""
    return ", ".join(f'"{_tag(cls)}"' for cls in models_of(model.model_fields[location[0]].annotation))


def _tag(cls):
    field = cls.model_fields.get("type")
    return next(iter(get_args(field.annotation)), None) if field else None


def models_of(annotation):
    """Return the pydantic models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]
