"""Predictions of a stream of image files: threads decode the next batches while the network computes."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnn.backend import get_threads, use_backend
from cnn.data import Split
from cnn.data.picture import read_picture
from cnn.errors import DataError
from cnn.targets import KINDS
from cnn.training import experiment
from cnn.training.evaluation import evaluate

_TASK = 16  # images decoded by a thread at a time
_AHEAD = 2  # batches being decoded while one is computed


class Prediction(NamedTuple):
    """What is said of one image file."""

    image: str  # its path
    answer: np.ndarray | None  # as ``cnn.targets`` has it, None when the file cannot be read
    remarks: tuple  # keys of ``cnn.data.picture.REMARKS``
    error: str | None  # why the file cannot be read


class Predictor:
    """A trained network with the preprocessing of its training images.

    Parameters
    ----------
    network, config, meta : as `cnn.training.experiment.load_trained` returns them
    invert, center : bool
        See `cnn.data.picture.read_picture`.
    """

    def __init__(self, network, config, meta, invert=False, center=False):
        self.network, self.config, self.meta = network, config, meta
        self.invert, self.center = invert, center

    @property
    def kind(self):
        """What the network tells of an image: one of ``cnn.targets.KINDS``."""
        return KINDS[self.config.data.targets]

    @property
    def batch_size(self):
        """Images in a batch that needs no more memory than training does."""
        return max(64, self.config.data.batch_size)

    def stream(self, batches):
        """Yield a list of `Prediction` for each list of paths that ``batches`` yields, in their order.

        At most three batches of decoded images are held. A file that cannot be read is a prediction with an
        ``error``; the network's answer for the others of its batch does not wait. Raises NumericError when
        the network answers NaN.
        """
        with ThreadPoolExecutor(get_threads(), thread_name_prefix="cnn-decode") as pool:
            waiting = deque()
            try:
                for batch in batches:
                    tasks = (batch[i : i + _TASK] for i in range(0, len(batch), _TASK))
                    waiting.append([pool.submit(self._read, task) for task in tasks])
                    if len(waiting) > _AHEAD:
                        yield self._predict(waiting.popleft())
                while waiting:
                    yield self._predict(waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, paths):
        """Return (path, pixels or None, remarks, error or None) of each path."""
        found = []
        for path in paths:
            try:
                shape, mean, data = self.meta["image_shape"], self.meta["mean"], self.config.data
                pixels, remarks = read_picture(
                    path, shape, mean, self.invert, self.center, data.fit, data.decode
                )
                found.append((path, pixels, tuple(remarks), None))
            except DataError as error:
                found.append((path, None, (), str(error)))
        return found

    def _predict(self, tasks):
        read = [entry for task in tasks for entry in task.result()]
        pixels = [entry[1] for entry in read if entry[3] is None]
        answers = iter(())
        if pixels:
            x = np.stack(pixels)
            if self.meta.get("numbers", "uint8") != "uint8":  # a network that learnt from floats
                x = x / np.float32(255)
            split = Split(x, self.kind.empty(len(x), self.meta["classes"], x.shape[2:]))
            batches = experiment.evaluation_batches(self.config, split, self.meta["mean"], self.meta["std"])
            with use_backend(self.config.train.backend), np.errstate(all="ignore"):
                loss = experiment.loss_of(self.config, self.meta)
                told = evaluate(self.network, batches, loss=loss, targets=self.kind.name)
            answers = iter(told.answers)
        return [
            Prediction(path, None if error else next(answers), remarks, error)
            for path, _, remarks, error in read
        ]
