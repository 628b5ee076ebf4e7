"""The language in which the commands speak: English, or Chinese from one catalogue, cnn/i18n/zh.toml.

The catalogue holds English templates and what they become, ``"loss {loss}" = "损失 {loss}"``. ``fill`` puts
values into one; ``translate`` takes a finished English message apart with the same templates, so that what
raises or measures something need not know of languages. A message that the catalogue lacks stays English.
The report's texts are a table of their own: as patterns, short ones such as "of {n}" would match others.
"""

import os
import re
import unicodedata
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

__all__ = ["LANGUAGES", "choose", "current", "fill", "pad", "phrase", "speaking", "translate", "width"]

LANGUAGES = ("en", "zh")
_spoken = ContextVar("cnn language", default="en")
_PLACE = re.compile(r"\{(\w+)\}")


def choose(environ=os.environ) -> str:
    """Return "zh" if LC_ALL, LC_MESSAGES or LANG, the first that is set, asks for Chinese, else "en"."""
    locale = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def current() -> str:
    """Return the language of this context."""
    return _spoken.get()


@contextmanager
def speaking(language: str):
    """Speak ``language`` inside of the block."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def fill(template: str, **values) -> str:
    """Return the template in the current language with its places filled."""
    if current() == "zh":
        template = _catalogue().get(template) or _catalogue("report").get(template, template)
    return _PLACE.sub(lambda place: str(values.get(place[1], place[0])), template)


def translate(message: str) -> str:
    """Return a finished English message in the current language, and so what stands in its places."""
    if current() == "en" or not message:
        return message
    exact = _catalogue().get(message)
    if exact is not None:
        return exact
    for pattern, template in _patterns():
        found = pattern.fullmatch(message)
        if found:
            values = {name: translate(text) for name, text in found.groupdict().items()}
            return _PLACE.sub(lambda place, values=values: values[place[1]], template)
    return message


def phrase(text: str) -> str:
    """Return a text of ``--help`` or of a table in the current language; its white space does not count."""
    known = _catalogue("help") if current() == "zh" else {}
    return known.get(text) or known.get(" ".join(text.split()), text)


def width(text: str) -> int:
    """Return the columns that a text takes in a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, columns: int) -> str:
    """Return a text with spaces after it up to ``columns``."""
    return text + " " * max(0, columns - width(text))


@cache
def _catalogue(table: str = "messages") -> dict[str, str]:
    import tomllib
    from importlib import resources

    file = resources.files("cnn").joinpath("i18n", "zh_help.toml" if table == "help" else "zh.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))[table]


@cache
def _patterns() -> list:
    """The templates with places, as patterns; those with most fixed text first, since they say most."""
    found = []
    for english, chinese in _catalogue().items():
        parts = _PLACE.split(english)
        if len(parts) > 1:
            names = [rf"(?P<{part}>.+?)" if k % 2 else re.escape(part) for k, part in enumerate(parts)]
            found.append((sum(map(len, parts[::2])), re.compile("".join(names), re.DOTALL), chinese))
    return [(pattern, chinese) for _, pattern, chinese in sorted(found, key=lambda one: -one[0])]
