"""Is the data what one thinks it is? Labels, duplicates, blank images, normalisation."""

import hashlib
import math

import numpy as np

from cnn.data import Split
from cnn.doctor import targets
from cnn.doctor.finding import FAIL, OK, WARN, finding, grade
from cnn.training import experiment

_SAMPLE = 3000  # images for the checks that need not see all of them
_NEIGHBOURS, _TELLING = 5, 0.8  # that must agree; share of agreement from which they tell something
_ODD = 0.02  # share of images unlike their neighbours: of MNIST's labels it is 0.8 %
_SIDE = 16  # images are averaged down to about this size before neighbours are searched


def check(config, images):
    """Return the findings on the data of a config."""
    keys = {
        name: _hashes(split)
        for name, split in {
            "training": images.train,
            "validation": images.validation,
            "test": images.dataset.test,
        }.items()
    }
    of_classes = (_classes, _histogram, _test_histogram, _labels_and_pixels, _wrong_labels)
    about = of_classes if images.kind.name == "classes" else targets.CHECKS[images.kind.name]
    return [
        *(check(config, images) for check in about),
        _duplicates(images.train, keys["training"]),
        _leak("training", "test", keys),
        _leak("training", "validation", keys),
        _blank(images.train),
        _channels(images.train),
        _normalisation(config, images),
        _test_pixels(config, images),
    ]


def _classes(config, images):
    """Names that are numbers belong in numerical order; class weights belong to the rare classes."""
    names, counts = images.classes, np.bincount(images.train.labels, minlength=len(images.classes))
    weights = getattr(config.loss, "class_weight", None)
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        wrong = next(k for k, name in enumerate(names) if name != sorted(names, key=int)[k])
        return finding(
            "classes",
            WARN,
            f'class {wrong} is called "{names[wrong]}"',
            "names that are numbers in numerical order",
            "folders sort as text (1, 10, 2): name them 01, 02, ... or label k is not class k elsewhere",
            wrong,
        )
    if weights is not None and len(weights) == len(counts) and np.ptp(counts) and np.ptp(weights):
        agreement = float(np.corrcoef(counts, weights)[0, 1])
        if agreement > 0.3:
            return finding(
                "classes",
                WARN,
                f"class_weight follows the counts (r = {agreement:.2f})",
                "larger weights for rarer classes",
                f"loss.class_weight is in the order of the classes: {', '.join(names[:6])} ...",
                agreement,
            )
    return finding("classes", OK, f"{len(names)}, labels 0 to {len(names) - 1}", "every label has a name", "")


def _histogram(config, images):
    counts = np.bincount(images.train.labels, minlength=len(images.classes))
    low, high = int(counts.argmin()), int(counts.argmax())
    verdict = OK
    if counts[low] == 0:
        verdict = FAIL
    elif counts[low] < 10 or counts[high] > 20 * counts[low]:
        verdict = WARN
    advice = (
        f'"{images.classes[low]}" has {counts[low]} training images: remove the class or find images of it'
        if counts[low] < 10
        else f'"{images.classes[high]}" has {counts[high] / counts[low]:.0f} times the images of '
        f'"{images.classes[low]}": see loss.class_weight, and read the per-class table'
    )
    measured = f"{counts[low]:,} to {counts[high]:,} training images a class"
    return finding("label counts", verdict, measured, "at least 10, at most 20 to 1", advice, counts[low])


def _test_histogram(config, images):
    """Half the sum of |train share - test share|: the share of images that would have to change class."""
    classes = len(images.classes)
    shares = [
        np.bincount(split.labels, minlength=classes) / len(split)
        for split in (images.train, images.dataset.test)
    ]
    moved = float(np.abs(shares[0] - shares[1]).sum() / 2)
    chance = np.sqrt(shares[0] * (1 - shares[0]) / len(images.dataset.test)).sum() / 2
    verdict = grade(moved, 0.2 + 2 * chance, 0.6 + 2 * chance)
    advice = "training and test images were drawn differently; accuracy on one says little about the other"
    measured = f"{100 * moved:.0f} % of the labels distributed otherwise"
    return finding("test labels", verdict, measured, "below 20 %: the same mix as in training", advice, moved)


def _labels_and_pixels(config, images):
    """Nearest neighbours among the training images: do they share labels more often than by chance?

    z = (hits - n q) / sqrt(n q (1 - q)),  q = how often two random labels are equal
    """
    train = images.train
    if len(train) < 2:
        measured, expected = f"{len(train)} training image", "at least 2 images, to compare them"
        return finding("labels fit images", WARN, measured, expected, "one image is no data set")
    order = np.random.default_rng(config.seed).permutation(len(train))[:_SAMPLE]
    known, asked = np.split(order, [2 * len(order) // 3])
    features = _small(train.images[order])
    features -= features.mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-6
    nearest = (features[len(known) :] @ features[: len(known)].T).argmax(axis=1)
    same = train.labels[asked] == train.labels[known][nearest]
    shares = np.bincount(train.labels[known], minlength=len(images.classes)) / len(known)
    chance = float(shares[train.labels[asked]].mean())
    deviation = np.sqrt(max(chance * (1 - chance), 1e-9) / len(asked))
    z = float((same.mean() - chance) / deviation)
    enough = len(asked) >= 300
    verdict = OK if z > 4 or (not enough and z > 0) else FAIL if z < 2 and enough else WARN
    measured = f"neighbours agree {100 * same.mean():.1f} % (chance {100 * chance:.1f} %)"
    advice = (
        "similar images do not share labels: look at some of them; were images and labels shuffled apart?"
    )
    return finding("labels fit images", verdict, measured, "clearly above chance", advice, z)


def _wrong_labels(config, images):
    """Images whose nearest neighbours all have one other label, where neighbours tell the label as a rule."""
    train, expected = images.train, "labels that similar images share"
    order = np.random.default_rng(config.seed).permutation(len(train))[:_SAMPLE]
    if len(order) <= _NEIGHBOURS:
        return finding("likely wrong labels", OK, "too few images to compare", expected, "")
    features, labels = _small(train.images[order]), train.labels[order]
    features -= features.mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-6
    alike = features @ features.T
    np.fill_diagonal(alike, -np.inf)
    nearest = labels[np.argpartition(-alike, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]]
    agree = float((nearest == labels[:, None]).mean())
    if agree < _TELLING:
        measured = f"not told by neighbours, of which {100 * agree:.0f} % agree; cnn evaluate tells more"
        return finding("likely wrong labels", OK, measured, expected, "", 0)
    united = (nearest == nearest[:, :1]).all(axis=1) & (nearest[:, 0] != labels)
    found = sorted(zip(order[united], nearest[united, 0], strict=True))
    if not found:
        return finding("likely wrong labels", OK, "none", expected, "", 0)
    named = [
        f"{train.name(i)} ({images.classes[train.labels[i]]}, or {images.classes[k]})" for i, k in found[:3]
    ]
    more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
    measured = f"{len(found)} of {len(order):,} unlike their neighbours: {', '.join(named)}{more}"
    advice = f"the {_NEIGHBOURS} most similar images of each have another label: look at these images"
    verdict = WARN if len(found) > _ODD * len(order) else OK  # of right labels some look odd as well
    return finding("likely wrong labels", verdict, measured, expected, advice, len(found))


def _small(images):
    """Return images (N, features) float32, averaged down to about 16 x 16 pixels."""
    n, c, h, w = images.shape
    fh, fw = max(1, h // _SIDE), max(1, w // _SIDE)
    cut = images[:, :, : h // fh * fh, : w // fw * fw].reshape(n, c, h // fh, fh, w // fw, fw)
    return cut.mean(axis=(3, 5), dtype=np.float32).reshape(n, -1)


def _hashes(split):
    """Return a digest of every image's pixels."""
    rows = split.images.reshape(len(split), math.prod(split.images.shape[1:]))
    return [hashlib.blake2b(row, digest_size=12).digest() for row in rows]


def _duplicates(train, keys):
    """Copies of one image under two labels cannot both be learned; copies under one label count twice."""
    first, copies, conflicts = {}, 0, 0
    for key, label in zip(keys, train.labels, strict=True):
        if key in first:
            copies += 1
            conflicts += first[key] != label.tobytes()
        first.setdefault(key, label.tobytes())
    share, conflict_share = copies / len(keys), conflicts / len(keys)
    verdict = max(grade(share, 0.02, 0.5), grade(conflict_share, 0.002, 0.05), key=(OK, WARN, FAIL).index)
    measured = f"{copies:,} copies, {conflicts:,} of them with another label"
    advice = "remove the copies" + (" and decide which label is right" if conflicts else "")
    return finding("duplicates", verdict, measured, "below 2 % and 0.2 %", advice, share)


def _leak(source, target, keys):
    known = set(keys[source])
    hits = sum(key in known for key in keys[target])
    share = hits / max(1, len(keys[target]))
    measured = f"{hits:,} of {len(keys[target]):,} images also in training"
    advice = f"the {target} accuracy counts images that were trained on: remove them from one of the two"
    limits = "below 0.5 %"
    return finding(f"{target} leak", grade(share, 0.005, 0.02), measured, limits, advice, share)


def _blank(train):
    flat = train.images.reshape(len(train), -1)
    blank = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
    share = len(blank) / len(train)
    first = f"; the first is number {blank[0]}" if len(blank) else ""
    advice = f"images of one colour teach nothing: failed reads or crops{first}"
    return finding("blank images", grade(share, 0.001, 0.05), f"{len(blank):,}", "below 0.1 %", advice, share)


def _channels(train):
    """A channel that never changes, or channels that always agree, carry no information."""
    sample = train.images[:_SAMPLE]
    constant = [c for c in range(sample.shape[1]) if sample[:, c].min() == sample[:, c].max()]
    constant = [c for c in constant if train.images[:, c].min() == train.images[:, c].max()]
    if constant:
        measured = (
            f"channel {', '.join(map(str, constant))} is {int(train.images[0, constant[0], 0, 0])} everywhere"
        )
        advice = "a channel without information: a reading mistake, or an empty alpha channel"
        return finding(
            "channels", FAIL, measured, "pixels that differ in every channel", advice, len(constant)
        )
    if sample.shape[1] > 1 and all(
        np.array_equal(sample[:, 0], sample[:, c]) for c in range(1, sample.shape[1])
    ):
        measured = f"{sample.shape[1]} equal channels"
        advice = 'grey images stored as colour: data.mode = "L" reads one channel and trains faster'
        return finding("channels", WARN, measured, "channels that differ", advice, sample.shape[1])
    return finding(
        "channels", OK, f"{sample.shape[1]}", "pixels that differ in every channel", "", sample.shape[1]
    )


def _normalised(config, images, split):
    """Return (mean, std) of each channel as the network will see it, over some images of a split."""
    order = np.random.default_rng(config.seed).permutation(len(split))[:_SAMPLE]
    chosen = Split(split.images[order], split.labels[order])
    batches = experiment.evaluation_batches(config, chosen, images.mean, images.std)
    totals = np.zeros((3, chosen.images.shape[1]))
    for x, _ in batches.epoch(0):
        totals += [
            x.sum(axis=(0, 2, 3), dtype=np.float64),
            np.square(x).sum(axis=(0, 2, 3), dtype=np.float64),
            np.full(x.shape[1], x[:, 0].size),
        ]
    mean = totals[0] / totals[2]
    return mean, np.sqrt(np.maximum(totals[1] / totals[2] - mean**2, 0))


def _normalisation(config, images):
    mean, std = _normalised(config, images, images.train)
    off, spread = float(np.abs(mean).max()), std[np.abs(np.log(std + 1e-12)).argmax()]
    ratio = float(max(spread, 1 / max(spread, 1e-12)))
    verdict = max(grade(off, 0.3, 2.0), grade(ratio, 1.5, 4.0), key=(OK, WARN, FAIL).index)
    measured = f"mean {mean[np.abs(mean).argmax()]:.2f}, std {spread:.2f} of what enters the network"
    advice = "subtract the mean and divide by the std of the training pixels"
    return finding(
        "normalisation", verdict, measured, "mean from -0.3 to 0.3, std from 0.67 to 1.5", advice, off
    )


def _test_pixels(config, images):
    mean, std = _normalised(config, images, images.dataset.test)
    off = float(np.abs(mean).max())
    ratio = float(np.exp(np.abs(np.log(std + 1e-12)).max()))
    verdict = max(grade(off, 0.5, 3.0), grade(ratio, 2.0, 6.0), key=(OK, WARN, FAIL).index)
    measured = f"mean {mean[np.abs(mean).argmax()]:.2f}, std {std[np.abs(np.log(std + 1e-12)).argmax()]:.2f}"
    advice = (
        "test images look different under the training normalisation: inverted, other range, other source?"
    )
    return finding("test pixels", verdict, measured, "mean from -0.5 to 0.5, std from 0.5 to 2", advice, off)
