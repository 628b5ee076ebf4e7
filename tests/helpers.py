"""What the tests share: the seed of a run, arrays in awkward memory layouts, and one way to compare."""

import os
import secrets
from contextlib import contextmanager

import numpy as np

from cnn.backend import use_backend

BACKENDS = ("reference", "numba")

#: Drawn afresh each run, printed in the header; ``CNN_TEST_SEED`` repeats a run.
SEED = int(os.environ.get("CNN_TEST_SEED") or secrets.randbelow(2**31))

#: Largest error allowed, in units of the largest expected value or of 1, whichever is larger (forward), and
#: of the largest expected value (gradients).
FORWARD = {np.float64: 1e-10, np.float32: 5e-5}
GRADIENT = {np.float64: 1e-9, np.float32: 2e-4}

CHUNKS = range(30)
CHUNK = 10  # CHUNKS * CHUNK random geometries a family


def geometries(family, draw, chunk, size=CHUNK):
    """Yield ``size`` of (geometry, rng): what ``draw(rng)`` returned for this family, run and chunk."""
    stream = int.from_bytes(family.encode(), "little") % 2**61
    for index in range(size):
        rng = np.random.default_rng([SEED, stream, chunk, index])
        yield draw(rng), rng


@contextmanager
def naming(*what):
    """Add to any error what the test was looking at, and how to see it again."""
    try:
        yield
    except Exception as error:
        error.add_note(" ".join(map(str, what)) + f"  [CNN_TEST_SEED={SEED}]")
        raise


def layout(array, rng):
    """Return the same values in a random memory layout: C, Fortran, channels last, reversed, or with gaps."""
    kind = rng.integers(5)
    if kind == 0:
        return np.ascontiguousarray(array)
    if kind == 1:
        return np.asfortranarray(array)
    if kind == 2 and array.ndim > 1:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    if kind == 3:
        flip = tuple(slice(None, None, -1) for _ in array.shape)
        return np.ascontiguousarray(array[flip])[flip]
    gaps = tuple(slice(None, None, 2) for _ in array.shape)
    spacious = np.full([2 * size for size in array.shape], 99, array.dtype)
    spacious[gaps] = array
    return spacious[gaps]


def values(shape, rng, dtype=np.float64):
    """Return numbers of ``shape`` of one of the kinds that trip layers up."""
    kind = rng.integers(5)
    if kind == 0:  # ties
        array = rng.integers(-2, 3, shape)
    elif kind == 1:  # all negative
        array = -1 - rng.random(shape)
    elif kind == 2:  # evenly spaced and shuffled
        array = rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)
    else:
        array = rng.standard_normal(shape)
    return np.asarray(array, dtype)


def error_of(found, expected, floor=0.0):
    """Return the largest difference, in units of the largest expected value (at least ``floor``)."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    if not expected.size:
        return 0.0
    scale = max(float(np.abs(expected).max()), floor)
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    return difference / scale if scale else difference


def assert_forward(found, expected, dtype, what="y"):
    """Assert that an output is right to the tolerance of its dtype."""
    assert np.asarray(found).dtype == dtype, f"{what}: dtype {np.asarray(found).dtype}, expected {dtype}"
    error = error_of(found, expected, floor=1.0)
    assert error <= FORWARD[dtype], f"{what}: error {error:.2e}, allowed {FORWARD[dtype]:.0e}"


def assert_gradient(found, expected, dtype, what, floor=0.0):
    """Assert that a gradient is right to the tolerance of its dtype, relative to its largest entry."""
    assert np.asarray(found).dtype == dtype, f"{what}: dtype {np.asarray(found).dtype}, expected {dtype}"
    error = error_of(found, expected, floor)
    assert error <= GRADIENT[dtype], f"{what}: relative error {error:.2e}, allowed {GRADIENT[dtype]:.0e}"


def run(layer, x, dy, training=False, backend="numba"):
    """Return (y, dx, gradients by name) of one forward and one backward from zeroed gradients."""
    with use_backend(backend):
        layer.zero_grad()
        y = np.array(layer.forward(x, training))
        dx = np.array(layer.backward(dy))
    return y, dx, {p.name: p.grad.copy() for p in layer.parameters()}
