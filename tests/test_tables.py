"""Records of tasks: what Python writes by name is what compiled code reads by the same name."""

from typing import NamedTuple

import numpy as np
import pytest

from cnn.fast.machine.jit import address, launch, task
from cnn.fast.machine.tables import Table, bits, call_with, from_bits, pointer, reader, records, size_of


class Pair(NamedTuple):
    first: int
    second: int


class Outer(NamedTuple):
    out: int  # address of float64 numbers
    pair: Pair
    factor: int  # bits of a float64
    routine: int


outer_of, pair_of = reader(Outer), reader(Pair)


@pytest.fixture(scope="module")
def write():
    @task
    def routine(record):
        p = outer_of(record)
        pointer(p.out, 8)[0] = p.pair.first - p.pair.second
        pointer(p.out, 8)[1] = from_bits(p.factor)

    @task
    def write(index, thread, params):
        p = outer_of(params)
        pair = Pair(second=p.pair.second, first=p.pair.first + index)
        call_with(p.routine, Outer(p.out + 16 * index, pair, p.factor, 0))

    return routine, write


def test_a_task_reads_fields_by_name_also_of_records_within(write):
    routine, write = write
    out = np.zeros((3, 2))
    table = Table(Outer(out=0, pair=Pair(first=1, second=2), factor=bits(0.5), routine=routine.address))
    table.set(out=address(out), pair=Pair(first=10, second=3))
    launch(write, 3, table.array)
    np.testing.assert_array_equal(out, [[7, 0.5], [8, 0.5], [9, 0.5]])


def test_a_name_that_a_record_lacks_is_an_error():
    with pytest.raises(KeyError, match="thrid"):
        Table(Pair(1, 2)).set(thrid=3)


def test_records_stand_one_behind_the_other():
    rows = records([Outer(0, Pair(1, 2), 3, 4), Outer(5, Pair(6, 7), 8, 9)])
    assert rows.shape == (2, size_of(Outer))
    np.testing.assert_array_equal(rows.ravel(), np.arange(10))
