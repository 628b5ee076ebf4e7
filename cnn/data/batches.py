"""Batches in a seeded order, augmented and normalised; ahead in a thread where a core is left for it."""

import queue
import sys
import threading

import numpy as np

from cnn.backend import has_spare_core, operations, set_threads
from cnn.data import augment as augmentations
from cnn.data.mixup import mix
from cnn.data.streams import seeded_generator
from cnn.errors import ConfigError, DataError
from cnn.pixels import Pixels

# Random numbers and windows cost Python hardly more for 1,280 images of MNIST than for 64, and between two
# training steps, which leave nothing of it in the caches, that Python takes four times as long as by itself.
GROUP_BYTES = 1 << 20


class Batches:
    """The batches of every epoch over one set of images.

        x[i, c] = (augmented(images[order[i]])[c] / 255 - mean[c]) / std[c]

    The order is a permutation drawn from (seed, epoch). Small batches are augmented several at a time, in
    groups of about GROUP_BYTES of pixels; the augmentation is drawn from (seed, epoch, group). Nothing else
    enters, so an epoch resumed at any step goes on with the same bits.
    Every image comes once an epoch; the last batch is smaller where the batch size does not divide.

    Parameters
    ----------
    images : (N, C, H, W) uint8; or floats (N, C, ...), which are normalised as they are, and not augmented
    labels : (N,) integers; or (N, K) numbers, or (N, H, W) uint8 masks, which are moved as the images are
    batch_size : int
    mean, std : (C,) or float
        In units of 0..1 pixel values, or of the floats; from `cnn.data.normalization` of the training part.
    augment : sequence of `cnn.data.augment.Augmentation`
    seed : int
    shuffle : bool
        False keeps the order of ``images`` in every epoch.
    drop_last : bool
        Leave out the last batch when it is smaller. The images left out differ from epoch to epoch.
    mixup : float
        0, or the alpha of `cnn.data.mixup`, drawn from (seed, epoch, step) too: the labels of a batch are
        then target rows (n, classes) of the dtype.
    classes : int
        How many there are; only mixup needs it.
    dtype : float32 or float64

    Errors
    ------
    ConfigError for arguments out of range, DataError for arrays that do not fit each other.
    """

    def __init__(
        self,
        images,
        labels,
        batch_size,
        mean,
        std,
        augment=(),
        seed=0,
        shuffle=False,
        drop_last=False,
        mixup=0.0,
        classes=None,
        dtype=np.float32,
    ):
        self._numbers = None
        if images.dtype.kind == "f" and images.ndim >= 2 and len(images):
            self._numbers = _normalized(images, mean, std, dtype)
            if augment:
                raise ConfigError(f"augment: expected uint8 images to change, found {images.dtype} numbers")
        elif images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            found = f"{images.dtype} {images.shape}"
            raise DataError(f"Batches: expected uint8 images (N, C, H, W), N >= 1, found {found}")
        if np.shape(labels)[:1] != (len(images),):
            raise DataError(f"Batches: expected {len(images)} labels, found shape {np.shape(labels)}")
        if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"batch_size: expected an integer >= 1, found {batch_size!r}")
        if drop_last and batch_size > len(images):
            raise ConfigError(
                f"batch_size: {batch_size} with drop_last leaves no batch of {len(images)} images"
            )
        self._images = np.ascontiguousarray(images) if self._numbers is None else self._numbers
        self._labels = np.ascontiguousarray(labels, dtype=np.int64 if np.ndim(labels) == 1 else None)
        if self._numbers is None:
            self._table = _normalization_table(mean, std, images.shape[1], dtype)
        self.batch_size, self.drop_last = int(batch_size), drop_last
        self.augment, self.seed, self.shuffle = tuple(augment), seed, shuffle
        self.mixup, self._classes = _mixup(mixup, classes, self._labels), classes
        self.image_shape = augmentations.output_shape(self.augment, images.shape[1:])
        self._group = max(1, GROUP_BYTES // (self.batch_size * self._images[0].size))  # in batches
        seeded_generator(seed, "order", 0)  # a bad seed fails here, not in the first epoch

    def __len__(self):
        """Return the number of batches of an epoch."""
        full, rest = divmod(len(self._images), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def images_per_epoch(self):
        """How many images an epoch shows: all, unless drop_last leaves some out."""
        return min(len(self) * self.batch_size, len(self._images))

    def epoch(self, epoch, start_step=0, prefetch=None, as_pixels=False):
        """Return an iterator over (x, labels) of one epoch, from batch ``start_step`` on.

        x is (n, *image_shape) of the dtype asked for, labels (n,) int64, or rows (n, classes) with mixup;
        both are new arrays, the consumer's to keep. With ``as_pixels`` x is a `Pixels` of the same numbers,
        which a network takes in faster; mixup, which has to compute with them, gives arrays all the same.
        What is done to pixels takes all threads that the caller has.

        With ``prefetch`` one background thread prepares up to two batches ahead, alone; the bits are the
        same. The thread ends with the iterator, however that ends. None chooses it where a core is left for
        it. Where kernels have all cores it would take more time than it saves: each kernel would wait for
        the part whose core the thread has just now, so all cores prepare the next batches between two steps.

        Raises ConfigError unless 0 <= epoch and 0 <= start_step <= len(self).
        """
        if epoch < 0:
            raise ConfigError(f"epoch: expected an integer >= 0, found {epoch}")
        if not 0 <= start_step <= len(self):
            raise ConfigError(
                f"start_step: expected 0 to {len(self)} (the batches of an epoch), found {start_step}"
            )
        batches = self._prepare(epoch, start_step, as_pixels and not self.mixup)
        ahead = has_spare_core() if prefetch is None else prefetch
        return _ahead(batches, depth=2) if ahead else batches

    def _prepare(self, epoch, start_step, as_pixels):
        order, group = self._order(epoch), None
        for step in range(start_step, len(self)):
            number, place = divmod(step, self._group)
            if group is None or place == 0:
                indices = order[self._range(number * self._group, self._group)]
                labels = self._labels[indices]
                if labels.ndim == 3 and self.augment:
                    rng = seeded_generator(self.seed, "augment", epoch, number)
                    labels = augmentations.move_masks(self.augment, labels, rng, indices, epoch)
                group = self._images_of(indices, epoch, number, as_pixels), labels
            x, labels = (part[self._range(place)] for part in group)
            if self.mixup:
                rng = seeded_generator(self.seed, "mixup", epoch, step)
                x, labels = mix(x, labels, self._classes, self.mixup, rng)
            yield x, labels

    def of(self, indices):
        """Yield (indices of a batch, x) for the images that ``indices`` (n,) choose, in that order.

        For evaluation, where no augmentation draws anything. x is as in `epoch`.
        """
        for start in range(0, len(indices), self.batch_size):
            part = indices[start : start + self.batch_size]
            yield part, self._images_of(part, 0, 0, as_pixels=False)

    def _range(self, number, batches=1):
        return slice(number * self.batch_size, (number + batches) * self.batch_size)

    def _order(self, epoch):
        if not self.shuffle:
            return np.arange(len(self._images))
        return seeded_generator(self.seed, "order", epoch).permutation(len(self._images))

    def _images_of(self, indices, epoch, group, as_pixels):
        """Return the images of a group of batches, augmented: Pixels or their numbers."""
        if self._numbers is not None:
            return self._numbers[indices]
        images, rows = self._images, indices
        if self.augment:
            first, *others = self.augment
            rng = seeded_generator(self.seed, "augment", epoch, group)
            images, rows = first.gather(images, indices, rng, epoch), np.arange(len(indices))
            for augmentation in others:
                images = augmentation.apply(np.ascontiguousarray(images), rng, indices, epoch)
            self._check(images, (len(indices), *self.image_shape))
        if as_pixels:
            return Pixels(images if self.augment else images[rows], self._table)
        x = np.empty((len(rows), *self.image_shape), self._table.dtype)
        operations().normalize_pixels(np.ascontiguousarray(images), rows, self._table, x)
        return x

    def _check(self, images, shape):
        if images.dtype != np.uint8 or images.shape != shape:
            raise DataError(
                f"augment: expected uint8 images {shape}, as output_shape of the augmentations says, "
                f"found {images.dtype} {images.shape} after {', '.join(map(repr, self.augment))}"
            )


def _normalized(numbers, mean, std, dtype):
    """Return (x - mean) / std of each channel."""
    shape = (-1, *[1] * (numbers.ndim - 2))
    return ((numbers - np.reshape(mean, shape)) / np.reshape(std, shape)).astype(dtype)


def _mixup(alpha, classes, labels):
    """Return a checked alpha."""
    if alpha and labels.ndim == 3:
        raise ConfigError(f"mixup: found {alpha!r}, expected 0: masks are of one image")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0 <= alpha < np.inf:
        raise ConfigError(f"mixup: expected a number of at least 0, found {alpha!r}")
    if alpha and labels.ndim == 1 and (classes is None or labels.max() >= classes):
        raise ConfigError(f"mixup: classes: expected at least {labels.max() + 1}, found {classes}")
    return float(alpha)


def _normalization_table(mean, std, channels, dtype):
    """Return (C, 256): what each pixel value becomes; worked out in float64, then rounded once."""
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ConfigError(f"dtype: expected float32 or float64, found {np.dtype(dtype)}")
    parts = {}
    for name, value in {"mean": mean, "std": std}.items():
        value = np.asarray(value, np.float64)
        if value.shape not in ((), (channels,)) or not np.isfinite(value).all():
            raise ConfigError(f"{name}: expected {channels} finite numbers, one a channel, found {value}")
        parts[name] = np.broadcast_to(value, channels)[:, None]
    if (parts["std"] <= 0).any():
        raise ConfigError(f"std: expected numbers above 0, found {np.asarray(std)}")
    return ((np.arange(256) / 255 - parts["mean"]) / parts["std"]).astype(dtype)


def _ahead(iterator, depth):
    """Yield what ``iterator`` yields, prepared by a background thread up to ``depth`` items ahead.

    An exception of the iterator is raised here, at its place in the sequence. Closing or dropping
    this generator stops the thread and waits for it: at most one item is prepared in vain. Only while the
    interpreter ends it does not wait: other threads run no more then, and this one ends with the process.
    """
    items = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce():
        set_threads(1)  # of this thread's kernels: the other cores belong to the training
        try:
            for item in iterator:
                items.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:  # the consumer raises it
            items.put((None, error))
        else:
            items.put((None, StopIteration()))

    thread = threading.Thread(target=produce, name="cnn-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, end = items.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item
    finally:
        stopped.set()
        if not sys.is_finalizing():
            # A producer waiting for room gets it here, sees the flag after that one put, and ends.
            while not items.empty():
                items.get_nowait()
            thread.join()
