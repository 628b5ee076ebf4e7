"""Compares every gradient of one layer with differences of its forward."""

import math
from contextlib import contextmanager

import numpy as np

from cnn.backend import get_threads, set_threads, use_backend
from cnn.errors import CnnError
from cnn.gradcheck.difference import Frozen, Line, judge
from cnn.gradcheck.hints import explain
from cnn.gradcheck.report import BUG, Entry

_MORE = 10  # entries measured beside those of the check, once a tensor is wrong, to find out how


def check_layer(
    layer,
    x,
    rng=None,
    *,
    training=True,
    backend="numba",
    entries=4,
    directions=2,
    step=1e-5,
    threads=1,
    name=None,
    kind=None,
):
    """Compare ``layer.backward`` with differences of ``layer.forward`` for x and every parameter.

    Also checked: forward gives the same bits twice; neither pass changes the caller's arrays; a second
    backward returns the same dx and doubles the gradients; everything is finite, float64 and of the right
    shape. Parameters, gradients and buffers are put back afterwards.

    Parameters
    ----------
    layer : Layer
        Built in float64. A container is checked as a whole.
    x : float64 array (N, ...)
    rng : numpy.random.Generator, optional
        Draws dy, the sampled entries and the directions.
    training : bool
        Mode of the forward pass.
    backend : str
    entries, directions : int
        Sampled entries and random directions of each tensor. Half of the entries are those with the largest
        gradient.
    step : float
        h.
    threads : int
        For the kernels. A step of three images is too short to share: waiting would cost more than working.
    name, kind : str, optional
        What the entries call the layer and its type; its own name and class unless given.

    Returns
    -------
    list of Entry
    """
    rng = np.random.default_rng(0) if rng is None else rng
    kind = kind or type(layer).__name__
    kept = [(p, p.data.copy(), p.grad.copy()) for p in layer.parameters()]
    frozen = Frozen(layer, training)
    labels = (name or layer.name or kind, kind)
    check = _Check(frozen, np.array(x, np.float64, order="C"), rng, labels, backend)
    check.entries, check.directions, check.step = entries, directions, step
    tensors = [(f"{prefix}{p.name}", p) for prefix, leaf in _leaves(layer) for p in leaf.parameters()]
    try:
        with use_backend(backend), _threads(threads if backend == "numba" else None):
            return check.run(tensors)
    finally:
        frozen.restore()
        for p, data, grad in kept:
            p.data, p.grad = data, grad


@contextmanager
def _threads(count):
    """Let kernels use ``count`` threads inside of the block; None where no kernel is run."""
    if count is None:
        yield
        return
    before = get_threads()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def _leaves(layer, prefix=""):
    """Yield (name inside the container, layer) for what holds parameters itself."""
    if not layer.children():
        yield prefix, layer
    for name, child in layer.children():
        yield from _leaves(child, f"{prefix}{name}.")


class _Check:
    """One layer at one point in one mode under one backend."""

    def __init__(self, frozen, x, rng, labels, backend):
        self.frozen, self.x, self.rng, self.labels, self.backend = frozen, x, rng, labels, backend
        self.found = []

    def add(self, tensor, where, analytic, numeric, kind, hint=""):
        """Note one comparison."""
        self.found.append(
            Entry(
                *self.labels,
                tensor,
                "train" if self.frozen.training else "eval",
                self.backend,
                where,
                float(analytic),
                float(numeric),
                kind,
                hint,
            )
        )

    def run(self, tensors):
        """Return all entries."""
        try:
            gradients = self._gradients(tensors)
        except CnnError:
            raise
        except Exception as error:
            self.add("x", "forward and backward", math.nan, math.nan, BUG, _raised(error))
            return self.found
        if gradients is None:
            return self.found
        for tensor, target, gradient in gradients:
            self._tensor(tensor, target, gradient)
        return self.found

    # -- the analytic side, and what can be wrong with it before any number is compared ---------

    def _gradients(self, tensors):
        """Return [(name, Parameter or None for the input, gradient)]; None after a finding that ends it."""
        x, frozen = self.x, self.frozen
        self.other = x[::-1] + 0.1 * spread(x) * self.rng.standard_normal(x.shape)
        frozen.forward(self.other)  # a cache that survives the next forward will be noticed
        given = x.copy()
        y = frozen.forward(given)
        if not np.isfinite(y).all():
            self.add("x", "forward", math.nan, math.nan, BUG, "forward gives NaN or Inf")
            return None
        self.dy = self.rng.standard_normal(y.shape)
        self._backward()
        first = [self._dx, *[p.grad.copy() for _, p in tensors]]
        upstream = self.dy.copy()
        again = frozen.backward(upstream)
        second = [again, *[p.grad.copy() for _, p in tensors]]
        self._unchanged("forward", given, x)
        self._unchanged("backward", upstream, self.dy)
        names = ["x", *[name for name, _ in tensors]]
        if self._dx.shape != x.shape or self._dx.dtype != np.float64:
            found = f"{self._dx.dtype} {self._dx.shape}"
            hint = f"backward returned dx as {found}, expected float64 {x.shape}"
            self.add("x", "shape", math.nan, math.nan, BUG, hint)
            return None
        targets = [None, *[p for _, p in tensors]]
        for name, target, once, twice in zip(names, targets, first, second, strict=True):
            self._accumulates(name, target, once, twice)
        if not np.array_equal(frozen.forward(x), y):
            hint = "two forward passes from one state differ: something random or uninitialised"
            self.add("x", "forward", math.nan, math.nan, BUG, hint)
        return list(zip(names, targets, first, strict=True))

    def _backward(self):
        """Run backward into cleared gradients; keep dx."""
        for p in self.frozen.layer.parameters():
            p.grad = np.zeros(p.shape)
        self._dx = self.frozen.backward(self.dy.copy())

    def _unchanged(self, what, array, before):
        if not np.array_equal(array, before):
            change = np.abs(array - before).max()
            self.add("x", what, change, 0.0, BUG, f"{what} writes into its caller's array")

    def _accumulates(self, name, target, once, twice):
        """Two backward calls: the same dx, and gradients that add up."""
        expected = once if target is None else 2 * once
        size = np.abs(expected).max(initial=0)
        if not np.isfinite(size) or np.abs(twice - expected).max(initial=0) <= 1e-12 * size:
            return
        worst = np.abs(twice - expected).argmax()
        if target is None:
            hint = "a second backward returns another dx: backward disturbs the cache"
        elif np.array_equal(twice, once):
            hint = "only the last call counted: overwritten instead of accumulated"
        else:
            hint = "a second backward does not add the same gradient: backward disturbs the cache"
        at = f"two backwards {_index(worst, once.shape)}"
        self.add(name, at, twice.flat[worst], expected.flat[worst], BUG, hint)

    # -- one tensor ------------------------------------------------------------------------------

    def _tensor(self, tensor, target, gradient):
        """Compare sampled entries and random directions of one gradient."""
        if not np.isfinite(gradient).all():
            worst = int(np.flatnonzero(~np.isfinite(gradient.ravel()))[0])
            where = _index(worst, gradient.shape)
            self.add(tensor, where, gradient.flat[worst], math.nan, BUG, "the gradient holds NaN or Inf")
            return
        indices = self._sample(gradient)
        results = [(_index(i, gradient.shape), *self._entry(target, gradient, i)) for i in indices]
        for number in range(1, self.directions + 1):
            v = self.rng.standard_normal(gradient.shape)
            results.append((f"direction {number}", *self._compare(target, gradient, v)))
        wrong = [r for r in results if r[3] == BUG]
        hint = self._diagnose(target, gradient, indices, results) if wrong else ""
        for where, analytic, numeric, kind in results:
            self.add(tensor, where, analytic, numeric, kind, hint if kind == BUG else "")

    def _sample(self, gradient):
        """Return flat indices: those of the largest gradients, and others drawn at random."""
        count = min(self.entries, gradient.size)
        largest = np.argsort(-np.abs(gradient.ravel()), kind="stable")[: (count + 1) // 2]
        others = np.setdiff1d(np.arange(gradient.size), largest)
        drawn = self.rng.choice(others, min(count - len(largest), len(others)), replace=False)
        return [int(i) for i in (*largest, *drawn)]

    def _entry(self, target, gradient, index):
        """Return (analytic, numeric, class) of one entry."""
        v = np.zeros(gradient.shape)
        v.flat[index] = 1.0
        return self._compare(target, gradient, v)

    def _compare(self, target, gradient, v):
        """Return (analytic, numeric, class) along ``v``."""
        analytic = np.vdot(gradient, v)
        line = Line(self.frozen, self.x, self.dy, target, v)

        def analytic_at(x):
            self.frozen.forward(x)
            self._backward()
            return np.vdot(self._dx if target is None else target.grad, v)

        return analytic, *judge(line, analytic, self.step, analytic_at, self._jittered())

    def _jittered(self):
        for _ in range(3):
            yield self.x + 0.1 * spread(self.x) * self.rng.standard_normal(self.x.shape)

    # -- what is wrong -----------------------------------------------------------------------------

    def _diagnose(self, target, gradient, indices, results):
        """Return a hint; when only directions are wrong, find a wrong entry and add it to ``results``."""
        if self.frozen.layer.children():
            # its own layers give the better hint, and each forward of a container is long
            numeric = np.array([numeric for _, _, numeric, _ in results[: len(indices)]])
            return explain(gradient, indices, numeric, self._sizes())
        if all(kind != BUG for _, _, _, kind in results[: len(indices)]):
            found = self._search(target, gradient)
            if found is not None:
                results.insert(0, (_index(found, gradient.shape), *self._entry(target, gradient, found)))
                indices = [found]
        return self._explain(target, gradient, indices)

    def _search(self, target, gradient):
        """Return the flat index of one wrong entry, by halving a wrong direction; None if it gets lost."""
        direction = self.rng.standard_normal(gradient.size)
        span = np.arange(gradient.size)
        while len(span) > 1:
            halves = np.array_split(span, 2)
            for half in halves:
                v = np.zeros(gradient.size)
                v[half] = direction[half]
                if self._compare(target, gradient, v.reshape(gradient.shape))[2] == BUG:
                    span = half
                    break
            else:
                return None
        return int(span[0])

    def _explain(self, target, gradient, indices):
        """Measure more entries and return what their pattern says."""
        more = self.rng.choice(gradient.size, min(_MORE, gradient.size), replace=False)
        large = np.argsort(-np.abs(gradient.ravel()), kind="stable")[:_MORE]
        indices = np.unique([*indices, *more, *large]).astype(np.int64)
        numeric = np.array([self._slope(self.x, target, gradient.shape, i) for i in indices])
        stale = np.array([self._slope(self.other, target, gradient.shape, i) for i in indices[:_MORE]])
        analytic = gradient.ravel()[indices[:_MORE]]
        alike = {"rtol": 1e-5, "atol": 1e-5 * np.abs(stale).max()}
        if np.allclose(analytic, stale, **alike) and not np.allclose(stale, numeric[:_MORE], **alike):
            return "stale cache: this is the gradient of the forward before the last"
        return explain(gradient, indices, numeric, self._sizes())

    def _slope(self, x, target, shape, index):
        v = np.zeros(shape)
        v.flat[index] = 1.0
        return Line(self.frozen, x, self.dy, target, v).slope(self.step)[0]

    def _sizes(self):
        """Return the counts by which a mean divides, and what each counts."""
        n, plane = self.x.shape[0], math.prod(self.x.shape[2:])
        kernel = getattr(self.frozen.layer, "kernel_size", (1, 1))
        sizes = {n: f"N = {n} images"}
        sizes.setdefault(math.prod(kernel), f"N = {math.prod(kernel)} cells of the window")
        sizes.setdefault(plane, f"N = {plane} positions")
        sizes.setdefault(n * plane, f"N = {n * plane} values of a channel")
        return sizes


def spread(x):
    """Return the standard deviation of x, or 1 for a constant."""
    return float(x.std()) or 1.0


def _index(flat, shape):
    """Return "[1, 0, 2]" for a flat position."""
    return "[" + ", ".join(str(int(i)) for i in np.unravel_index(int(flat), shape)) + "]"


def _raised(error):
    return f"raised {type(error).__name__}: {error}"
