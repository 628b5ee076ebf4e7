"""The part of a batch that one process computes, and where it adds up what it finds."""

import numpy as np

from cnn.parallel.sums import segments, share


class Share:
    """The micro-batches of one process of a team, of a batch of a network; what kernels ask about it.

    Parameters
    ----------
    network : Network, built
    images : int
        Of the whole batch.
    size : int
        Images of a micro-batch, a multiple of 16; the last one may have fewer.
    team : cnn.parallel.team.Alone or Ranks
    common_statistics : bool
        Whether batch statistics are those of the whole batch, or of a process's share alone.

    A process that would have nothing to do computes the first micro-batch along, and nobody asks it.
    """

    def __init__(self, network, images, size, team, common_statistics=True):
        self.images, self.size, self.common_statistics = images, size, common_statistics
        self._team, count = team, -(-images // size)
        shares = [share(count, rank, team.size) for rank in range(team.size)]
        #: images of each process
        self.counts = [min(last * size, images) - min(first * size, images) for first, last in shares]
        #: images that each process computes
        self.computed = np.array([count or min(size, images) for count in self.counts])
        #: the segments of micro-batches of each process whose sums travel
        self.segments = [segments(*micro_batches) for micro_batches in shares]
        mine = shares[team.rank]
        self.micro_batches = mine if self.counts[team.rank] else (0, 1)
        self.first = self.micro_batches[0] * size
        self.stop = min(self.micro_batches[1] * size, images)
        self._grad = network.grad
        self._more = np.zeros((_depth(*self.micro_batches) - 1, self._grad.size), self._grad.dtype)

    @property
    def alone(self):
        """Whether one process computes all of the batch."""
        return self._team.size == 1

    @property
    def speaks(self):
        """Whether this process is the one that says what all know: the first that has images."""
        return self._team.rank == next(rank for rank, count in enumerate(self.counts) if count)

    def fits(self, network):
        """Whether the gradients of the network still lie where they did."""
        return network.grad.base is self._grad.base and network.grad.size == self._grad.size

    def sums(self, target, number):
        """Return the ``number``-th sums of a gradient: ``target`` itself for 0; None for None."""
        if target is None or number == 0:
            return target
        start = (target.ctypes.data - self._grad.ctypes.data) // self._grad.itemsize
        if not (0 <= start <= self._grad.size - target.size and target.dtype == self._grad.dtype):
            raise ValueError("a gradient that is none of the network's")
        return self._more[number - 1, start : start + target.size].reshape(target.shape)

    def gather_blocks(self, array):
        """Fill in the rows of ``array`` of all processes, one row a block of sixteen images."""
        self._team.gather(array, [-(-count // 16) for count in self.counts])

    def total(self):
        """Let the gradients of the network be those of the whole batch, added up as one process would."""
        if not self.alone:
            self._team.total([self._grad, *self._more], self.segments)
            self._more[...] = 0

    def tell(self, losses, right, signum, seconds):
        """Return (losses of all images, right answers of all, the highest signal of all, seconds of each)."""
        if self.alone:
            return np.asarray(losses, np.float64), int(right), int(signum), np.array([seconds])
        rows = [count + 3 for count in self.counts]
        ends, rank = np.cumsum(rows), self._team.rank
        told = np.empty(ends[-1])
        mine = told[ends[rank] - rows[rank] : ends[rank]]
        mine[:] = (*losses[: self.counts[rank]], right if self.counts[rank] else 0, signum, seconds)
        self._team.gather(told, rows)
        of_images = np.ones(len(told), bool)
        of_images[ends - 1] = of_images[ends - 2] = of_images[ends - 3] = False
        numbers = int(told[ends - 3].sum()), int(told[ends - 2].max())
        return told[of_images], *numbers, told[ends - 1]


def _depth(first, last):
    """Return how many sums there are at a time at most while micro-batches are added up."""
    return max(len(segments(first, stop)) for stop in range(first + 1, last + 1))
