"""Compiles what a training needs before it begins, so that no timing contains it."""

import time

import numpy as np

from cnn.backend import compile_report, keeps_kernels, when_compiling


def warm_up(trainer):
    """Take one step and make one prediction of each size that will come; put all values back.

    Says in the log that kernels are compiled, and how long it took.
    """
    if trainer.config.train.backend == "reference":
        return
    begin, before = time.perf_counter(), compile_report()["compiled"]
    once = "once on this machine" if keeps_kernels() else "for this run: no cache folder can be written"
    when_compiling(lambda: trainer.run.log(f"cold start: compiling kernels, {once} ..."))
    network, optimizer = trainer.network, trainer.optimizer
    state = {name: array.copy() for name, array in network.state().items()}
    steps = {name: array.copy() for name, array in optimizer.state().items()}
    x, labels = next(trainer.batches.epoch(0, prefetch=False, as_pixels=True))
    x, labels = x[: trainer.config.train.micro_batch], labels[: trainer.config.train.micro_batch]
    trainer.loss.forward(np.asarray(network.forward(x, training=True)), labels)
    network.backward(trainer.loss.backward(), input_gradient=False)
    optimizer.step()
    for x in _predicted(trainer):
        network.predict(x, batch_size=len(x))
    network.zero_grad()
    network.load_state(state)
    optimizer.load_state(steps)
    when_compiling(None)  # a kernel compiled later has nothing to announce
    compiled = compile_report()["compiled"] - before
    how = f"{compiled} compiled" if compiled else "warm start, all from the cache"
    trainer.run.log(f"kernels ready after {time.perf_counter() - begin:.1f} s ({how})")


def _predicted(trainer):
    """Yield a batch of each size that validation and test will have: a few images have other kernels."""
    for split in (trainer.images.validation, trainer.images.dataset.test):
        if len(split):
            batches = trainer.evaluation_batches(split)
            for step in sorted({0, len(batches) - 1}):
                yield next(batches.epoch(0, step, prefetch=False))[0]
