"""From paths to a finished table, in shares, and from any interruption on."""

import hashlib
import time

import cnn
from cnn.errors import DataError
from cnn.inference.parts import Parts, blocks
from cnn.inference.tables import table_for
from cnn.terminal import bar, say
from cnn.training.interruption import Interrupted, Interruption

_STATUS_SECONDS = 30


def settings_of(predictor):
    """Return what the rows depend on besides the files: the network and how pictures are made to fit it."""
    network, meta = predictor.network, predictor.meta
    digest = hashlib.sha256(repr(network).encode())
    for name, array in network.state().items():
        digest.update(name.encode() + array.tobytes())
    return {
        "cnn": cnn.__version__,
        "network": digest.hexdigest(),
        "backend": predictor.config.train.backend,
        "precision": network.precision,
        "classes": list(meta["classes"]),
        "image_shape": list(meta["image_shape"]),
        "mean": [float(v) for v in meta["mean"]],
        "std": [float(v) for v in meta["std"]],
        "augment": predictor.config.data.augment,
        "fit": predictor.config.data.fit,
        "decode": predictor.config.data.decode,
        "numbers": meta.get("numbers", "uint8"),
        "targets": predictor.kind.name,
        "invert": predictor.invert,
        "center": predictor.center,
    }


def predict_table(predictor, paths, out, top=None, shard=(1, 1)):
    """Predict a stream of image files into the table ``out``; return whether all of it is there, all read.

    Parameters
    ----------
    predictor : `cnn.inference.stream.Predictor`
    paths : iterable of str
        The whole order, also for a shard.
    out : Path
        .csv or .parquet; ``<out>.parts`` holds what is finished until all is there, ``<out>.json`` says what
        it was made with.
    top : int or None
        The likeliest classes only.
    shard : (K, P)
        This process takes every P-th block of rows, from the K-th on. Whoever finds all blocks finished
        puts the table together.

    The rows and their bits do not depend on the shards nor on interruptions. Raises Interrupted after SIGINT,
    SIGTERM or SIGHUP, ConfigError where ``out`` belongs to another network or other files, DataError without
    any path.
    """
    table = table_for(out, predictor.meta["classes"], top, predictor.kind.name)
    parts = Parts(out, table, settings_of(predictor))
    asked = {"images": 0}
    begun = parts.begin()

    def missing():
        """Yield (block, paths of a batch) of the blocks that this process has to make."""
        for number, names in blocks(paths):
            asked["images"] += len(names)
            there = parts.is_there(number, names)
            if begun and not there and number % shard[1] == shard[0] - 1:
                for i in range(0, len(names), predictor.batch_size):
                    yield number, len(names), names[i : i + predictor.batch_size]

    with Interruption() as interruption, bar(unit=" images") as images:
        done = _write_missing(predictor, parts, missing(), interruption, images)
    if not asked["images"]:
        raise DataError("expected image files, found none")
    if not begun:
        return _tell(out, parts.finished(), "finished before: ")
    totals = parts.finish()
    if totals is None:
        say(f"{out}: shard {shard[0]}/{shard[1]} is finished, {done:,} images; the others are not yet")
        return True
    return _tell(out, totals)


def _write_missing(predictor, parts, missing, interruption, images):
    """Predict and write block by block; return how many images."""
    done, rows, told_at, begin = 0, [], time.monotonic(), time.monotonic()
    plan = []  # (block, its rows) of the batches on their way

    def batches():
        for number, count, batch in missing:
            plan.append((number, count))
            yield batch

    for predictions in predictor.stream(batches()):
        number, count = plan.pop(0)
        rows += predictions
        done += len(predictions)
        images.update(len(predictions))
        if len(rows) == count:
            parts.write(number, rows)
            rows = []
        if interruption.signum is not None:
            raise Interrupted(
                f"{parts.out}: interrupted; the same command goes on after the finished blocks of rows",
                interruption.signum,
            )
        now = time.monotonic()
        if images.disable and now - told_at > _STATUS_SECONDS:
            told_at = now
            say(f"{done:,} images, {done / (now - begin):,.0f} images/s", error=True)
    return done


def _tell(out, totals, before=""):
    unread = totals["unread"]
    bad = f", {unread:,} of them not readable: see the column error" if unread else ""
    say(f"{out}: {before}{totals['images']:,} images{bad}")
    return not unread
