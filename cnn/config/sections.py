"""Sections of a config whose keys are the arguments of what they name, read from its constructor."""

import inspect
from functools import reduce
from operator import or_
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model


class Section(BaseModel):
    """What all sections share: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def of(types, base=Section, only=None):
    """Return the annotation of a section: any type of a registry, told apart by the key ``type``.

    Parameters
    ----------
    types : Registry
    base : subclass of Section
        Keys that are there whatever the type.
    only : str, optional
        The one type that the section has unless it says so.
    """
    models = [_model(types, name, kind, base, only) for name, kind in types.types().items()]
    if only:
        return models[0]
    return Annotated[reduce(or_, models), Field(discriminator="type")]


def _model(types, name, kind, base, only):
    fields = {"type": (Literal[name], name if only else ...)}
    for key, (annotation, default) in types.arguments(kind).items():
        default = ... if default is inspect.Parameter.empty else default
        fields[key] = (annotation, Field(default, description=_description(annotation)))
    summary = (inspect.getdoc(kind) or name).split("\n\n")[0]
    return create_model(name, __base__=base, __doc__=summary, **fields)


def _description(annotation):
    parts = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((part for part in parts if isinstance(part, str)), None)
