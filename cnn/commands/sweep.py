"""Train a config with several seeds and settings, one run after the other, and tabulate the results.

Of `--set optimizer.lr=0.1,0.2` each value is tried, with every seed; commas inside brackets and quotes do not
separate. Called again, the same command goes on: finished runs are kept, an interrupted one is resumed.

A config with a [sweep] section is searched instead, with Optuna: start the same command as often as you like,
on any machine that shares the folder, and each takes the next trial. See scripts/sweep_slurm.sh.
"""

import csv
import hashlib
import io
import itertools
import re
import signal
import statistics
from pathlib import Path

from cnn.commands.common import add_config_arguments, whole_number
from cnn.terminal import say

_CSV = ("n", "failed", "mean", "std", "min", "max", "tta_mean", "tta_std", "val_mean", "val_std", "seconds")
_MAX_SEEDS = 10_000
_OPENING, _CLOSING = "[{", "]}"


def add_arguments(parser):
    """Describe the command line."""
    add_config_arguments(parser)
    parser.add_argument("--seeds", metavar="A..B", help="or 0,3,7 (default 0..2)")
    parser.add_argument("--out", metavar="DIR", help="folder of all runs (default runs/<name>-sweep)")


def run(args):
    """Sweep."""
    from cnn.commands.train import set_threads
    from cnn.config import bundled_config, load_config
    from cnn.errors import ConfigError, NumericError
    from cnn.files import locked
    from cnn.training.interruption import Interrupted
    from cnn.training.one_run import train_in

    path = args.config or bundled_config()
    fixed, swept = split_settings(args.set)
    base = load_config(path, [*fixed, *(choice[0] for choice in swept)])
    if base.sweep is not None:
        return search(args, base, path, fixed, swept)
    settings = [tuple(choice) for choice in itertools.product(*swept)]
    numbers = seeds("0..2" if args.seeds is None else args.seeds)
    plan = {}  # every config is checked before the first run
    for setting, seed in itertools.product(settings, numbers):
        plan[setting, seed] = load_config(path, [*fixed, *setting, f"seed={seed}"])
    name = next(iter(plan.values())).name
    out = Path(args.out or f"runs/{name}-sweep")
    results, failed = {setting: [] for setting in settings}, dict.fromkeys(settings, 0)
    folders = {key: out / folder_name(key[0]) / f"seed{key[1]}" for key in plan}
    if len(set(folders.values())) < len(settings) * len(numbers):
        raise ConfigError("--set and --seeds: one value is listed twice")
    make_folder(out)
    with locked(out):
        for setting in settings:
            check(setting, plan[setting, numbers[0]], [folders[setting, seed] for seed in numbers])
        for count, ((setting, seed), config) in enumerate(plan.items(), 1):
            folder = folders[setting, seed]
            say(f"[{count}/{len(plan)}] {', '.join([*setting, f'seed {seed}'])}: {folder}")
            try:
                set_threads(args, config)
                results[setting].append(train_in(folder, config))
            except NumericError as error:  # a rate that is too high is a result of a sweep, too
                failed[setting] += 1
                say(f"failed: {str(error).splitlines()[0]}")
            except (Interrupted, KeyboardInterrupt) as error:
                signum = getattr(error, "exit_code", 128 + signal.SIGINT) - 128
                raise Interrupted(
                    f"sweep interrupted in run {count} of {len(plan)}; the same command goes on in {out}",
                    signum,
                ) from error
            write_tables(out, name, results, failed)
    say("\n" + (out / "sweep.md").read_text("utf-8"), end="")
    return NumericError.exit_code if any(failed.values()) else 0


def search(args, base, path, fixed, swept):
    """Work on the trials of a config with a [sweep] section."""
    from cnn.commands.train import set_threads
    from cnn.config import load_config
    from cnn.errors import ConfigError
    from cnn.tuning.worker import work

    if swept or args.seeds is not None:
        which = f"--set {swept[0][0].partition('=')[0]}" if swept else "--seeds"
        raise ConfigError(f"{which}: {path} has a [sweep] section, whose space says what is tried")
    out = Path(args.out or f"runs/{base.name}-sweep")
    make_folder(out)
    work(base, lambda more: load_config(path, [*fixed, *more]), out, lambda config: set_threads(args, config))
    say("\n" + (out / "sweep.md").read_text("utf-8"), end="")
    say(f"see {out / 'sweep.html'}")
    return 0


def make_folder(out):
    """Create the folder of a sweep; ConfigError where that cannot be."""
    from cnn.errors import ConfigError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def check(setting, config, folders):
    """Build everything that a setting needs, unless its runs are finished: ConfigError names the setting."""
    from cnn.errors import ConfigError
    from cnn.training.loop import Trainer
    from cnn.training.run_folder import RunFolder

    if all(RunFolder(folder).result.exists() for folder in folders):
        return
    try:
        Trainer(config)
    except ConfigError as error:
        raise ConfigError(f"{', '.join(setting)}: {error}" if setting else str(error)) from error


def seeds(text):
    """Return [0, 1, 2] for "0..2", [0, 5] for "0,5"; ConfigError for anything else."""
    from cnn.errors import ConfigError

    first, dots, last = text.partition("..")
    ends = whole_number(first), whole_number(last)
    if dots and None not in ends and 0 <= ends[1] - ends[0] < _MAX_SEEDS:
        return list(range(ends[0], ends[1] + 1))
    numbers = [whole_number(part.strip()) for part in text.split(",")]
    if None not in numbers:
        return numbers
    raise ConfigError(
        f"--seeds: found {text!r}, expected 0..4, 0,3,7 or one number; at most {_MAX_SEEDS:,} of them"
    )


def split_settings(overrides):
    """Return (fixed, swept): overrides with one value, and for each other one the list of its KEY=VALUE."""
    from cnn.errors import ConfigError

    fixed, swept = [], []
    for override in overrides:
        key, equals, text = override.partition("=")
        if key.strip() == "seed":
            raise ConfigError(f"--set {override}: the seeds of a sweep are chosen with --seeds")
        values = split_values(text)
        if equals and len(values) > 1:
            swept.append([f"{key.strip()}={value}" for value in values])
        else:
            fixed.append(override)
    return fixed, swept


def split_values(text):
    """Return the parts between the commas of ``text`` that stand outside of brackets and quotes."""
    parts, depth, quote, escaped = [""], 0, None, False
    for sign in text:
        if quote:
            closed = sign == quote and not escaped
            escaped = sign == "\\" and quote == '"' and not escaped
            quote = None if closed else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPENING + _CLOSING:
            depth += 1 if sign in _OPENING else -1
        elif sign == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += sign
    return [part.strip() for part in parts]


def folder_name(setting):
    """Return a name for the folder of a setting: itself where it is short and plain, else with a checksum."""
    text = ",".join(setting)
    plain = re.sub(r"[^A-Za-z0-9.,=+_-]+", "_", text)[:80]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_tables(out, name, results, failed):
    """Write sweep.md and sweep.csv for the results of each setting so far."""
    from cnn.files import write_atomically

    columns = [part.partition("=")[0] for part in next(iter(results))] or ["config"]
    table, lines = io.StringIO(), []
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*columns, *_CSV])
    for setting, done in results.items():
        if not done and not failed[setting]:
            continue
        values = [part.partition("=")[2] for part in setting] or [name]
        test, tta, val = (_numbers(done, f"{key}_accuracy") for key in ("test", "tta", "val"))
        seconds = statistics.fmean(_numbers(done, "seconds")) if done else None
        extremes = [min(test), max(test)] if test else [None, None]
        numbers = [*_mean_std(test), *extremes, *_mean_std(tta), *_mean_std(val), seconds]
        rounded = ["" if number is None else f"{number:.6g}" for number in numbers]
        writer.writerow([*values, len(done), failed[setting], *rounded])
        spread = f" ({100 * min(test):.2f}–{100 * max(test):.2f})" if len(test) > 1 else ""
        runs = f"{len(done)}" + (f", {failed[setting]} failed" if failed[setting] else "")
        time = "-" if seconds is None else f"{seconds:.1f}"
        cells = [*values, runs, _percent(test) + spread, _percent(tta), _percent(val), time]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    header = [*columns, "n", "test accuracy, %", "with TTA, %", "validation, %", "seconds"]
    head = [f"# {name}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    last = "Mean ± standard deviation over the seeds (smallest–largest); seconds of training and validation."
    write_atomically(out / "sweep.md", "\n".join([*head, *lines, "", last, ""]).encode())
    write_atomically(out / "sweep.csv", table.getvalue().encode())


def _numbers(results, key):
    return [result[key] for result in results if result.get(key) is not None]


def _mean_std(values):
    """Return (mean, standard deviation with n - 1), None where there are too few values."""
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def _percent(values):
    mean, std = _mean_std(values)
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")
