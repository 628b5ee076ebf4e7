"""All campaigns by name."""

from typing import Any, NamedTuple

from faults import damage, disks, fuzz, hostile, kills, not_finite, soak, streams, together


class Campaign(NamedTuple):
    """``trials(rng)`` yields Trials without end; the forms of the kit run ``short`` or ``long`` of them."""

    trials: Any
    short: int  # trials of the short form
    long: int  # trials of the long form
    seconds: float  # what the long form takes: its share where time is short
    patience: float = 20  # seconds a trial may take


CAMPAIGNS = {
    "checkpoint flips": Campaign(damage.checkpoint_flips, 60, 4000, 120),
    "checkpoint cuts": Campaign(damage.checkpoint_cuts, 15, 400, 15),
    "data cache flips": Campaign(damage.cache_flips, 40, 3000, 120),
    "data cache cuts": Campaign(damage.cache_cuts, 10, 300, 15),
    "kernel cache flips": Campaign(damage.kernel_flips, 60, 3000, 60, 120),
    "kernel cache cuts": Campaign(damage.kernel_cuts, 20, 300, 15, 120),
    "run folder": Campaign(damage.run_folder, 6, 500, 400, 60),
    "source files": Campaign(damage.sources, 8, 200, 30),
    "kills": Campaign(kills.of_training, 6, 220, 300, 120),
    "kills: first compile": Campaign(kills.of_the_first_compile, 0, 40, 400, 300),
    "kills: data cache": Campaign(kills.of_the_data_cache, 4, 60, 20, 60),
    "resumes": Campaign(kills.resumes, 2, 50, 300, 300),
    "full disks": Campaign(disks.full, 6, 200, 300, 60),
    "hostile checkpoints": Campaign(hostile.checkpoints, 30, 2000, 200),
    "hostile pictures": Campaign(hostile.pictures, 60, 3000, 60),
    "hostile entries": Campaign(hostile.entries, 6, 15, 15, 60),
    "planted numbers": Campaign(not_finite.planted, 6, 72, 120, 60),
    "streams": Campaign(streams.streams, 3, 60, 300, 120),
    "environment": Campaign(streams.environments, 2, 30, 200, 120),
    "two processes": Campaign(together.two, 2, 30, 200, 300),
    "fuzzed configs": Campaign(fuzz.configs, 1, 160, 600, 600),
    "fuzzed command lines": Campaign(fuzz.command_lines, 1, 160, 600, 600),
    "fuzzed pictures": Campaign(fuzz.images, 1, 160, 300, 600),
    "fuzzed headers": Campaign(fuzz.headers, 1, 160, 300, 600),
    "soak": Campaign(soak.soak, 1, 6, 200, 600),
}
