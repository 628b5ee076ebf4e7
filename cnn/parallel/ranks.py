"""Which of how many processes this is: said by --shard, or by mpiexec."""

import os
import re

from cnn.errors import ConfigError

#: (rank, ranks, ranks on this machine) as Open MPI, and as MPICH and its relatives, tell their processes
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
)


def launched(environ=os.environ):
    """Whether mpiexec started this process."""
    return any(names[0] in environ for names in _LAUNCHERS)


def parse_shard(text):
    """Return (2, 8) for "2/8"; ConfigError unless 1 <= K <= P."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match and 1 <= int(match[1]) <= int(match[2]):
        return int(match[1]), int(match[2])
    raise ConfigError(f"--shard: found {text!r}, expected K/P with K from 1 to P, such as 2/8")


def shard_of_rank(environ=os.environ):
    """Return (K, P, processes on this machine) of a process that mpiexec started, (1, 1, 1) for any other.

    It is the launcher's environment that tells, so processes that need not talk to each other need no MPI.
    """
    for names in _LAUNCHERS:
        rank, size, local = (environ.get(name, "") for name in names)
        if rank.isdecimal() and size.isdecimal() and int(rank) < int(size):
            return int(rank) + 1, int(size), max(1, int(local)) if local.isdecimal() else int(size)
    return 1, 1, 1
