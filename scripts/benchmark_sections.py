"""What ``benchmark.py`` measures: each section yields raw numbers and returns (title, header, rows)."""

import statistics
import tempfile
import time
from pathlib import Path

import benchmark_growth
from benchmark_cases import CONVOLUTIONS, LOOP_STEPS, STEPS, convolution_name
from benchmark_turns import TO_PREDICT, Worker, cells, compare, header, precision_of, spread


def _weights(options):
    return {"weights": str(Path(options.scratch) / "weights.npz")}


def progress(row):
    """Show a row as soon as it is there."""
    print("  " + " | ".join(map(str, row)), flush=True)


def _rate(row, work, options):
    """``work`` a second, in our fastest precision."""
    return work / min(statistics.median(row["times"][f"cnn {p}"]) for p in options.precisions)


def kernels(options):
    """Convolutions in all three directions; only eager: there is nothing to compile around one."""
    rows = []
    for case in CONVOLUTIONS[:: 3 if options.quick else 1]:
        c, k, size, plane, padding, stride, groups = case
        out = (plane + 2 * padding - size) // stride + 1
        work = 2 * options.batch * k * out * out * size * size * c // groups
        for direction in ("forward", "d-input", "d-weight"):
            request = {"case": case, "batch": options.batch, "direction": direction}
            row = compare("convolution", request, options)
            yield row | {"case": convolution_name(case), "direction": direction, "work": work}
            rate = f"{_rate(row, work, options) / 1e9:.0f}"
            rows.append([convolution_name(case), direction, *cells(row, options), rate])
            progress(rows[-1])
    head = ["shape", "direction", *header(options), "cnn, GFLOP/s"]
    return f"Convolutions, batch {options.batch}", head, rows


def steps(options):
    """Training steps of whole networks."""
    rows = []
    for name, batch in STEPS:
        if name not in options.networks:
            continue
        row = compare("step", {"name": name, "batch": batch, **_weights(options)}, options)
        yield row | {"network": name, "batch": batch}
        rows.append([name, batch, *cells(row, options), f"{_rate(row, batch, options):.0f}"])
        progress(rows[-1])
    return "Training steps", ["network", "batch", *header(options), "cnn, images/s"], rows


def inference(options):
    """Predictions, also by what only predicts."""
    rows, onnx = [], None if options.against else str(Path(options.scratch) / "network.onnx")
    for name in options.networks:
        for batch in options.images:
            request = {"name": name, "batch": batch, "onnx": onnx, **_weights(options)}
            row = compare("inference", request, options, TO_PREDICT)
            yield row | {"network": name, "batch": batch}
            shown = cells(row, options, TO_PREDICT)
            rows.append([name, batch, *shown, f"{_rate(row, batch, options):.0f}"])
            progress(rows[-1])
    head = ["network", "images", *header(options, TO_PREDICT), "cnn, images/s"]
    return "Predictions", head, rows


def loop(options):
    """The steps of ``cnn train`` against bare ones, in one process, in turns; brackets are single turns."""
    title = f"The training loop: some {LOOP_STEPS} steps of LeNet-5, batch 64, data and augmentation included"
    header = ["bare steps, ms", "training, ms", "rate of the bare steps"]
    if not (options.root / "MNIST").is_dir():
        print(f"  left out: no MNIST in {options.root}; `cnn data MNIST` fetches it, --root names its folder")
        return title, header, []
    worker = Worker("cnn", options)
    try:
        made = worker.ask(make="loop", variant="float32", root=str(options.root), **_weights(options))
        if "error" in made:
            raise SystemExit(f"benchmark: cnn failed on the training loop: {made['error']}")
        rounds = range(max(2, options.rounds))
        times = [t for _ in rounds for t in worker.ask(time=4 * options.seconds, variant="float32")["times"]]
    finally:
        worker.close()
    bare, whole = times[0::2], times[1::2]
    shares = [b / w for b, w in zip(bare, whole, strict=False)]
    yield {"bare": bare, "training": whole, "share": statistics.median(shares)}
    row = [*(spread(t, 1e3, 0) for t in (bare, whole)), spread(shares, 1, 3)]
    progress(row)
    return title, header, [row]


def _peak(framework, variant, name, batch, options):
    """Bytes of a process after some steps, and before its network was made."""
    worker = Worker(framework, options)
    try:
        base = worker.ask(memory=True)["memory"]
        made = worker.ask(make="step", name=name, batch=batch, variant=variant, **_weights(options))
        if "error" in made:
            raise SystemExit(f"benchmark: {framework} failed on {name}: {made['error']}")
        worker.ask(time=options.seconds, variant=variant)
        return worker.ask(memory=True)["memory"], base
    finally:
        worker.close()


def memory(options):
    """Peak memory in each precision, beside the mode of PyTorch that needs least."""
    rows = []
    for name, batch in STEPS:
        if name not in options.networks:
            continue
        least = None
        for precision in ("float32", "bf16"):
            if precision not in options.precisions and precision != "float32":
                continue
            ours = _peak("cnn", precision, name, batch, options)  # first: it writes the weights down
            modes = [v for v in options.variants["torch"] if precision_of(v) == precision]
            modes = [mode for mode in modes if "compiled" not in mode]
            theirs = [(*_peak("torch", mode, name, batch, options), mode) for mode in modes]
            least = min(theirs if least is None else [*theirs, least])
            yield {"network": name, "batch": batch, "precision": precision, "cnn": ours, "torch": least}
            mib = [f"{peak / 2**20:.0f} ({base / 2**20:.0f})" for peak, base in (ours, least[:2])]
            rows.append([name, batch, precision, mib[0], f"{mib[1]} {least[2]}", f"{ours[0] / least[0]:.2f}"])
            progress(rows[-1])
    header = ["network", "batch", "cnn", "MiB (before)", "PyTorch, MiB (before)", "cnn / PyTorch"]
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
            variant = "NCHW" if framework == "torch" else "float32"
            worker.ask(make="step", name=name, batch=batch, variant=variant, **_weights(options))
            times[label] = time.perf_counter() - begin
            worker.close()
        yield {"network": name, "batch": batch, "seconds": times}
        rows.append([name, batch, *(f"{times[k]:.1f}" for k in ("cold", "warm", "torch"))])
        progress(rows[-1])
    header = ["network", "batch", "cnn, kernels not compiled yet, s", "cnn, s", "PyTorch (eager), s"]
    return "From process start to the first gradients", header, rows


def growth(options):
    """Images/s of LeNet-5's step, float32: over the batch, over the width, over the threads."""
    rows, top = [], 0
    for point in benchmark_growth.measure(options, _weights(options)):
        yield point
        if "axis" in point:
            ours, theirs = point["cnn"], point["torch"]
            share = f"{100 * ours / point['peak']:.0f} %"
            rates = f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"
            rows.append([point["axis"], point["value"], *rates, share])
            progress(rows[-1])
        else:
            top = point["peak"]
    title = f"How cost grows: LeNet-5 training, peak {top / 1e9:.0f} GFLOP/s of multiply-adds in registers"
    return title, ["over", "value", "cnn, images/s", "PyTorch, images/s", "ratio", "cnn, of the peak"], rows


SECTIONS = {f.__name__: f for f in (kernels, steps, inference, loop, memory, startup, growth)}
