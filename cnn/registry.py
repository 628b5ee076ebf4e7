"""What ``{type = "NAME", argument = value}`` can name, and from what values: one mechanism for all kinds.

Layers, losses, augmentations, optimizers, schedules and averages stand in one registry each. What a type
takes is read from the annotated signature of its constructor, so that it is written down once: configs check
values against it, the JSON Schema lists it, and messages suggest from it.
"""

import functools
import importlib
import inspect
import json
import math
import numbers
import sys
import types
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cnn.errors import ArgumentError, ConfigError, did_you_mean

_importing = ContextVar("may import the modules that names are in", default=True)


@dataclass(frozen=True)
class Range:
    """The numbers that an argument may be: ``Annotated[float, Range(ge=0, lt=1)]``."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def holds(self, value):
        """Whether ``value`` is a finite number in the range."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # an int beyond every float
            return False
        low = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        return low and (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)

    def words(self):
        """Return the range in words: "of at least 0 and below 1"."""
        limits = (
            (self.ge, "of at least"), (self.gt, "above"), (self.le, "at most"), (self.lt, "below"),
        )  # fmt: skip
        return " and ".join(f"{word} {limit:g}" for limit, word in limits if limit not in (None, UNCOUNTED))

    def __get_pydantic_core_schema__(self, source, handler):
        """Tell pydantic, which checks configs, the same limits."""
        limits = {"ge": self.ge, "gt": self.gt, "le": self.le, "lt": self.lt}
        return {**handler(source), **{name: limit for name, limit in limits.items() if limit is not None}}


Rate = Annotated[float, Range(gt=0)]
NotNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, lt=1)]  # zero included, one excluded
Share = Annotated[float, Range(ge=0, le=1)]
UNCOUNTED = 2**63  # nothing in memory has so many parts; no message says so unless it is about that
Count = Annotated[int, Range(ge=1, lt=UNCOUNTED)]
Whole = Annotated[int, Range(ge=0, lt=UNCOUNTED)]


_WORDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a table",
}  # fmt: skip
_PLURALS = {int: "integers", float: "numbers", str: "strings"}


def words(annotation):
    """Return an annotation in words: ``int | tuple[int, int]`` is "an integer or 2 integers"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = " and ".join(part.words() for part in parts[1:] if isinstance(part, Range))
        if not limits:
            return words(parts[0])
        return f"{'a whole number' if parts[0] is int else 'a finite number'} {limits}"
    if origin is Literal:
        shown = [json.dumps(value) for value in parts]
        return " or ".join(shown) if len(shown) < 3 else f"one of {', '.join(shown)}"
    if origin in (Union, types.UnionType):
        return " or ".join(words(part) for part in parts if part is not type(None))
    if origin in (list, tuple) and parts:
        plain = get_args(parts[0])[0] if get_origin(parts[0]) is Annotated else parts[0]
        each = _PLURALS.get(plain) or ("pairs" if get_origin(plain) is tuple else "values")
        limits = [part.words() for part in get_args(parts[0])[1:] if isinstance(part, Range)]
        each = " and ".join([each, *limits]) if len(limits) > 1 else " ".join([each, *limits])
        return f"{len(parts)} {each}" if origin is tuple and Ellipsis not in parts else f"a list of {each}"
    return "a list" if list in (annotation, origin) else _WORDS.get(annotation, "a value")


def check(name, value, annotation):
    """Raise ConfigError where ``value`` is not what the ranges and forms of an annotation allow."""
    if not _allows(annotation, value):
        raise ConfigError(f"{name}: expected {words(annotation)}, found {value!r}")


def _allows(annotation, value):
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        whole = parts[0] is not int or isinstance(value, numbers.Integral)
        ranges = all(part.holds(value) for part in parts[1:] if isinstance(part, Range))
        return whole and ranges and _allows(parts[0], value)
    if origin is Literal:
        return value in parts
    if origin in (Union, types.UnionType):
        return any(_allows(part, value) for part in parts)
    if origin in (list, tuple):
        each = parts if origin is tuple and Ellipsis not in parts else None
        if isinstance(value, (str, dict)) or not hasattr(value, "__len__"):  # arrays are lists as well
            return False
        if each and len(each) != len(value):
            return False
        each = each or parts[:1] * len(value)
        return all(_allows(part, item) for part, item in zip(each, value, strict=True))
    if annotation is type(None):
        return value is None
    return True  # plain types are left to the constructor


def checked(function):
    """Let a function refuse arguments that the ranges of its annotations exclude."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        hints = _hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                check(name, value, hints[name])
        return function(*args, **kwargs)

    return wrapper


@functools.cache
def _hints(function):
    return get_type_hints(function, include_extras=True)


@functools.cache
def arguments(kind):
    """Return {name: (annotation, default)} of a constructor or function, without what its maker supplies.

    ``inspect.Parameter.empty`` stands for no default.
    """
    if isinstance(kind, type) and kind.__init__ is object.__init__:
        return {}
    function = kind.__init__ if isinstance(kind, type) else kind
    hints = _hints(inspect.unwrap(function))
    parameters = list(inspect.signature(function).parameters.values())[isinstance(kind, type) :]
    return {
        p.name: (hints.get(p.name, Any), p.default)
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def nesting(annotation):
    """Return 1 for ``list`` (of tables of the same kind, as in a container), 2 for ``list[list]``, else 0."""
    if annotation == list[list]:
        return 2
    return int(list in (annotation, *get_args(annotation)))


@contextmanager
def nothing_imported():
    """Let no name of the block import a module: what a file of somebody else says is not obeyed."""
    token = _importing.set(False)
    try:
        yield
    finally:
        _importing.reset(token)


class Registry:
    """The classes or functions of one kind, by name.

    Parameters
    ----------
    what : str
        The kind in words, for messages: "layer".
    supplied : tuple of str
        Arguments that a description leaves out, because whoever makes the object has them: ("parameters",).
    example : str
        The type that a message names where none was given.
    """

    def __init__(self, what, supplied=(), example=""):
        self.what, self.supplied, self.example = what, supplied, example
        self._types, self._base = {}, None

    def base(self, cls):
        """Remember the class that all types are subclasses of (a decorator)."""
        self._base = cls
        return cls

    def register(self, kind, name=None):
        """Add a class or function under its own name or another (a decorator); return it."""
        self._types[name or kind.__name__] = kind
        return kind

    def types(self):
        """Return what is registered, by name."""
        return dict(self._types)

    def find(self, name):
        """Return what a name stands for: a registered one, or "package.module:Class" for one's own.

        Raises ConfigError for an unknown name, a module that cannot be imported, and what is no such class.
        """
        if isinstance(name, str) and name in self._types:
            return self._types[name]
        if self._base and isinstance(name, str) and ("." in name or ":" in name):
            return self._imported(name)
        hint = did_you_mean(name, self._types) or f" There are {', '.join(sorted(self._types))}."
        shown = f'"{name}"' if isinstance(name, str) else repr(name)
        raise ConfigError(f"found {shown}, expected a known {self.what}.{hint}")

    def _imported(self, path):
        module, _, name = path.rpartition(":" if ":" in path else ".")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise ConfigError(f'found "{path}", expected a known {self.what} or "package.module:Class"')
        if not _importing.get() and module not in sys.modules:
            raise ConfigError(f'found "{path}": the {self.what} is in module {module}: import that first')
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:  # whatever runs when it is imported
            raise ConfigError(
                f'found "{path}": cannot import {module or "it"}: {error}. Is its folder on PYTHONPATH?'
            ) from error
        if not (isinstance(found, type) and issubclass(found, self._base)):
            raise ConfigError(f'found "{path}", expected a subclass of {self._base.__name__} in {module}')
        return found

    def arguments(self, kind):
        """Return {name: (annotation, default)} of what a description of ``kind`` may say."""
        return {name: value for name, value in arguments(kind).items() if name not in self.supplied}

    def name_of(self, cls):
        """Return the name by which a description finds a class again."""
        known = next((name for name, kind in self._types.items() if kind is cls), None)
        return known or f"{cls.__module__}:{cls.__qualname__}"

    def make(self, spec, **supplied):
        """Return the object that ``{"type": NAME, argument: value}`` describes; raises what ``bind`` does."""
        return self.bind(spec)(**supplied)

    def bind(self, spec):
        """Return the described class or function with its arguments, all but those that its maker supplies.

        Raises ConfigError for an unknown type, an unknown or missing argument, and a value out of range.
        """
        if not isinstance(spec, dict):
            raise ConfigError(f"{self.what}: expected a table with a type, found {spec!r}")
        given = dict(spec)
        name = given.pop("type", None)
        try:
            kind = self.find(name)
        except ConfigError as error:
            raise ConfigError(f"{self.what} type: {error}") from error
        known = self.arguments(kind)
        for key in given:
            if key not in known:
                hint = did_you_mean(key, known) or f" It takes {', '.join(known) or 'none'}."
                raise ArgumentError(f'{name}: unknown argument "{key}".{hint}')
        for key, (_, default) in known.items():
            if key not in given and default is inspect.Parameter.empty:
                raise ArgumentError(f'{name}: the argument "{key}" is missing')
            if key in given:
                check(f"{self.what}: {key}", given[key], known[key][0])
        values = {key: self._value(value, known[key][0]) for key, value in given.items()}
        return functools.partial(kind, **values)

    def _value(self, value, annotation, depth=None):
        """Return an argument: tables become objects in a container, lists tuples elsewhere."""
        depth = nesting(annotation) if depth is None else depth
        if depth and isinstance(value, (list, tuple)):
            return [self.make(v) if depth == 1 else self._value(v, None, depth - 1) for v in value]
        return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
