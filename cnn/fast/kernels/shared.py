"""Kernels that compute a share of a batch: sums over images with the same bits for any number of processes.

A share (``cnn.parallel.share.Share``) is a range of the micro-batches of a batch. What is computed for an
image does not depend on which others are computed along with it; sums over images do, and there are two
kinds:

    gradients of parameters   each micro-batch adds to sums of its own; these are added in pairs, pairs of
                              pairs and so on (``micro_batches``), as ``cnn.parallel.sums`` goes on with
                              those of other processes
    batch statistics          every block of sixteen images has numbers of its own; all processes get those
                              of all blocks and combine them in their order (``BlockSums``)
"""

import functools
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES, BlockedArray
from cnn.fast.machine.jit import CHUNK, address, chunks, launch, scratch, table, task
from cnn.fast.machine.owner import owner
from cnn.fast.machine.tables import pointer, reader


class Fold(NamedTuple):
    """left += right, right = 0; CHUNK numbers a piece."""

    left: int  # address
    right: int  # address
    size: int  # numbers


fold_of = reader(Fold)


@functools.cache
def _fold_task(itemsize):
    @task
    def fold(index, thread, params):
        p = fold_of(params)
        left, right = pointer(p.left, itemsize), pointer(p.right, itemsize)
        for i in range(index * CHUNK, min(index * CHUNK + CHUNK, p.size)):
            left[i] += right[i]
            right[i] = 0

    return fold


def _fold(left, right):
    values = table(Fold(address(left), address(right), left.size))
    launch(_fold_task(left.itemsize), chunks(left.size), values)


def micro_batches(target):
    """Yield (part, sums) for each micro-batch of a share: ``part(x)`` is its images of x.

    What is added to ``sums`` before the next one is asked for ends in ``target``, a gradient of the network
    or None, and in the same place of the share's further sums; all of them are zero before. Without a share
    that is one micro-batch, all of x, and ``target`` itself.
    """
    share = owner().share
    if share is None:
        yield _whole, target
        return
    for join, number, segment in steps_of(share):
        if not join:
            yield functools.partial(_part, share, number), share.sums(target, segment)
        elif target is not None:
            _fold(share.sums(target, number), share.sums(target, segment))


def steps_of(share):
    """Yield how micro-batches are added up, as (whether it joins, number, segment).

    The ``number``-th micro-batch of the share is added to the sums of a segment; or these sums join those of
    segment ``number``, and are zero again. Segments are numbered from 0, as many as there are at a time.
    """
    first, last = share.micro_batches
    counts = []  # micro-batches of each segment
    for k in range(first, last):
        if not (counts and counts[-1] == 1 and k % 2):
            counts.append(0)
        yield False, k - first, len(counts) - 1
        counts[-1] += 1
        while len(counts) > 1 and counts[-1] == counts[-2] and not (k + 1) % (2 * counts[-1]):
            yield True, len(counts) - 2, len(counts) - 1
            counts[-2:] = [2 * counts[-1]]
    while share.alone and len(counts) > 1:
        yield True, len(counts) - 2, len(counts) - 1
        counts.pop()


def _whole(x):
    return x


def _part(share, number, x):
    """The images of the ``number``-th micro-batch of a share; a view."""
    first, blocks = number * share.size, share.size // LANES
    buffer = x.buffer[first // LANES : first // LANES + blocks]
    shape = (min(share.size, x.shape[0] - first), *x.shape[1:])
    of_block = x.buffer[0].size * x.buffer.itemsize
    return BlockedArray(buffer, shape, x, x.address + first // LANES * of_block)


def first_image():
    """The number of the first image that is computed in its batch."""
    share = owner().share
    return 0 if share is None else share.first


class BlockSums:
    """Float64 numbers of each block of sixteen images, ``count`` for each channel, over which sums are taken.

    Parameters
    ----------
    x : BlockedArray
        The images of this process.
    count : int

    ``own`` is the address of those of the blocks of x, ``all`` of those of the ``images`` images that
    statistics are taken of: those of x or, of a share with common statistics, the whole batch's.
    ``values`` is the array of all, (blocks, channels, count).
    """

    def __init__(self, x, count):
        share = owner().share
        self._share = share if share is not None and share.common_statistics else None
        blocks, channels = x.buffer.shape[:2]
        self.images, first = x.shape[0], 0
        if self._share is not None:
            self.images, first = share.images, share.first // LANES
            blocks = -(-share.images // LANES)
        self.values = scratch((blocks, channels, count), np.float64)
        self.all, self.own = address(self.values), address(self.values[first:])

    def gather(self):
        """Get the numbers of the blocks of all processes."""
        if self._share is not None and not self._share.alone:
            owner().call(functools.partial(self._share.gather_blocks, self.values))

    def adds(self, target):
        """``target``, where this process is the one that adds sums over all images to it, else None."""
        return target if self._share is None or self._share.speaks else None


def values_per_channel(x):
    """Return how many values of a channel statistics are taken of: N*H*W, of the whole batch x is of."""
    share = owner().share
    images = share.images if share is not None and share.common_statistics else x.shape[0]
    return images * int(np.prod(x.shape[2:]))
