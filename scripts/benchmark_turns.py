"""Sides of a measurement: each framework in a process of its own, all in turns, numbers compared first."""

import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parent
# of the norm: where the sign of a ReLU input is a rounding error, two float32 networks part a little
TOLERANCE = 2e-2
# in bf16 gradients part further, the more so the deeper the network: norms are compared, and losses
BF16_TOLERANCE = 0.5

#: titles of columns, in their order
KINDS = {
    "cnn float32": "cnn",
    "cnn bf16": "cnn bf16",
    "other float32": "other",
    "other bf16": "other bf16",
    "torch float32": "PyTorch",
    "torch bf16": "PyTorch bf16",
    "onnxruntime float32": "onnxruntime",
    "openvino float32": "OpenVINO",
    "openvino bf16": "OpenVINO bf16",
}
TORCH_ONLY = ("torch",)
TO_PREDICT = ("torch", "onnxruntime", "openvino")


class Worker:
    """A process that runs one framework; "other" is the cnn of another checkout."""

    def __init__(self, framework, options, cache=None):
        self.framework = framework
        home = options.against.resolve() if framework == "other" else HERE.parent
        # settings that hobble OpenBLAS, and with it NumPy, have no place in a comparison
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        threads = str(options.threads)
        environment |= {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join([str(home), environment.get("PYTHONPATH", "")])
        if cache:
            environment["NUMBA_CACHE_DIR"] = cache
        # of this checkout, whichever cnn it imports: it needs only public names, but for kernels
        command = [sys.executable, str(HERE / "benchmark_worker.py"), framework, threads, options.clock]
        self.process = subprocess.Popen(
            command, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, **request):
        """Return the answer to one request; ends the measurement if the process died."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark: the {self.framework} process died on {request}")
        return json.loads(line)

    def median(self, variant, seconds):
        """Return the median time of a job over about so many seconds."""
        return statistics.median(self.ask(time=seconds, variant=variant)["times"])

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def precision_of(variant):
    """Return "float32" or "bf16"."""
    return "bf16" if "bf16" in variant else "float32"


def disagreement(ours, theirs, norms_only=False):
    """Largest difference of two sets of fingerprints, relative to the norm."""
    if norms_only:
        ours, theirs = ({key: marks[:1] for key, marks in side.items()} for side in (ours, theirs))
    return max(
        max(abs(a - b) for a, b in zip(ours[key], theirs[key], strict=True)) / max(abs(theirs[key][0]), 1e-6)
        for key in theirs
        if key in ours
    )


def _variants(framework, options, job):
    """The modes in which a framework may run; around a single convolution there is nothing to compile."""
    if framework in ("cnn", "other"):
        return options.precisions
    modes = [v for v in options.variants[framework] if precision_of(v) in (*options.precisions, "float32")]
    return [v for v in modes if job != "convolution" or "compiled" not in v]


def compare(job, request, options, peers=TORCH_ONLY):
    """Run one job on all sides in turns; return a row of numbers.

    Of each kind, a framework in a precision, the fastest mode of a first round takes part. The peer of a
    ratio is the fastest kind of the same precision or a better one.
    """
    peers = ("other",) if options.against else [p for p in peers if p in options.peers]
    with ExitStack() as stack:
        workers = {}
        for framework in ("cnn", *peers):
            workers[framework] = Worker(framework, options)
            stack.callback(workers[framework].close)
        finalists, marks, worst = {}, {}, 0.0
        for framework, worker in workers.items():
            for variant in _variants(framework, options, job):
                made = worker.ask(make=job, variant=variant, **request)
                kind = f"{framework} {precision_of(variant)}"
                if "error" in made and framework == "cnn":
                    raise SystemExit(f"benchmark: cnn failed on {job} {request}: {made['error']}")
                if "error" in made:  # not installed, or no C++ compiler for torch.compile, for example
                    print(f"  {KINDS[kind]} {variant} left out: {made['error'].splitlines()[0]}")
                    continue
                marks.setdefault("first", made["marks"])
                narrow = "bf16" in (precision_of(variant), options.precisions[0])
                apart = disagreement(marks["first"], made["marks"], narrow)
                worst = max(worst, apart)
                if apart > (BF16_TOLERANCE if narrow else TOLERANCE):
                    differs = f"{KINDS[kind]} {variant} differs by {apart:.1e} of the norm"
                    raise SystemExit(f"benchmark: {job} {request}: {differs}")
                worker.median(variant, 0)
                took = worker.median(variant, options.seconds / 2)
                if kind not in finalists or took < finalists[kind][2]:
                    variant, finalists[kind] = finalists.get(kind, (0, None))[1], (worker, variant, took)
                if variant is not None:
                    worker.ask(drop=variant)
        if len(finalists) == len(options.precisions):
            raise SystemExit(f"benchmark: nothing to compare with on {job} {request}")
        rounds = {kind: [] for kind in finalists}
        order = list(finalists)
        for turn in range(options.rounds):
            first = turn % len(order)
            for kind in order[first:] + order[:first]:
                worker, variant, _ = finalists[kind]
                rounds[kind].append(worker.median(variant, options.seconds))
        row = {"times": rounds, "modes": {kind: variant for kind, (_, variant, _) in finalists.items()}}
        row |= {"disagreement": worst, "marks": marks["first"]}
        row["ratios"] = {precision: _ratio(rounds, precision) for precision in options.precisions}
        return row


def _ratio(rounds, precision):
    """The time of the best peer over ours, of each round, and which peer that is."""
    allowed = [
        kind
        for kind in rounds
        if not kind.startswith("cnn") and (precision == "bf16" or kind.endswith("float32"))
    ]
    peer = min(allowed, key=lambda kind: statistics.median(rounds[kind]))
    pairs = zip(rounds[f"cnn {precision}"], rounds[peer], strict=True)
    return {"peer": peer, "rounds": [theirs / ours for ours, theirs in pairs]}


def spread(values, factor=1.0, digits=2):
    """Return "median (lower quartile–upper quartile)"."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    middle, low, high = (f"{factor * value:.{digits}f}" for value in (middle, low, high))
    return f"{middle} ({low}–{high})"


def header(options, peers=TORCH_ONLY):
    """The titles of ``cells``."""
    kinds = [f"cnn {p}" for p in options.precisions]
    kinds += kinds_of_peers(options, peers)
    return [f"{KINDS[kind]}, ms" for kind in kinds] + [f"ratio {p}" for p in options.precisions]


def kinds_of_peers(options, peers):
    """The kinds that may be in a row besides ours."""
    peers = ("other",) if options.against else [p for p in peers if p in options.peers]
    precisions = options.precisions if options.against else sorted({*options.precisions, "float32"})[::-1]
    return [kind for p in peers for q in precisions if (kind := f"{p} {q}") in KINDS]


def cells(row, options, peers=TORCH_ONLY):
    """The columns that all tables of times share."""
    columns = [spread(row["times"][f"cnn {p}"], 1e3, 3) for p in options.precisions]
    for kind in kinds_of_peers(options, peers):
        mode = row["modes"].get(kind, "")
        told = "" if mode in ("", "float32", "bf16") else f" {mode.removesuffix(' bf16')}"
        columns.append(f"{statistics.median(row['times'][kind]) * 1e3:.3f}{told}" if mode else "–")
    return columns + [spread(row["ratios"][p]["rounds"]) for p in options.precisions]
