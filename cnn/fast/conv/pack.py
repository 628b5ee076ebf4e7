"""Weights in the order in which a micro-kernel reads them: mr output channels side by side.

For products of bfloat16 a channel is a pair of channels, eight of which lie side by side: see ``pairs``.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.conv.pairs import Windows, pack_windows
from cnn.fast.conv.routines import PAIR_ROWS
from cnn.fast.machine.jit import address, launch, task
from cnn.fast.machine.owner import aligned_zeros, lower_into
from cnn.fast.machine.tables import Table, pointer, reader


class Strides(NamedTuple):
    """Numbers from one to the next in a weight (K, C, kh, kw) or one read as its transpose."""

    group: int
    out: int
    channel: int


NOWHERE = Strides(0, 0, 0)


class Pack(NamedTuple):
    """packed[group][sliver][taps and channels][mr] = weight[group][out][channel][tap]; steps in numbers.

    In pairs, a step of what is packed is one of pairs, which take as much room as a number of float32.
    """

    weight: int  # address
    end: int  # address one past it
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


@cache
def _pack_pairs_task(taps):
    pack_pair = pack_windows(taps)

    @task
    def pack(index, thread, params):
        p = pack_of(params)
        slivers = (p.out_channels + p.mr - 1) // p.mr
        group, first = index // slivers, min(index % slivers * p.mr, p.last)
        out, channel = 4 * p.source.out, 4 * p.source.channel
        start = p.weight + 4 * group * p.source.group + first * out
        pairs = (p.channels + 1) // 2
        to = p.packed + index * pairs * taps * PAIR_ROWS * 4
        for i in range(pairs):
            windows = Windows(
                start + 2 * i * channel, out, channel, p.out_channels - first, p.channels - 2 * i, p.end
            )
            pack_pair(windows, to + 4 * i * p.packed_channel, 4 * p.packed_tap)

    return pack


class Order(NamedTuple):
    """How a weight is packed; called with one it packs it at once, whatever is being lowered."""

    groups: int
    itemsize: int
    record: Pack  # without addresses
    pairs: bool

    def __call__(self, weight):
        with lower_into(None):
            packed = Packed(*self)
            packed.fill(weight, self.record.source)
        return packed.memory


class Packed:
    """The packed weights of a plan, in memory of its own.

    Each pass packs them anew, since each step of training changes them. Where they seldom change, ``keep``
    holds them: ``keep(order, weight)`` returns ``order(weight)``, made again as often as the weight changes.
    """

    def __init__(self, groups, itemsize, record, pairs=False):
        """``record``: a Pack whose addresses and source are still missing."""
        self._order = Order(groups, itemsize, record, pairs)
        self.slivers = -(-record.out_channels // record.mr)
        vectors = -(-record.channels // 2) if pairs else record.channels
        self.sliver_bytes = vectors * record.taps * (PAIR_ROWS if pairs else record.mr) * itemsize
        self._task = _pack_pairs_task(record.taps) if pairs else _pack_task(itemsize)
        self._tasks = groups * self.slivers
        self.memory = aligned_zeros((self._tasks * self.sliver_bytes + 64,), np.uint8)
        self.address = self.memory.ctypes.data
        self._table = Table(record._replace(packed=self.address))

    def place(self, weight, strides, keep=None):
        """Pack ``weight``, read with these Strides, or have it kept; return the address."""
        if keep is None:
            self.fill(weight, strides)
            return self.address
        order = self._order._replace(record=self._order.record._replace(source=strides))
        return keep(order, weight).ctypes.data

    def fill(self, weight, strides):
        """Pack ``weight``, read with these Strides."""
        start = address(weight)
        self._table.set(weight=start, end=start + weight.nbytes, source=strides)
        launch(self._task, self._tasks, self._table.array)
