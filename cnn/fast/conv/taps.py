"""Which taps of a window meet a pixel, worked out once a geometry: padding, stride and dilation end here."""

from dataclasses import dataclass
from math import gcd


def forward_taps(size, out_size, kernel, stride, before, dilation):
    """For each output index: [(tap, input index), ...] inside the input."""
    return [
        [(u, p) for u in range(kernel) if 0 <= (p := i * stride - before + u * dilation) < size]
        for i in range(out_size)
    ]


def reach(size, out_size, kernel, stride, before, dilation):
    """For each tap: (first output that it is inside for, one past the last, input index for output 0)."""
    met = forward_taps(size, out_size, kernel, stride, before, dilation)
    found = []
    for u in range(kernel):
        inside = [i for i, pairs in enumerate(met) if any(tap == u for tap, _ in pairs)]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        found.append((first, last, u * dilation - before))
    return found


def _backward_taps(size, out_size, kernel, stride, before, dilation):
    """For each input index: [(tap, output index), ...] of the outputs that it went into."""
    return [
        [
            (u, q // stride)
            for u in range(kernel)
            if (q := p + before - u * dilation) % stride == 0 and 0 <= q // stride < out_size
        ]
        for p in range(size)
    ]


@dataclass
class Axis:
    """The taps of one axis as arithmetic progressions: first tap, count and first input index a position."""

    first: list
    tap_step: int
    index_step: int
    phases: int

    @classmethod
    def forward(cls, size, out_size, kernel, stride, before, dilation):
        """Taps of each output: the inputs it is summed from."""
        taps = forward_taps(size, out_size, kernel, stride, before, dilation)
        return cls([(*(t[0] if t else (0, 0)), len(t)) for t in taps], 1, dilation, 1)

    @classmethod
    def backward(cls, size, out_size, kernel, stride, before, dilation):
        """Taps of each input: the outputs it went into."""
        taps = _backward_taps(size, out_size, kernel, stride, before, dilation)
        common = gcd(stride, dilation)
        first = [(*(t[0] if t else (0, 0)), len(t)) for t in taps]
        return cls(first, stride // common, -dilation // common, stride)

    def segments(self):
        """Runs of positions with equal taps: (position, step, count, first tap, taps, index, index step)."""
        runs = []
        for phase in range(self.phases):
            run, last = None, 0
            for position in range(phase, len(self.first), self.phases):
                tap, index, count = self.first[position]
                if run and run[3:5] == [tap, count] and (count == 0 or index - last == run[6] or run[2] == 1):
                    if run[2] == 1:
                        run[6] = index - last
                    run[2] += 1
                else:
                    run = [position, self.phases, 1, tap, count, index, 0]
                    runs.append(run)
                last = index
        return runs

    def span(self, start, stop):
        """The input indices that positions start ... stop-1 touch, as (lowest, highest + 1)."""
        ends = []
        for _, index, count in self.first[start:stop]:
            if count:
                ends += [index, index + (count - 1) * self.index_step]
        return (min(ends), max(ends) + 1) if ends else (0, 0)
