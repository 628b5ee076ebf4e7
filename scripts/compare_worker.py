"""One run of one framework for ``compare_pytorch.py``: reads a job as JSON, answers with JSON lines.

Both sides are made from one Trainer of cnn: its data pipeline (order, augmentation, normalisation, background
thread), its starting weights, its learning rate at each step. What differs is the arithmetic.
"""

import json
import math
import os
import sys
import tempfile
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from cnn import backend
from cnn.backend import set_winograd
from cnn.config import load_config
from cnn.errors import CnnError
from cnn.training import evaluation, experiment, run_folder
from cnn.training.loop import Trainer


def accuracies(trainer, network, epoch):
    """Return the test accuracy of ``network`` as row entries; after the last epoch with [tta] as well."""
    split, config = trainer.images.dataset.test, trainer.config
    batches = experiment.evaluation_batches(config, split, trainer.images.mean, trainer.images.std)
    row = {"test_accuracy": evaluation.evaluate(network, batches)[1], "tta_accuracy": None}
    if config.tta is not None and epoch == trainer.epochs:  # six views cost as much as half an epoch
        row["tta_accuracy"] = evaluation.evaluate(network, batches, config.tta)[1]
    return row


class Recorded(Trainer):
    """The real Trainer, which in addition tells ``answer`` about each epoch."""

    def __init__(self, config, answer, clock, run=None):
        super().__init__(config, run)
        self.answer, self.clock, self.trained = answer, clock, 0.0

    def _train_epoch(self, *arguments):
        begin = self.clock()
        super()._train_epoch(*arguments)
        self.trained += self.clock() - begin

    def _finish_epoch(self):
        p = self.progress
        loss = p.loss_sum / p.seen
        super()._finish_epoch()
        row = {"epoch": p.epoch, "seconds": self.trained, "train_loss": loss}
        with self.average.applied():
            row |= accuracies(self, self.network, p.epoch)
        self.answer(row=row)


class Cnn:
    """Our side."""

    def __init__(self, config, job, answer):
        backend.set_threads(job["threads"])
        self.config, self.answer, self.clock = config, answer, getattr(time, job["clock"])

    def train(self):
        """Train to the end; the files of the run are thrown away."""
        with tempfile.TemporaryDirectory() as folder:
            run = run_folder.RunFolder(Path(folder))
            Recorded(self.config, self.answer, self.clock, run).fit()

    def start(self):
        """Return the function that takes one step."""
        trainer = Trainer(self.config)
        set_winograd(self.config.train.winograd)
        batches = forever(trainer, as_pixels=True)

        def step():
            trainer._step(*next(batches))
            trainer.progress.step %= len(trainer.batches)

        return step


class Torch:
    """PyTorch."""

    def __init__(self, config, job, answer):
        import torch
        from torch_twin import Twin

        torch.set_num_threads(job["threads"])
        torch.manual_seed(config.seed)
        self.trainer, self.answer, self.clock = Trainer(config), answer, getattr(time, job["clock"])
        t = self.trainer
        x, targets = next(t.batches.epoch(0, prefetch=False))
        rest = t.batches.images_per_epoch % t.batches.batch_size or len(x)
        self.sizes = [(x, targets), (x[:rest], targets[:rest])]  # what an epoch shows: compiled beforehand
        compile, channels_last = job["compile"], job["channels_last"]
        parts = t.network, t.loss, t.optimizer, t.average
        self.twin = Twin(*parts, compile, channels_last)
        try:
            self.twin.rehearse(self.sizes)
        except Exception as error:
            if not compile:
                raise
            reason = str(error).strip().splitlines()[0]
            self.answer(note=f"torch.compile left out: {type(error).__name__}: {reason}"[:200])
            compile = False
            self.twin = Twin(*parts, compile, channels_last)
        layout = "channels_last" if channels_last else "NCHW"
        self.answer(variant=f"{'compiled' if compile else 'eager'} {layout}")

    def train(self):
        """Train to the end with the data, the order and the rates of cnn's Trainer."""
        t, step, trained = self.trainer, 0, 0.0
        per_epoch = len(t.batches)
        for epoch in range(t.epochs):
            losses, seen = 0.0, 0
            with closing(t.batches.epoch(epoch, prefetch=True)) as batches:
                begin = self.clock()
                for x, targets in islice(batches, t.total_steps - step):
                    begin += self.freeze(step / per_epoch)
                    loss, _ = self.twin.step(x, targets, t.schedule(step))
                    if not math.isfinite(loss):
                        raise SystemExit(f"PyTorch: the loss of step {step + 1} is {loss}")
                    losses, seen, step = losses + loss * len(x), seen + len(x), step + 1
                    self.twin.average.step(step)
                trained += self.clock() - begin
            row = {"epoch": epoch + 1, "seconds": trained, "train_loss": losses / seen}
            with self.twin.average.applied():
                row |= accuracies(t, self.twin, epoch + 1)
            self.answer(row=row)

    def freeze(self, epoch):
        """Freeze what cnn would freeze at this moment; return the seconds that compiling it anew took."""
        begin = self.clock()
        self.trainer.groups.at(epoch)
        if self.twin.optimizer.freeze():
            self.twin.rehearse(self.sizes)
        return self.clock() - begin

    def start(self):
        """Return the function that takes one step."""
        batches, rate = forever(self.trainer, prefetch=True), self.trainer.schedule(0)
        return lambda: self.twin.step(*next(batches), rate)


def forever(trainer, **how):
    """Yield the full batches of one epoch after another; ``how`` they are made, as for `Batches.epoch`."""
    epoch = 0
    while True:
        for x, targets in trainer.batches.epoch(epoch, **how):
            if len(x) == trainer.batches.batch_size:
                yield x, targets
        epoch += 1


def main():
    """Do the job of the command line; for timing, take steps as asked on standard input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, it does not get into the answers

    def answer(**values):
        print(json.dumps(values), file=answers)

    job = json.loads(sys.argv[1])
    try:
        config = load_config(job["config"], job["set"])
        side = {"cnn": Cnn, "torch": Torch}[job["framework"]](config, job, answer)
        with backend.use_backend(config.train.backend), np.errstate(all="ignore"):
            if not job["timing"]:
                side.train()
                return
            clock, step = getattr(time, job["clock"]), side.start()
            for _ in range(3):
                step()
            answer(ready=True)
            for line in sys.stdin:
                times = []
                for _ in range(int(line)):
                    begin = clock()
                    step()
                    times.append(clock() - begin)
                answer(times=times)
    except CnnError as error:
        answer(error=str(error))


if __name__ == "__main__":
    main()
