"""Measure cnn against other frameworks on this machine: the same work, in turns, numbers compared first.

    python scripts/benchmark.py                       # everything: about two hours
    python scripts/benchmark.py --quick steps         # the training steps, roughly
    python scripts/benchmark.py kernels inference --threads 1 --out results/
    python scripts/benchmark.py steps --against ../before    # another checkout of cnn instead of the others
    python scripts/benchmark.py inference --peers openvino --images 1 64 --precision bf16

Each framework runs in a process of its own, and they take turns. Ours is measured in float32 and bf16. Of
PyTorch each of NCHW and channels_last, float32 and bf16 (autocast), eager and compiled (with --quick: eager
only) is tried, and the fastest mode of each precision takes part; predictions are compared with onnxruntime
and OpenVINO as well (extra ``benchmark``). A row gives medians over the rounds and, in brackets, quartiles. A
ratio is the time of the best peer over ours: above 1 we are faster. The peer of our float32 is the best in
float32, that of our bf16 the best in any precision. Writes benchmark.md, benchmark.json and (section growth)
growth.png. Needs PyTorch, and --cpu-time on a machine that others use too.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import tempfile
from pathlib import Path

from benchmark_cases import NETWORKS
from benchmark_sections import SECTIONS
from benchmark_turns import TO_PREDICT


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
    """One line about where and when this was measured."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = []
    for name in ("torch", "onnxruntime", "openvino", "numba"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    threads = "processor time of 1 thread" if options.cpu_time else f"{options.threads} threads"
    python = f"Python {platform.python_version()}"
    return ", ".join([str(datetime.date.today()), cpu, threads, *versions, python])


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
        "--precision", dest="precisions", nargs="+", choices=("float32", "bf16"), default=["float32", "bf16"],
        help="of cnn in kernels, steps and inference (default both)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="+", choices=TO_PREDICT, default=TO_PREDICT, help="to compare with (default all)"
    )
    parser.add_argument(
        "--images", type=int, nargs="+", help="batches of inference (default 1 64 1024, with --quick 1 64)"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS], help="of steps and inference"
    )
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--root", type=Path, default=Path("data"), help="folder of MNIST, for the training loop"
    )
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="measure the cnn of another checkout, not the peers"
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
    options.images = options.images or ([1, 64] if options.quick else [1, 64, 1024])
    modes = ["NCHW", "channels_last"]
    if not (options.quick or options.eager):
        modes += [f"{mode} compiled" for mode in modes]
    options.variants = {
        "torch": [*modes, *(f"{mode} bf16" for mode in modes)],
        "onnxruntime": ["float32"],
        "openvino": ["float32", "bf16"],
    }
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
