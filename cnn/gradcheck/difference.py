"""Differences of a frozen function, and the verdict on one gradient."""

import numpy as np

from cnn.gradcheck.report import BUG, KINK, OK, ROUNDING

RELATIVE = 1e-6  # agreement that counts as OK; the difference itself is good to about h^2 = 1e-10
_EPS = np.finfo(np.float64).eps


class Frozen:
    """A layer, network or loss as a pure function: whatever state forward moves is put back before each call.

    So Dropout draws the same mask at every point, and BatchNorm's running statistics stand still.
    """

    def __init__(self, layer, training):
        self.layer, self.training = layer, training
        self._buffers = [(array, array.copy()) for part in _tree(layer) for array in part.buffers().values()]

    def restore(self):
        """Put the buffers back."""
        for array, saved in self._buffers:
            array[...] = saved

    def forward(self, x):
        """Return y as a NumPy array of its own."""
        self.restore()
        return np.array(self.layer.forward(x, self.training))

    def backward(self, dy):
        """Return dx as a NumPy array of its own."""
        return np.array(self.layer.backward(dy))


def _tree(layer):
    yield layer
    for _, child in layer.children():
        yield from _tree(child)


class Line:
    """L(t) = sum of dy * forward along a straight line through the input or one parameter.

    ``target`` is None for the input, else the Parameter that moves; ``direction`` has its shape.
    """

    def __init__(self, frozen, x, dy, target, direction):
        self.frozen, self.x, self.dy, self.target, self.direction = frozen, x, dy, target, direction
        self._middle = None

    def at(self, x):
        """Return the same line around another input."""
        return Line(self.frozen, x, self.dy, self.target, self.direction)

    def _forward(self, t):
        if self.target is None:
            return self.frozen.forward(self.x + t * self.direction)
        saved = self.target.data.copy()
        try:
            self.target.data = saved + t * self.direction
            return self.frozen.forward(self.x)
        finally:
            self.target.data = saved

    def slope(self, h):
        """Return (central difference, bound of its rounding error)."""
        return self._difference(self._forward(h), self._forward(-h), h)

    def _difference(self, high, low, h):
        # backward rounds too: what is zero in truth, like a bias before BatchNorm, comes out as 1e-17
        floor = 100 * _EPS * np.linalg.norm(self.dy * high)
        changed = high != low  # outputs that the step leaves alone cancel exactly and add no noise
        high, low, dy = high[changed], low[changed], self.dy[changed]
        with np.errstate(invalid="ignore"):
            size = np.linalg.norm(dy * np.maximum(np.abs(high), np.abs(low)))
            return np.dot(dy, high - low) / (2 * h), 16 * _EPS * size / h + floor

    def bend(self, h):
        """Return (slope to the right minus slope to the left, bound of its rounding error).

        For a smooth function it is h * L'' and vanishes with h; at a kink it stays.
        """
        if self._middle is None:
            self._middle = self._forward(0.0)
        right = self._difference(self._forward(h), self._middle, h / 2)
        left = self._difference(self._middle, self._forward(-h), h / 2)
        return right[0] - left[0], right[1] + left[1]


def judge(line, analytic, h, analytic_at, jittered):
    """Return (numeric, class) of one gradient.

    Parameters
    ----------
    line : Line
    analytic : float
        What backward claims for the slope of ``line`` at 0.
    h : float
    analytic_at : function
        x -> what backward claims for this line around another input.
    jittered : iterable of arrays
        Inputs near ``line.x`` at which no two values tie.

    A disagreement is a BUG unless something explains it: another step size under which both agree, or a bend
    that does not shrink with the step (a tie, as among the zeros that ReLU hands to a max-pool) while both
    agree at the points beside it.
    """
    numeric, noise = line.slope(h)
    if not (np.isfinite(analytic) and np.isfinite(numeric)):
        return numeric, BUG
    error = abs(analytic - numeric)
    if error <= RELATIVE * max(abs(analytic), abs(numeric)):
        return numeric, OK
    if error <= noise:
        return numeric, ROUNDING
    if _agree(line, analytic, 10 * h, error / 20):
        return numeric, ROUNDING
    for smaller in (h / 10, h / 100, h / 1000):
        if _agree(line, analytic, smaller, error / 20):
            return numeric, ROUNDING if _falls_with_square(line, analytic, error, h) else KINK
    if _is_tie(line, h):
        for x in jittered:
            near, claimed = line.at(x), analytic_at(x)
            if any(_agree(near, claimed, step, error / 20, beside=True) for step in (h / 10, h, h / 100)):
                return numeric, KINK
    return numeric, BUG


def _agree(line, analytic, h, limit, beside=False):
    """Whether the difference with step ``h`` agrees, and is exact enough for that to mean something.

    ``limit`` is a twentieth of the disagreement that this is to explain. ``beside`` another point, only the
    noise has to stay below it.
    """
    numeric, noise = line.slope(h)
    largest = max(abs(analytic), abs(numeric))
    exact = noise <= max(1e-4 * largest, limit)
    difference = abs(analytic - numeric)
    return exact and difference <= max(10 * RELATIVE * largest, noise) and (beside or difference <= limit)


def _falls_with_square(line, analytic, error, h):
    """Whether the disagreement is the h^2 term of a smooth function."""
    shares = [abs(analytic - line.slope(h / k)[0]) * k * k / error for k in (2, 4)]
    return all(0.8 < share < 1.25 for share in shares)


def _is_tie(line, h):
    """Whether the slope jumps at t = 0 itself: the bend of a smooth function would shrink with the step."""
    wide, (bend, noise) = line.bend(h), line.bend(h / 100)
    return abs(bend) > max(10 * noise, 0.1 * abs(wide[0]))
