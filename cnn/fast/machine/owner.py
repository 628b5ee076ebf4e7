"""Who owns memory: the program that is being lowered, or else the thread that computes at once.

Everything that kernels write to besides their results (packed weights, partial sums, scratch) and every table
that a plan fills in belongs to an owner, and an owner serves one thread at a time. So two networks in two
threads, or two threads that ask one network, never meet in one buffer.

    Arena      memory of the programs that run one at a time, with the plans of their geometries
    Lowering   one program while it is written down: which parts of the arena are taken, which launches follow
    Eager      a thread that runs operations at once, outside of any program
"""

import math
import mmap
import threading
from collections import OrderedDict, defaultdict
from contextlib import contextmanager

import numpy as np

ALIGNMENT = 64
CHUNK = 1 << 20  # bytes: what an arena asks for at least, so that small arrays lie together
HUGE_PAGE = 1 << 21  # bytes, of x86 and most others
PLANS = 256  # that a thread keeps for operations outside of programs


def _huge_pages(size):
    """Zeroed bytes for which Linux was asked to use huge pages, or None where it cannot be asked.

    Kernels walk over planes of many channels, each in a page of its own if pages have 4 KiB: more than the
    processor remembers the addresses of. A training step of ResNet-20 takes some 4 % less.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, OverflowError):  # a kernel without them, or no memory, of which NumPy tells
        return None
    return np.frombuffer(area, np.uint8)


def aligned_zeros(shape, dtype):
    """A zeroed C-contiguous array that starts at a cache line (64 bytes), a large one at a huge page."""
    count = 1
    for extent in shape:
        count *= extent
    size = count * np.dtype(dtype).itemsize
    alignment = HUGE_PAGE if size >= HUGE_PAGE else ALIGNMENT
    raw = _huge_pages(size + alignment) if size >= HUGE_PAGE else None
    if raw is None:
        raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(dtype).reshape(shape)


class _Owner:
    """Plans by geometry and working memory by name."""

    precision = "float32"  # how activations are stored and multiplied: "float32" or "bf16"
    share = None  # the part of a batch that is computed, if not all of it; see ``cnn.fast.kernels.shared``

    def __init__(self):
        self.plans, self.areas = OrderedDict(), {}

    def plan(self, make, arguments):
        """Return ``make(*arguments)``, made once."""
        key = make, arguments
        found = self.plans.get(key)
        if found is None:
            found = self.plans[key] = make(*arguments)
        return found

    def workspace(self, name, size):
        """Return at least ``size`` bytes that all plans of this owner share under ``name``."""
        found = self.areas.get(name)
        if found is None or found.nbytes < size:
            # plans made before hold the address of a smaller area, which they keep alive
            found = self.areas[name] = aligned_zeros((1 << (size - 1).bit_length(),), np.uint8)
        return found


class Arena(_Owner):
    """Memory for programs that run one at a time: each lays its arrays out over the same chunks.

    Parameters
    ----------
    dry : bool
        Take no memory; only ``nbytes`` is of interest.
    """

    def __init__(self, dry=False):
        super().__init__()
        self.dry, self.chunks, self._next = dry, [], ALIGNMENT

    @property
    def nbytes(self):
        """Bytes of all chunks."""
        return sum(size for _, size, _ in self.chunks)

    @property
    def working_bytes(self):
        """Bytes of the working memory of all plans."""
        arrays = [*self.areas.values(), *(a for p in self.plans.values() for a in vars(p).values())]
        return sum({id(a): a.nbytes for a in arrays if isinstance(a, np.ndarray)}.values())

    def grow(self, size):
        """Add a chunk of at least ``size`` bytes; return (address, size) of it."""
        size = max(size, CHUNK)
        if self.dry:
            address, memory = self._next, None
            self._next += size + ALIGNMENT
        else:
            memory = aligned_zeros((size,), np.uint8)
            address = memory.ctypes.data
        self.chunks.append((address, size, memory))
        return address, size

    def view(self, address, shape, dtype):
        """Return the array of ``shape`` at an address inside a chunk."""
        dtype = np.dtype(dtype)
        if self.dry:
            try:
                return np.broadcast_to(np.zeros((), dtype), shape)
            except ValueError as error:
                raise MemoryError(f"an array of {math.prod(shape):.1e} numbers") from error
        size = int(np.prod(shape)) * dtype.itemsize
        for start, extent, memory in self.chunks:
            if start <= address < start + extent:
                return memory[address - start : address - start + size].view(dtype).reshape(shape)
        raise KeyError(address)


class Lowering:
    """The arrays and launches of one program while it is written down.

    An array takes the smallest gap that holds it and gives it back when nothing refers to it any more: what
    Python counts while the steps are lowered, in their order, is the lifetime of the array.

    Parameters
    ----------
    arena : Arena
    taken : iterable of (address, size)
        What must stay as it is: arrays of an earlier part of the program.
    precision : str
        How activations are stored and multiplied: "float32" or "bf16".
    share : cnn.parallel.share.Share, optional
        The part of a batch that the program computes.
    """

    def __init__(self, arena, taken=(), precision="float32", share=None):
        self.arena, self.entries, self.kept, self.precision = arena, [], [], precision
        self.share = share
        self._taken = dict(taken)
        self._gaps = _gaps(arena.chunks, self._taken)
        self._open = True

    def plan(self, make, arguments):
        """Return the plan of the arena; the program keeps it."""
        found = self.arena.plan(make, arguments)
        self.kept.append(found)
        return found

    def workspace(self, name, size):
        """Return working memory of the arena; the program keeps it."""
        found = self.arena.workspace(name, size)
        self.kept.append(found)
        return found

    def allocate(self, shape, dtype):
        """Return (array, address, what takes it back)."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        size = max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)
        fitting = [gap for gap in self._gaps if gap[1] >= size]
        if fitting:
            gap = min(fitting, key=lambda gap: gap[1])
            self._gaps.remove(gap)
        else:
            gap = self.arena.grow(size)
        address, room = gap
        if room > size:
            self._gaps.append((address + size, room - size))
        self._taken[address] = size
        return self.arena.view(address, shape, dtype), address, self

    def release(self, address):
        """Take the memory of an array back for arrays to come."""
        if self._open:
            del self._taken[address]
            self._gaps = _gaps(self.arena.chunks, self._taken)

    def scratch(self, shape, dtype):
        """Return a zeroed array that the program keeps."""
        array = aligned_zeros(shape, dtype)
        self.kept.append(array)
        return array

    def launch(self, function, count, params):
        """Write a launch down."""
        self.entries.append((function, count, params.copy()))

    def call(self, function):
        """Write a call of a Python function without arguments down."""
        self.entries.append(function)

    def close(self):
        """End the lowering: nothing is taken back any more; return what is taken as (address, size) pairs."""
        self._open, self.entries, self.kept = False, [], []
        return tuple(self._taken.items())


def _gaps(chunks, taken):
    """Return the (address, size) gaps of the chunks between what is taken."""
    gaps = []
    for start, size, _ in chunks:
        at = start
        for address in sorted(a for a in taken if start <= a < start + size):
            if address > at:
                gaps.append((at, address - at))
            at = address + taken[address]
        if at < start + size:
            gaps.append((at, start + size - at))
    return gaps


class Eager(_Owner):
    """The memory of one thread that runs operations at once: buffers wait by shape to be used again."""

    def __init__(self):
        super().__init__()
        self.pool = defaultdict(list)

    def plan(self, make, arguments):
        """Return a plan, the latest of which are kept."""
        found = super().plan(make, arguments)
        self.plans.move_to_end((make, arguments))
        while len(self.plans) > PLANS:
            self.plans.popitem(last=False)
        return found

    def allocate(self, shape, dtype):
        """Return (array, address, the list that takes both back)."""
        home = self.pool[tuple(shape), np.dtype(dtype).char]
        try:
            buffer, address = home.pop()
        except IndexError:
            buffer = aligned_zeros(shape, dtype)
            address = buffer.ctypes.data
        return buffer, address, home

    def scratch(self, shape, dtype):
        """Return a zeroed array, the caller's to keep."""
        return aligned_zeros(shape, dtype)


class _Local(threading.local):
    lowering = None

    def __init__(self):
        self.eager = Eager()


local = _Local()


def owner():
    """The program that this thread lowers, else the thread's own memory."""
    return local.lowering or local.eager


def lowering():
    """The program that this thread lowers, or None."""
    return local.lowering


@contextmanager
def precision(name):
    """Let operations of this thread's owner store and multiply so inside a ``with`` block."""
    target = owner()
    before, target.precision = target.precision, name
    try:
        yield
    finally:
        target.precision = before


@contextmanager
def lower_into(target):
    """Write launches of this thread into a Lowering inside a ``with`` block instead of making them."""
    before, local.lowering = local.lowering, target
    try:
        yield target
    finally:
        local.lowering = before
