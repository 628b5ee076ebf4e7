"""How the cost of LeNet-5's step grows over batch, width and threads, and what the processor could do."""

import argparse
import statistics

from benchmark_turns import Worker, compare

BATCHES, WIDTHS = (1, 4, 16, 64, 256, 1024), (1, 2, 4, 8)


def measure(options, request):
    """Yield a row of numbers a point; ``request``: what every job is asked for."""
    curves = {"batch": [], "width": [], "threads": []}
    for batch in BATCHES:
        curves["batch"].append((batch, _rates("LeNet-5", batch, options, request)))
    for width in WIDTHS:
        curves["width"].append((width, _rates(f"LeNet-5 x{width}", 64, options, request)))
    for threads in range(1, options.threads + 1):
        curves["threads"].append((threads, _rates("LeNet-5", 64, _with_threads(options, threads), request)))
    peaks = {n: _peak(_with_threads(options, n)) for n in range(1, options.threads + 1)}
    for axis, points in curves.items():
        for i, (value, (ours, theirs, work)) in enumerate(points):
            top = peaks[value if axis == "threads" else options.threads] / work
            points[i] = value, (ours, theirs, top)
            images = {"cnn": ours, "torch": theirs, "peak": top}
            yield {"axis": axis, "value": value, "flops_per_image": work} | images
    _draw(curves, options.out / "growth.png")
    yield {"peak": peaks[options.threads]}


def _with_threads(options, threads):
    return argparse.Namespace(**vars(options) | {"threads": threads})


def _peak(options):
    """FLOP/s of multiply-adds whose operands stay in registers and in the nearest cache."""
    worker = Worker("cnn", options)
    worker.ask(make="peak", variant="float32")
    best = min(worker.ask(time=options.seconds, variant="float32")["times"])
    worker.close()
    return 2e9 / best


def _rates(name, batch, options, request):
    """(our images/s, PyTorch's, FLOP of an image: forward, d-weight and, but for the first, d-input)."""
    options = argparse.Namespace(**vars(options) | {"precisions": ["float32"]})
    row = compare("step", {"name": name, "batch": batch, **request}, options)
    ours, theirs = (statistics.median(row["times"][f"{side} float32"]) for side in ("cnn", "torch"))
    return batch / ours, batch / theirs, row["marks"]["work"][0]


def _draw(curves, path):
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
