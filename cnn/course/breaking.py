"""Plants a classic bug in a copy of the package and asks everybody what they see.

Both copies, the right and the broken one, lie in a temporary folder and run the readable backend, in which
most of the bugs are planted; the package itself is never touched.
"""

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from html import unescape
from importlib import resources
from pathlib import Path

from cnn.course import planting
from cnn.errors import ConfigError, did_you_mean

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_IGNORED = shutil.ignore_patterns("__pycache__")
#: Who is asked; "page" is that of `cnn explain`, on which the broken package explains the right network.
WITNESSES = ("gradient check", "doctor", "page")


@dataclass(frozen=True)
class Bug:
    """One bug: ``what`` and ``lesson`` are {"en", "zh"}; see cnn/course/bugs.toml."""

    name: str
    what: dict
    lesson: dict
    network: str
    seen_by: tuple
    edit: tuple
    explain: tuple = ()


@dataclass
class Evidence:
    """What a planted bug shows.

    losses : {"right": [...], "broken": [...]}, of every step, None where not finite.
    rows : the same of the rows of metrics.csv.
    answers : {witness: lines}, the first one being the verdict.
    page : path of the broken copy's page, or None.
    """

    losses: dict
    rows: dict
    answers: dict
    page: Path | None

    def seen_by(self):
        """Return the witnesses that say that something is wrong."""
        return [name for name, lines in self.answers.items() if complains(lines)]


@cache
def _document():
    text = resources.files("cnn.course").joinpath("bugs.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def bugs():
    """Return {name: Bug}."""
    return {bug["name"]: Bug(**bug) for bug in _document()["bug"]}


def networks():
    """Return {name: layers} of the networks in which the bugs are planted."""
    return _document()["networks"]


def find_bug(name):
    """Return the bug of this name; ConfigError with the nearest one otherwise."""
    known = bugs()
    if name not in known:
        raise ConfigError(f'found "{name}", which is not a bug of the list.{did_you_mean(name, known)}')
    return known[name]


def package_root():
    """Return the folder that holds the package."""
    return Path(__file__).resolve().parents[2]


def planted(bug, root=None):
    """Return {file: new text} of a bug; ConfigError when a text to replace is not found exactly once."""
    try:
        return planting.planted(root or package_root(), bug.edit)
    except planting.Misplaced as error:
        raise ConfigError(f"{bug.name}: {error}") from None


def difference(bug):
    """Return the lines of a unified diff from the package to the broken copy."""
    lines = []
    for file, text in planted(bug).items():
        before = (package_root() / file).read_text(encoding="utf-8").splitlines()
        lines += difflib.unified_diff(before, text.splitlines(), file, file, lineterm="", n=2)
    return lines


def collect(bug, scratch, epochs=4):
    """Plant a bug below the folder ``scratch``, train both copies, ask all witnesses; return the Evidence."""
    changes = planted(bug)
    copies = {name: Path(scratch) / name for name in ("right", "broken")}
    for name, copy in copies.items():
        _copy_package(copy, changes if name == "broken" else {}, _config(networks()[bug.network], epochs))
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(copies, pool.map(_trained, copies.values()), strict=True))
    broken = copies["broken"]
    answers = {
        "gradient check": ask_gradient_check(broken),
        "doctor": ask_doctor(broken),
        "page": ask_page(broken, copies["right"], bug.explain),
    }
    page = broken / "page.html"
    losses = {name: losses for name, (losses, _) in results.items()}
    rows = {name: rows for name, (_, rows) in results.items()}
    return Evidence(losses, rows, answers, page if page.is_file() else None)


def complains(lines):
    """Whether an answer says that something is wrong."""
    return lines[0].startswith(("FAILED", "✗")) or any(line.startswith(("WARN ", "FAIL ")) for line in lines)


def _copy_package(target, changes, config):
    """Make a copy of the package with its sample, ``changes`` written into it, and a config."""
    from cnn.data.sample import sample_path

    shutil.copytree(package_root() / "cnn", target / "cnn", ignore=_IGNORED)
    (target / "data").mkdir()
    shutil.copy(sample_path(), target / "data")
    for file, text in changes.items():
        (target / file).write_text(text, encoding="utf-8")
    (target / "config.toml").write_text(config, encoding="utf-8")


def _config(layers, epochs):
    """Return the TOML of the experiment: half of the sample for validation, plain SGD with momentum."""
    import tomli_w

    return tomli_w.dumps(
        {
            "name": "break",
            "data": {"dataset": "sample", "batch_size": 32, "validation": 0.5},
            "model": {"layers": layers},
            "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "train": {"epochs": epochs, "backend": "reference"},
        }
    )


def _run(copy, *arguments):
    """Run Python in a copy, so that ``import cnn`` finds the copy; return the finished process."""
    # one BLAS thread: the matrices are small, and the two copies train at the same time
    environment = {**os.environ, "PYTHONPATH": str(copy), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["LC_ALL"] = "C.UTF-8"  # what is read below is English
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


def _trained(copy):
    """Train a copy; return (losses of the steps, rows of metrics.csv)."""
    done = _run(copy, "-m", "cnn.course.recording", "config.toml", "losses.json")
    if done.returncode or not (copy / "losses.json").is_file():
        raise RuntimeError(f"training a copy failed:\n{done.stderr[-2000:]}")
    losses = json.loads((copy / "losses.json").read_text(encoding="utf-8"))
    metrics = copy / "run" / "metrics.csv"
    if not metrics.is_file():  # not one epoch came to its end
        return losses, []
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return losses, [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]


def _could_not(done):
    return [f"could not run: {''.join(done.stderr.strip().splitlines()[-1:])}"]


def ask_gradient_check(copy):
    """Return what the gradient check of a copy says, as lines."""
    done = _run(
        copy, "-m", "cnn", "gradcheck", "config.toml", "--backend", "reference", "--json", "check.json"
    )
    if not (copy / "check.json").is_file():
        return _could_not(done)
    report = json.loads((copy / "check.json").read_text(encoding="utf-8"))
    wrong = [entry for entry in report["entries"] if entry["kind"] == "BUG"]
    if not wrong:
        return [f"passed: all {len(report['entries'])} comparisons agree"]
    places = {}
    for e in wrong:
        hint = e["hint"] or f"analytic {e['analytic']:.4g}, numeric {e['numeric']:.4g}"
        places.setdefault((e["layer"], e["type"], e["tensor"]), hint)
    # the layers themselves first: the network as a whole is wrong wherever one of them is
    named = [f"layer {n} ({t}), {x}: {hint}" for (n, t, x), hint in places.items() if n != "network"]
    whole = [f"{n}, {x}: {hint}" for (n, _, x), hint in places.items() if n == "network"]
    return [f"FAILED: {len(wrong)} of {len(report['entries'])} comparisons are wrong", *(named or whole)[:4]]


def ask_doctor(copy):
    """Return what the doctor of a copy says, as lines."""
    done = _run(copy, "-m", "cnn", "doctor", "config.toml", "--json", "doctor.json")
    if not (copy / "doctor.json").is_file():
        return _could_not(done)
    report = json.loads((copy / "doctor.json").read_text(encoding="utf-8"))
    sad = [f for f in report["findings"] if f["verdict"] != "OK"]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report["counts"].items())
    return [counts, *(f"{f['verdict']} {f['check']}: {f['measured']}" for f in sad)]


def ask_page(copy, right, options):
    """Return what the page of `cnn explain` says when a copy explains the rightly trained network."""
    explain = ("-m", "cnn", "explain", right / "run", "--image", 3, "--out", "page.html", *options)
    done = _run(copy, *explain)
    if not (copy / "page.html").is_file():
        return _could_not(done)
    browser = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if browser is None:
        return ["written; without Chromium here, open it yourself"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    page = (copy / "page.html").as_uri()
    dom = subprocess.run([browser, *flags, page], capture_output=True, text=True, check=False).stdout
    found = re.search(r'<p id="banner"[^>]*>(.*?)</p>', dom, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", "", found[1])).strip() if found else "the browser did not show it"]
