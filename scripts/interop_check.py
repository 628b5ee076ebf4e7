"""Checks the bridges to ONNX and PyTorch at length and prints tables.

    python scripts/interop_check.py nodes        the onnx package's own node tests of the operators offered
    python scripts/interop_check.py random       random networks, exported and run by onnxruntime
    python scripts/interop_check.py mutated      damaged files: refused in a line, or read and run
    python scripts/interop_check.py c            the C files of LeNet and ResNet-20: size, speed, numbers
    python scripts/interop_check.py torchvision  five networks by both exporters: logits, gradients, a step
    python scripts/interop_check.py speed        predictions beside onnxruntime, one thread, medians

Needs the extras onnx and torchvision, and onnxruntime.
"""

import argparse
import copy
import ctypes
import functools
import resource
import subprocess
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import interop_nets
import numpy as np
import onnx
import onnxruntime
from random_networks import random_images, random_network

from cnn.errors import CheckpointError
from cnn.interop.card import About
from cnn.interop.export import export
from cnn.interop.onnx_rules import RULES
from cnn.network import Network

#: Operators of one number at a time: their tests hold arrays of any shape, which become images here.
ELEMENTWISE = {
    "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Softplus",
    "Tanh",
}  # fmt: skip


def node_cases():
    """Yield (test case, inputs, outputs) of the float32 tests of one node each."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        if model is None or len(model.graph.node) != 1 or model.graph.node[0].op_type not in RULES:
            continue
        inputs, outputs = case.data_sets[0]
        if inputs and all(getattr(a, "dtype", None) == np.float32 for a in (inputs[0], outputs[0])):
            yield case, inputs, outputs


def as_network(model, inputs, outputs, elementwise):
    """Return (model, x, y): weights become initializers, further outputs that nobody wants are left out.

    Arrays of an elementwise operator are brought to four axes by axes of size 1 at the end.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, x, y = made.graph, inputs[0], outputs[0]
    given = [name for name in graph.node[0].input if name]
    for name, array in zip(given[1:], inputs[1:], strict=False):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    del graph.input[1:]
    optional = graph.node[0].op_type in ("LayerNormalization", "Dropout")
    if optional:
        del graph.output[1:], graph.node[0].output[1:]
    if elementwise and x.ndim < 4:
        x, y = (a.reshape(*a.shape, *[1] * (4 - a.ndim)) for a in (x, y))
    value = onnx.helper.make_tensor_value_info
    graph.input[0].CopyFrom(value(given[0], onnx.TensorProto.FLOAT, x.shape))
    return made, x, y


def run_nodes(folder):
    """Return (Counter of (kind, what), list of (kind, name, reason) of those that are not right)."""
    counts, refused = Counter(), []
    for case, inputs, outputs in node_cases():
        elementwise = case.model.graph.node[0].op_type in ELEMENTWISE
        made, x, expected = as_network(case.model, inputs, outputs, elementwise)
        path = folder / "f.onnx"
        path.write_bytes(made.SerializeToString())
        kind = "images" if x.ndim == 4 else "other"
        try:
            y = Network.from_onnx(path).predict(x)
        except CheckpointError as error:
            counts[kind, "refused"] += 1
            refused.append((kind, case.name, str(error).split(": ", 1)[1]))
            continue
        right = y.shape == expected.shape and np.allclose(y, expected, case.rtol, max(case.atol, 1e-5))
        counts[kind, "right" if right else "WRONG"] += 1
        if not right:
            refused.append((kind, case.name, "WRONG"))
    return counts, refused


def nodes(arguments, folder):
    """Run the node tests; print those that are refused with the reasons."""
    counts, refused = run_nodes(folder)
    for kind, name, reason in sorted(refused):
        print(f"{kind:7} {name:60} {reason}")
    for kind in ("images", "other"):
        found = {what: counts[kind, what] for what in ("right", "refused", "WRONG")}
        print(f"node tests, {'(N, C, H, W)' if kind == 'images' else 'other axes'}: {found}")
    return counts["images", "WRONG"] + counts["other", "WRONG"]


def random(arguments, folder):
    """Export random networks; compare with onnxruntime and with what is imported again."""
    worst, again = 0.0, 0.0
    for seed in range(arguments.count or 300):
        rng = np.random.default_rng([arguments.seed, seed])
        network = random_network(rng)
        (path,) = export(network, About(), "onnx", folder / "f.onnx")
        x = random_images(network, rng)
        expected = network.predict(x)
        scale = max(1.0, float(np.abs(expected).max()))
        (found,) = onnxruntime.InferenceSession(str(path)).run(None, {"input": x})
        worst = max(worst, float(np.abs(found - expected).max()) / scale)
        again = max(again, float(np.abs(Network.from_onnx(path).predict(x) - expected).max()) / scale)
    count = arguments.count or 300
    print(f"{count} random networks: onnxruntime differs by {worst:.1e} at most, the import by {again:.1e}")
    return int(worst > 1e-5 or again > 1e-5)


def mutated(arguments, folder):
    """Damage ONNX files; each must be refused in a line or read and run, in bounded time and memory."""
    counts, total = Counter(), arguments.count or 2000
    slowest = {"reading": 0.0, "predicting": 0.0}  # seconds of processor time; a first prediction compiles
    sources = []
    for seed in range(20):
        network = random_network(np.random.default_rng([arguments.seed, seed]))
        (path,) = export(network, About(), "onnx", folder / "f.onnx")
        sources.append((network, path.read_bytes()))
    for number in range(total):
        rng = np.random.default_rng([arguments.seed, number, 1])
        network, whole = sources[number % len(sources)]
        path.write_bytes(damaged(whole, rng))
        doing, start = "reading", time.process_time()
        try:
            read = Network.from_onnx(path)
            slowest[doing] = max(slowest[doing], time.process_time() - start)
            doing, start = "predicting", time.process_time()
            if read.input_shape == network.input_shape:
                with np.errstate(all="ignore"):
                    read.predict(random_images(network, rng, 1))
            counts["read"] += 1
        except CheckpointError as error:
            counts["refused" if "\n" not in str(error) else "refused in several lines"] += 1
        except Exception as error:
            counts[f"CRASH {type(error).__name__}: {error}"[:150]] += 1
        slowest[doing] = max(slowest[doing], time.process_time() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    times = ", ".join(f"{doing} {seconds:.1f} s" for doing, seconds in slowest.items())
    print(f"{total} damaged files: {dict(counts)}; slowest {times}; largest memory {memory:.0f} MiB")
    return sum(n for what, n in counts.items() if what not in ("read", "refused"))


def damaged(whole, rng):
    """Return the bytes with a few of them changed, cut off, doubled or moved."""
    changed = bytearray(whole)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(changed)))
        kind = rng.integers(5)
        if kind < 3:
            changed[at] = rng.integers(256) if kind else changed[at] ^ (1 << int(rng.integers(8)))
        elif kind == 3:
            size = int(rng.integers(1, 40))
            changed[at:at] = changed[at : at + size]
        else:
            del changed[at : at + int(rng.integers(1, 40))]
    return bytes(changed[: rng.integers(len(changed))] if rng.random() < 0.05 else changed)


def precise_logits(network, x):
    """Return the logits of the first image in float64."""
    state, precise = network.state(), copy.deepcopy(network)
    precise.body.reset()
    precise.build(x.shape[1:], dtype=np.float64)
    precise.load_state({k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in state.items()})
    return precise.predict(x.astype(np.float64))[0]


def c_files(arguments, folder):
    """Compile LeNet and ResNet-20 as C files; print sizes, and milliseconds of an image beside ours."""
    from cnn.backend import set_threads
    from cnn.config import load_config
    from cnn.interop.c_write import to_c
    from cnn.training import experiment

    set_threads(1)
    wrong, configs = 0, Path(__file__).parents[1] / "configs"
    flags = ["-std=c11", "-O3", "-march=native", "-Wall", "-Wextra", "-pedantic"]
    flags += ["-DNO_MAIN", "-shared", "-fPIC"]
    for name, shape in (("mnist_lenet", (1, 28, 28)), ("cifar10_resnet20", (3, 32, 32))):
        network = experiment.build_network(load_config(configs / f"{name}.toml"), shape, 10)
        source, library = folder / f"{name}.c", folder / f"{name}.so"
        source.write_text(to_c(network, About()), "utf-8")
        done = subprocess.run(["cc", *flags, source, "-o", library, "-lm"], capture_output=True, text=True)
        forward = ctypes.CDLL(str(library)).forward
        x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        y = np.zeros(10, np.float32)
        places = [ctypes.c_void_p(array.ctypes.data) for array in (x, y)]
        ours, theirs = interop_nets.interleaved(
            functools.partial(network.predict, x), functools.partial(forward, *places), 100
        )
        expected = precise_logits(network, x)
        error = float(np.abs(y - expected).max() / max(1, np.abs(expected).max()))
        wrong += error > 1e-6 or bool(done.stderr)
        print(
            f"{name}: {source.stat().st_size / 2**20:.2f} MiB of C, {library.stat().st_size / 2**20:.2f} MiB "
            f"compiled, warnings {len(done.stderr.splitlines())}, differs by {error:.1e}; an image takes "
            f"{theirs:.3f} ms, ours {ours:.3f} ms"
        )
    return wrong


CHECKS = {
    "nodes": nodes,
    "random": random,
    "mutated": mutated,
    "c": c_files,
    "torchvision": interop_nets.torchvision,
    "speed": interop_nets.speed,
}


def main():
    """Run what was asked for; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", default=[], help=f"of {', '.join(CHECKS)}; all without any")
    parser.add_argument("--count", type=int, help="how many random networks or damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nets", nargs="*", help="of the torchvision networks; all without any")
    arguments = parser.parse_args()
    unknown = set(arguments.checks) - set(CHECKS)
    if unknown:
        parser.error(f"unknown check {min(unknown)}, expected {', '.join(CHECKS)}")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for check in arguments.checks or CHECKS:
            wrong += CHECKS[check](arguments, Path(folder))
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
