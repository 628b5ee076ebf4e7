"""Sums of arrays whose bits do not depend on who added which part: a fixed binary tree.

    S[a, a + 1) = the a-th array,       S[a, a + 2n) = S[a, a + n) + S[a + n, a + 2n)   for n = 2^k, 2n | a

The sum of arrays 0 to N - 1 is that of the largest such segments from the left, added from the right. A
process that has the arrays of any range adds the segments that lie within, and only these travel: at most two
of each size. Whoever receives them all, in the order of the arrays, goes on in the same tree. The arrays are
gradients of micro-batches; within a share kernels follow the same tree (``cnn.fast.kernels.shared``).
"""

import numpy as np


class TreeSum:
    """The segments of the arrays added so far, largest first where they begin at 0."""

    def __init__(self):
        self.parts = []  # (first, count, array)

    def add(self, first, count, array):
        """Add the segment of ``count`` arrays from number ``first`` on, the next one; ``array`` is kept."""
        self.parts.append((first, count, array))
        while len(self.parts) > 1:
            (a, n, left), (_, m, right) = self.parts[-2:]
            if n != m or a % (2 * n):
                return
            left += right
            self.parts[-2:] = [(a, 2 * n, left)]

    def total(self):
        """Return the sum of all arrays."""
        *others, (_, _, total) = self.parts
        for _, _, array in reversed(others):
            total = array + total
        return total


def segments(first, last):
    """Return [(first, count), ...] of the segments that a range of arrays adds up to."""
    tree = TreeSum()
    for k in range(first, last):
        tree.add(k, 1, np.zeros(0))
    return [(a, n) for a, n, _ in tree.parts]


def share(count, rank, size):
    """Return (first, last) of the arrays of a rank: ranges in the order of the ranks, as even as can be."""
    return rank * count // size, (rank + 1) * count // size
