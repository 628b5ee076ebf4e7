"""What a task copies next is asked for while it computes: the copy then finds it in the L2 cache.

A strip that is copied first comes from memory or the L3 cache, and nothing is multiplied meanwhile. So each
register block of the products before asks for a few cache lines of the next strip: not all at once, for the
processor keeps only some tens of requests and would wait as it does in the copy.
"""

from typing import NamedTuple

from cnn.fast.conv.microkernels import prefetch_l2
from cnn.fast.machine.jit import helper

UNIT = 256  # bytes that are asked for together: four cache lines


class Ahead(NamedTuple):
    """Planes to ask for, in units that are counted plane after plane, and the part that falls to a call."""

    source: int  # address of the first plane
    plane: int  # bytes from one plane to the next
    units: int  # of a plane
    first: int  # unit that the call begins with
    last: int  # one past
    each: int  # units for a register block


NOTHING = Ahead(0, 0, 1, 0, 0, 0)


@helper
def ahead_of_planes(source, planes, plane, size):
    """Ahead of ``size`` neighbouring bytes of each of ``planes`` planes; 0: nothing is asked for."""
    units = (size + UNIT - 1) // UNIT
    return Ahead(source, plane, max(1, units), 0, planes * units, 0)


@helper
def share(ahead, call, calls, blocks):
    """The part of call number ``call`` of ``calls``, each of which has ``blocks`` register blocks or more."""
    count = ahead.last
    first, last = count * call // calls, count * (call + 1) // calls
    return Ahead(ahead.source, ahead.plane, ahead.units, first, last, (last - first + blocks - 1) // blocks)


@helper
def ask(ahead, block):
    """Ask for what falls to register block number ``block`` of a call."""
    first = ahead.first + block * ahead.each
    for unit in range(first, min(first + ahead.each, ahead.last)):
        plane = unit // ahead.units
        prefetch_l2(ahead.source + plane * ahead.plane + (unit - plane * ahead.units) * UNIT, UNIT // 64)
