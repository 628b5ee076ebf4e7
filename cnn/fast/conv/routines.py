"""Routines: compiled functions around the micro-kernels, called by address with a record.

Each is compiled once and shared by all tasks. Addresses and steps are in bytes unless a comment says
otherwise.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from cnn.fast.blocked import LANES
from cnn.fast.conv.ahead import NOTHING, Ahead, ask
from cnn.fast.conv.microkernels import (
    ADD,
    ONCE,
    STORE,
    DotEnds,
    DotLoops,
    DotSteps,
    Ends,
    Loop,
    Loops,
    Steps,
    copy_lanes,
    dot_product,
    outer_product,
    transpose,
    transpose_image_pairs,
    widen_lanes,
)
from cnn.fast.machine import bf16
from cnn.fast.machine.jit import helper, task
from cnn.fast.machine.tables import from_bits, reader, size_of

PAIR_ROWS = 8  # output channels whose weights, in pairs of bfloat16, lie side by side


def _number(itemsize):
    return np.float64 if itemsize == 8 else np.float32


@cache
def _bounds(number, ceiling):
    """What ``outer_product`` takes as floor, given its bits: with the ceiling, if there is one."""
    if ceiling == math.inf:
        return helper(lambda floor: number(from_bits(floor)))
    return helper(lambda floor: (number(from_bits(floor)), number(ceiling)))


class RowProducts(NamedTuple):
    """``outer_product`` along rows of pixels."""

    ends: Ends  # of the first pixel
    loops: Loops
    scalars_k: int  # from one of the mr scalars to the next, if they are not neighbours
    floor: int  # bits of the lower bound
    pixels: int  # of a row
    vectors_pixel: int
    out_pixel: int
    out_k: int
    rows: int
    vectors_row: int
    out_row: int


class RowProductsAhead(NamedTuple):
    """RowProducts, and what is asked for meanwhile."""

    products: RowProducts
    ahead: Ahead


row_products_of, ahead_of = reader(RowProducts), reader(Ahead)
_ROWS = 8 * size_of(RowProducts)


@cache
def row_products(mr, nr, itemsize, neighbours=True, how=STORE, ahead=False, ceiling=math.inf):
    """The routine for RowProducts, with ``ahead`` for RowProductsAhead: ``nr`` pixels at a time.

    ``neighbours``: the mr scalars lie side by side. The last register block of a row is moved back to end
    with it: a few pixels are computed twice, to the same bits. With ``itemsize`` 2 a channel is a pair of
    channels in bfloat16.
    """
    bounds, size = _bounds(_number(itemsize), ceiling), max(4, itemsize)

    @task
    def products(record):
        p = row_products_of(record)
        floor, scalars_k = bounds(p.floor), size if neighbours else p.scalars_k
        steps = Steps(scalars_k, p.vectors_pixel, p.out_k, p.out_pixel)
        at_once = nr if nr > 1 and p.pixels >= nr else 1
        after, block = ahead_of(record + _ROWS) if ahead else NOTHING, 0
        for row in range(p.rows):
            done = 0
            while done < p.pixels:
                if after.each:
                    ask(after, block)
                    block += 1
                done = min(done, p.pixels - at_once)
                vectors = p.ends.vectors + row * p.vectors_row + done * p.vectors_pixel
                out = p.ends.out + row * p.out_row + done * p.out_pixel
                ends = Ends(vectors, p.ends.scalars, p.ends.bias, out)
                if at_once == nr:
                    outer_product(ends, p.loops, steps, floor, how, mr, nr, itemsize)
                elif nr > 1:
                    outer_product(ends, p.loops, steps, floor, how, mr, 1, itemsize)
                done += at_once

    return products


class PixelProducts(NamedTuple):
    """The matrix product of packed weights with pixels whose channels lie side by side."""

    ends: Ends  # of the first pixel and the first sliver of weights
    floor: int  # bits of the lower bound
    pixels: int
    vectors_pixel: int
    out_pixel: int
    channels: int  # of a pixel
    slivers: int  # of mr output channels
    last: int  # output channel that the last sliver begins with
    scalars_sliver: int  # from one sliver of weights to the next, in pairs from eight rows to the next
    out_k: int


class PixelProductsAhead(NamedTuple):
    """PixelProducts, and what is asked for meanwhile."""

    products: PixelProducts
    ahead: Ahead


pixel_products_of = reader(PixelProducts)
_PIXELS = 8 * size_of(PixelProducts)


@cache
def products_of_pixels(mr, nr, itemsize, how, ahead=False, ceiling=math.inf):
    """The helper for PixelProducts and, with ``ahead``, the Ahead that is asked for meanwhile.

        out[k, j] = max(floor, bias[k] + sum over c of scalars[k / mr, c, k % mr] * vectors[j, c])

    For nr pixels after the other all slivers of weights pass: the channels of these pixels stay in the L1
    cache, the weights in the L2 cache. With ``itemsize`` 2 a channel is a pair of channels in bfloat16.
    """
    bounds, size = _bounds(_number(itemsize), ceiling), max(4, itemsize)
    pairs = itemsize == bf16.SIZE
    row, together = (size * PAIR_ROWS, max(1, PAIR_ROWS // mr)) if pairs else (size * mr, 1)

    @helper
    def products(p, after):
        floor, wide = bounds(p.floor), p.pixels >= nr
        steps = Steps(size, p.vectors_pixel, p.out_k, p.out_pixel)
        loops = Loops(ONCE, ONCE, Loop(p.channels, LANES * size, row))
        j, block = 0, 0
        while j < p.pixels:
            if wide:
                j = min(j, p.pixels - nr)
            for sliver in range(p.slivers):
                if ahead and after.each:
                    ask(after, block)
                    block += 1
                k = min(sliver * mr, p.last)
                vectors = p.ends.vectors + j * p.vectors_pixel
                scalars = p.ends.scalars + sliver // together * p.scalars_sliver
                scalars += sliver % together * mr * size
                out = p.ends.out + j * p.out_pixel + k * p.out_k
                ends = Ends(vectors, scalars, p.ends.bias + k * size, out)
                if wide:
                    outer_product(ends, loops, steps, floor, how, mr, nr, itemsize)
                elif nr > 1:
                    outer_product(ends, loops, steps, floor, how, mr, 1, itemsize)
            j += nr if wide else 1

    return products


@cache
def pixel_products(mr, nr, itemsize, how, ahead=False, ceiling=math.inf):
    """The routine for PixelProducts, with ``ahead`` for PixelProductsAhead; see ``products_of_pixels``."""
    multiply = products_of_pixels(mr, nr, itemsize, how, ahead, ceiling)

    @task
    def products(record):
        multiply(pixel_products_of(record), ahead_of(record + _PIXELS) if ahead else NOTHING)

    return products


class PanelProducts(NamedTuple):
    """The product of a panel with slivers of mr rows of the left operand, added to sums."""

    panel: int  # address: [pixel][lane][sixteen columns]
    left: int  # address: [row][pixel][lane]
    out: int  # address: [row][sixteen columns]
    left_k: int
    out_k: int
    slivers: int  # of mr rows
    a: Loop  # over pixels, the outer loop
    b: Loop


panel_products_of = reader(PanelProducts)


@cache
def panel_products(mr, itemsize):
    """The routine for PanelProducts, which is what weight gradients are.

        out[k, c] += sum over a, b and lanes of left[k, a, b, lane] * panel[a, b, lane, c]

    The panel is transposed, so the sums of sixteen c lie side by side; were lanes summed in registers
    instead, adding them up would cost a third of the time. With ``itemsize`` 2 the loop over lanes is one
    over pairs of images in bfloat16: panel[a, b, pair, c] has 64 bytes for sixteen c.
    """
    number = _number(itemsize)
    lanes = Loop(LANES, LANES * itemsize, itemsize) if itemsize > 2 else Loop(LANES // 2, LANES * 4, 4)

    @task
    def products(record):
        p = panel_products_of(record)
        a, b, c = (ONCE, p.a, lanes) if p.b.count == 1 else (p.a, p.b, lanes)
        if b.vectors == c.count * c.vectors and b.scalars == c.count * c.scalars:
            # Pixels that lie side by side are one loop: its end is guessed wrong once, not for each pixel.
            a, b, c = ONCE, a, Loop(b.count * c.count, c.vectors, c.scalars)
        loops = Loops(a, b, c)
        steps, left, out = Steps(p.left_k, 0, p.out_k, 0), p.left, p.out
        for _ in range(p.slivers):
            ends = Ends(p.panel, left, 0, out)
            outer_product(ends, loops, steps, number(0), ADD, mr, 1, itemsize)
            left += mr * p.left_k
            out += mr * p.out_k

    return products


class Dot(NamedTuple):
    """``dot_product`` as a routine."""

    ends: DotEnds
    steps: DotSteps
    loops: DotLoops


dot_of = reader(Dot)


@cache
def dot(mr, nr, itemsize):
    """The routine for Dot."""

    @task
    def product(record):
        p = dot_of(record)
        dot_product(p.ends, p.loops, p.steps, mr, nr, itemsize)

    return product


class Copy(NamedTuple):
    """A copy of planes of rows of pixels."""

    source: int  # address
    target: int  # address
    planes: int
    source_plane: int
    target_plane: int
    rows: int
    source_row: int
    target_row: int
    pixels: int
    source_pixel: int
    target_pixel: int


copy_of = reader(Copy)


@cache
def copy_planes(itemsize, source_size=None):
    """The routine for Copy; ``source_size``: bytes of a number that is read, if not itemsize."""
    widens = source_size not in (None, itemsize)

    @task
    def copy(record):
        p = copy_of(record)
        for plane in range(p.planes):
            for row in range(p.rows):
                source = p.source + plane * p.source_plane + row * p.source_row
                target = p.target + plane * p.target_plane + row * p.target_row
                if widens:
                    widen_lanes(source, target, p.pixels, p.source_pixel, p.target_pixel)
                else:
                    copy_lanes(source, target, p.pixels, p.source_pixel, p.target_pixel, itemsize)

    return copy


class Transposition(NamedTuple):
    """Sixteen channels of pixels to a panel."""

    source: int  # address: [channel][pixel][lane]
    panel: int  # address: [pixel][lane][channel]
    pixels: int
    channel: int  # from one channel of the source to the next
    pixel: int  # from one pixel of the source to the next


transposition_of = reader(Transposition)


@cache
def transpose_pixels(itemsize):
    """The routine for Transposition; ``itemsize`` 2 for bfloat16, images in pairs."""

    @task
    def panel(record):
        p = transposition_of(record)
        if itemsize == 2:
            transpose_image_pairs(p.source, p.channel, p.pixels, p.pixel, p.panel)
        else:
            transpose(p.source, p.channel, p.pixels, p.pixel, p.panel, itemsize)

    return panel
