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


#: the local number of a process, as these launchers tell it
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_OPEN_MPI = ("mpiexec", "mpirun", "prte", "orted")  # what the parent of its processes is called


def cores_of_rank(environ=os.environ, launcher=None):
    """Return the cores, a set of their numbers, that are this process's share of those of its launcher.

    ``launcher`` is the process id of Open MPI's launcher on this machine, if there is one; without it the
    cores are shared that this process may run on.
    """
    cores = sorted(os.sched_getaffinity(0) | (os.sched_getaffinity(launcher) if launcher else set()))
    _, _, processes = shard_of_rank(environ)
    number = next((int(environ[name]) for name in _LOCAL_RANKS if environ.get(name, "").isdecimal()), 0)
    first, last = number * len(cores) // processes, (number + 1) * len(cores) // processes
    return set(cores[first:last]) or {cores[first]}


def take_cores(environ=os.environ):
    """Let a process that mpiexec has bound to fewer cores than its share run on its share.

    Open MPI binds each of up to two processes to one core: one process of many threads would crawl there.
    Call it before Numba is imported, which counts the cores then.
    """
    launcher = os.getppid()
    if not (launched(environ) and hasattr(os, "sched_setaffinity") and _name(launcher).startswith(_OPEN_MPI)):
        return
    share = cores_of_rank(environ, launcher)
    if len(os.sched_getaffinity(0)) < len(share):
        os.sched_setaffinity(0, share)


def _name(process):
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def threads_of_rank(threads):
    """Return how many of ``threads`` kernels of this process should use, so that all have a core."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, threads // shard_of_rank()[2])
    launcher = os.getppid()
    share = cores_of_rank(launcher=launcher if _name(launcher).startswith(_OPEN_MPI) else None)
    return max(1, min(threads, len(share)))
