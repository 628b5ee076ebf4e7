"""Refuses arguments and attributes that a class does not have, with a line that says what was meant."""

import inspect
from functools import cache
from types import CodeType, FunctionType

from cnn.errors import ArgumentError, did_you_mean


class Guarded(type):
    """The type of layer classes: their constructors name a wrong argument and what to write instead.

    After the constructor has returned, ``_made`` of the object is True; see ``Layer.__setattr__``.
    """

    def __call__(cls, *args, **kwargs):
        try:
            made = super().__call__(*args, **kwargs)
        except TypeError as error:
            wrong = _wrong_arguments(cls, args, kwargs)
            if wrong is None:
                raise
            raise ArgumentError(wrong) from error
        object.__setattr__(made, "_made", True)
        object.__setattr__(made, "_given", _given(cls, made, args, kwargs))
        return made

    @property
    def __signature__(cls):  # without it, inspect would show the signature of __call__ above
        return inspect.Signature(_parameters(cls))


def _given(cls, made, args, kwargs):
    """Return {argument: (value or ``empty``, attribute of that name)} of a call of the constructor."""
    signature = _signature(cls)
    given = signature.bind(*args, **kwargs).arguments if args or kwargs else {}
    names = signature.parameters
    return {name: (given.get(name, inspect.Parameter.empty), getattr(made, name, None)) for name in names}


@cache
def _signature(cls):
    return inspect.Signature(_parameters(cls))


def refuse_unknown(target, name, label):
    """Raise AttributeError where ``target`` has no attribute ``name`` and its class never mentions one."""
    kind = type(target)
    if name in vars(target) or hasattr(kind, name) or name in mentioned(kind):
        return
    known = [key for key in (*vars(target), *dir(kind)) if not key.startswith("_")]
    raise AttributeError(f'{label}: has no attribute "{name}".{did_you_mean(name, known)}')


@cache
def mentioned(kind):
    """Return the names that the methods of a class use: they may set those after the constructor as well."""
    functions = [f for cls in kind.__mro__ for f in vars(cls).values() if isinstance(f, FunctionType)]
    return frozenset(name for function in functions for name in _names(function.__code__))


def _names(code):
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _parameters(cls):
    if cls.__init__ is object.__init__:
        return []
    return list(inspect.signature(cls.__init__).parameters.values())[1:]


def _wrong_arguments(cls, args, kwargs):
    """Return a line about arguments that the constructor does not take, None where they are right."""
    parameters = _parameters(cls)
    try:
        inspect.Signature(parameters).bind(*args, **kwargs)
        return None
    except TypeError as error:
        reason = str(error)
    known = [p.name for p in parameters]
    free = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    name, place = cls.inferred
    if name and (name in kwargs or len(args) > len(free)):
        rest = {key: value for key, value in kwargs.items() if key != name}
        fewer = args if name in kwargs else (*args[:place], *args[place + 1 :])
        return (
            f"{_call(cls, args, kwargs)}: {name} is inferred from the input, so it is not given, and "
            f"{_only(free)}: write {_call(cls, *_named(known, free, fewer), **rest)}"
        )
    for name in kwargs:
        if name not in known:
            hint = did_you_mean(name, known) or f" It takes {', '.join(known) or 'none'}."
            return f'{cls.__name__}: unknown argument "{name}".{hint}'
    if len(free) < len(args) <= len(known):
        return (
            f"{_call(cls, args, kwargs)}: {_only(free)}: "
            f"write {_call(cls, *_named(known, free, args), **kwargs)}"
        )
    return f"{_call(cls, args, kwargs)}: {reason}"


def _only(free):
    """Say which arguments need no name."""
    return f"only {', '.join(free)} may stand without a name" if free else "none may stand without a name"


def _named(known, free, values):
    """Return (positional, named) for values in the order of ``known``; at most the first has no name."""
    first = min(1, len(free))
    return values[:first], dict(zip(known[first:], values[first:], strict=False))


def _call(cls, args, kwargs, **more):
    """Return a call of the class as one writes it."""
    words = [*map(repr, args), *(f"{name}={value!r}" for name, value in {**kwargs, **more}.items())]
    return f"{cls.__name__}({', '.join(words)})"
