"""Measure cnn against PyTorch on this machine's processor: the same work, in turns, numbers compared first.

    python scripts/benchmark.py                       # everything: about half an hour
    python scripts/benchmark.py --quick steps         # the training steps, roughly
    python scripts/benchmark.py kernels inference --threads 1 --out results/
    python scripts/benchmark.py steps --against ../before    # another checkout of cnn instead of PyTorch
    python scripts/benchmark.py steps --precision bf16       # ours in bf16, PyTorch in its best of both

Each framework runs in a process of its own, and they take turns. PyTorch is the better of NCHW and
channels_last, eager and compiled (with --quick: eager only), and with --precision bf16 of float32 and
autocast. A row gives medians and, in brackets, the smallest and largest median of the rounds; "ratio" is
PyTorch's time over ours: above 1 we are faster. Writes benchmark.md, benchmark.json and (section growth)
growth.png. Needs PyTorch.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_cases import CONVOLUTIONS, LOOP_STEPS, NETWORKS, STEPS, convolution_name

HERE = Path(__file__).parent
# of the norm: where the sign of a ReLU input is a rounding error, two float32 networks part a little
TOLERANCE = 2e-2
# in bf16 gradients part further, the more so the deeper the network: norms are compared, and losses
BF16_TOLERANCE = 0.5


class Worker:
    """A process that runs one framework."""

    def __init__(self, framework, options, cache=None):
        self.framework, home = framework, HERE.parent
        if framework == "torch" and options.against:  # the other side is another checkout
            framework, home = "cnn", options.against.resolve()
        # settings that hobble OpenBLAS, and with it NumPy, have no place in a comparison
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        threads = str(options.threads)
        environment |= {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join([str(home), environment.get("PYTHONPATH", "")])
        if cache:
            environment["NUMBA_CACHE_DIR"] = cache
        worker = str(home / "scripts" / "benchmark_worker.py")
        command = [sys.executable, worker, framework, threads, options.clock]
        self.process = subprocess.Popen(
            command, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, **request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark: the {self.framework} process died on {request}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def disagreement(ours, theirs, norms_only=False):
    """Largest difference of two sets of fingerprints, relative to the norm."""
    if norms_only:
        ours, theirs = ({key: marks[:1] for key, marks in side.items()} for side in (ours, theirs))
    return max(
        max(abs(a - b) for a, b in zip(ours[key], theirs[key], strict=True)) / max(abs(theirs[key][0]), 1e-6)
        for key in theirs
    )


def compare(job, request, options):
    """Run one job on both sides in turns; return a row of numbers."""
    ours, theirs = Worker("cnn", options), Worker("torch", options)
    try:
        narrow = options.precision == "bf16"
        reply = ours.ask(make=job, variant="cnn bf16" if narrow else "cnn", **request)
        if "error" in reply:
            raise SystemExit(f"benchmark: cnn failed on {job} {request}: {reply['error']}")
        best, best_time, worst = None, float("inf"), 0.0
        for variant in options.variants:
            made = theirs.ask(make=job, variant=variant, **request)
            if "error" in made:  # no C++ compiler for torch.compile, for example
                print(f"  PyTorch {variant} left out: {made['error'].splitlines()[0]}")
                continue
            worst = max(worst, disagreement(reply["marks"], made["marks"], narrow))
            theirs.ask(time=0)
            took = statistics.median(theirs.ask(time=options.seconds / 2)["times"])
            if took < best_time:
                best, best_time = variant, took
        if best is None:
            raise SystemExit(f"benchmark: PyTorch failed on {job} {request}: {made['error']}")
        if worst > (BF16_TOLERANCE if narrow else TOLERANCE):
            raise SystemExit(f"benchmark: {job} {request}: the numbers differ by {worst:.1e} of their norm")
        if variant != best:
            theirs.ask(make=job, variant=best, **request)
        for side in (ours, theirs):
            side.ask(time=0)
        rounds = {"cnn": [], "torch": []}
        for _ in range(options.rounds):
            rounds["cnn"].append(statistics.median(ours.ask(time=options.seconds)["times"]))
            rounds["torch"].append(statistics.median(theirs.ask(time=options.seconds)["times"]))
        row = {
            side: {"median": statistics.median(t), "min": min(t), "max": max(t)} for side, t in rounds.items()
        }
        ratios = [b / a for a, b in zip(rounds["cnn"], rounds["torch"], strict=True)]
        row["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        row |= {"variant": best, "disagreement": worst, "marks": reply["marks"]}
        row["memory"] = {side.framework: side.ask(memory=True)["memory"] for side in (ours, theirs)}
        return row
    finally:
        ours.close()
        theirs.close()


def cells(row):
    """The columns that all tables of times share."""

    def show(side, factor=1e3, digits=2):
        t = row[side]
        middle, low, high = (f"{t[key] * factor:.{digits}f}" for key in ("median", "min", "max"))
        return f"{middle} ({low}–{high})"

    return [show("cnn"), show("torch"), row["variant"], show("ratio", 1)]


HEADER = ["cnn, ms", "PyTorch, ms", "PyTorch as", "ratio"]


def weights_file(options):
    return str(Path(options.scratch) / "weights.npz")


def kernels(options):
    rows = []
    for case in CONVOLUTIONS[:: 3 if options.quick else 1]:
        c, k, size, plane, padding, stride, groups = case
        out = (plane + 2 * padding - size) // stride + 1
        work = 2 * options.batch * k * out * out * size * size * c // groups
        for direction in ("forward", "d-input", "d-weight"):
            row = compare(
                "convolution", {"case": case, "batch": options.batch, "direction": direction}, options
            )
            rate = f"{work / row['cnn']['median'] / 1e9:.0f}"
            yield row | {"case": convolution_name(case), "direction": direction, "work": work}
            rows.append([convolution_name(case), direction, *cells(row), rate])
            progress(rows[-1])
    return f"Convolutions, batch {options.batch}", ["shape", "direction", *HEADER, "cnn, GFLOP/s"], rows


def steps(options):
    rows = []
    for name, batch in STEPS:
        row = compare("step", {"name": name, "batch": batch, "weights": weights_file(options)}, options)
        yield row | {"network": name, "batch": batch}
        rows.append([name, batch, *cells(row), f"{batch / row['cnn']['median']:.0f}"])
        progress(rows[-1])
    return "Training steps", ["network", "batch", *HEADER, "cnn, images/s"], rows


def inference(options):
    rows = []
    for name in NETWORKS:
        for batch in (1, 64) if options.quick else (1, 64, 1024):
            row = compare(
                "inference", {"name": name, "batch": batch, "weights": weights_file(options)}, options
            )
            yield row | {"network": name, "batch": batch}
            rows.append([name, batch, *cells(row), f"{batch / row['cnn']['median']:.0f}"])
            progress(rows[-1])
    return "Inference", ["network", "batch", *HEADER, "cnn, images/s"], rows


def loop(options):
    """The steps of ``cnn train`` against bare ones, in one process, in turns; brackets are single turns."""
    title = f"The training loop: some {LOOP_STEPS} steps of LeNet-5, batch 64, data and augmentation included"
    header = ["bare steps, ms", "training, ms", "rate of the bare steps"]
    if not (options.root / "MNIST").is_dir():
        print(f"  left out: no MNIST in {options.root}; `cnn data MNIST` fetches it, --root names its folder")
        return title, header, []
    worker = Worker("cnn", options)
    try:
        made = worker.ask(make="loop", variant="cnn", root=str(options.root), weights=weights_file(options))
        if "error" in made:
            raise SystemExit(f"benchmark: cnn failed on the training loop: {made['error']}")
        rounds = range(max(2, options.rounds))
        times = [t for _ in rounds for t in worker.ask(time=4 * options.seconds)["times"]]
    finally:
        worker.close()
    bare, whole = times[0::2], times[1::2]
    shares = [b / w for b, w in zip(bare, whole, strict=False)]
    yield {"bare": bare, "training": whole, "share": statistics.median(shares)}
    milliseconds = (
        f"{statistics.median(t) * 1e3:.0f} ({min(t) * 1e3:.0f}–{max(t) * 1e3:.0f})" for t in (bare, whole)
    )
    low, high = (f"{q:.2f}" for q in statistics.quantiles(shares, n=4)[::2])
    row = [*milliseconds, f"{statistics.median(shares):.3f} (middle half {low}–{high})"]
    progress(row)
    return title, header, [row]


def memory(options):
    rows = []
    for name, batch in STEPS:
        peak, base = {}, {}
        for framework, variant in (("cnn", "cnn"), ("torch", "NCHW")):
            worker = Worker(framework, options)
            base[framework] = worker.ask(memory=True)["memory"]
            worker.ask(make="step", name=name, batch=batch, weights=weights_file(options), variant=variant)
            worker.ask(time=2)
            peak[framework] = worker.ask(memory=True)["memory"]
            worker.close()
        yield {"network": name, "batch": batch, "peak": peak, "base": base}
        mib = [f"{peak[f] / 2**20:.0f} ({base[f] / 2**20:.0f})" for f in ("cnn", "torch")]
        rows.append([name, batch, *mib, f"{peak['cnn'] / peak['torch']:.2f}"])
        progress(rows[-1])
    header = ["network", "batch", "cnn, MiB (before)", "PyTorch, MiB (before)", "cnn / PyTorch"]
    return "Peak memory of the training process", header, rows


def startup(options):
    rows = []
    for name, batch in STEPS[1:]:
        times = {}
        for label, framework, cache in (
            ("cold", "cnn", tempfile.mkdtemp(dir=options.scratch)),
            ("warm", "cnn", None),
            ("torch", "torch", None),
        ):
            if label == "cold":
                folder = cache
            begin = time.perf_counter()
            worker = Worker(framework, options, folder if framework == "cnn" else None)
            variant = "NCHW" if framework == "torch" else "cnn"
            worker.ask(make="step", name=name, batch=batch, weights=weights_file(options), variant=variant)
            times[label] = time.perf_counter() - begin
            worker.close()
        yield {"network": name, "batch": batch, "seconds": times}
        rows.append([name, batch, *(f"{times[k]:.1f}" for k in ("cold", "warm", "torch"))])
        progress(rows[-1])
    header = ["network", "batch", "cnn, kernels not compiled yet, s", "cnn, s", "PyTorch (eager), s"]
    return "From process start to the first gradients", header, rows


BATCHES, WIDTHS = (1, 4, 16, 64, 256, 1024), (1, 2, 4, 8)


def growth(options):
    """Images/s of LeNet-5's step, both frameworks: over the batch, over the width, over the threads."""
    curves = {"batch": [], "width": [], "threads": []}
    for batch in BATCHES:
        curves["batch"].append((batch, rates("LeNet-5", batch, options)))
    for width in WIDTHS:
        curves["width"].append((width, rates(f"LeNet-5 x{width}", 64, options)))
    for threads in range(1, options.threads + 1):
        fewer = argparse.Namespace(**vars(options) | {"threads": threads})
        curves["threads"].append((threads, rates("LeNet-5", 64, fewer)))
    peaks = {threads: peak(threads, options) for threads in range(1, options.threads + 1)}
    rows = []
    for axis, points in curves.items():
        for i, (value, (ours, theirs, work)) in enumerate(points):
            top = peaks[value if axis == "threads" else options.threads] / work
            points[i] = value, (ours, theirs, top)
            images = {"cnn": ours, "torch": theirs, "peak": top}
            yield {"axis": axis, "value": value, "flops_per_image": work} | images
            share = f"{100 * ours / top:.0f} %"
            rows.append([axis, value, f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}", share])
            progress(rows[-1])
    draw(curves, options.out / "growth.png")
    measured = f"{peaks[options.threads] / 1e9:.0f} GFLOP/s of multiply-adds in registers"
    title = f"How cost grows: LeNet-5 training, peak {measured}"
    return title, ["over", "value", "cnn, images/s", "PyTorch, images/s", "ratio", "cnn, of the peak"], rows


def peak(threads, options):
    """FLOP/s of multiply-adds whose operands stay in registers and in the nearest cache."""
    worker = Worker("cnn", argparse.Namespace(**vars(options) | {"threads": threads}))
    worker.ask(make="peak", variant="cnn")
    best = min(worker.ask(time=options.seconds)["times"])
    worker.close()
    return 2e9 / best


def rates(name, batch, options):
    """(our images/s, PyTorch's, FLOP of an image: forward, d-weight and, but for the first, d-input)."""
    request = {"name": name, "batch": batch, "weights": weights_file(options)}
    row = compare("step", request, options)
    return batch / row["cnn"]["median"], batch / row["torch"]["median"], row["marks"]["work"][0]


def draw(curves, path):
    """One panel an axis, logarithmic; the dotted line is what the measured peak would give."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("  no growth.png: matplotlib is not installed")
        return
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (axis, points) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        values = [value for value, _ in points]
        axes.loglog(values, [top for _, (_, _, top) in points], "k:", label="peak FLOP/s")
        axes.loglog(values, [ours for _, (ours, _, _) in points], "o-", label="cnn")
        axes.loglog(values, [theirs for _, (_, theirs, _) in points], "s-", label="PyTorch")
        axes.set(xlabel=axis, xticks=values, xticklabels=values)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("training images/s")
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


SECTIONS = {f.__name__: f for f in (kernels, steps, inference, loop, memory, startup, growth)}


def progress(row):
    print("  " + " | ".join(map(str, row)), flush=True)


def run_section(section, options):
    """Return (title, header, rows, the raw numbers)."""
    raw, work = [], SECTIONS[section](options)
    while True:
        try:
            raw.append(next(work))
        except StopIteration as end:
            return *end.value, raw


def table(title, header, rows):
    lines = [f"## {title}", "", f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def machine(options):
    """One line about where this was measured."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = subprocess.run(
        [sys.executable, "-c", "import torch, numba; print(torch.__version__, numba.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    python = platform.python_version()
    threads = "processor time of 1 thread" if options.cpu_time else f"{options.threads} threads"
    return f"{cpu}, {threads}, PyTorch {versions[0]}, Numba {versions[1]}, Python {python}"


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"any of {', '.join(SECTIONS)}; default all"
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes, short rounds, PyTorch eager only")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time of one thread: for a machine that others use too",
    )
    parser.add_argument("--batch", type=int, default=128, help="of the convolutions")
    parser.add_argument("--rounds", type=int, help="turns of each side (default 7, with --quick 3)")
    parser.add_argument("--seconds", type=float, help="length of a turn (default 1, with --quick 0.3)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="of cnn in kernels, steps, inference",
    )
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--root", type=Path, default=Path("data"), help="folder of MNIST, for the training loop"
    )
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="measure the cnn of another checkout instead of PyTorch"
    )
    parser.add_argument("--out", type=Path, default=Path(), help="folder of benchmark.md and benchmark.json")
    options = parser.parse_args(arguments)
    for section in options.sections:
        if section not in SECTIONS:
            parser.error(f"unknown section {section!r}: expected any of {', '.join(SECTIONS)}")
    if options.cpu_time:
        options.threads = 1
    options.clock = "process_time" if options.cpu_time else "perf_counter"
    options.sections = options.sections or list(SECTIONS)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.3 if options.quick else 1.0)
    eager = ["NCHW", "channels_last"]
    options.variants = (
        eager if options.quick or options.eager else [*eager, *(f"{v} compiled" for v in eager)]
    )
    if options.precision == "bf16":
        options.variants += [f"{v} bf16" for v in options.variants]
    if options.against:
        options.variants = ["other checkout"]
        HEADER[1:3] = ["other, ms", "other is"]
    return options


def main():
    options = parse()
    with tempfile.TemporaryDirectory() as options.scratch:
        head = machine(options)
        print(head)
        text, numbers = ["# Benchmark", "", head, ""], {"machine": head}
        for section in options.sections:
            print(section)
            title, header, rows, numbers[section] = run_section(section, options)
            text.append(table(title, header, rows))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "benchmark.md").write_text("\n".join(text))
    (options.out / "benchmark.json").write_text(json.dumps(numbers, indent=1))
    print("\n" + "\n".join(text))


if __name__ == "__main__":
    main()
