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
from types import MappingProxyType

import numpy as np

from cnn.fast.machine.placement import Lifetimes

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
    """A zeroed C-contiguous array that starts at a cache line (64 bytes), a large one at a huge page.

    A cache line before it and one behind may be read: kernels load whole vectors, to use some lanes of them.
    """
    count = 1
    for extent in shape:
        count *= extent
    size = count * np.dtype(dtype).itemsize
    alignment = HUGE_PAGE if size >= HUGE_PAGE else ALIGNMENT
    room = size + alignment + 2 * ALIGNMENT
    raw = _huge_pages(room) if size >= HUGE_PAGE else None
    if raw is None:
        raw = np.zeros(room, np.uint8)
    start = ALIGNMENT + -(raw.ctypes.data + ALIGNMENT) % alignment
    return raw[start : start + size].view(dtype).reshape(shape)


class _Owner:
    """Plans by geometry and working memory by name."""

    wanted = MappingProxyType({})  # bytes by name, of working memory that is known to be asked for
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
            known = self.wanted.get(name, 0)
            found = aligned_zeros((known if size <= known else 1 << (size - 1).bit_length(),), np.uint8)
            self.areas[name] = found
        return found


class Arena(_Owner):
    """Memory for programs that run one at a time: each lays its arrays out over the same chunks.

    Parameters
    ----------
    dry : bool
        Take no memory, but note what is taken when: for an arena that is to ``expect`` it.
    """

    def __init__(self, dry=False):
        super().__init__()
        self.dry, self.chunks, self._next = dry, [], ALIGNMENT
        self.lifetimes, self._numbers, self.wanted, self._outgrown = Lifetimes(), {}, {}, {}

    @property
    def nbytes(self):
        """Bytes of all chunks; of a dry arena, of the one that it would take."""
        return self.lifetimes.place()[0] if self.dry else sum(size for _, size, _ in self.chunks)

    @property
    def working_bytes(self):
        """Bytes of the working memory of all plans; of a dry arena, of those of one that expects it."""
        arrays = [*self.areas.values(), *(a for p in self.plans.values() for a in vars(p).values())]
        sizes = {id(a): a.nbytes for a in arrays if isinstance(a, np.ndarray)}
        return sum(size for key, size in sizes.items() if key not in self._outgrown)

    def workspace(self, name, size):
        """Return at least ``size`` bytes that all plans of the arena share under ``name``."""
        before = self.areas.get(name)
        found = super().workspace(name, size)
        if self.dry:
            self.wanted[name] = max(size, self.wanted.get(name, 0))
            if found is not before and before is not None:
                self._outgrown[id(before)] = before
        return found

    def expect(self, dry):
        """Make room for what a dry arena noted; return [(address, size)] of its arrays, in their order."""
        total, places = dry.lifetimes.place()
        self.wanted = {name: max(size, self.wanted.get(name, 0)) for name, size in dry.wanted.items()}
        base = next((start for start, size, _ in self.chunks if size >= total), None)
        base = self.grow(total)[0] if base is None else base
        return [(base + offset, size) for offset, size in places]

    def grow(self, size):
        """Add a chunk of at least ``size`` bytes; return (address, size) of it."""
        memory = aligned_zeros((max(size, CHUNK),), np.uint8)
        self.chunks.append((memory.ctypes.data, memory.nbytes, memory))
        return self.chunks[-1][:2]

    def take_dry(self, size):
        """Note an array; return an address that no other one has."""
        address, self._next = self._next, self._next + size
        self._numbers[address] = self.lifetimes.start(size)
        return address

    def release_dry(self, address):
        """Note that the array at an address is not used any more."""
        self.lifetimes.end(self._numbers[address])

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

    An array is given back when nothing refers to it any more: what Python counts while the steps are lowered,
    in their order, is its lifetime. It lies where a dry lowering before has found a place for it, else in the
    smallest gap that holds it.

    Parameters
    ----------
    arena : Arena
    taken : iterable of (address, size)
        What must stay as it is: arrays of an earlier part of the program.
    precision : str
        How activations are stored and multiplied: "float32" or "bf16".
    share : cnn.parallel.share.Share, optional
        The part of a batch that the program computes.
    places : iterable of (address, size)
        Of the arrays to come, in their order, as ``Arena.expect`` says.
    """

    def __init__(self, arena, taken=(), precision="float32", share=None, places=()):
        self.arena, self.entries, self.kept, self.precision = arena, [], [], precision
        self.share = share
        self._taken, self._places = dict(taken), iter(places)
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
        address = self.arena.take_dry(size) if self.arena.dry else self._place(size)
        self._taken[address] = size
        return self.arena.view(address, shape, dtype), address, self

    def _place(self, size):
        """Return the address for ``size`` bytes that are taken from a gap."""
        planned, expected = next(self._places, (0, 0))
        holds = [at <= planned and planned + size <= at + room for at, room in self._gaps]
        if expected == size and any(holds):
            at, room = self._gaps.pop(holds.index(True))
            address = planned
        else:
            self._places = iter(())  # what follows was planned for other arrays
            fitting = [gap for gap in self._gaps if gap[1] >= size]
            if fitting:
                at, room = min(fitting, key=lambda gap: gap[1])
                self._gaps.remove((at, room))
            else:
                at, room = self.arena.grow(size)
            address = at
        rest = (at, address - at), (address + size, at + room - address - size)
        self._gaps += [gap for gap in rest if gap[1]]
        return address

    def release(self, address):
        """Take the memory of an array back for arrays to come."""
        if self._open:
            del self._taken[address]
            if self.arena.dry:
                self.arena.release_dry(address)
                return
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
