"""Weights in the order in which a micro-kernel reads them: mr output channels side by side."""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.machine.jit import address, launch, task
from cnn.fast.machine.owner import aligned_zeros
from cnn.fast.machine.tables import Table, pointer, reader


class Strides(NamedTuple):
    """Numbers from one to the next in a weight (K, C, kh, kw) or one read as its transpose."""

    group: int
    out: int
    channel: int


NOWHERE = Strides(0, 0, 0)


class Pack(NamedTuple):
    """packed[group][sliver][taps and channels][mr] = weight[group][out][channel][tap]; steps in numbers."""

    weight: int  # address
    packed: int  # address
    source: Strides
    mr: int
    full: int  # slivers of mr output channels; those behind them have one less
    last: int  # output channel that no sliver begins behind
    out_channels: int
    channels: int
    taps: int
    packed_channel: int
    packed_tap: int


pack_of = reader(Pack)


@cache
def _pack_task(itemsize):
    @task
    def pack(index, thread, params):
        p = pack_of(params)
        weight, packed = pointer(p.weight, itemsize), pointer(p.packed, itemsize)
        slivers = (p.out_channels + p.mr - 1) // p.mr
        group, j = index // slivers, index % slivers
        first = min(j * p.mr - max(0, j - p.full), p.last)
        start = group * p.source.group + first * p.source.out
        count = min(p.mr, p.out_channels - first)
        to = index * p.channels * p.taps * p.mr
        for c in range(p.channels):
            for t in range(p.taps):
                source = start + c * p.source.channel + t
                target = to + c * p.packed_channel + t * p.packed_tap
                for k in range(count):
                    packed[target + k] = weight[source + k * p.source.out]

    return pack


class Packed:
    """The packed weights of a plan, in memory of its own."""

    def __init__(self, groups, itemsize, record):
        """``record``: a Pack whose addresses and source are still missing."""
        self.slivers = -(-record.out_channels // record.mr)
        self.sliver_bytes = record.channels * record.taps * record.mr * itemsize
        self._itemsize, self._tasks = itemsize, groups * self.slivers
        self._memory = aligned_zeros((self._tasks * self.sliver_bytes + 64,), np.uint8)
        self.address = self._memory.ctypes.data
        self._table = Table(record._replace(packed=self.address))

    def fill(self, weight, strides):
        """Pack ``weight``, read with these Strides."""
        self._table.set(weight=address(weight), source=strides)
        launch(_pack_task(self._itemsize), self._tasks, self._table.array)
