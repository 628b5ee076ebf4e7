"""One framework in its own process: reads requests as JSON lines, answers as JSON lines.

``benchmark_worker.py FRAMEWORK THREADS CLOCK`` with FRAMEWORK cnn or torch: both do the same work on the same
numbers. A request {"make": what, ...} prepares a job and answers with a fingerprint of its results;
{"time": seconds} repeats the job and answers with the times of the single runs by CLOCK (a function of
``time``).
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from benchmark_cases import LOOP_STEPS, NETWORKS, WIDER


def fingerprint(array):
    """(norm, projection on a fixed random direction): equal arrays agree in both, others do not."""
    array = np.asarray(array, np.float64).ravel()
    direction = np.random.default_rng(array.size).standard_normal(array.size) / np.sqrt(array.size)
    return [float(np.linalg.norm(array)), float(array @ direction)]


def images(shape, batch):
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *shape), dtype=np.float32), rng.integers(0, 10, batch)


def precision(variant):
    """The argument of Network for a variant; none for float32, so that older checkouts can be measured."""
    return {"precision": "bf16"} if "bf16" in variant else {}


class Cnn:
    """Our side."""

    variants = ("cnn",)

    def __init__(self, threads):
        import cnn
        from cnn import backend

        self.cnn = cnn
        backend.set_threads(threads)

    def _network(self, name, variant):
        layers, shape = (NETWORKS | WIDER)[name]
        network = self.cnn.Network(self.cnn.layers.from_config(layers), **precision(variant))
        network.build(shape, rng=np.random.default_rng(0))
        return network, shape

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
        params = table([row_products(mr, nr, 4), memory.ctypes.data, nr, turns])
        return lambda: (memory, launch(multiply_add, threads, params)), {}

    def inference(self, name, batch, weights, variant):
        network, shape = self._network(name, variant)
        x, _ = images(shape, batch)
        np.savez(weights, *[p.data for p in network.parameters()])
        return lambda: network.predict(x, batch_size=batch), {"logits": fingerprint(network.predict(x))}

    def convolution(self, case, batch, direction, variant):
        from cnn import backend
        from cnn.fast import blocked

        *_, padding, stride, groups = case
        x, weight, bias, dy = operands(case, batch)
        x, dy, ops = blocked.as_blocked(x), blocked.as_blocked(dy), backend.operations()
        if precision(variant):
            from cnn.fast.machine.bf16 import BFLOAT16
            from cnn.fast.machine.owner import local

            local.eager.precision = "bf16"
            x, dy = (blocked.converted(array, BFLOAT16) for array in (x, dy))
        geometry = (stride, stride), ((padding, padding), (padding, padding)), (1, 1), groups
        if direction == "forward":
            run = lambda: ops.conv2d_forward(x, weight, bias, *geometry)  # noqa: E731
        elif direction == "d-input":
            run = lambda: ops.conv2d_backward_input(dy, weight, x.shape, *geometry)  # noqa: E731
        else:
            dweight = np.empty_like(weight)

            def run():
                dweight[...] = 0
                ops.conv2d_backward_weight(dy, x, dweight, *geometry)
                return dweight

        return run, {direction: fingerprint(run())}


def operands(case, batch):
    """(x, weight, bias, dy) of a convolution, the same in both processes."""
    c, k, size, plane, padding, stride, groups = case
    rng = np.random.default_rng(1)
    out = (plane + 2 * padding - size) // stride + 1
    x = rng.standard_normal((batch, c, plane, plane), dtype=np.float32)
    weight = rng.standard_normal((k, c // groups, size, size), dtype=np.float32)
    bias = rng.standard_normal(k, dtype=np.float32)
    return x, weight, bias, rng.standard_normal((batch, k, out, out), dtype=np.float32)


class Torch:
    """PyTorch: each of NCHW and channels_last, eager and compiled, float32 and bf16 (autocast)."""

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def _format(self, variant):
        torch = self.torch
        return torch.channels_last if variant.startswith("channels_last") else torch.contiguous_format

    def _autocast(self, variant):
        return self.torch.autocast("cpu", self.torch.bfloat16, enabled="bf16" in variant)

    def _module(self, spec):
        nn, torch = self.torch.nn, self.torch
        options = {key: value for key, value in spec.items() if key not in ("type", "body", "shortcut")}
        kind = spec["type"]
        if kind == "Residual":

            class Residual(nn.Module):
                def __init__(self, body, shortcut):
                    super().__init__()
                    self.body, self.shortcut = body, shortcut

                def forward(self, x):
                    return self.body(x) + self.shortcut(x)

            return Residual(*(self._sequential(spec.get(part, [])) for part in ("body", "shortcut")))
        if kind == "GlobalAvgPool2d":

            class Mean(nn.Module):
                def forward(self, x):
                    return torch.mean(x, (2, 3))

            return Mean()
        lazy = kind in ("Conv2d", "Linear", "BatchNorm2d")
        return getattr(nn, f"Lazy{kind}" if lazy else kind)(**options)

    def _sequential(self, layers):
        return self.torch.nn.Sequential(*map(self._module, layers))

    def _network(self, name, weights, variant):
        torch = self.torch
        layers, shape = (NETWORKS | WIDER)[name]
        network = self._sequential(layers)
        network(torch.zeros(2, *shape))
        with torch.no_grad(), np.load(weights) as stored:
            for p, array in zip(network.parameters(), stored.values(), strict=True):
                p.copy_(torch.from_numpy(array))
            for layer in network.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.reset_running_stats()
        return network.to(memory_format=self._format(variant)), shape

    def step(self, name, batch, weights, variant):
        torch = self.torch
        network, shape = self._network(name, weights, variant)
        x, labels = map(torch.from_numpy, images(shape, batch))
        x = x.to(memory_format=self._format(variant))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        compiled = torch.compile(network) if "compiled" in variant else network

        def forward():
            with self._autocast(variant):
                logits = compiled(x)
            return torch.nn.functional.cross_entropy(logits.float(), labels)

        def run():
            optimizer.zero_grad(set_to_none=True)
            value = forward()
            value.backward()
            optimizer.step()
            return value.item()

        value = forward()
        value.backward()
        marks = {"loss": [value.item()] * 2} | {
            f"gradient {i}": fingerprint(p.grad.numpy()) for i, p in enumerate(network.parameters())
        }
        return run, marks

    def inference(self, name, batch, weights, variant):
        torch = self.torch
        network, shape = self._network(name, weights, variant)
        network.eval()
        x = torch.from_numpy(images(shape, batch)[0]).to(memory_format=self._format(variant))
        compiled = torch.compile(network) if "compiled" in variant else network

        def run():
            with torch.inference_mode(), self._autocast(variant):
                return compiled(x)

        return run, {"logits": fingerprint(run().float().numpy())}

    def convolution(self, case, batch, direction, variant):
        torch = self.torch
        _, k, _, _, padding, stride, groups = case
        x, weight, bias, dy = map(torch.from_numpy, operands(case, batch))
        layout = self._format(variant)
        dtype = torch.bfloat16 if "bf16" in variant else torch.float32
        x, dy = (a.to(dtype=dtype, memory_format=layout) for a in (x, dy))
        weight, bias = weight.to(dtype), bias.to(dtype)
        if direction == "forward":

            def run():
                return torch.nn.functional.conv2d(x, weight, bias, stride, padding, 1, groups)
        else:
            mask = [direction == "d-input", direction == "d-weight", False]
            sizes = [k], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups

            def run():
                return torch.ops.aten.convolution_backward(dy, x, weight, *sizes, mask)[mask.index(True)]

        with torch.no_grad():
            return run, {direction: fingerprint(run().contiguous().float().numpy())}


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


def main():
    name, threads, clock = sys.argv[1], int(sys.argv[2]), getattr(time, sys.argv[3])
    framework = {"cnn": Cnn, "torch": Torch}[name](threads)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, it does not get into the answers
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "make" in request:
                run = None
                run, marks = getattr(framework, request.pop("make"))(**request)
                answer = {"marks": marks}
            elif "time" in request:
                answer = {"times": repeat(run, request["time"], clock)}
            else:
                answer = {"memory": peak_memory()}
        except Exception as error:  # the other side goes on; the driver reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
