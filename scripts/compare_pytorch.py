"""The same recipe in cnn and in PyTorch: accuracy and time, like with like.

    python scripts/compare_pytorch.py configs/sample.toml                        # both, seed 0
    python scripts/compare_pytorch.py CONFIG --seeds 0..2 --compile --out results/airbench
    python scripts/compare_pytorch.py CONFIG --timing-only 20                    # ms a step, in turns

PyTorch gets cnn's starting weights and cnn's batches (order, augmentation, normalisation and background
thread), and takes the loss, optimizer, schedule and averaging of the config. After each epoch both are
tested, after the last one with the config's [tta] as well; the clock stands still meanwhile, and while
kernels are compiled. On a machine that does other work, --cpu-time counts the processor time of one thread.
Each run is a process of its own.

--out gets rows.csv (one row an epoch, written at once), summary.md and curves.png. Called again, it goes on
there: complete runs are kept, incomplete ones repeated, and everything in rows.csv is drawn. Needs PyTorch.
"""

import argparse
import csv
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from compare_report import write_report

from cnn.config import load_config, to_toml
from cnn.errors import CnnError

HERE = Path(__file__).parent
COLUMNS = (
    "framework", "variant", "threads", "clock", "seed", "epoch", "seconds", "train_loss", "test_accuracy",
    "tta_accuracy",
)  # fmt: skip
ROUNDS = 7


class Worker:
    """A process that runs one framework."""

    def __init__(self, options, framework, seed, **job):
        # settings that hobble OpenBLAS, and with it NumPy, have no place in a comparison
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        threads = str(options.threads)
        environment |= {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")])
        job = {
            "framework": framework,
            "config": str(options.config),
            "set": [*options.set, f"seed={seed}"],
            "threads": options.threads,
            "compile": options.compile,
            "channels_last": options.channels_last,
            "clock": "process_time" if options.cpu_time else "perf_counter",
            "timing": bool(options.timing_only),
        } | job
        self.name = f"{framework}, seed {seed}"
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "compare_worker.py"), json.dumps(job)],
            env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def answers(self):
        """Yield what the process says until it ends; SystemExit when it fails."""
        for line in self.process.stdout:
            answer = json.loads(line)
            if "note" in answer:
                print(answer["note"], flush=True)
            elif "error" in answer:
                raise SystemExit(f"{self.name}: {answer['error']}")
            else:
                yield answer
        if self.process.wait():
            raise SystemExit(f"{self.name}: the process ended with code {self.process.returncode}")

    def time(self, steps):
        """Return the seconds of so many steps."""
        print(steps, file=self.process.stdin, flush=True)
        return next(self.answers())["times"]

    def close(self):
        """End the process."""
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def seeds(text):
    """Return [0, 1, 2] for "0..2" or "0,1,2"."""
    first, dots, last = text.partition("..")
    return list(range(int(first), int(last) + 1)) if dots else [int(part) for part in text.split(",")]


def read_rows(path):
    """Return the rows of rows.csv as dicts of strings."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train(options, epochs):
    """Run what is missing, seed by seed, the frameworks in turns; add a row to rows.csv after each epoch."""
    path = options.out / "rows.csv"
    for seed, framework in itertools.product(options.seeds, options.frameworks):
        rows = read_rows(path)
        mine = [row for row in rows if (row["framework"], row["seed"]) == (framework, str(seed))]
        if len(mine) >= epochs:
            print(f"{framework}, seed {seed}: done already")
            continue
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(row for row in rows if row not in mine)
            file.flush()
            worker = Worker(options, framework, seed)
            clock = "processor" if options.cpu_time else "wall"
            known = {"framework": framework, "variant": "", "threads": options.threads, "clock": clock}
            known["seed"] = seed
            try:
                for answer in worker.answers():
                    if "row" not in answer:
                        known["variant"] = answer["variant"]
                        continue
                    row = known | answer["row"]
                    writer.writerow(row | {k: f"{row[k]:.6g}" for k in ("seconds", "train_loss")})
                    file.flush()
                    print(epoch_line(row, epochs), flush=True)
            finally:
                worker.close()
        write_report(options.out, read_rows(path), options.title)


def epoch_line(row, epochs):
    """One line about one epoch."""
    tta = "" if row["tta_accuracy"] is None else f" ({100 * row['tta_accuracy']:.2f} % with TTA)"
    return (
        f"{row['framework']:5} seed {row['seed']} epoch {row['epoch']}/{epochs}  "
        f"loss {row['train_loss']:.4f}  test accuracy {100 * row['test_accuracy']:.2f} %{tta}  "
        f"{row['seconds']:.1f} s"
    )


def timing(options):
    """Print milliseconds a step: both frameworks in turns, the fastest variant of PyTorch."""
    seed, steps = options.seeds[0], options.timing_only
    variants = list(itertools.product((False, True) if options.compile else (False,), (False, True)))
    workers, fastest = {}, {}
    try:
        for compiled, channels_last in variants:
            worker = Worker(options, "torch", seed, compile=compiled, channels_last=channels_last)
            answers = worker.answers()
            name = next(answers)["variant"]
            next(answers)  # ready
            fastest[name] = statistics.median(worker.time(steps))
            print(f"PyTorch {name}: {1e3 * fastest[name]:.1f} ms", flush=True)
            if fastest[name] == min(fastest.values()):
                worker, workers["torch"] = workers.get("torch"), worker
            if worker:
                worker.close()
        workers["cnn"] = Worker(options, "cnn", seed)
        next(workers["cnn"].answers())
        rounds = {"cnn": [], "torch": []}
        for _ in range(options.rounds):
            for framework, times in rounds.items():
                times.append(1e3 * statistics.median(workers[framework].time(steps)))
    finally:
        for worker in workers.values():
            worker.close()
    what = "of processor time" if options.cpu_time else f"at {options.threads} threads"
    print(f"{options.title}: ms a step {what}, medians of {options.rounds} rounds of {steps} steps (min-max)")
    for framework, times in rounds.items():
        name = f"PyTorch {min(fastest, key=fastest.get)}" if framework == "torch" else framework
        print(f"  {name:30} {spread(times)}")
    print(f"  {'PyTorch / cnn':30} {spread([b / a for a, b in zip(*rounds.values(), strict=True)], 2)}")


def spread(numbers, digits=1):
    """Like "12.3 (12.0-13.1)"."""
    middle, low, high = (f"{f(numbers):.{digits}f}" for f in (statistics.median, min, max))
    return f"{middle} ({low}-{high})"


def parse(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in cnn train")
    parser.add_argument("--seeds", type=seeds, default=[0], metavar="0..2", help="or 0,3,5 (default 0)")
    parser.add_argument("--frameworks", default="cnn,torch", help="one or both (default cnn,torch)")
    parser.add_argument("--epochs", help="short for --set train.epochs=N")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="torch.compile, where there is a compiler")
    parser.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction, default=True, help="PyTorch's memory layout"
    )
    parser.add_argument("--timing-only", type=int, metavar="STEPS", help="time so many steps in turns")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of --timing-only")
    parser.add_argument("--cpu-time", action="store_true", help="seconds are processor time, of one thread")
    parser.add_argument("--out", type=Path, help="folder of the results (default: compare-<name>)")
    options = parser.parse_args(arguments)
    options.frameworks = options.frameworks.split(",")
    if not set(options.frameworks) <= {"cnn", "torch"}:
        parser.error(f"--frameworks: expected cnn, torch or cnn,torch, found {','.join(options.frameworks)}")
    if options.epochs is not None:
        options.set.append(f"train.epochs={options.epochs}")
    if options.cpu_time:
        options.threads = 1
    return options


def main(arguments=None):
    """Run the command line; return the exit code."""
    options = parse(arguments)
    try:
        config = load_config(options.config, options.set)
    except CnnError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    options.title = config.name
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers, too
    if options.timing_only:
        timing(options)
        return 0
    options.out = options.out or Path(f"compare-{config.name}")
    options.out.mkdir(parents=True, exist_ok=True)
    recipe, text = options.out / "config.toml", to_toml(config)
    if recipe.exists() and recipe.read_text("utf-8") != text:
        print(f"{recipe}: another recipe was compared here; choose a new --out", file=sys.stderr)
        return 2
    recipe.write_text(text, "utf-8")
    try:
        train(options, math.ceil(config.train.epochs))
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on in {options.out}", file=sys.stderr)
        return 130
    finally:
        if rows := read_rows(options.out / "rows.csv"):
            write_report(options.out, rows, config.name)
            print((options.out / "summary.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
