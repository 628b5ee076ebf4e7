"""A small network with samples to train on, and its page: what the tests of the live page share."""

import numpy as np

import cnn
from cnn import layers
from cnn.explain import build_page, collect

MEAN, STD, SMOOTHING = 0.25, 0.5, 0.1
CLASSES = tuple("abcd")
SHAPE = (1, 10, 10)


def make_samples():
    rng = np.random.default_rng(8)
    labels = np.arange(40) % len(CLASSES)
    images = rng.integers(0, 120, (40, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 3] += 100
    return images.astype(np.uint8), labels


def small_network(dtype=np.float32):
    """Return the network; in float64 it has the very same parameters."""
    network = cnn.Network(
        [layers.Conv2d(4, 5, padding=2, bias=False), layers.BatchNorm2d(), layers.ReLU(), layers.MaxPool2d(2),
         layers.Residual([layers.Conv2d(4, 3, padding=1), layers.ReLU()]), layers.Conv2d(3, 3, stride=2),
         layers.Flatten(), layers.Linear(8), layers.BatchNorm1d(), layers.ReLU(), layers.Linear(len(CLASSES))]
    )  # fmt: skip
    network.build(SHAPE, rng=np.random.default_rng(6), dtype=dtype)
    if dtype == np.float64:
        state = small_network().state()
        network.load_state({name: value.astype(np.float64) if value.dtype.kind == "f" else value
                            for name, value in state.items()})  # fmt: skip
    return network


def write_page(path, samples=None, known=True, label=1, network=None, **about):
    images, labels = samples or make_samples()
    x = ((images[5] / 255 - MEAN) / STD).astype(np.float32)
    with cnn.use_backend("reference"):
        nodes = collect(network or small_network(), x, label)
    facts = {"label": label, "known": known, "training": False, "smoothing": SMOOTHING, "remarks": [],
             "source": "a test", "backend": "reference", "mean": [MEAN], "std": [STD], **about}  # fmt: skip
    path.write_text(build_page(nodes, "small", CLASSES, facts, (images, labels)), encoding="utf-8")
    return path
