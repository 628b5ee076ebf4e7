"""Strips of images: how a batch of few images fills the sixteen lanes.

Eight images leave half of every vector idle. So the rows of each are cut into strips, and a strip is handled
like an image of its own: (N, C, H, W) becomes (k*N, C, rows, W), where

    y[s*N + n, c, r, q] = x[n, c, s*rows + r, q]

Where ``rows`` does not divide H the last strip has some rows too many. They keep what lanes past the batch
keep, finite numbers in activations and exact zeros in gradients, and statistics leave them out (``norm``).

Windows that reach into the next strip read a copy that has the rows of that strip as well (``Windows``).
Strips of an image are N lanes apart, so a row of the next strip is loaded from N numbers further on.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cnn.fast import blocked
from cnn.fast.blocked import LANES, Strips
from cnn.fast.kernels.activation import activate
from cnn.fast.kernels.norm import parameter_size
from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import address, launch, plans, table, task
from cnn.fast.machine.owner import owner
from cnn.fast.machine.tables import bits, from_bits, integers, pointer, reader, records, size_of

PIXELS = 16  # of a plane at least
OUTSIDE = -1  # the row of a Term that no image has


class Term(NamedTuple):
    """What is added to lanes ``first`` ... ``end`` - 1 of a row."""

    row: int  # that it is read from, or OUTSIDE
    shift: int  # lanes from that which is read to that which is written
    first: int
    end: int


class Rows(NamedTuple):
    """A piece is one channel."""

    x: int  # address
    y: int  # address
    height: int  # rows of x
    rows: int  # of y
    width: int
    starts: int  # address: the first Term of each row of y, and the end of the last
    terms: int  # address
    outside: int  # bits of the float64 that stands for rows that no image has
    mean: int  # address; this and the others are those of a normalisation of x, or 0
    rstd: int  # address
    weight: int  # address
    bias: int  # address
    parameter: int  # bits of a float64, of the activation behind it


rows_of, term_of = reader(Rows), reader(Term)
_TERM = 8 * size_of(Term)


@functools.cache
def _rows_task(itemsize, kind):
    """``kind``: of the activation behind a normalisation of x, None without one."""
    real, normalises = parameter_size(itemsize), kind is not None

    @task
    def gather(c, thread, params):
        p = rows_of(params)
        x, y, starts = pointer(p.x, itemsize), pointer(p.y, itemsize), integers(p.starts)
        row = p.width * 16
        if normalises:
            mean, shift = pointer(p.mean, real)[c], pointer(p.bias, real)[c]
            scale = pointer(p.rstd, real)[c] * pointer(p.weight, real)[c]
            parameter = from_bits(p.parameter)
        for r in range(p.rows):
            o, begin = (c * p.rows + r) * row, starts[r]
            if begin == starts[r + 1]:
                for q in range(0, row, 16):
                    v.store(y, o + q, v.zeros(x))
            for number in range(begin, starts[r + 1]):
                t = term_of(p.terms + number * _TERM)
                inside = v.both(v.first_lanes(t.end), v.negated(v.first_lanes(t.first)))
                i = (c * p.height + t.row) * row - t.shift
                for q in range(0, row, 16):
                    if t.row < 0:
                        value = v.select(inside, v.zeros(x) + from_bits(p.outside), 0.0)
                    else:
                        value = v.load(x, i + q)
                        if normalises:
                            value = activate(kind, v.fma(value - mean, scale, shift), parameter)
                        value = v.select(inside, value, 0.0)
                    if number > begin:
                        value = value + v.load(y, o + q)
                    v.store(y, o + q, value)

    return gather


class RowsPlan:
    """The Terms of each row of an array.

    Parameters
    ----------
    images : int
    rows : int
        Of the array.
    places : iterable of (row, strip, row that is read or OUTSIDE, its strip)
    """

    def __init__(self, images, rows, places):
        found = [{} for _ in range(rows)]
        for row, strip, source_row, source_strip in places:
            of_row = found[row].setdefault((source_row, (strip - source_strip) * images), [])
            if of_row and of_row[-1][1] == strip:
                of_row[-1][1] += 1
            else:
                of_row.append([strip, strip + 1])
        terms = [
            [Term(*key, a * images, b * images) for key, runs in of_row.items() for a, b in runs]
            for of_row in found
        ]
        self.starts = np.cumsum([0, *map(len, terms)], dtype=np.int64)
        self.terms = records([*(term for of_row in terms for term in of_row), Term(0, 0, 0, 0)])


@plans
def _plan(windows, back):
    return RowsPlan(*windows.places(back))


@dataclass(frozen=True)
class Windows:
    """Rows of an image that are read together: of strip s those from ``s*step + first`` on.

    ``source`` says how the array lies that is read, ``count`` how many strips are read.
    """

    source: Strips
    count: int
    step: int
    first: int
    rows: int

    @property
    def whole(self):
        """Whether that is the array itself."""
        same = self.count == self.source.count and self.step == self.rows == self.source.rows
        return same and self.first == 0

    def places(self, back):
        """What a RowsPlan is made of; ``back``: of the gradient of what was read."""
        images, rows, places = self.source.images, self.source.rows, []
        for strip in range(self.count):
            for row in range(self.rows):
                at = strip * self.step + self.first + row
                inside = 0 <= at < self.source.height
                if back and inside:
                    places.append((at % rows, at // rows, row, strip))
                elif not back:
                    there = (at % rows, at // rows) if inside else (OUTSIDE, strip)
                    places.append((row, strip, *there))
        return images, rows if back else self.rows, places

    def read(self, x, outside=0.0, normalisation=None):
        """Return the rows, (count*N, C, rows, W); ``outside`` stands for what the image has not.

        ``normalisation``: ((mean, rstd, weight, bias), kind, parameter), to be applied to what it has.
        """
        if self.whole and normalisation is None:
            return x
        shape = self.count * self.source.images, x.shape[1], self.rows, x.shape[3]
        return self._gather(x, shape, False, outside, normalisation)

    def give_back(self, dy):
        """Return the gradient of the array: what rows got that were read more than once adds up."""
        if self.whole:
            dy.strips = self.source.or_none
            return dy
        shape = self.source.shape(dy.shape[1], dy.shape[3])
        dx = self._gather(dy, shape, True)
        dx.strips = self.source.or_none
        return dx

    def _gather(self, x, shape, back, outside=0.0, normalisation=None):
        x = blocked.as_stored(x)
        y, plan = blocked.empty_like(x, shape), _plan(self, back)
        arrays, kind, parameter = normalisation or ((), None, 0.0)
        numbers = [address(a) for a in arrays] or [0] * 4
        sizes, ends = (x.shape[2], shape[2], shape[3]), (address(plan.starts), address(plan.terms))
        values = Rows(x.address, y.address, *sizes, *ends, bits(outside), *numbers, bits(parameter))
        launch(_rows_task(x.itemsize, kind), shape[1], table(values))
        return y


class Clearing(NamedTuple):
    """A piece is one channel."""

    x: int  # address
    start: int  # the first number that is cleared of a plane
    size: int  # numbers of a plane
    lanes: int  # that stay


clearing_of = reader(Clearing)


@functools.cache
def _clear_task(itemsize):
    @task
    def clear(c, thread, params):
        p = clearing_of(params)
        x, stay = pointer(p.x, itemsize), v.first_lanes(p.lanes)
        for i in range(c * p.size + p.start, (c + 1) * p.size, 16):
            v.store(x, i, v.select(stay, v.load(x, i), 0.0))

    return clear


def clear(x):
    """Set the rows that the last strip of a gradient has too many to zero, in place."""
    missing = x.strips.count * x.strips.rows - x.strips.height
    if missing:
        _, channels, rows, width, _ = x.buffer.shape
        sizes = (rows - missing) * width * LANES, rows * width * LANES, x.shape[0] - x.strips.images
        launch(_clear_task(x.itemsize), channels, table(Clearing(x.address, *sizes)))


def strips_of(x):
    """How an array of images lies, in one strip each if not in several."""
    return x.strips or Strips(x.shape[0], x.shape[2], x.shape[2])


def laid_out(x, strips):
    """``x`` in other strips; None for whole images. What is there already is returned as it is."""
    if x.strips == strips:
        return x
    source = strips_of(x)
    wanted = strips or Strips(source.images, source.height, source.height)
    y = Windows(source, wanted.count, wanted.rows, 0, wanted.rows).read(x)
    y.strips = strips
    return y


def strips_for(dtype, images, plane):
    """The Strips that an array of (height, width) planes is best computed in, or None: in whole images."""
    height, width = plane
    if owner().share is not None or dtype != np.float32 or height * width < PIXELS or 2 * images > LANES:
        return None
    return Strips(images, height, -(-height // (LANES // images))).or_none


def halves(x):
    """Return (Strips to take 2x2 windows of ``x`` in, Strips of what they give), each None: whole images."""
    if x.strips is None:
        return None, None
    half, height = x.strips.halved, x.strips.height
    if half is not None:
        return x.strips, half
    if height % 2 == 0:
        half = strips_for(x.dtype, x.strips.images, (height // 2, x.shape[3] // 2))
    return half and half.times(2), half


@dataclass(frozen=True)
class Sliding:
    """Windows that slide over an array in strips: what they read, and what reads them on the way back.

    Parameters
    ----------
    source, target : Strips
        Of what is read and of the result.
    kernel, stride, top, dilation : int
        Down an image.
    """

    source: Strips
    target: Strips
    kernel: int
    stride: int
    top: int
    dilation: int

    @property
    def windows(self):
        """What the strips of the result are computed from."""
        rows = (self.target.rows - 1) * self.stride + self.dilation * (self.kernel - 1) + 1
        step = self.target.rows * self.stride
        if self.top == 0 and rows <= step == self.source.rows:
            rows = step  # all of a strip, though with a stride the last rows may not be read
        return Windows(self.source, self.target.count, step, -self.top, rows)

    @property
    def _between(self):
        """The strips of the source that those of the result stand for, where they are all of it; or None."""
        rows = self.target.rows * self.stride
        strips = Strips(self.target.images, self.source.height, rows)
        return strips if strips.count == self.target.count else None

    def gradient(self, dy):
        """Return (what the gradient by the source is computed from, its rows, padding (above, below)).

        Each strip of it is computed as a whole, from the rows of dy that its pixels enter.
        """
        reach, rows = self.dilation * (self.kernel - 1), self.target.rows
        if self._between is None:
            return dy, self.windows.rows, (0, 0)
        above = max(0, (reach - self.top) // self.stride)
        below = max(0, (rows * self.stride - 1 + self.top) // self.stride - (rows - 1))
        windows = Windows(self.target, self.target.count, rows, -above, rows + above + below)
        before = self.top + above * self.stride
        after = (windows.rows - 1) * self.stride + reach + 1 - rows * self.stride - before
        return windows.read(dy), rows * self.stride, (before, max(0, after))

    def give_back(self, dx):
        """Return the gradient by the source, from what was computed of ``gradient``."""
        if self._between is None:
            return self.windows.give_back(dx)
        dx.strips = self._between
        if self._between == self.source:
            clear(dx)
        return laid_out(dx, self.source.or_none)
