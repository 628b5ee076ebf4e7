"""Sections of a config whose keys are the arguments of what they name, read from its constructor."""

import inspect
from functools import reduce
from operator import or_
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model


class Section(BaseModel):
    """What all sections share: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


OWN = "package.module:Class"  # how messages and the schema call a type from outside


class Own(Section):
    """One's own class; ``cnn.config.specs`` checks its arguments."""

    model_config = ConfigDict(extra="allow")
    type: str


def of(types, base=Section, default=None):
    """Return the annotation of a section: any type of a registry, told apart by the key ``type``.

    Parameters
    ----------
    types : Registry
    base : subclass of Section
        Keys that are there whatever the type.
    default : str, optional
        The type that the section has unless it says so; types from outside are then taken as well.
    """
    models = {name: _model(types, name, kind, base, default) for name, kind in types.types().items()}
    if default is None:
        return Annotated[reduce(or_, models.values()), Field(discriminator="type")]

    def tag(value):
        name = value.get("type", default) if isinstance(value, dict) else getattr(value, "type", default)
        return OWN if isinstance(name, str) and name not in models and set(name) & {".", ":"} else name

    tagged = [Annotated[model, Tag(name)] for name, model in {**models, OWN: Own}.items()]
    return Annotated[reduce(or_, tagged), Discriminator(tag)]


def _model(types, name, kind, base, default):
    fields = {"type": (Literal[name], name if name == default else ...)}
    for key, (annotation, value) in types.arguments(kind).items():
        value = ... if value is inspect.Parameter.empty else value
        fields[key] = (annotation, Field(value, description=_description(annotation)))
    summary = (inspect.getdoc(kind) or name).split("\n\n")[0]
    return create_model(name, __base__=base, __doc__=summary, **fields)


def _description(annotation):
    parts = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((part for part in parts if isinstance(part, str)), None)
