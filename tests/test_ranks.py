"""Which cores and threads a process of mpiexec has."""

import os

import pytest

from cnn.parallel import ranks
from cnn.parallel.ranks import cores_of_rank, take_cores, threads_of_rank

LOCAL = "OMPI_COMM_WORLD_LOCAL_RANK"


def environ(rank, size, local=None):
    """What Open MPI tells a process, all of them on one machine unless ``local`` says how many."""
    names = ranks._LAUNCHERS[0]
    local = size if local is None else local
    return {**dict(zip(names, map(str, (rank, size, local)), strict=True)), LOCAL: str(rank % local)}


class Machine:
    """Cores as the system tells them: of this process and of its launcher."""

    def __init__(self, monkeypatch, own, launchers, parent="prterun\n"):
        self.own, self.launchers = set(own), set(launchers)
        monkeypatch.setattr(os, "getppid", lambda: 77)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: self.launchers if pid else self.own)
        monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: setattr(self, "own", set(cores)))
        monkeypatch.setattr(ranks, "_name", lambda process: parent)


@pytest.mark.parametrize(("size", "expected"), [(1, [range(8)]), (2, [range(4), range(4, 8)])])
def test_a_process_bound_to_one_core_takes_its_share(monkeypatch, size, expected):
    for rank, cores in enumerate(expected):
        machine = Machine(monkeypatch, {rank}, range(8))
        take_cores(environ(rank, size))
        assert machine.own == set(cores)


def test_the_shares_of_all_cover_the_cores_and_do_not_overlap(monkeypatch):
    Machine(monkeypatch, {0}, range(7))
    shares = [cores_of_rank(environ(rank, 3), 77) for rank in range(3)]
    assert sorted(core for share in shares for core in share) == list(range(7))
    assert [cores_of_rank(environ(rank, 9), 77) for rank in range(9)] != [set()] * 9
    assert all(cores_of_rank(environ(rank, 9), 77) for rank in range(9))
    # of 16 processes only two are on this machine
    assert cores_of_rank(environ(15, 16, 2), 77) == {3, 4, 5, 6}


@pytest.mark.parametrize("case", ["alone", "another launcher", "as many as its share"])
def test_other_processes_keep_what_they_have(monkeypatch, case):
    parent = "slurmstepd\n" if case == "another launcher" else "prterun\n"
    machine = Machine(monkeypatch, {2, 3} if case == "as many as its share" else {2}, range(8), parent)
    take_cores({} if case == "alone" else environ(1, 4))
    assert machine.own == ({2, 3} if case == "as many as its share" else {2})


def test_kernels_of_processes_that_share_all_cores_use_their_share(monkeypatch):
    Machine(monkeypatch, range(8), range(8))
    for name, value in environ(1, 4).items():
        monkeypatch.setenv(name, value)
    assert threads_of_rank(8) == 2
    assert threads_of_rank(1) == 1
