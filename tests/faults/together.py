"""Two processes at once: in one run folder, one data cache, one kernel cache, one sweep."""

import csv
import os
import shutil
from pathlib import Path

from faults import place
from faults.kills import _same_run
from faults.trial import HARMLESS, NOTICED, Fault, Trial, child, shell


def two(rng):
    """Start two of the same kind at the same moment, or a moment apart."""
    place.write(train=30)
    begun = place.trained("begun", epochs=1)
    shutil.copytree(begun, "longer")
    child(*_longer("longer")).wait(60).checked({0})
    place.trained("whole", epochs=4)
    number = 0
    while True:
        number += 1
        for name, function in _KINDS.items():
            if name == "cold starts" and number % 8 != 2:
                continue
            wait = rng.choice((0, 0, rng.uniform(0, 0.3)))
            yield Trial(name, f"{name}, {wait:.3f} s apart", lambda f=function, w=wait: f(w))


def _both(first, second, wait, codes, seconds=60):
    import time

    one = child(*first)
    time.sleep(wait)
    other = child(*second)
    answers = [one.wait(seconds), other.wait(seconds)]
    for answer in answers:
        answer.checked(codes)
    return sorted(answer.code for answer in answers)


def _longer(run):
    return "train", "--resume", "--run", run, "--set", "train.epochs=4"


def _resumes(wait):
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree("begun", "run")
    codes = _both(_longer("run"), _longer("run"), wait, {0, 2})
    rows = [row["epoch"] for row in csv.DictReader(Path("run/metrics.csv").read_text().splitlines())]
    logged = Path("run/log.txt").read_text().count(" epoch 3/4 ")
    if rows != ["1", "2", "3", "4"] or logged != 1:
        raise Fault(f"both trained: epochs {rows}, the third logged {logged} times")
    _same_run(Path("longer"), Path("run"))
    return NOTICED if codes == [0, 2] else HARMLESS


def _runs(wait):
    shutil.rmtree("fresh", ignore_errors=True)
    argv = ("train", place.CONFIG, "--run", "fresh", "--set", "train.epochs=4")
    codes = _both(argv, argv, wait, {0, 2})
    if codes != [0, 2]:
        raise Fault(f"expected one to be refused, found exits {codes}")
    _same_run(Path("whole"), Path("fresh"))
    return NOTICED


def _numbered(wait):
    shutil.rmtree("runs", ignore_errors=True)
    argv = ("train", place.CONFIG, "--set", "train.epochs=4")
    _both(argv, argv, wait, {0})
    if sorted(os.listdir("runs")) != ["tiny", "tiny-2"]:
        raise Fault(f"found {os.listdir('runs')}")
    for name in ("tiny", "tiny-2"):
        _same_run(Path("whole"), Path("runs", name))
    return HARMLESS


def _caches(wait):
    place.forget()
    argv = ("train", place.CONFIG, "--dry-run")
    _both(argv, argv, wait, {0})
    from cnn.data import load_dataset

    load_dataset("folder", "images")
    if left := [p.name for p in place.caches() if p.name.startswith(".")]:
        raise Fault(f"left {left}")
    return HARMLESS


def _sweeps(wait):
    shutil.rmtree("sweep", ignore_errors=True)
    argv = ("sweep", place.CONFIG, "--seeds", "0..1", "--out", "sweep", "--set", "train.epochs=1")
    _both(argv, argv, wait, {0, 2})
    child(*argv).wait(60).checked({0})
    return NOTICED


def _cold_starts(wait):
    shutil.rmtree("kernels", ignore_errors=True)
    shutil.rmtree("runs", ignore_errors=True)
    line = f"cnn train {place.CONFIG} --set train.epochs=1 --set train.backend=numba"
    shell(
        f"{line} & first=$!; {line}; code=$?; wait $first || exit $?; exit $code",
        280,
        NUMBA_CACHE_DIR=str(Path("kernels").absolute()),
    ).checked({0})
    return HARMLESS


_KINDS = {
    "two resumes": _resumes,
    "two runs in one folder": _runs,
    "two runs without a folder": _numbered,
    "two readers of pictures": _caches,
    "two sweeps": _sweeps,
    "cold starts": _cold_starts,
}
