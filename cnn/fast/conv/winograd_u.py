"""The transform of Winograd's weights: (out, in, taps, taps) to U = G w G^T in the order in which it is read.

U[36][sliver][channel][mr], a sliver being mr output channels; for products of bfloat16 a channel is a pair of
channels, eight pairs of which take 32 bytes.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.conv.pairs import Windows
from cnn.fast.conv.routines import PAIR_ROWS
from cnn.fast.conv.winograd_pairs import transform_weight_pairs
from cnn.fast.conv.winograd_tiles import SIZE, transform_weights
from cnn.fast.machine.jit import task
from cnn.fast.machine.simd import width
from cnn.fast.machine.tables import pointer, reader


class Weights(NamedTuple):
    """The transform of all weights; steps of the weight in numbers, of u in bytes."""

    weight: int  # address
    end: int  # address one past it
    u: int  # address
    scratch: int  # address
    scratch_bytes: int  # of one thread: the windows of a sliver of weights, ordered as in u
    window: int  # taps
    mr: int
    out_channels: int
    channels: int
    out_step: int
    channel_step: int
    turned: int  # by 180 degrees
    u_sliver: int
    u_point: int


weights_of = reader(Weights)


@cache
def weights_task(taps):
    """The task that takes a Weights, U = G w G^T: a sliver of output channels a piece."""
    lanes, transform = width(SIZE), transform_weights[taps]

    @task
    def weights(index, thread, params):
        p = weights_of(params)
        source = pointer(p.weight + index * p.mr * p.out_step * 4, 4)
        inside = min(p.mr, p.out_channels - index * p.mr)
        scratch = p.scratch + thread * p.scratch_bytes
        numbers, count = pointer(scratch, 4), (p.channels * p.mr + lanes - 1) // lanes
        for c in range(p.channels):
            for k in range(p.mr):
                at = c * p.channel_step + k * p.out_step
                for t in range(p.window):
                    tap = p.window - 1 - t if p.turned else t
                    value = source[at + tap] if k < inside else np.float32(0)
                    numbers[t * count * lanes + c * p.mr + k] = value
        transform(scratch, count * lanes * 4, p.u + index * p.u_sliver, p.u_point, count)

    return weights


@cache
def pair_weights_task(taps):
    """The task for pairs of channels in bfloat16, whose mr is PAIR_ROWS: u_sliver is 32 bytes a pair."""
    transform = transform_weight_pairs(taps)

    @task
    def weights(index, thread, params):
        p = weights_of(params)
        first, out, channel = index * PAIR_ROWS, 4 * p.out_step, 4 * p.channel_step
        for c in range(0, p.channels, 2):
            windows = Windows(
                p.weight + first * out + c * channel, out, channel, p.out_channels - first, p.channels - c,
                p.end,
            )  # fmt: skip
            transform(windows, p.turned, p.u + index * p.u_sliver + 16 * c, p.u_point)

    return weights
