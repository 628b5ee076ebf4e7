"""The last step of Winograd's weight gradient: sums over tiles and images, transformed back to the taps."""

from functools import cache
from typing import NamedTuple

from cnn.fast.conv.winograd_tiles import SIZE, gradient_of_weights
from cnn.fast.machine.jit import task
from cnn.fast.machine.simd import width
from cnn.fast.machine.tables import pointer, reader


class Add(NamedTuple):
    """dweight += G^T (sum over parts) G; steps of the sums in bytes, of the weight in numbers."""

    sums: int  # address
    dweight: int  # address
    scratch: int  # address: a row of sums for each tap, for each thread
    window: int  # taps
    channels: int  # of the right operand
    chunk: int  # channels of the left operand
    chunks: int
    parts: int
    sums_row: int
    sums_point: int
    left_step: int
    right_step: int


add_of = reader(Add)


@cache
def add_task(taps):
    """The task of Add for kernels of ``taps`` by ``taps``: one channel of the left operand."""
    lanes, transform = width(SIZE), gradient_of_weights(taps)

    @task
    def add(index, thread, params):
        p = add_of(params)
        rows = p.scratch + thread * p.window * p.sums_row
        source = p.sums + index // p.chunk * 36 * p.sums_point + index % p.chunk * p.sums_row
        part = p.chunks * 36 * p.sums_point
        vectors = p.sums_row // (4 * lanes)
        transform(source, p.sums_point, p.parts, part, rows, p.sums_row, vectors)
        weight, total = pointer(p.dweight + index * p.left_step * 4, 4), pointer(rows, 4)
        for c in range(p.channels):
            for t in range(p.window):
                weight[c * p.right_step + t] += total[t * p.sums_row // 4 + c]

    return add
