"""From the [sweep] section to what Optuna draws, and from what was drawn to overrides of the config."""

import json


def distributions(space):
    """Return {key path: distribution of Optuna} of a search space; a choice is drawn as its TOML text."""
    from optuna import distributions as kinds

    found = {}
    for key, d in space.items():
        if d.choices is not None:
            found[key] = kinds.CategoricalDistribution([toml_value(value) for value in d.choices])
        elif d.whole:
            found[key] = kinds.IntDistribution(d.low, d.high, log=d.log, step=d.step or 1)
        else:
            found[key] = kinds.FloatDistribution(float(d.low), float(d.high), log=d.log, step=d.step)
    return found


def suggest(trial, space):
    """Return {key path: value} of a trial: what it has already, the rest drawn now."""
    found = {}
    for key, d in distributions(space).items():
        if hasattr(d, "choices"):
            found[key] = trial.suggest_categorical(key, d.choices)
        elif space[key].whole:
            found[key] = trial.suggest_int(key, d.low, d.high, log=d.log, step=d.step)
        else:
            found[key] = trial.suggest_float(key, d.low, d.high, log=d.log, step=d.step)
    return found


def overrides(values):
    """Return ["key=value", ...] of what ``suggest`` returned."""
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in values.items()]


def extremes(space):
    """Yield every override that stands at an end of its dimension: where these fit, all others should."""
    for key, d in space.items():
        for value in (d.low, d.high) if d.choices is None else d.choices:
            yield f"{key}={toml_value(value)}"


def toml_value(value):
    """Return a value of a config on one line, as TOML spells it."""
    if isinstance(value, dict):
        parts = (f"{json.dumps(key)} = {toml_value(inner)}" for key, inner in value.items())
        return "{ " + ", ".join(parts) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)
