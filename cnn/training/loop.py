"""Training: epochs of steps, with checkpoints from which a killed run goes on bit for bit.

    for each batch (x, labels) of each epoch:
        loss = SoftmaxCrossEntropy(network(x), labels)
        network.backward(dloss / dlogits)
        parameters <- optimizer(parameters, gradients, schedule(step))

Order, augmentation, dropout and the learning rate are functions of the seed and of counters, so the state
to save is: parameters and buffers, the optimizer's and the average's, the counters, the sums of the running
epoch.
"""

import json
import math
import signal
import time
from contextlib import closing
from itertools import islice

import numpy as np

from cnn import report
from cnn.backend import (
    compile_report,
    get_threads,
    keeps_kernels,
    set_winograd,
    use_backend,
    when_compiling,
)
from cnn.config import naming_file, to_toml
from cnn.errors import ConfigError, NumericError
from cnn.files import write_atomically
from cnn.report import gradients
from cnn.training import checkpoint, experiment, finite, plots, resume
from cnn.training.header import check_header
from cnn.training.interruption import Interrupted, Interruption
from cnn.training.progress import Progress, bar, epoch_line
from cnn.training.snapshots import Snapshots
from cnn.training.tta import check_reach

_CURVES_SECONDS = 60  # drawing takes half a second, so not after every short epoch
_SHOW_SECONDS = 0.1  # between moves of the bar, which would take 3 % of each step of a small network
_STATUS_SECONDS = 30  # without a terminal, a long epoch says this often that it lives
_READER_LEFT = 13  # SIGPIPE, which Windows does not name


class Trainer:
    """One run: builds everything from a config, trains, writes into a RunFolder.

    Parameters
    ----------
    config : Config
    run : RunFolder or None
        None builds and checks everything but can write nothing (``--dry-run``).

    Raises ConfigError, ShapeError or DataError when the parts do not fit; nothing has been written then.
    """

    def __init__(self, config, run=None):
        self.config, self.run, self._restored = config, run, False
        experiment.check_parameters(config)
        self.images = experiment.load_images(config)
        self.batches = experiment.training_batches(config, self.images)
        self.network = experiment.build_network(config, self.batches.image_shape, len(self.images.classes))
        if config.tta is not None:
            with naming_file(config, "tta.translate"):
                check_reach(config.tta.translate, *self.batches.image_shape[1:])
        experiment.whiten_network(config, self.network, self.images)
        self.groups = experiment.build_groups(config, self.network)
        self.loss = experiment.build_loss(config, len(self.images.classes))
        self.optimizer = experiment.build_optimizer(config, self.network)
        self.schedule = experiment.build_schedule(config, len(self.batches))
        self.average = experiment.build_average(config, self.network, len(self.batches))
        self.total_steps = experiment.total_steps(config, len(self.batches))
        self.epochs = math.ceil(self.total_steps / len(self.batches))
        self._snapshots = Snapshots(config.train.snapshots, self.total_steps, self.network.data.size)
        self._gradients_every = gradients.interval(len(self.batches), self.epochs)
        experiment.check_last_batch(config, self.network, self.batches, self.total_steps)
        self.progress, self.history = Progress(), []  # the rows of metrics.csv

    def describe(self):
        """Return a line that says what is trained on what."""
        data, train = self.images, self.config.train
        return (
            f"{self.config.name}: {self.network.data.size:,} parameters; {data.dataset.name}: "
            f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.dataset.test):,} "
            f"test images of {'x'.join(map(str, self.batches.image_shape))}; {train.epochs} epochs of "
            f"{len(self.batches)} steps, seed {self.config.seed}, {train.backend}, {get_threads()} threads"
        )

    # -- the loop --------------------------------------------------------------------------------

    def fit(self):
        """Train from where ``progress`` stands to the end; return the result (also in result.json).

        Raises NumericError when a number is no longer finite; Interrupted after SIGINT, SIGTERM or SIGHUP
        and when the reader of the output has left; ConfigError when another process trains in the folder.
        """
        with self.run.locked():
            if not self._restored and self.run.last.exists():
                raise ConfigError(f"{self.run.path}: holds a run already; restore() continues it")
            self._restored = True  # what lies there from now on is this run's
            write_atomically(self.run.config, to_toml(self.config).encode())
            return self._fit()

    def _fit(self):
        self.run.log(self.describe())
        self.run.write_metrics(self.history)  # a resume drops the rows after its checkpoint
        self._saved_at = self._drawn_at = time.perf_counter()
        set_winograd(self.config.train.winograd)
        # the loop itself looks for NaN and Inf; NumPy's warnings would only repeat it
        with (
            use_backend(self.config.train.backend),
            np.errstate(all="ignore"),
            Interruption() as interruption,
        ):
            if self.progress.epoch < self.epochs:
                with interruption.at_once(self._before_first_step):
                    self._warm_up()
            if self.progress.epoch == self.progress.step == 0:
                self._take_snapshot(0)
            with self._bar() as images:
                while self.progress.epoch < self.epochs:
                    self._train_epoch(images, interruption)
                    self._finish_epoch()
            if self.progress.best is None:
                resume.save_best(self, None)
            self._draw()
            result = self._test()
        if self.run.reader_left:
            message = f"the reader of the output has left; the run is finished, see {self.run.path}"
            raise Interrupted(message, _READER_LEFT)
        return result

    def _train_epoch(self, images, interruption):
        p, steps = self.progress, self._steps_of_epoch()
        save_after = 60 * self.config.train.checkpoint_minutes
        images.set_description_str(f"epoch {p.epoch + 1}/{self.epochs}")
        with closing(self.batches.epoch(p.epoch, start_step=p.step, as_pixels=True)) as batches:
            begin = shown_at = self._told_at = time.perf_counter()
            for x, labels in islice(batches, max(0, steps - p.step)):
                loss = self._step(x, labels)
                if self.run is not None:  # without a run folder epochs are for measuring
                    self._take_snapshot(p.epoch * len(self.batches) + p.step)
                now = time.perf_counter()
                p.epoch_seconds, begin = p.epoch_seconds + now - begin, now
                if now - shown_at > _SHOW_SECONDS or p.step == steps:
                    shown_at = now
                    self._show(images, loss, now)
                self._stop_if_asked(interruption)
                if now - self._saved_at > save_after:
                    self._save_last()
        self._stop_if_asked(interruption)

    def _show(self, images, loss, now):
        """Move the bar on; without a terminal, say now and then that a long epoch lives."""
        p = self.progress
        running = p.running(loss, self.optimizer.lr)
        images.set_postfix_str(running, refresh=False)
        images.update(p.epoch * self.batches.images_per_epoch + p.seen - images.n)
        if images.disable and now - self._told_at > _STATUS_SECONDS:
            self._told_at = now
            self.run.log(f"epoch {p.epoch + 1}, step {p.step}/{self._steps_of_epoch()}: {running}")

    def _steps_of_epoch(self):
        """Return the steps of the running epoch: the last one may be cut short."""
        return min(len(self.batches), self.total_steps - self.progress.epoch * len(self.batches))

    def _step(self, x, labels):
        """Take one step of the optimizer; return the loss before it."""
        p = self.progress
        number = p.epoch * len(self.batches) + p.step
        self.optimizer.lr = self.schedule(number)
        self.groups.at(number / len(self.batches))
        logits = np.asarray(self.network.forward(x, training=True))
        loss = self.loss.forward(logits, labels)
        if not math.isfinite(loss):
            raise self._loss_error(loss, x, labels)
        self.network.zero_grad()
        self.network.backward(self.loss.backward(), input_gradient=False)
        # a sum takes a hundredth of a step; where it is not finite, the numbers themselves are looked at
        if not math.isfinite(np.add.reduce(self.network.grad)) and (found := finite.gradient(self.network)):
            raise self.numeric_error(found, step=True)
        self._record_gradients()
        self.optimizer.step()
        # finite gradients can overflow in the update: that ends the run before anything is saved
        if not math.isfinite(np.add.reduce(self.network.data)) and (found := finite.state(self.network)):
            raise self.numeric_error(f"after the update {found}", step=True)
        self.average.step(number + 1)
        p.step += 1
        p.seen += len(labels)
        p.loss_sum += loss * len(labels)
        answers = labels if labels.ndim == 1 else labels.argmax(axis=1)  # of two mixed ones the heavier
        p.correct += int(np.count_nonzero(logits.argmax(axis=1) == answers))
        return loss

    def _record_gradients(self):
        p, steps = self.progress, len(self.batches)
        if p.step % self._gradients_every == 0:
            p.gradients.append([round(p.epoch + p.step / steps, 4), *gradients.layer_norms(self.network)])

    def _finish_epoch(self):
        """Validate, keep the best, add a row to the metrics, save."""
        p, begin = self.progress, time.perf_counter()
        with self.average.applied():
            loss, accuracy = self._validate()
        p.seconds += p.epoch_seconds + time.perf_counter() - begin
        row = {
            "epoch": p.epoch + 1,
            "step": p.epoch * len(self.batches) + p.step,
            "lr": self.optimizer.lr,
            "train_loss": p.loss_sum / p.seen,
            "train_accuracy": p.correct / p.seen,
            "val_loss": loss,
            "val_accuracy": accuracy,
            "images_per_second": round(p.seen / max(p.epoch_seconds, 1e-9), 1),
            "seconds": round(p.seconds, 3),
        }
        self.history.append(row)
        cut = None
        if p.step < len(self.batches):
            cut = {"step": p.step, "loss_sum": p.loss_sum, "correct": p.correct, "seen": p.seen}
            cut["epoch_seconds"] = p.epoch_seconds
        p.cut = cut
        p.epoch, p.step, p.loss_sum, p.correct, p.seen, p.epoch_seconds = p.epoch + 1, 0, 0.0, 0, 0, 0.0
        self.run.log(epoch_line(row, self.epochs, self.config.loss.label_smoothing > 0))
        is_best = self._is_best(row)
        if is_best:
            p.best = {"epoch": p.epoch, "loss": loss, "accuracy": accuracy}
        self.run.write_metrics(self.history)
        due = p.epoch % self.config.train.checkpoint_every == 0 or p.epoch == self.epochs
        # a best without a last would be a run that cannot go on
        if due or (is_best and not self.run.last.exists()):
            self._save_last()
        if is_best:
            resume.save_best(self, p.best)
        if time.perf_counter() - self._drawn_at > _CURVES_SECONDS:
            self._draw()

    def _validate(self):
        split = self.images.validation
        if len(split) == 0:
            return None, None
        batches = experiment.evaluation_batches(self.config, split, self.images.mean, self.images.std)
        try:
            return experiment.evaluate(self.network, batches)[:2]
        except NumericError as error:
            found = finite.state(self.network)
            raise self.numeric_error(f"validation: {error}" + (f": {found}" if found else "")) from error

    def _is_best(self, row):
        """Higher validation accuracy wins, then lower loss; without validation images the last epoch wins."""
        if self.progress.best is None or row["val_accuracy"] is None:
            return True
        best = self.progress.best
        return (row["val_accuracy"], -row["val_loss"]) > (best["accuracy"], -best["loss"])

    def _warm_up(self):
        """Compile what a step and an evaluation need, so that no timing contains it; change nothing."""
        if self.config.train.backend == "reference":
            return
        begin, before = time.perf_counter(), compile_report()["compiled"]
        once = "once on this machine" if keeps_kernels() else "for this run: no cache folder can be written"
        when_compiling(lambda: self.run.log(f"cold start: compiling kernels, {once} ..."))
        state = {name: array.copy() for name, array in self.network.state().items()}
        optimizer = {name: array.copy() for name, array in self.optimizer.state().items()}
        x, labels = next(self.batches.epoch(0, prefetch=False, as_pixels=True))
        self.loss.forward(np.asarray(self.network.forward(x, training=True)), labels)
        self.network.backward(self.loss.backward(), input_gradient=False)
        self.optimizer.step()
        self.network.predict(np.asarray(x))
        self.network.zero_grad()
        self.network.load_state(state)
        self.optimizer.load_state(optimizer)
        when_compiling(None)  # a kernel compiled later has nothing to announce
        compiled = compile_report()["compiled"] - before
        how = f"{compiled} compiled" if compiled else "warm start, all from the cache"
        self.run.log(f"kernels ready after {time.perf_counter() - begin:.1f} s ({how})")

    def _test(self):
        """Judge the best weights on the test images, once; write and return the result."""
        p, images = self.progress, self.images
        with checkpoint.opened(self.run.best) as file:
            meta = check_header(file.description, self.run.best)
            checkpoint.restore(file, "network", self.network.state(), self.run.best)
        score = meta.score or {"loss": None, "accuracy": None}
        batches = experiment.evaluation_batches(self.config, images.dataset.test, images.mean, images.std)
        loss, accuracy, probabilities = experiment.evaluate(self.network, batches)
        result = {
            "epoch": meta.epoch,
            "val_loss": score["loss"],
            "val_accuracy": score["accuracy"],
            "test_loss": loss,
            "test_accuracy": accuracy,
            **self._test_with_tta(batches),
            "test_images": len(images.dataset.test),
            "parameters": self.network.data.size,
            "seconds": round(p.seconds, 3),
            "data_sha256": images.dataset.digest,
        }
        write_atomically(self.run.result, (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
        why = "untrained" if meta.epoch == 0 else "the best on the validation images"
        if meta.score and score["accuracy"] is None:
            why = "the last: validation = 0"
        views = f" ({100 * result['tta_accuracy']:.2f} % with TTA)" if "tta_accuracy" in result else ""
        self.run.log(
            f"test accuracy {100 * accuracy:.2f} %{views}, loss {loss:.4f}, "
            f"on {len(images.dataset.test):,} images, "
            f"weights of epoch {meta.epoch} ({why}); trained for {p.seconds:.1f} s; see {self.run.path}"
        )
        self._report(result, probabilities)
        return result

    def _test_with_tta(self, batches):
        """Return what [tta] adds to the result: nothing without that section."""
        if self.config.tta is None:
            return {}
        loss, accuracy, _ = experiment.evaluate(self.network, batches, self.config.tta)
        return {"tta_loss": loss, "tta_accuracy": accuracy}

    def _report(self, result, probabilities):
        p, dataset = self.progress, self.images.dataset
        write_atomically(self.run.gradients, gradients.table(self.network, p.gradients).encode())
        story = report.Story(
            self.config.name,
            dataset.name,
            dataset.classes,
            self.history,
            p.gradients,
            result,
            self.network,
            dataset.test,
            probabilities,
            to_toml(self.config),
            self.config.loss.label_smoothing,
        )
        report.write(self.run.report, story)

    # -- state -----------------------------------------------------------------------------------

    def restore(self):
        """Take over what the run folder holds; see ``cnn.training.resume.restore``."""
        with self.run.locked():
            resume.restore(self)
        self._restored = True

    def _save_last(self):
        resume.save_last(self)
        self._saved_at = time.perf_counter()

    def _take_snapshot(self, number):
        if number in self._snapshots.steps:
            if found := finite.state(self.network):
                raise self.numeric_error(found)
            self._snapshots.take(number, self.network, self.run.snapshots)

    def _stop_if_asked(self, interruption):
        """After a signal, or when nobody reads the output any more: save and raise Interrupted."""
        reader_left = self.run is not None and self.run.reader_left
        signum = interruption.signum or (_READER_LEFT if reader_left else None)
        if signum is None:
            return
        self._save_last()
        self._draw()
        p = self.progress
        why = "interrupted" if interruption.signum else "the reader of the output left"
        message = (
            f"{why} in epoch {p.epoch + 1}, step {p.step} of {self._steps_of_epoch()}, and saved; "
            f"continue with: cnn train --resume --run {self.run.path}"
        )
        self.run.log(f"stopped by {signal.Signals(signum).name}, and saved")
        raise Interrupted(message, signum)

    def _before_first_step(self, signum):
        """Return the error after a signal while the kernels are compiled: there is nothing to save."""
        self.run.log(f"stopped by {signal.Signals(signum).name} before the first step")
        return Interrupted(
            "interrupted before the first step; nothing is lost; start with: "
            f"cnn train --resume --run {self.run.path}",
            signum,
        )

    # -- words -----------------------------------------------------------------------------------

    def _loss_error(self, loss, x, labels):
        """Return the NumericError for a loss of NaN or Inf: it names what made it so."""
        weights = self.config.loss.class_weight
        if weights is not None and labels.ndim == 1 and not np.array(weights)[labels].any():
            message = (
                f"all {len(labels)} images of the batch have loss.class_weight 0, so their mean loss is 0/0"
            )
            advice = "raise data.batch_size, give these classes a weight or leave their images out"
            return self.numeric_error(message, advice, step=True)
        found = finite.activation(self.network, x)
        return self.numeric_error(f"the loss is {loss}" + (f": {found}" if found else ""), step=True)

    def numeric_error(self, what, advice=None, step=False):
        """Return the NumericError that ends the run, after a line in the log; ``step``: before its update."""
        p, kept = self.progress, "no checkpoint yet"
        if self.run.last.exists():
            kept = "last.safetensors keeps the state of the last checkpoint"
        advice = advice or ("lower optimizer.lr, add schedule.warmup_epochs or set optimizer.clip_norm = 1.0")
        place = (
            f"epoch {p.epoch + 1}, step {p.step + 1} of {self._steps_of_epoch()}"
            if step
            else (f"epoch {p.epoch + (p.step > 0)}")
        )
        stopped = f"{place}: {what} (lr {self.optimizer.lr:.3g})"
        self.run.log(f"stopped: {stopped}")
        return NumericError(f"{stopped}; {advice}\n{self.run.path}: {kept}")

    def _bar(self):
        p, an_epoch = self.progress, self.batches.images_per_epoch
        last = self.total_steps - (self.epochs - 1) * len(self.batches)  # steps of the last epoch
        total = (self.epochs - 1) * an_epoch + min(last * self.batches.batch_size, an_epoch)
        return bar(max(0, total), p.epoch * an_epoch + p.seen)

    def _draw(self):
        if self.history:
            best = self.progress.best if len(self.images.validation) else None
            plots.curves(self.run.curves, self.history, self.config.name, best and best["epoch"])
        self._drawn_at = time.perf_counter()
