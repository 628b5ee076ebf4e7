"""How far does training over several machines pay? Measures steps, checks a model, goes to 64 nodes on paper.

    python scripts/benchmark_scale.py --out results/       # about ten minutes; needs the extra mpi
    python scripts/benchmark_scale.py --quick --networks LeNet-5

Measured here: seconds of a step with 16 to 256 images by one process, of the exchange of the gradient between
two processes, and of whole steps of two processes, also with the latency and bandwidth of a network put into
each exchange. The model of a step of P processes, one a node, with a batch of B images, the largest share of
which has n, a gradient of G bytes and layers whose statistics have S bytes for the whole batch:

    step     = compute(n) + gradient + statistics
    gradient = 2 ((P - 1) latency + (P - 1) / P * G / bandwidth)    all-to-all of the parts, then all get all
    statistics = sum over layers, there and back, of ceil(log2 P) latency + (P - 1) / P * S / bandwidth

Writes scale.md, scale.json and scale.svg.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from benchmark_cases import NETWORKS, RESNET18

#: name: (layers, shape of one image)
CASES = {name: NETWORKS[name] for name in ("LeNet-5", "ResNet-20")} | {"ResNet-18": RESNET18}
#: (latency in seconds, bandwidth in bytes a second) of networks as MPI sees them
LINKS = {
    "1 Gbit/s": (50e-6, 0.117e9),
    "10 Gbit/s": (20e-6, 1.17e9),
    "100 Gbit/s": (2e-6, 11.7e9),
}
BATCH, NODES = 1024, (1, 2, 4, 8, 16, 32, 64)
COLORS = {"1 Gbit/s": "#b4541a", "10 Gbit/s": "#2b6cb0", "100 Gbit/s": "#2f855a"}


# -- one process of those that are measured ----------------------------------------------------------------


def work(job):
    """Measure what a job says, as one process of mpiexec; the first prints a line of JSON."""
    from cnn import Network
    from cnn.backend import set_threads
    from cnn.layers import SoftmaxCrossEntropy, from_config
    from cnn.parallel.micro import MicroBatches
    from cnn.parallel.team import Alone
    from cnn.parallel.team import team as find_team

    team = find_team()
    set_threads(1)
    if job["what"] == "exchange":
        found = _exchanges(team, job)
    else:
        if job.get("latency"):
            _delay(team, job["latency"], job["bandwidth"])
        layers, shape = CASES[job["network"]]
        network, rng = Network(from_config(layers)), np.random.default_rng(0)
        network.build(shape)
        x = rng.standard_normal((job["batch"], *shape), dtype=np.float32)
        labels = rng.integers(0, 10, job["batch"])
        member = Alone() if job.get("apart") else team
        micro, found = MicroBatches(network, SoftmaxCrossEntropy(), 16, member), []
        micro.gradient(x, labels)
        while len(found) < 3 or (sum(step for step, _ in found) < job["seconds"] and len(found) < 400):
            team.meet()
            begin, waited = time.perf_counter(), team.waited
            micro.gradient(x, labels)
            step = time.perf_counter() - begin, team.waited - waited
            found += [step] if team.size == 1 else _said_by_first(team, step)
    if team.rank == 0:
        print("\n" + json.dumps(found), flush=True)


def _said_by_first(team, step):
    """All processes go on as long as the first does."""
    said = np.array(step)
    team.follow_first([said])
    return [tuple(said.tolist())]


def _exchanges(team, job):
    """Seconds of the exchange of gradients of several sizes, the shortest of some."""
    found = []
    for size in job["sizes"]:
        sums = np.zeros(size // 4, np.float32)
        seconds = []
        for _ in range(job["times"]):
            team.meet()
            begin = time.perf_counter()
            team.total([sums], [[(rank, 1)] for rank in range(team.size)])
            seconds.append(time.perf_counter() - begin)
        found.append(min(seconds))
    return found


def _delay(team, latency, bandwidth):
    """Let each exchange take as long as it would between nodes."""
    gather, total = team.gather, team.total

    def slow_gather(array, rows):
        gather(array, rows)
        _spend(gather_seconds(team.size, array.nbytes, latency, bandwidth))

    def slow_total(sums, segments):
        total(sums, segments)
        _spend(total_seconds(team.size, sums[0].nbytes, latency, bandwidth))

    team.gather, team.total = slow_gather, slow_total


def _spend(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def run(processes, **job):
    """Return what ``work`` has found by so many processes."""
    mpiexec = shutil.which("mpiexec", path=Path(sys.executable).parent) or "mpiexec"
    command = [mpiexec, "-n", str(processes), "--bind-to", "core"]
    command += [sys.executable, __file__, "--work", json.dumps(job)]
    environ = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


# -- the model ---------------------------------------------------------------------------------------------


def total_seconds(processes, size, latency, bandwidth):
    """Seconds in which all get the sum of a gradient of ``size`` bytes."""
    part = (processes - 1) / processes * size / bandwidth
    return 2 * ((processes - 1) * latency + part)


def gather_seconds(processes, size, latency, bandwidth):
    """Seconds in which all get the statistics of all, ``size`` bytes together."""
    return math.ceil(math.log2(processes)) * latency + (processes - 1) / processes * size / bandwidth


def statistics_of(name, batch):
    """Return the bytes of each gather of a step of a whole batch, and the bytes of the gradient."""
    from cnn import Network
    from cnn.layers import from_config

    layers, shape = CASES[name]
    network = Network(from_config(layers))
    network.build(shape)
    norms = [layer for _, layer in network.walk() if getattr(layer, "role", "") == "normalisation"]
    blocks = -(-batch // 16)
    of_layers = [blocks * len(layer.running_mean) * 16 for layer in norms for _ in ("forward", "backward")]
    return [*of_layers, batch * 8], network.grad.nbytes


def line_of(compute):
    """Return (a, b) of compute(n) = a + b n, fitted to what was measured by relative errors; a >= 0."""
    counts, seconds = np.array([(int(count), each) for count, each in compute.items()]).T
    a, b = np.linalg.lstsq(np.stack([1 / seconds, counts / seconds], axis=1), np.ones(len(counts)), None)[0]
    return (a, b) if a > 0 else (0.0, float(np.median(seconds / counts)))


def exchange_seconds(name, batch, processes, latency, bandwidth):
    """Return the seconds of the exchanges of a step: (gradient, statistics)."""
    if processes == 1:
        return 0.0, 0.0
    gathers, gradient = statistics_of(name, batch)
    told = sum(gather_seconds(processes, size, latency, bandwidth) for size in gathers)
    return total_seconds(processes, gradient, latency, bandwidth), told


def step_seconds(name, line, batch, processes, latency, bandwidth):
    """Return the seconds of a step: (compute, gradient, statistics)."""
    images = math.ceil(math.ceil(batch / 16) / processes) * 16  # of the largest share
    return line[0] + line[1] * images, *exchange_seconds(name, batch, processes, latency, bandwidth)


# -- what is done with it ----------------------------------------------------------------------------------


def low(values):
    """The lower quartile: of a machine that others use too, the moments in which they do not."""
    return float(np.quantile(values, 0.25))


def measure(names, seconds):
    """Return everything that is measured, with the model's value beside it."""
    sizes = [1 << k for k in range(12, 27, 2)]
    times = run(2, what="exchange", sizes=sizes, times=50)
    # T = 2 latency + G / bandwidth, of two processes; relative errors, so that small sizes count as well
    weights = 1 / np.array(times)
    matrix = np.stack([2 * weights, sizes * weights], axis=1)
    here = np.linalg.lstsq(matrix, np.ones(len(times)), rcond=None)[0]
    latency, bandwidth = max(float(here[0]), 1e-7), float(1 / here[1])
    found = {"exchange": dict(zip(map(str, sizes), times, strict=True))}
    found |= {"latency": latency, "bandwidth": bandwidth, "networks": {}}
    for name in names:
        counts = (16, 32, 64, 128, 256) if name != "ResNet-18" else (16, 32, 64)
        compute = {}
        for count in counts:
            steps = run(1, what="step", network=name, batch=count, seconds=seconds)
            compute[str(count)] = low([step for step, _ in steps])
        step = {"what": "step", "network": name, "seconds": seconds}
        # what one of two computes while the other does as well: they share caches and memory
        apart = run(2, **step, batch=counts[1], apart=True)
        beside, batch, rows = low([each for each, _ in apart]), 2 * counts[1], []
        for link, (alpha, beta) in {"none": (0, 0), **LINKS}.items():
            steps = run(2, **step, batch=batch, latency=alpha, bandwidth=beta)
            model = exchange_seconds(name, batch, 2, latency + alpha, _both(bandwidth, beta))
            rows.append([link, batch, low([each for each, _ in steps]), beside, *model])
        found["networks"][name] = {"compute": compute, "check": rows}
    return found


def _both(first, second):
    """The bandwidth of one after the other."""
    return first if not second else 1 / (1 / first + 1 / second)


def table(found):
    """Return Markdown: what was measured, what the model says of it, and where it goes."""
    lines = [
        f"Exchange of two processes here: latency {1e6 * found['latency']:.0f} us, "
        f"{found['bandwidth'] / 1e9:.2f} GB/s. Steps of two processes:\n",
        "| network | link | batch | step, ms | model: compute + gradient + statistics | measured / model |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in found["networks"].items():
        for link, batch, step, *model in of["check"]:
            parts = " + ".join(f"{1e3 * part:.2f}" for part in model)
            numbers = f"{1e3 * step:.2f} | {1e3 * sum(model):.2f} = {parts} | {step / sum(model):.2f}"
            lines.append(f"| {name} | {link} | {batch} | {numbers} |")
    lines += ["", f"| network, batch {BATCH} | link |" + "".join(f" {p} |" for p in NODES) + " bound by |"]
    lines.append("|---|---|" + "---|" * (len(NODES) + 1))
    for name, link, speeds, why in curves(found):
        cells = "".join(f" {speed:.1f} |" for speed in speeds)
        lines.append(f"| {name} | {link} |{cells} {why} |")
    return "\n".join(lines) + "\n"


def curves(found):
    """Yield (network, link, how many times as fast as one node with each of NODES, what costs most at 64)."""
    for name, of in found["networks"].items():
        for link, (latency, bandwidth) in LINKS.items():
            line = line_of(of["compute"])
            steps = [step_seconds(name, line, BATCH, p, latency, bandwidth) for p in NODES]
            why = ("computing", "the gradient", "statistics")[int(np.argmax(steps[-1]))]
            yield name, link, [sum(steps[0]) / sum(step) for step in steps], why


def drawing(found):
    """Return an SVG: times as fast as one node, both axes logarithmic, a panel for each network."""
    width, height, left, top = 250, 230, 36, 26

    def place(panel, p, speed):
        across = math.log2(p) / 6 * (width - left - 14)
        up = math.log2(max(speed, 0.25) / 0.25) / 8 * (height - top - 34)
        return f"{panel * width + left + across:.1f},{height - 34 - up:.1f}"

    names = list(found["networks"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(names)} {height + 22}" '
        f'font-family="system-ui,sans-serif" font-size="11" fill="#555">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for panel, name in enumerate(names):
        parts.append(f'<text x="{panel * width + left}" y="16" font-size="13" fill="#222">{name}</text>')
        for k in range(-2, 7, 2):
            x, y = place(panel, 1, 2.0**k).split(",")
            end, _ = place(panel, 64, 1).split(",")
            parts.append(f'<path d="M{x} {y}H{end}" stroke="#ddd"/>')
            parts.append(
                f'<text x="{float(x) - 5:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{2.0**k:g}</text>'
            )
        for p in NODES:
            x, _ = place(panel, p, 1).split(",")
            parts.append(f'<text x="{x}" y="{height - 18}" text-anchor="middle">{p}</text>')
        ideal = " ".join(place(panel, p, p) for p in NODES)
        parts.append(f'<polyline points="{ideal}" fill="none" stroke="#999" stroke-dasharray="4 4"/>')
    for name, link, speeds, _ in curves(found):
        points = " ".join(place(names.index(name), p, s) for p, s in zip(NODES, speeds, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[link]}" stroke-width="2"/>')
    for k, (link, color) in enumerate(COLORS.items()):
        x = left + k * 110
        parts.append(f'<path d="M{x} {height + 8}h18" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 23}" y="{height + 12}">{link}</text>')
    return "".join(parts) + "</svg>\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="short rounds")
    parser.add_argument("--from", dest="source", help="scale.json of a run before: only write and draw")
    parser.add_argument("--out", default=".", help="folder of the results (default: this one)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(json.loads(options.work))
    if options.source:
        found = json.loads(Path(options.source).read_text("utf-8"))
    else:
        found = measure(options.networks, 1 if options.quick else 6)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (out / "scale.svg").write_text(drawing(found), "utf-8")
    (out / "scale.md").write_text(table(found), "utf-8")
    print(table(found))
    return None


if __name__ == "__main__":
    sys.exit(main())
