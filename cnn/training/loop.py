"""Training: epochs of steps, with checkpoints from which a killed run goes on bit for bit.

    for each batch (x, labels) of each epoch:
        loss = SoftmaxCrossEntropy(network(x), labels)
        network.backward(dloss / dlogits)
        parameters <- optimizer(parameters, gradients, schedule(step))

Order, augmentation, dropout and the learning rate are functions of the seed and of counters, so the state
to save is: parameters and buffers, the optimizer's and the average's, the counters, the sums of the running
epoch.
"""

import math
import time
from contextlib import closing
from itertools import islice
from types import SimpleNamespace

import numpy as np

from cnn.backend import get_threads, set_winograd, use_backend
from cnn.config import naming_file
from cnn.errors import ConfigError, NumericError, during
from cnn.parallel.micro import MicroBatches
from cnn.parallel.team import Alone
from cnn.report import gradients
from cnn.training import experiment, finite, resume, stops
from cnn.training.callbacks import Callbacks, quality
from cnn.training.evaluation import evaluate
from cnn.training.fine_tuning import Start, with_head
from cnn.training.interruption import Interrupted, Interruption
from cnn.training.progress import Progress, bar, epoch_line
from cnn.training.snapshots import Snapshots
from cnn.training.tta import check_reach
from cnn.training.warm_up import warm_up

_CURVES_SECONDS = 60  # drawing takes half a second, so not after every short epoch
_SHOW_SECONDS = 0.1  # between moves of the bar, which would take 3 % of each step of a small network
_STATUS_SECONDS = 30  # between progress lines of a long epoch where there is no terminal


class Trainer:
    """One run: builds everything from a config, trains, writes into a RunFolder.

    Parameters
    ----------
    config : Config
    run : RunFolder, InMemory or None
        None builds and checks everything but can write nothing (``--dry-run``).
    callbacks : sequence of cnn.Callback
        Told how it goes; see ``cnn.training.callbacks``.
    images : cnn.training.experiment.Images, optional
        Instead of those of config.data.
    network : Network, optional
        Instead of that of config.model; not built, or built for these images: what is built keeps its values.
    team : cnn.parallel.team.Alone or Ranks, optional
        The processes that train together, each with a Trainer of its own.

    Raises ConfigError, ShapeError or DataError when the parts do not fit; nothing has been written then.
    """

    def __init__(self, config, run=None, callbacks=(), images=None, network=None, team=None):
        self.config, self.run, self._restored = config, run, False
        self.callbacks, self._stopping = Callbacks([*experiment.own_callbacks(config), *callbacks]), None
        if images is None:
            experiment.check_parameters(config)
        self.images = experiment.load_images(config) if images is None else images
        self.start = Start(config.start, run) if config.start is not None else None
        if self.start is not None:
            self.images = self.start.normalized(self.images)
            config = self.config = with_head(config, len(self.images.classes))
        self.batches = experiment.training_batches(config, self.images)
        classes = len(self.images.classes)
        self.network = experiment.build_network(config, self.batches.image_shape, classes, network)
        if config.tta is not None:
            with naming_file(config, "tta.translate"):
                check_reach(config.tta.translate, *self.batches.image_shape[1:])
        experiment.whiten_network(config, self.network, self.images)
        if self.start is not None:
            self.start.apply(self.network)
        first = [] if self.start is None else self.start.groups(self.network)
        self.groups = experiment.build_groups(config, self.network, first)
        self.loss = experiment.build_loss(config, len(self.images.classes), self.images.scale)
        self.team, self.micro, train = team or Alone(), None, config.train
        if train.micro_batch is not None:
            how = train.micro_batch, self.team, train.batch_norm, train.backend
            self.micro = MicroBatches(self.network, self.loss, *how)
        self.optimizer = experiment.build_optimizer(config, self.network)
        self._guard = finite.Guard(self.optimizer, self.network)
        self.schedule = experiment.build_schedule(config, len(self.batches))
        self.average = experiment.build_average(config, self.network, len(self.batches))
        self.total_steps = experiment.total_steps(config, len(self.batches))
        self.epochs = math.ceil(self.total_steps / len(self.batches))
        self._interruption, self._agreed = Interruption(), SimpleNamespace(signum=None)
        self._snapshots = Snapshots(config.train.snapshots, self.total_steps, self.network.data.size)
        self._gradients_every = gradients.interval(len(self.batches), self.epochs)
        experiment.check_last_batch(config, self.network, self.batches, self.total_steps)
        self.progress, self.history = Progress(), []  # the rows of metrics.csv

    def describe(self):
        """Return a line that says what is trained on what."""
        data, train = self.images, self.config.train
        backend = train.backend if train.precision == "float32" else f"{train.backend} {train.precision}"
        return (
            f"{self.config.name}: {self.network.data.size:,} parameters; {data.dataset.name}: "
            f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.dataset.test):,} "
            f"test images of {'x'.join(map(str, self.batches.image_shape))}; {train.epochs} epochs of "
            f"{len(self.batches)} steps, seed {self.config.seed}, {backend}, {get_threads()} threads"
        )

    # -- the loop --------------------------------------------------------------------------------

    def fit(self):
        """Train from where ``progress`` stands to the end; return the result (also in result.json).

        Raises NumericError when a number is no longer finite; Interrupted after SIGINT, SIGTERM or SIGHUP
        and when the reader of the output has left; ConfigError when another process trains in the folder.
        """
        with self.run.locked(), during(f"training in {self.run.path}, whose checkpoints are whole"):
            if not self._restored and self.run.has_state():
                raise ConfigError(f"{self.run.path}: holds a run already; restore() continues it")
            self._restored = True  # what lies there from now on is this run's
            self.run.begin(self.config, self.images)
            return self._fit()

    def _fit(self):
        self.run.log(self.describe())
        if self.team.launched:
            self.run.log(f"processes: {self.team.size}; micro-batches of {self.micro.size} images")
        if self.start is not None and self.start.line:
            self.run.log(f"starts with {self.start.line}")
        self.run.write_metrics(self.history)  # a resume drops the rows after its checkpoint
        self._saved_at = self._drawn_at = time.perf_counter()
        set_winograd(self.config.train.winograd)
        # the loop itself looks for NaN and Inf; NumPy's warnings would only repeat it
        with (
            use_backend(self.config.train.backend),
            np.errstate(all="ignore"),
            Interruption() as interruption,
        ):
            self._interruption, self._agreed = interruption, SimpleNamespace(signum=None)
            if self.progress.epoch < self.epochs:
                with interruption.at_once(lambda signum: stops.before_first_step(self, signum)):
                    warm_up(self)
            if self.progress.epoch == self.progress.step == 0:
                self._take_snapshot(0)
            self._tell_losses()
            self.callbacks.tell("on_fit_begin", self)
            with self._bar() as images:
                while self.progress.epoch < self.epochs and self._stopping is None:
                    self.callbacks.tell("on_epoch_begin", self)
                    self._train_epoch(images, interruption)
                    self._finish_epoch()
            if self._stopping is not None:
                self.run.log(f"stopped after epoch {self.progress.epoch}: {self._stopping}")
            if self.progress.best is None:
                self.run.save_best(self, None)
            self.draw()
            result = self.run.finish(self)
            self.callbacks.tell("on_fit_end", self, result)
        if self.run.reader_left:
            message = f"the reader of the output has left; the run is finished, see {self.run.path}"
            raise Interrupted(message, stops.READER_LEFT)
        return result

    def stop(self, why):
        """End the training after the running epoch, with the test as ever; ``why`` goes into the log."""
        self._stopping = why

    def _train_epoch(self, images, interruption):
        p, steps = self.progress, self.steps_of_epoch()
        save_after = 60 * self.config.train.checkpoint_minutes
        images.set_description_str(f"epoch {p.epoch + 1}/{self.epochs}")
        with closing(self.batches.epoch(p.epoch, start_step=p.step, as_pixels=True)) as batches:
            begin = shown_at = self._told_at = time.perf_counter()
            for x, labels in islice(batches, max(0, steps - p.step)):
                loss = self._step(x, labels)
                if self.callbacks.of_steps:
                    self.callbacks.tell("on_step_end", self, loss)
                if self.run is not None:  # without a run folder epochs are for measuring
                    self._take_snapshot(p.epoch * len(self.batches) + p.step)
                now = time.perf_counter()
                p.epoch_seconds, begin = p.epoch_seconds + now - begin, now
                if now - shown_at > _SHOW_SECONDS or p.step == steps:
                    shown_at = now
                    self._show(images, loss, now)
                self._stop_if_asked(interruption)
                if now - self._saved_at > save_after:
                    self.save_last()
        self._stop_if_asked(interruption)

    def _stop_if_asked(self, interruption):
        """After a signal save and raise Interrupted; of several processes all do so after the same step."""
        if self.team.size == 1:
            stops.stop_if_asked(self, interruption)
            return
        try:
            stops.stop_if_asked(self, self._agreed)
        except Interrupted as error:
            error.agreed = self._agreed.signum is not None
            raise

    def _show(self, images, loss, now):
        """Move the bar on; without a terminal, write a progress line now and then."""
        p = self.progress
        running = p.running(loss, self.optimizer.lr, self.images.kind.has_accuracy)
        images.set_postfix_str(running, refresh=False)
        images.update(p.epoch * self.batches.images_per_epoch + p.seen - images.n)
        if images.disable and now - self._told_at > _STATUS_SECONDS:
            self._told_at = now
            self.run.log(f"epoch {p.epoch + 1}, step {p.step}/{self.steps_of_epoch()}: {running}")

    def steps_of_epoch(self):
        """Return the steps of the running epoch: the last one may be cut short."""
        return min(len(self.batches), self.total_steps - self.progress.epoch * len(self.batches))

    def _step(self, x, labels):
        """Take one step of the optimizer; return the loss before it."""
        p = self.progress
        number = p.epoch * len(self.batches) + p.step
        self.optimizer.lr = self.schedule(number)
        self.groups.at(number / len(self.batches))
        if self.start is not None:
            self.start.at(number / len(self.batches))
        loss, correct = self._gradient(x, labels)
        if found := self._guard.step():
            raise stops.numeric_error(self, found, step=True)
        self._record_gradients()
        self.average.step(number + 1)
        p.step += 1
        p.seen += len(labels)
        p.loss_sum += loss * len(labels)
        p.correct += correct
        return loss

    def _gradient(self, x, labels):
        """Compute the gradient of a batch; return its loss and how many answers are right."""
        if self.micro is not None:
            signum = self._interruption.signum if self.team.size > 1 else None
            loss, correct, self._agreed.signum = self.micro.gradient(x, labels, signum)
            if not math.isfinite(loss):
                raise stops.loss_error(self, loss, x, labels)
            return loss, correct
        logits = np.asarray(self.network.forward(x, training=True))
        loss = self.loss.forward(logits, labels)
        if not math.isfinite(loss):
            raise stops.loss_error(self, loss, x, labels)
        self.network.zero_grad()
        self.network.backward(self.loss.backward(), input_gradient=False)
        wrong = self.images.kind.wrong(logits, labels, self.loss)
        if wrong is None:
            return loss, 0
        right = len(labels) - wrong.sum()
        return loss, int(right) if wrong.dtype == bool else float(right)

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
            "train_accuracy": p.correct / p.seen if self.images.kind.has_accuracy else None,
            "val_loss": loss,
            "val_accuracy": accuracy,
            "images_per_second": round(p.seen / max(p.epoch_seconds, 1e-9), 1),
            "seconds": round(p.seconds, 3),
        }
        self.history.append(row)
        self._tell_losses()
        cut = None
        if p.step < len(self.batches):
            cut = {"step": p.step, "loss_sum": p.loss_sum, "correct": p.correct, "seen": p.seen}
            cut["epoch_seconds"] = p.epoch_seconds
        p.cut = cut
        p.epoch, p.step, p.loss_sum, p.correct, p.seen, p.epoch_seconds = p.epoch + 1, 0, 0.0, 0, 0, 0.0
        self.run.log(epoch_line(row, self.epochs, getattr(self.config.loss, "label_smoothing", 0) > 0))
        for line in self.micro.slow_ranks() if self.micro is not None else ():
            self.run.log(line)
        is_best = self._is_best(row)
        if is_best:
            p.best = {"epoch": p.epoch, "loss": loss, "accuracy": accuracy}
        self.run.write_metrics(self.history)
        self.callbacks.tell("on_epoch_end", self, row)
        ends = p.epoch == self.epochs or self._stopping is not None
        due = ends or p.epoch % self.config.train.checkpoint_every == 0
        # a best without a last would be a run that cannot go on
        if due or (is_best and not self.run.has_state()):
            self.save_last()
        if is_best:
            self.run.save_best(self, p.best)
        if time.perf_counter() - self._drawn_at > _CURVES_SECONDS:
            self.draw()

    def _tell_losses(self):
        """Tell the schedule how the validation went; all but "plateau" leave that alone."""
        self.schedule.losses[:] = [row["val_loss"] for row in self.history if row["val_loss"] is not None]

    def _validate(self):
        split = self.images.validation
        if len(split) == 0:
            return None, None
        try:
            batches, targets = self.evaluation_batches(split), self.images.dataset.targets
            return evaluate(self.network, batches, loss=self.loss, targets=targets)[:2]
        except NumericError as error:
            found = finite.state(self.network)
            words = f"validation: {error}" + (f": {found}" if found else "")
            raise stops.numeric_error(self, words) from error

    def evaluation_batches(self, split):
        """Return the Batches of a split, normalised as the training images are, free of chance."""
        return experiment.evaluation_batches(self.config, split, self.images.mean, self.images.std)

    def _is_best(self, row):
        """Whether no epoch before had better numbers; without validation images the last epoch wins."""
        if self.progress.best is None or row["val_loss"] is None:
            return True
        best = {f"val_{key}": self.progress.best[key] for key in ("loss", "accuracy")}
        return quality(row, self.images.kind) > quality(best, self.images.kind)

    # -- state -----------------------------------------------------------------------------------

    def restore(self):
        """Take over what the run folder holds; see ``cnn.training.resume.restore``."""
        with self.run.locked():
            resume.restore(self)
        self._restored = True

    def save_last(self):
        """Write last.safetensors now."""
        self.run.save_last(self)
        self._saved_at = time.perf_counter()

    def _take_snapshot(self, number):
        if number in self._snapshots.steps:
            if found := finite.state(self.network):
                raise stops.numeric_error(self, found)
            self._snapshots.take(number, self.network, self.run.snapshots)

    # -- words -----------------------------------------------------------------------------------

    def numeric_error(self, what):
        """Return the NumericError for a number that is no longer finite; see ``cnn.training.stops``."""
        return stops.numeric_error(self, what)

    def _bar(self):
        p, an_epoch = self.progress, self.batches.images_per_epoch
        last = self.total_steps - (self.epochs - 1) * len(self.batches)  # steps of the last epoch
        total = (self.epochs - 1) * an_epoch + min(last * self.batches.batch_size, an_epoch)
        return bar(max(0, total), p.epoch * an_epoch + p.seen, self.run.shows_progress)

    def draw(self):
        """Draw curves.png."""
        self.run.draw(self)
        self._drawn_at = time.perf_counter()
