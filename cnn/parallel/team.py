"""The processes that train one network, one alone or those of mpiexec, and what they tell each other.

Every process has the whole network, reads the whole data set and goes through the same batches; of each batch
it computes the gradients of its share. All then take the same step, so the weights need not travel.
"""

import functools
import socket
import sys
import time
import traceback
from contextlib import contextmanager

import numpy as np

from cnn.errors import CnnError, ConfigError, MissingExtra
from cnn.parallel.ranks import launched, shard_of_rank
from cnn.parallel.sums import TreeSum
from cnn.terminal import say

_GRACE_SECONDS = 1.0  # rank 0 tells first what all have found


def _counted(exchange):
    """Let the seconds of a method count as waiting."""

    @functools.wraps(exchange)
    def counted(self, *arguments):
        begin = time.perf_counter()
        exchange(self, *arguments)
        self.waited += time.perf_counter() - begin

    return counted


class Alone:
    """One process; ``launched`` says whether by mpiexec."""

    rank, size = 0, 1
    waited = 0.0  # seconds in exchanges with other processes

    def __init__(self, launched=False):
        self.launched = launched

    def follow_first(self, arrays):
        """Give all processes the numbers of the first."""

    @contextmanager
    def guarded(self, debug=False):
        """While this holds, an exception of one process ends all."""
        yield

    def meet(self):
        """Wait for all processes."""


class Ranks(Alone):
    """The processes of an MPI communicator."""

    def __init__(self, mpi):
        super().__init__(launched=True)
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        self.hosts = self._world.allgather(socket.gethostname())

    @_counted
    def gather(self, array, rows):
        """Fill in the rows of all processes; ``rows`` says how many each has, in their order."""
        width = array[:1].size
        counts = [count * width for count in rows]
        self._world.Allgatherv(self._mpi.IN_PLACE, [array, counts])

    @_counted
    def total(self, sums, segments):
        """Put the sum of the segments of all processes into the first of ``sums`` of each.

        ``segments[rank]`` are the (first, count) of the segments of a rank, whose sums are the first of
        ``sums`` there. Each rank adds up one part of the numbers in the order of the tree, and all get it:
        2 (P - 1) / P times the bytes of one array go out and come in, whatever P is.
        """
        out, size = sums[0], self.size
        edges = [rank * out.size // size for rank in range(size + 1)]
        lengths = np.diff(edges)
        own = slice(edges[self.rank], edges[self.rank + 1])
        found = [[] for _ in range(size)]  # my part of the segments of each rank
        for k in range(max(map(len, segments))):
            sends = lengths if k < len(segments[self.rank]) else 0 * lengths
            received = np.array([lengths[self.rank] if k < len(theirs) else 0 for theirs in segments])
            starts = np.cumsum(received) - received
            buffer = np.empty(received.sum(), out.dtype)
            source = sums[min(k, len(sums) - 1)]
            self._world.Alltoallv([source, (sends, edges[:-1])], [buffer, (received, starts)])
            for parts, start, length in zip(found, starts, received, strict=True):
                parts.append(buffer[start : start + length])
        tree = TreeSum()
        for parts, theirs in zip(found, segments, strict=True):
            for part, (first, count) in zip(parts, theirs, strict=False):
                tree.add(first, count, part)
        out[own] = tree.total()
        self._world.Allgatherv(self._mpi.IN_PLACE, [out, (lengths, edges[:-1])])

    def follow_first(self, arrays):
        """Give all processes the numbers of the first."""
        for array in arrays:
            self._world.Bcast(array, 0)

    @contextmanager
    def guarded(self, debug=False):
        """While this holds, an exception of one process ends all within seconds, with its message."""
        try:
            yield
        except BaseException as error:
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 70)
            if getattr(error, "agreed", False):  # all end here, after rank 0 has saved
                self.meet()
                raise
            if self.rank:
                time.sleep(_GRACE_SECONDS)
            if debug or not isinstance(error, CnnError | KeyboardInterrupt):
                say(traceback.format_exc(), error=True)
            message = str(error) if isinstance(error, CnnError) else f"{type(error).__name__}: {error}"
            say(f"cnn: rank {self.rank} of {self.size}: {message}", error=True)
            sys.stderr.flush()
            self._world.Abort(code)

    def meet(self):
        """Wait for all processes."""
        self._world.Barrier()


def team():
    """Return the processes of the mpiexec that started this one, else this one alone.

    Raises MissingExtra without mpi4py, ConfigError where it belongs to another MPI than mpiexec does.
    """
    _, size, _ = shard_of_rank()
    if size == 1:
        return Alone(launched())
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(f'mpiexec needs the package mpi4py: pip install "cnn[mpi]" ({error})') from error
    if MPI.COMM_WORLD.size != size:
        raise ConfigError(
            f"mpiexec started {size} processes, but the MPI of mpi4py knows of {MPI.COMM_WORLD.size}: "
            f"start them with the mpiexec of {MPI.Get_library_version().split(',')[0]}"
        )
    return Ranks(MPI)
