"""Streams closed, full, of another encoding or left by their reader; odd environments. In a shell."""

import os
import shutil
from pathlib import Path

from faults import place
from faults.trial import HARMLESS, Fault, Trial, shell

_COMMANDS = {
    "train": f"cnn train {place.CONFIG} --run new --set train.epochs=2",
    "evaluate": "cnn evaluate run",
    "predict": f"cnn predict run {place.IMAGE}",
    "summary": f"cnn summary {place.CONFIG}",
    "sweep": f"cnn sweep {place.CONFIG} --seeds 0 --out sweep --set train.epochs=1",
    "explain": "cnn explain run --image 0 --out new.html",
    "doctor": f"cnn doctor {place.CONFIG}",
}
_STREAMS = {
    "stdout closed": ("{} >&-", {0}),
    "stderr closed": ("{} 2>&-", {0}),
    "all closed": ("{} <&- >&- 2>&-", {0}),
    "stdout full": ("{} >/dev/full", {0}),
    "stderr full": ("{} 2>/dev/full", {0}),
    "head": ("{} | head -1; exit ${{PIPESTATUS[0]}}", {0, 141}),
    "nobody": ("{} | true; exit ${{PIPESTATUS[0]}}", {0, 141}),
    "ASCII": ("PYTHONIOENCODING=ascii {}", {0}),
    "Latin-1": ("PYTHONIOENCODING=latin-1 {}", {0}),
    "cp1252": ("PYTHONIOENCODING=cp1252 {} --language zh", {0}),
    "C locale": ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {}", {0}),
    "Chinese": ("LC_ALL=zh_CN.UTF-8 {}", {0}),
}
_ENVIRONMENTS = {
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "empty HOME": {"HOME": "", "XDG_CACHE_HOME": ""},
    "relative cache": {"XDG_CACHE_HOME": "relative", "HOME": "~"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8"},
    "locale that is not there": {"LC_ALL": "xx_YY"},
    "no locale": {"LC_ALL": None, "LANG": None},
    "no PATH": {"PATH": "/usr/bin:/bin"},
    "temporary folder gone": {"TMPDIR": "/gone"},
    "no terminal width": {"COLUMNS": "0"},
    "old hash seed": {"PYTHONHASHSEED": "7"},
    "unwritable kernels": {"NUMBA_CACHE_DIR": "/dev/null/x"},
    "threads not a number": {"NUMBA_NUM_THREADS": "0"},
    "development mode": {"PYTHONDEVMODE": "1"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
}


def streams(rng):
    """Every command with every kind of stream."""
    _prepare()
    while True:
        pairs = [(c, s) for c in _COMMANDS for s in _STREAMS]
        rng.shuffle(pairs)
        for name, stream in pairs:
            yield Trial(stream, f"{name}: {stream}", lambda n=name, s=stream: _run(n, *_STREAMS[s]))


def environments(rng):
    """Every command in every environment."""
    _prepare()
    while True:
        pairs = [(c, e) for c in _COMMANDS for e in _ENVIRONMENTS]
        rng.shuffle(pairs)
        for name, kind in pairs:
            codes = {2} if kind == "threads not a number" else {0}
            yield Trial(
                kind, f"{name}: {kind}", lambda n=name, e=kind, c=codes: _run(n, "{}", c, **_ENVIRONMENTS[e])
            )


def _prepare():
    place.write()
    for part in ("train", "test"):  # names that few encodings have
        os.rename(f"images/{part}/column", f"images/{part}/猫 ±")
        os.rename(f"images/{part}/row", os.fsencode(f"images/{part}/r") + b"\xe9w")
        os.rename(f"images/{part}/corner", f"images/{part}/row")
    place.trained("run")


def _run(name, stream, codes, **environment):
    for made in ("new", "sweep"):
        shutil.rmtree(made, ignore_errors=True)
    Path("new.html").unlink(missing_ok=True)
    before = set(os.listdir("."))
    line = stream.format(_COMMANDS[name])
    answer = shell(line, 110, **environment).checked(codes)
    if made := set(os.listdir(".")) - before - {"new", "sweep", "new.html"}:
        raise Fault(f"made {made}")
    if name == "train" and answer.code == 0 and codes != {2} and not Path("new/report.html").exists():
        raise Fault("ended without its report")
    if name == "sweep" and answer.code == 0 and codes != {2} and not list(Path("sweep").glob("*.csv")):
        raise Fault("ended without its table")
    return HARMLESS
