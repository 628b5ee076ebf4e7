"""Tabulate runs side by side: their results, and every key of their configs that differs."""

import json

from cnn.language import pad, translate, width
from cnn.terminal import say

_RESULTS = {  # what of result.json is shown, under which name, how
    "epoch": ("best epoch", "{}"),
    "val_accuracy": ("validation accuracy", "{:.2%}"),
    "val_loss": ("validation loss", "{:.4f}"),
    "test_accuracy": ("test accuracy", "{:.2%}"),
    "test_loss": ("test loss", "{:.4f}"),
    "tta_accuracy": ("with TTA", "{:.2%}"),
    "parameters": ("parameters", "{:,}"),
    "seconds": ("seconds of training", "{:,.1f}"),
}


def add_arguments(parser):
    """Describe the command line."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of `cnn train`")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args):
    """Compare."""
    from cnn.errors import ConfigError

    if len(args.runs) < 2:
        raise ConfigError(f"compare: found {len(args.runs)} run, expected at least 2")
    runs = [read_run(path) for path in args.runs]
    differing = differences([config for config, _, _ in runs])
    results = [shown(result, history) for _, result, history in runs]
    if args.json:
        rows = [
            {"run": path, "result": result, "epochs": len(history), "config": values}
            for path, (_, result, history), values in zip(args.runs, runs, differing, strict=True)
        ]
        say(json.dumps(rows, indent=2))
        return
    keys = list(dict.fromkeys(key for row in results for key in row))
    table = [["", *args.runs]]
    table += [[translate(key), *(row.get(key, "-") for row in results)] for key in keys]
    same = translate("the configs are the same")
    rows = [[key, *(values[key] for values in differing)] for key in differing[0]]
    say("\n".join([*aligned(table), "", *(aligned(rows) if rows else [same])]))


def read_run(path):
    """Return (config as {key path: value}, result or None, rows of metrics.csv) of a run folder."""
    from cnn.config import load_config
    from cnn.errors import CheckpointError
    from cnn.training.resume import flat
    from cnn.training.run_folder import RunFolder

    run = RunFolder(path)
    if not run.config.is_file():
        raise CheckpointError(f"{path}: found no run, expected a folder with config.toml of `cnn train`")
    try:
        result = json.loads(run.result.read_text("utf-8"))
    except (OSError, ValueError):
        result = None  # it has not come so far
    return flat(load_config(run.config).plain()), result, run.read_metrics()


def shown(result, history):
    """Return {name: text} of what one run reached."""
    row = {"epochs": str(len(history))}
    for key, (name, form) in _RESULTS.items():
        if result is not None and result.get(key) is not None:
            row[name] = form.format(result[key])
    if result is None and history and history[-1]["val_accuracy"] is not None:
        row["validation accuracy"] = f"{max(r['val_accuracy'] for r in history):.2%} so far"
    return row


def differences(configs):
    """Return for each config {key path: value as TOML spells it} of the keys that not all share."""
    from cnn.config.report import show

    keys = list(dict.fromkeys(key for config in configs for key in config))
    missing = object()
    differing = [k for k in keys if any(c.get(k, missing) != configs[0].get(k, missing) for c in configs)]
    return [{key: show(config[key]) if key in config else "-" for key in differing} for config in configs]


def aligned(rows):
    """Return the lines of a table, all but the first column to the right."""
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([pad(row[0], widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
