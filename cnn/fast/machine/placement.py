"""Where the arrays of a program lie in one piece of memory, when the lifetimes of all are known beforehand.

An array that takes a gap that is free when it is made leaves gaps too small for what follows: a third of the
memory of airbench's network was gaps. With known lifetimes they are placed largest first, each at the lowest
address where none that lives at the same time lies: Pisarchyk and Lee, "Efficient Memory Management for Deep
Neural Net Inference", 2020 (arXiv:2001.03288).
"""


class Lifetimes:
    """What was allocated and released, in its order."""

    def __init__(self):
        self._sizes, self._starts, self._ends, self._now = [], [], {}, 0

    def start(self, size):
        """Note an array of ``size`` bytes; return its number."""
        self._now += 1
        self._sizes.append(size)
        self._starts.append(self._now)
        return len(self._sizes) - 1

    def end(self, number):
        """Note that an array is not used any more."""
        self._now += 1
        self._ends[number] = self._now

    def place(self):
        """Return (bytes in all, [(offset, size) in the order of the allocations])."""
        offsets, total, placed = [0] * len(self._sizes), 0, []
        for number in sorted(range(len(self._sizes)), key=lambda i: (-self._sizes[i], i)):
            size, start = self._sizes[number], self._starts[number]
            end = self._ends.get(number, self._now + 1)
            offset = 0
            for low, high, first, last in placed:  # in the order of their offsets
                if first < end and start < last:
                    if low - offset >= size:
                        break
                    offset = max(offset, high)
            placed.append((offset, offset + size, start, end))
            placed.sort()
            offsets[number], total = offset, max(total, offset + size)
        return total, list(zip(offsets, self._sizes, strict=True))
