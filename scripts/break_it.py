"""Break it yourself: plants a classic bug in a copy of cnn and shows what one would see.

    python scripts/break_it.py                   lists the bugs
    python scripts/break_it.py NAME              plants one, trains right and broken side by side
    python scripts/break_it.py NAME --out DIR    also keeps the curves as a PNG and the page of cnn explain
    python scripts/break_it.py --check           only whether every bug can still be planted

It shows the loss of both, and what the gradient check, the doctor and the page of `cnn explain` say about the
broken one. Both copies run the readable backend (cnn/reference), in which most of the bugs are planted. The
copies live in a temporary folder; the installed package is never touched.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import planting

BUGS = Path(__file__).with_suffix(".toml")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
COLUMNS, BLOCKS = 60, "▁▂▃▄▅▆▇█"
_IGNORED = shutil.ignore_patterns("__pycache__")
_WIDTH = 100


def main(argv=None):
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="a bug; without it they are listed")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of 62 steps each (default 4)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep curves.png and page.html here")
    parser.add_argument("--check", action="store_true", help="only check that every bug can be planted")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)  # this script inside of a copy
    args = parser.parse_args(argv)
    if args.train:
        return train(*args.train)
    document = tomllib.loads(BUGS.read_text(encoding="utf-8"))
    bugs = {bug["name"]: bug for bug in document["bug"]}
    if args.check:
        for bug in bugs.values():
            planted(bug, package_root())
        print(f"{len(bugs)} bugs, each can be planted")
        return 0
    if args.name is None:
        width = max(map(len, bugs))
        print("\n".join(f"{name:{width}}  {bug['what']}" for name, bug in bugs.items()))
        print(f"\n{Path(sys.argv[0]).name} NAME plants one and shows what follows.")
        return 0
    if args.name not in bugs:
        from cnn.errors import did_you_mean

        print(
            f'found "{args.name}", which is not a bug of the list.{did_you_mean(args.name, bugs)}',
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="cnn-broken-") as scratch:
        return show(bugs[args.name], document["networks"], Path(scratch), args.epochs, args.out)


# -- planting -------------------------------------------------------------------------------------


def package_root():
    """Return the folder that holds the package that would be imported."""
    import cnn

    return Path(cnn.__file__).resolve().parent.parent


def planted(bug, root):
    """Return {file: new text} of a bug; SystemExit when a text to replace is not found exactly once."""
    try:
        return planting.planted(root, bug["edit"])
    except planting.Misplaced as error:
        raise SystemExit(f"{bug['name']}: {error}") from None


def copy_package(target, changes, config):
    """Make a copy of the package with its sample, ``changes`` written into it, and a config."""
    from cnn.data.sample import sample_path

    shutil.copytree(package_root() / "cnn", target / "cnn", ignore=_IGNORED)
    (target / "data").mkdir()
    shutil.copy(sample_path(), target / "data")
    for file, text in changes.items():
        (target / file).write_text(text, encoding="utf-8")
    (target / "config.toml").write_text(config, encoding="utf-8")


def make_config(layers, epochs):
    """Return the TOML of the experiment: half of the sample for validation, plain SGD with momentum."""
    import tomli_w

    return tomli_w.dumps(
        {
            "name": "break_it",
            "data": {"dataset": "sample", "batch_size": 32, "validation": 0.5},
            "model": {"layers": layers},
            "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "train": {"epochs": epochs, "backend": "reference"},
        }
    )


# -- running --------------------------------------------------------------------------------------


def run(copy, *arguments):
    """Run Python in a copy, so that ``import cnn`` finds the copy; return the finished process."""
    # one BLAS thread: the matrices are small, and the two copies train at the same time
    environment = {**os.environ, "PYTHONPATH": str(copy), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


def train(config, losses):
    """Train inside of a copy; write the loss of every step to a JSON file, and the exit code."""
    from cnn.cli import main as cnn
    from cnn.layers import SoftmaxCrossEntropy

    seen, forward = [], SoftmaxCrossEntropy.forward

    def recording_forward(self, logits, targets):
        seen.append(forward(self, logits, targets))
        return seen[-1]

    SoftmaxCrossEntropy.forward = recording_forward
    code = cnn(["train", config, "--run", "run"])
    finite = [loss if math.isfinite(loss) else None for loss in seen]
    Path(losses).write_text(json.dumps({"code": code, "losses": finite}), encoding="utf-8")
    return 0


def trained(copy):
    """Train a copy; return (losses of the steps, None where not finite; rows of metrics.csv)."""
    done = run(copy, Path(__file__).resolve(), "--train", "config.toml", "losses.json")
    if done.returncode or not (copy / "losses.json").is_file():
        raise SystemExit(f"training failed:\n{done.stderr[-2000:]}")
    lines = (copy / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return json.loads((copy / "losses.json").read_text(encoding="utf-8"))["losses"], rows


def gradient_check(copy):
    """Return what the gradient check of a copy says, as lines; the first one is the verdict."""
    done = run(
        copy, "-m", "cnn", "gradcheck", "config.toml", "--backend", "reference", "--json", "check.json"
    )
    if not (copy / "check.json").is_file():
        return [f"could not run: {done.stderr.strip().splitlines()[-1:]}"]
    report = json.loads((copy / "check.json").read_text(encoding="utf-8"))
    bugs = [entry for entry in report["entries"] if entry["kind"] == "BUG"]
    if not bugs:
        return [f"passed: all {len(report['entries'])} comparisons agree"]
    places = {}
    for e in bugs:
        hint = e["hint"] or f"analytic {e['analytic']:.4g}, numeric {e['numeric']:.4g}"
        places.setdefault((e["layer"], e["type"], e["tensor"]), hint)
    # the layers themselves first: the network as a whole is wrong wherever one of them is
    named = [f"layer {n} ({t}), {x}: {hint}" for (n, t, x), hint in places.items() if n != "network"]
    whole = [f"{n}, {x}: {hint}" for (n, _, x), hint in places.items() if n == "network"]
    return [f"FAILED: {len(bugs)} of {len(report['entries'])} comparisons are wrong", *(named or whole)[:4]]


def doctor(copy):
    """Return what the doctor of a copy says, as lines."""
    done = run(copy, "-m", "cnn", "doctor", "config.toml", "--json", "doctor.json")
    if not (copy / "doctor.json").is_file():
        return [f"could not run: {done.stderr.strip().splitlines()[-1:]}"]
    report = json.loads((copy / "doctor.json").read_text(encoding="utf-8"))
    sad = [f for f in report["findings"] if f["verdict"] != "OK"]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report["counts"].items())
    return [counts, *(f"{f['verdict']} {f['check']}: {f['measured']}" for f in sad)]


def banner(copy, right, options):
    """Return what the page of `cnn explain` says when a copy explains the rightly trained network."""
    explain = ("-m", "cnn", "explain", right / "run", "--image", 3, "--out", "page.html", *options)
    done = run(copy, *explain)
    if not (copy / "page.html").is_file():
        return [f"could not be written: {done.stderr.strip().splitlines()[-1:]}"]
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        return ["written; without Chromium here, open it yourself: --out DIR keeps page.html"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    page = (copy / "page.html").as_uri()
    dom = subprocess.run([browser, *flags, page], capture_output=True, text=True, check=False).stdout
    found = re.search(r'<p id="banner"[^>]*>(.*?)</p>', dom, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", "", found[1])).strip() if found else "the browser did not show it"]


# -- showing --------------------------------------------------------------------------------------


def show(bug, networks, scratch, epochs, out):
    """Plant, train both, ask everybody, print; return 5 when one who should complain does not."""
    changes = planted(bug, package_root())
    copies = {name: scratch / name for name in ("right", "broken")}
    config = make_config(networks[bug["network"]], epochs)
    for name, copy in copies.items():
        copy_package(copy, changes if name == "broken" else {}, config)
    print(f"{bug['name']}: {bug['what']}\n")
    for edit in bug["edit"]:
        print(f"  {edit['at']}")
        print(textwrap.indent(edit["old"].rstrip("\n"), "  - "))
        print(textwrap.indent(edit["new"].rstrip("\n"), "  + "), flush=True)
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(copies, pool.map(trained, copies.values()), strict=True))
    print(f"\nloss of {len(results['right'][0])} steps\n\n{curves(results)}\n\n{table(results)}\n")
    broken = copies["broken"]
    answers = {
        "gradient check": gradient_check(broken),
        "doctor": doctor(broken),
        "page": banner(broken, copies["right"], bug.get("explain", [])),
    }
    seen_by = [name for name, lines in answers.items() if complains(lines)]
    for name, lines in answers.items():
        for i, line in enumerate(lines):
            label = f"{name}:" if i == 0 else ""
            print(textwrap.fill(line, _WIDTH, initial_indent=f"{label:16}", subsequent_indent=" " * 18))
    print(f"\n{textwrap.fill(' '.join(bug['lesson'].split()), _WIDTH)}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        draw(out / f"{bug['name']}.png", bug, results)
        if (broken / "page.html").is_file():
            shutil.copy(broken / "page.html", out / f"{bug['name']}.html")
        print(f"\nkept in {out}: " + ", ".join(sorted(p.name for p in out.glob(f"{bug['name']}.*"))))
    blind = [
        name for name in bug["seen_by"] if name not in seen_by and not answers[name][0].startswith("written")
    ]
    if blind:
        print(f"\nnot seen by: {', '.join(blind)}, which should see it", file=sys.stderr)
    return 5 if blind else 0


def complains(lines):
    """Whether an answer says that something is wrong."""
    return lines[0].startswith(("FAILED", "✗")) or any(line.startswith(("WARN ", "FAIL ")) for line in lines)


def curves(results):
    """Return a line of blocks for each training, on one scale from 0 to the largest loss, at most 4."""
    top = min(4.0, max(loss for losses, _ in results.values() for loss in losses if loss is not None))
    lines = []
    for name, (losses, _) in results.items():
        bins = [
            losses[i * len(losses) // COLUMNS : max(1, (i + 1) * len(losses) // COLUMNS)]
            for i in range(COLUMNS)
        ]
        lines.append(f"  {name:7} {''.join(block(part, top) for part in bins)}")
    return "\n".join([*lines, f"          height: 0 to {top:.3g}; ×: not a finite number"])


def block(losses, top):
    """Return the block for the mean of some losses."""
    if any(loss is None for loss in losses):
        return "×"
    if not losses:
        return " "
    share = min(1.0, sum(losses) / len(losses) / top)
    return BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))]


def table(results):
    """Return both metrics.csv side by side."""
    lines = [
        "epoch    training loss      validation loss    validation accuracy",
        "         right   broken     right   broken     right    broken",
    ]
    right, broken = (rows for _, rows in results.values())
    for i, row in enumerate(right):
        other = broken[i] if i < len(broken) else None
        cells = [f"{row['epoch']:>5}  "]
        for key in ("train_loss", "val_loss"):
            cells.append(
                f"{float(row[key]):7.3f}  " + (f"{float(other[key]):7.3f}  " if other else "      ×  ")
            )
        cells.append(f"{100 * float(row['val_accuracy']):6.1f} % ")
        cells.append(f"{100 * float(other['val_accuracy']):6.1f} %" if other else "      ×")
        lines.append(" ".join(cells))
    return "\n".join(f"  {line}" for line in lines)


def draw(path, bug, results):
    """Write the loss of both as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, (losses, _)), color in zip(results.items(), ("#3b6fb6", "#d1602b"), strict=True):
        axes.plot(
            [math.nan if loss is None else loss for loss in losses], color=color, label=name, linewidth=1.2
        )
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, 4))
    axes.set_title(textwrap.fill(f"{bug['name']}: {bug['what']}", 90), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
