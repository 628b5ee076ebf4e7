"""A small MNIST in IDX files, as torchvision lays it out, and the comparison of two data sets."""

import numpy as np

RAW = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(root):
    """Write 30 training and 20 test images below ``root``; return the arrays by file name."""
    rng, raw, arrays = np.random.default_rng(0), root / "MNIST" / "raw", {}
    raw.mkdir(parents=True)
    for name, n in zip(RAW, (30, 30, 20, 20), strict=True):
        high, shape = (10, n) if "labels" in name else (256, (n, 28, 28))
        arrays[name] = rng.integers(0, high, shape, dtype=np.uint8)
        (raw / name).write_bytes(idx(arrays[name]))
    return arrays


def assert_same(a, b):
    assert a.classes == b.classes
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(a, part).images, getattr(b, part).images)
        np.testing.assert_array_equal(getattr(a, part).labels, getattr(b, part).labels)
