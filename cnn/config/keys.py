"""The keys that a config can have, by their last names."""

from cnn.config.models import Config
from cnn.config.report import models_of
from cnn.errors import SYNONYMS


def key_paths():
    """Return {key: [its paths]}: "lr" is ["optimizer.lr"]."""
    found = {}
    for section, field in Config.model_fields.items():
        inside = models_of(field.annotation)
        if not inside:
            found.setdefault(section, []).append(section)
        for model in inside:
            for key in model.model_fields:
                path = f"{section}.{key}"
                if path not in found.setdefault(key, []):
                    found[key].append(path)
    return found


def option_for(option, value=None):
    """Return the ``--set`` that somebody meant who wrote ``--epochs 5``, or None."""
    key = option.lstrip("-").partition("=")[0].replace("-", "_").lower()
    value = option.partition("=")[2] or value or "VALUE"
    paths, known = [], key_paths()
    section, _, last = key.rpartition(".")
    for name in (last, SYNONYMS.get(last)):
        paths = paths or [
            path for path in known.get(name, ()) if not section or path.startswith(f"{section}.")
        ]
    return f"--set {paths[0]}={value}" if paths else None
