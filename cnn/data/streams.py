"""Random streams as pure functions of (seed, purpose, counters): there is no state to lose on resume."""

import numpy as np

from cnn.errors import ConfigError

# One independent stream a purpose. The numbers are part of what a seed gives: never renumber.
_PURPOSES = {"validation": 0, "order": 1, "augment": 2, "mixup": 3}


def seeded_generator(seed, purpose, *counters):
    """Return a NumPy generator that is a pure function of its arguments.

    ``counters`` are whole numbers such as (epoch, step). Different arguments give independent streams.

    Raises ConfigError unless ``seed`` is an integer >= 0.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed: expected an integer >= 0, found {seed!r}")
    sequence = np.random.SeedSequence(int(seed), spawn_key=(_PURPOSES[purpose], *counters))
    return np.random.default_rng(sequence)


def index_bits(indices):
    """Return a pseudo-random bit (0 or 1, int64) for each image index: the top bit of SplitMix64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = (np.asarray(indices).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(63)).astype(np.int64)
