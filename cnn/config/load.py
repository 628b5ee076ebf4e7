"""From a TOML file and ``--set`` overrides to a checked Config, and back to TOML."""

import copy
import json
import re
import tomllib
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from cnn.config import specs
from cnn.config.models import Config, Origin, expand_blocks
from cnn.config.report import describe, key_path, show
from cnn.config.sweep import with_flat_space
from cnn.errors import ConfigError, did_you_mean
from cnn.files import shipped
from cnn.registry import nothing_imported
from cnn.targets import IGNORED, KINDS

_KEY = re.compile(r"([A-Za-z0-9_-]+)((?:\[-?\d+\])*)")
_MAX_LINES = 3
_MAX_BYTES = 4_000_000
_UTF16 = b"\xff\xfe", b"\xfe\xff"


def load_config(path, overrides=()):
    """Return the checked Config of a TOML file.

    Parameters
    ----------
    path : str or Path
    overrides : sequence of str
        ``"train.epochs=5"``, ``"model.layers[0].out_channels=8"``: a key path and a TOML value. ``[-1]``
        is the last of a list; a value that is not TOML counts as a bare string.

    Raises ConfigError, at most three lines, each ``FILE: key path: found VALUE, expected ...``.
    """
    return resolve(read_document(path), path, overrides)


def read_document(path):
    """Return the plain dict of a TOML file, unchecked; ConfigError where it cannot be read."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            payload = file.read(_MAX_BYTES + 1)  # a device never ends
        text = payload.decode("utf-8-sig")  # Notepad and PowerShell begin a file with a byte order mark
    except OSError as error:
        hint = _nearby(path) if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}.{hint}") from error
    except UnicodeDecodeError as error:
        hint = "; it looks like UTF-16: save it as UTF-8" if payload[:2] in _UTF16 else ""
        raise ConfigError(f"{path}: found bytes that are not UTF-8, expected a TOML file{hint}") from error
    if len(payload) > _MAX_BYTES:
        raise ConfigError(f"{path}: found more than {_MAX_BYTES:,} bytes, expected a TOML file")
    return parse_document(text, path)


def parse_document(text, source):
    """Return the plain dict of a TOML text; ConfigError names the line of a syntax error."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error


def resolve(document, source, overrides=(), foreign=False):
    """Return the Config that a plain dict stands for; ``source`` names it in errors.

    ``foreign``: somebody else may have written it, so that the types in it cause no module to be imported.
    """
    if foreign:
        with nothing_imported():
            return resolve(document, source, overrides)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(source).stem).lstrip(".-")  # of .mine.toml: mine
    document = {"name": name or "config", **copy.deepcopy(document)}
    for override in overrides:
        _override(document, override)
    document = _with_loss(with_flat_space(document))
    try:
        # JSON mode is strict about types but lets an array stand for a tuple, as TOML has no tuples
        config = Config.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise _lines(source, overrides, describe(error, Config, document)) from None
    errors = [*specs.check_augmentations(config.data.augment), *specs.check_loss(config.loss)]
    try:
        expand_blocks(config.model.model_dump())
        errors += specs.check_model(config.model)
    except ConfigError as error:
        errors.append(str(error))
    if errors:
        raise _lines(source, overrides, errors)
    config._origin = Origin(source, tuple(overrides))
    return config


@contextmanager
def naming_file(config, key=None):
    """Let a ConfigError of the block name the file, or the --set, that ``config`` came from, and ``key``."""
    origin = config._origin
    try:
        yield
    except ConfigError as error:
        message = str(error)
        if message.startswith((f"{origin.source}: ", "--set ")):  # by a block inside this one
            raise
        first = re.match(r"(\w+)[:.\[]", message)
        if key is not None and (first is None or first[1] not in type(config).model_fields):
            section = getattr(config, key.partition(".")[0])
            known = first is not None and first[1] in type(section).model_fields
            message = f"{key}{'.' if known else ': '}{message}"
        raise _lines(origin.source, origin.overrides, [message]) from error


def to_toml(config):
    """Return the resolved config as TOML: every default written out, ready to be trained again."""
    import tomli_w

    return tomli_w.dumps(config.plain())


def bundled_config(name="sample.toml"):
    """Return the path of a config that comes with cnn."""
    return shipped(f"configs/{name}")


def _lines(source, overrides, errors):
    """Return a ConfigError with one line an error, at most three; each names where the value came from."""

    def origin(error):
        return next(
            (f"--set {o}" for o in overrides if error.startswith(o.partition("=")[0].strip())), source
        )

    shown = [f"{origin(error)}: {error}" for error in errors]
    if len(shown) > _MAX_LINES:
        shown[_MAX_LINES - 1 :] = [f"and {len(shown) - _MAX_LINES + 1} more mistakes"]
    return ConfigError("\n".join(shown))


def _nearby(path):
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix == ".toml"]
    except OSError:
        return ""
    return did_you_mean(path.name, names)


def _with_loss(document):
    """Return a document whose [loss], where it says no type, is the one that fits data.targets."""
    data, loss = document.get("data"), document.get("loss", {})
    kind = KINDS.get(str(data.get("targets"))) if isinstance(data, dict) else None
    if kind is None or kind.name == "classes" or not isinstance(loss, dict):
        return document
    loss = {"type": kind.loss, **loss}
    if kind.name == "masks" and loss["type"] == kind.loss:
        loss.setdefault("ignore_index", IGNORED)
    return {**document, "loss": loss}


def _override(document, text):
    """Set the value that ``key.path[2].name=value`` names, making missing tables on the way."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = "found bytes that are not UTF-8, which no config can hold"
        raise ConfigError(f"--set {text}: {problem}") from error
    path, equals, value = text.partition("=")
    keys = _keys(path.strip())
    if not equals or keys is None:
        raise ConfigError(f"--set: found {show(text)}, expected KEY=VALUE such as train.epochs=5")
    try:
        value = tomllib.loads(f"value = {value}")["value"]
    except RecursionError as error:
        raise ConfigError(f"--set {path.strip()}: found a value nested too deep") from error
    except tomllib.TOMLDecodeError:
        value = value.strip()
    *parents, last = keys
    node = document
    for i, key in enumerate(parents):
        if isinstance(node, dict) and key not in node and isinstance(key, str):
            node[key] = {}
        node = _child(node, key, keys[: i + 1], text)
    if isinstance(node, dict) and isinstance(last, str):
        node[last] = value
    else:
        _child(node, last, keys, text)
        node[last] = value


def _keys(path):
    """Return ["a", "b", 2, "c"] for "a.b[2].c", None for what is not a key path."""
    keys = []
    for part in path.split("."):
        match = _KEY.fullmatch(part)
        if not match:
            return None
        keys += [match[1], *(int(i) for i in re.findall(r"-?\d+", match[2]))]
    return keys


def _child(node, key, keys, text):
    """Return node[key]; ConfigError when there is no such place to set."""
    fits = (isinstance(node, list) and isinstance(key, int)) or (isinstance(node, dict) and key in node)
    if not fits:
        raise ConfigError(f"--set {text}: {key_path(keys)}: there is no such place in the config")
    if isinstance(node, list) and not -len(node) <= key < len(node):
        last = len(node) - 1
        raise ConfigError(f"--set {text}: {key_path(keys)}: found index {key}, expected 0 to {last}")
    return node[key]
