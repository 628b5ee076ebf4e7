"""Starts the worker of a campaign, watches it, and counts what it reports."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from faults.campaigns import CAMPAIGNS

_TESTS = Path(__file__).resolve().parents[1]
_BUILDING = 600  # seconds for what a campaign makes before its first trial


@dataclass
class Report:
    """What a campaign found."""

    name: str
    counts: Counter = field(default_factory=Counter)  # (kind, outcome) -> trials
    faults: list = field(default_factory=list)  # (kind, what, text)
    slowest: float = 0.0  # seconds of a trial
    memory: int = 0  # bytes of the hungriest trial
    seconds: float = 0.0

    def trials(self):
        """How many were run."""
        return self.counts.total()


def run(name, seed, count=None, seconds=None):
    """Run a campaign; ``count`` trials or ``seconds``, whichever ends first. Return its Report."""
    report, begin = Report(name), time.monotonic()
    left, number = count, 0
    while left is None or left > 0:
        room = None if seconds is None else seconds - (time.monotonic() - begin)
        if room is not None and room <= 0:
            break
        before = report.trials()
        if _once(report, name, f"{seed}{number:03}", left, room):
            break
        number += 1  # after a hang or a crash: a new worker, other numbers
        left = None if left is None else left - (report.trials() - before)
        if number > 20:
            break
    report.seconds = time.monotonic() - begin
    return report


def _once(report, name, seed, count, seconds):
    """Run one worker; whether it came to its end."""
    limits = [] if count is None else ["--count", str(count)]
    limits += [] if seconds is None else ["--seconds", str(seconds)]
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.worker", name, "--seed", seed, *limits],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="backslashreplace",
    )
    lines, said = queue.Queue(), []
    pumps = [
        threading.Thread(target=_pump, args=pair, daemon=True)
        for pair in ((process.stdout, lines.put), (process.stderr, said.append))
    ]
    for pump in pumps:
        pump.start()
    trying, patience = None, CAMPAIGNS[name].patience
    try:
        while True:
            try:
                line = lines.get(timeout=_BUILDING if trying is None else patience)
            except queue.Empty:
                _fault(report, trying, f"a hang: no end after {patience} s")
                return False
            if line is None:
                _fault(report, trying, f"the process ended: exit {process.wait(10)}\n{''.join(said)[-2000:]}")
                return False
            event = json.loads(line)
            if event.get("done"):
                return True
            if "counts" not in event:
                trying = event
                continue
            report.counts.update({(trying["kind"], o): n for o, n in event["counts"].items()})
            report.slowest = max(report.slowest, event["seconds"])
            report.memory = max(report.memory, event["memory"])
            if "fault" in event:
                report.faults.append((trying["kind"], trying["what"], event["fault"]))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pump in pumps:
            pump.join(5)


def _fault(report, trying, text):
    trying = trying or {"kind": "start", "what": report.name}
    report.counts[trying["kind"], "FAULT"] += 1
    report.faults.append((trying["kind"], trying["what"], text))


def _pump(stream, take):
    with stream:
        for line in stream:
            take(line)
    take(None) if take.__name__ == "put" else None


def environment():
    """Return the environment of a worker: this code, this user's kernels, and nothing of a terminal."""
    from cnn.files import user_cache_folder

    given = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    given["PYTHONPATH"] = os.pathsep.join([str(_TESTS.parent), str(_TESTS)])
    kernels = given.get("NUMBA_CACHE_DIR") or user_cache_folder()
    return given | {"LC_ALL": "C.UTF-8"} | ({"NUMBA_CACHE_DIR": str(kernels)} if kernels else {})


def table(reports):
    """Return the lines of a table: a row a kind of trial."""
    heads = ("campaign", "kind", "trials", "noticed", "harmless", "faults", "slowest", "memory")
    rows, totals = [heads], Counter()
    for report in reports:
        for kind in dict.fromkeys(kind for kind, _ in report.counts):
            row = [report.counts[kind, outcome] for outcome in ("noticed", "harmless", "FAULT")]
            totals.update(dict(zip(heads[3:6], row, strict=True)))
            last = (f"{report.slowest:.1f} s", f"{report.memory / 1e6:.0f} MB")
            rows.append((report.name, kind, sum(row), *row, *last))
    rows.append(("all", "", totals.total(), *(totals[head] for head in heads[3:6]), "", ""))
    widths = [max(len(str(row[k])) for row in rows) for k in range(len(heads))]
    return [
        "  ".join(f"{row[k]!s:{'<' if k < 2 else '>'}{widths[k]}}" for k in range(len(heads))) for row in rows
    ]
