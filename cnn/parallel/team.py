"""The processes that train one network, one alone or those of mpiexec, and what they tell each other.

Every process has the whole network, reads the whole data set and goes through the same batches; of each batch
it computes the gradients of its share. All then take the same step, so the weights need not travel.
"""

import sys
import time
import traceback
from contextlib import contextmanager

import numpy as np

from cnn.errors import CnnError, ConfigError, MissingExtra
from cnn.parallel.ranks import launched, shard_of_rank
from cnn.parallel.sums import segments, share
from cnn.terminal import say

_GRACE_SECONDS = 1.0  # rank 0 tells first what all have found


class Alone:
    """One process; ``launched`` says whether by mpiexec."""

    rank, size = 0, 1

    def __init__(self, launched=False):
        self.launched = launched

    def total(self, tree, count, out):
        """Put the sum of ``count`` arrays, of which ``tree`` has this process's share, into every ``out``."""
        out[...] = tree.total()

    def share_out(self, mine):
        """Return the lists of all processes, one after the other."""
        return mine

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
        self._world = mpi.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size

    def total(self, tree, count, out):
        """As of one process: the segments of all ranks go to rank 0, in order, and the sum from there."""
        if self.rank:
            for _, _, array in tree.parts:
                self._world.Send(array, 0)
        else:
            for rank in range(1, self.size):
                for first, number in segments(*share(count, rank, self.size)):
                    array = np.empty_like(out)
                    self._world.Recv(array, rank)
                    tree.add(first, number, array)
            out[...] = tree.total()
        self._world.Bcast(out, 0)

    def share_out(self, mine):
        """Return the lists of all processes, one after the other."""
        return [entry for part in self._world.allgather(mine) for entry in part]

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
