"""One framework in its own process: reads requests as JSON lines, answers as JSON lines.

``benchmark_worker.py FRAMEWORK THREADS CLOCK``: all frameworks do the same work on the same numbers. A
request {"make": what, "variant": mode, ...} prepares a job in a mode and answers with a fingerprint of its
results; {"time": seconds, "variant": mode} repeats that job and answers with the times of the single runs by
CLOCK (a function of ``time``); {"drop": mode} gives it up.
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from benchmark_cases import LOOP_STEPS, NETWORKS, WIDER, fingerprint, images, operands, shape_of


def precision(variant):
    """The argument of Network for a variant; none for float32, so that older checkouts can be measured."""
    return {"precision": "bf16"} if "bf16" in variant else {}


class Cnn:
    """Our side, in float32 and bf16; or that of another checkout."""

    def __init__(self, threads):
        import cnn
        from cnn import backend

        self.cnn = cnn
        backend.set_threads(threads)

    def _network(self, name, variant):
        layers = self.cnn.layers.from_config((NETWORKS | WIDER)[name][0])
        network = self.cnn.Network(layers, **precision(variant))
        network.build(shape_of(name), rng=np.random.default_rng(0))
        return network, shape_of(name)

    def step(self, name, batch, weights, variant):
        from cnn.layers import SoftmaxCrossEntropy
        from cnn.optimizers import SGD

        network, shape = self._network(name, variant)
        x, labels = images(shape, batch)
        loss, optimizer = SoftmaxCrossEntropy(), SGD(network.parameters(), lr=0.01, momentum=0.9)
        np.savez(weights, *[p.data for p in network.parameters()])

        def run():
            value = loss.forward(network.forward(x, training=True), labels)
            network.backward(loss.backward(), input_gradient=False)
            optimizer.step()
            network.zero_grad()
            return value

        value = loss.forward(network.forward(x, training=True), labels)
        network.backward(loss.backward(), input_gradient=False)
        marks = {"loss": [value, value]} | {
            f"gradient {i}": fingerprint(p.grad) for i, p in enumerate(network.parameters())
        }
        network.zero_grad()
        macs = [row.macs for row in network.summary().rows if row.leaf and row.macs]
        return run, marks | {"work": [6 * sum(macs) - 2 * macs[0]]}  # nobody asks for the images' gradient

    def loop(self, root, weights, variant):
        """Steps of LeNet-5: in turns bare ones on one batch, and the last ones of an epoch."""
        from cnn.config import load_config
        from cnn.training.interruption import Interruption
        from cnn.training.loop import Trainer
        from cnn.training.progress import bar

        bare, _ = self.step("LeNet-5", 64, weights, variant)
        config = Path(__file__).parents[1] / "configs" / "mnist_lenet.toml"
        trainer, turns = Trainer(load_config(config, [f"data.root={root}"])), itertools.count()
        trainer._saved_at = float("inf")  # no checkpoint is due
        shown, interruption = bar(len(trainer.images.train), 0), Interruption()
        last, group = len(trainer.batches), trainer.batches._group
        start = (last - LOOP_STEPS) // group * group  # or a part of a group would be augmented in vain

        def turn():
            if next(turns) % 2 == 0:
                for _ in range(start, last):
                    bare()
            else:
                trainer.progress.step = start
                trainer._train_epoch(shown, interruption)

        for _ in range(4):
            turn()
        return turn, {}

    def peak(self, variant):
        """Two GFLOP of the register tile on one and the same cache line: nothing has to be fetched."""
        import numba

        from cnn.fast.conv.microkernels import ONCE, Ends, Loop, Loops
        from cnn.fast.conv.routines import RowProducts, row_products
        from cnn.fast.machine.jit import launch, table, task
        from cnn.fast.machine.simd import blocks
        from cnn.fast.machine.tables import call_with, integers

        mr, nr = max(blocks(4)[0], key=lambda block: block[0] * block[1])

        @task
        def multiply_add(index, thread, params):
            p = integers(params)
            memory = p[1]
            ends = Ends(memory, memory, memory, memory + (index + 1) * 8192)
            loops = Loops(ONCE, ONCE, Loop(p[3], 0, 0))
            # scalars, floor; one run of pixels; one row
            call_with(p[0], RowProducts(ends, loops, 4, 0, p[2], 64, 64, 1024, 1, 0, 0))

        threads = numba.get_num_threads()
        memory = np.zeros(8192 * (threads + 1), np.uint8)
        turns = int(1e9 / (mr * nr * 16 * threads))
        params = table([row_products(mr, nr, 4).address, memory.ctypes.data, nr, turns])
        return lambda: (memory, launch(multiply_add, threads, params)), {}

    def inference(self, name, batch, weights, onnx, variant):
        network, shape = self._network(name, variant)
        x, _ = images(shape, batch)
        np.savez(weights, *[p.data for p in network.parameters()])
        if onnx:
            from cnn.interop.onnx_write import to_onnx

            Path(onnx).write_bytes(to_onnx(network).SerializeToString())
        return lambda: network.predict(x, batch_size=batch), {"logits": fingerprint(network.predict(x))}

    def convolution(self, case, batch, direction, variant):
        from cnn import backend
        from cnn.fast import blocked
        from cnn.fast.machine import owner
        from cnn.fast.machine.bf16 import BFLOAT16

        *_, padding, stride, groups = case
        x, weight, bias, dy = operands(case, batch)
        x, dy, ops = blocked.as_blocked(x), blocked.as_blocked(dy), backend.operations()
        dweight, stored = np.empty_like(weight), precision(variant).get("precision", "float32")
        if stored == "bf16":
            x, dy = (blocked.converted(array, BFLOAT16) for array in (x, dy))
        geometry = (stride, stride), ((padding, padding), (padding, padding)), (1, 1), groups

        def run():
            with owner.precision(stored):  # for this run only: the other one takes turns in this process
                if direction == "forward":
                    return ops.conv2d_forward(x, weight, bias, *geometry)
                if direction == "d-input":
                    return ops.conv2d_backward_input(dy, weight, x.shape, *geometry)
                dweight[...] = 0
                ops.conv2d_backward_weight(dy, x, dweight, *geometry)
                return dweight

        return run, {direction: fingerprint(run())}


def repeat(run, seconds, clock):
    """Times of single runs by ``clock``: at least three, for about ``seconds`` of it."""
    times, end = [], clock() + seconds
    while len(times) < 3 or clock() < end:
        start = clock()
        run()
        times.append(clock() - start)
    return times


def peak_memory():
    """Largest resident set of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start(name, threads):
    """Return a framework by name."""
    if name == "torch":
        from benchmark_torch import Torch as Framework
    elif name == "onnxruntime":
        from benchmark_engines import OnnxRuntime as Framework
    elif name == "openvino":
        from benchmark_engines import OpenVino as Framework
    else:
        Framework = Cnn
    return Framework(threads)


def main():
    name, threads, clock = sys.argv[1], int(sys.argv[2]), getattr(time, sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, it does not get into the answers
    framework, runs = None, {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            framework = framework or start(name, threads)
            if "make" in request:
                make, variant = getattr(framework, request.pop("make")), request["variant"]
                runs[variant], marks = make(**request)
                answer = {"marks": marks}
            elif "time" in request:
                answer = {"times": repeat(runs[request["variant"]], request["time"], clock)}
            elif "drop" in request:
                answer = {"dropped": runs.pop(request["drop"]) is not None}
            else:
                answer = {"memory": peak_memory()}
        except Exception as error:  # the other sides go on; the driver reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
