"""Are the targets what one thinks they are, where they are numbers, labels or masks?"""

import numpy as np

from cnn.doctor.finding import FAIL, OK, WARN, finding, grade
from cnn.targets import IGNORED

_FAR = 8  # deviations from the mean: a number that far is a slip of the pen, or rules the loss


def _numbers(config, images):
    """Each number must differ from image to image, without a few that are far from all others."""
    labels, names = images.train.labels.astype(np.float64), images.classes
    expected = f"numbers that differ, none {_FAR} deviations from the mean"
    constant = [name for name, row in zip(names, labels.T, strict=True) if row.min() == row.max()]
    if constant:
        advice = "nothing can be learned of a number that never changes: leave its column out (data.columns)"
        return finding("targets", FAIL, f"{constant[0]} is the same everywhere", expected, advice, 0.0)
    far = np.abs(labels - images.scale[0]) / images.scale[1]
    image, k = np.unravel_index(far.argmax(), far.shape)
    value = f"{names[k]} {labels[image, k]:.4g} of {images.train.name(image)}"
    if far[image, k] > _FAR:
        measured = f"{value} is {far[image, k]:.1f} deviations from the mean"
        advice = 'look at this image: if the number is right, loss.type = "L1Loss" is not ruled by it'
        return finding("targets", WARN, measured, expected, advice, far[image, k])
    low, high = labels[:, k].min(), labels[:, k].max()
    measured = f"{len(names)}, such as {names[k]} from {low:.4g} to {high:.4g}"
    return finding("targets", OK, measured, expected, "", far[image, k])


def _test_numbers(config, images):
    """The mean of the test's numbers should be that of the training's, but for chance."""
    mean, std = images.scale
    test = images.dataset.test.labels.astype(np.float64)
    shifts = np.abs(test.mean(axis=0) - mean) / std
    k, chance = int(shifts.argmax()), 3 / np.sqrt(len(test))
    measured = f"mean of {images.classes[k]} moved by {shifts[k]:.2f} deviations"
    advice = "training and test images were drawn differently; the error on one says little about the other"
    verdict = grade(shifts[k], 0.3 + chance, 1 + chance)
    return finding("test targets", verdict, measured, "below 0.3: the same mix", advice, shifts[k])


def _labels(config, images):
    """Each label needs images that have it, and images that have it not."""
    counts = (images.train.labels > 0).sum(axis=0)
    rest = len(images.train) - counts
    few = np.minimum(counts, rest)
    k = int(few.argmin())
    verdict = FAIL if few[k] == 0 else WARN if few[k] < 10 else OK
    what = "have" if counts[k] <= rest[k] else "lack"
    measured = f"{few[k]:,} of {len(images.train):,} training images {what} {images.classes[k]}"
    advice = (
        "nothing can be learned of a label that all images share: leave it out, or find other images"
        if few[k] == 0
        else "few images to learn from: find more, or raise its number in loss.pos_weight"
    )
    expected = "at least 10 with and without each label"
    return finding("label counts", verdict, measured, expected, advice, few[k])


def _masks(config, images):
    """Each class needs pixels, and some images need pixels that count at all."""
    counts = np.bincount(images.train.labels.ravel(), minlength=256)
    ignored, counts = counts[IGNORED] / counts.sum(), counts[: len(images.classes)]
    shares = counts / max(1, counts.sum())
    k = int(shares.argmin())
    verdict = FAIL if counts[k] == 0 else grade(0.002, shares[k], 20 * shares[k])
    measured = f"{100 * shares[k]:.2g} % of the pixels are {images.classes[k]}, {100 * ignored:.2g} % ignored"
    advice = (
        f"no training mask has {images.classes[k]}: is a value missing, or the list of classes too long?"
        if counts[k] == 0
        else "a rare class: raise its number in loss.class_weight, and read its IoU"
    )
    return finding("mask classes", verdict, measured, "at least 0.2 % of each class", advice, shares[k])


CHECKS = {"numbers": (_numbers, _test_numbers), "labels": (_labels,), "masks": (_masks,)}
