"""Runs one campaign: ``python -m faults.worker NAME --seed S``; prints a JSON line an event."""

import argparse
import json
import os
import shutil
import sys
import time
import warnings
from itertools import islice
from pathlib import Path

from faults.campaigns import CAMPAIGNS
from faults.trial import Fault, generator, scratch

_MEMORY = 1_000_000_000  # bytes that a trial may take beyond what the worker held before


def main():
    """Run the trials; stops after ``--count`` of them or ``--seconds``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CAMPAIGNS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    events = os.fdopen(os.dup(1), "w", buffering=1)  # what is tried may close or fill stdout
    os.dup2(2, 1)
    deadline, folder = time.monotonic() + args.seconds, scratch()
    try:
        trials = CAMPAIGNS[args.name].trials(generator(args.seed, args.name))
        for trial in islice(trials, args.count):
            print(json.dumps({"kind": trial.kind, "what": trial.what}), file=events)
            print(json.dumps(judged(trial)), file=events)
            if time.monotonic() > deadline:
                break
        print(json.dumps({"done": True}), file=events)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def judged(trial):
    """Return {"counts", "seconds", "memory"} of a trial: bytes of its peak above what there was before."""
    before, begin = _reset_peak(), time.monotonic()
    try:
        outcome, fault = trial.run(), None
    except Fault as error:
        outcome, fault = "FAULT", "\n".join([str(error), *getattr(error, "__notes__", [])])
    except (Exception, SystemExit) as error:
        import traceback

        outcome, fault = "FAULT", "".join(traceback.format_exception(error))[-3000:]
    memory = max(0, _memory("VmHWM") - before)
    if memory > _MEMORY and fault is None:
        outcome, fault = "FAULT", f"takes {memory / 1e9:.1f} GB"
    counts = {outcome: 1} if isinstance(outcome, str) else outcome
    found = {"counts": counts, "seconds": round(time.monotonic() - begin, 3), "memory": memory}
    return found | ({"fault": fault} if fault else {})


def _reset_peak():
    """Let the peak of the memory begin anew; return the memory in use."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _memory("VmHWM")
    return _memory("VmRSS")


def _memory(name):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no Linux
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
