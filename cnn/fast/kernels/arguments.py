"""Parameters and their gradients as tasks read them: contiguous, in the dtype of the activations.

The layers of a network keep their parameters so; then nothing is copied. Other arrays are converted by a
task, so that a program that is lowered with them reads what they hold when it runs.
"""

import functools
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from cnn.fast.machine.jit import address, launch, scratch, table, task
from cnn.fast.machine.tables import pointer, reader


class Copy(NamedTuple):
    """One piece does all of it."""

    source: int  # address
    target: int  # address
    size: int  # numbers


copy_of = reader(Copy)


@functools.cache
def _convert_task(source_size, target_size, adds):
    """target = source, with ``adds`` target += source, in the dtype of target."""
    real = np.float32 if target_size == 4 else np.float64

    @task
    def convert(index, thread, params):
        p = copy_of(params)
        source, target = pointer(p.source, source_size), pointer(p.target, target_size)
        for i in range(p.size):
            target[i] = real(source[i]) + (target[i] if adds else real(0))

    return convert


@functools.cache
def _clear_task(itemsize):
    @task
    def clear(index, thread, params):
        p = copy_of(params)
        target = pointer(p.target, itemsize)
        for i in range(p.size):
            target[i] = 0

    return clear


def _convert(source, target, adds=False):
    values = table(Copy(address(source), address(target), target.size))
    launch(_convert_task(source.itemsize, target.itemsize, adds), 1, values)


def parameter(values, dtype):
    """``values`` as a contiguous array of ``dtype``: itself where it is one."""
    values = values if values.flags.c_contiguous else np.ascontiguousarray(values)
    if values.dtype == dtype:
        return values
    converted = scratch(values.shape, dtype)
    _convert(values, converted)
    return converted


def filled(shape, dtype, number):
    """An array that holds ``number`` everywhere: a parameter that a layer does without."""
    values = scratch(shape, dtype)
    values[...] = number
    return values


@contextmanager
def sums_for(target, dtype):
    """What tasks that add numbers of ``dtype`` add to, so that ``target`` gets their sum.

    It is ``target`` itself where that is a contiguous array of this dtype, or None.
    """
    if target is None or (target.dtype == dtype and target.flags.c_contiguous):
        yield target
        return
    sums = scratch(target.shape, dtype)
    launch(_clear_task(sums.itemsize), 1, table(Copy(0, address(sums), sums.size)))
    yield sums
    if target.flags.c_contiguous:
        _convert(sums, target, adds=True)
    else:  # no parameter of a network lies so
        target += sums
