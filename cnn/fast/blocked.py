"""BlockedArray: sixteen images side by side, so that one vector instruction serves one pixel of them all.

Memory holds ``[B][C][H][W][16]`` with ``B = ceil(N / 16)``: the innermost axis ("lane") runs over images.
A kernel written for one image then runs for sixteen at full vector width, whatever the number of channels,
the width of the image or the size of the window; nothing is ever shuffled. There is no border of zeros:
windows are clipped where they are planned, once a geometry, so padding costs neither memory nor arithmetic.

Eight images and fewer would leave half of the lanes idle. So training cuts their planes into strips of rows,
which are lanes like images (``Strips``, ``cnn.fast.kernels.strips``), up to where whole images are needed.

Promises that every kernel keeps:

* tail lanes (images past N in the last block), and rows that a last strip has too many, are finite in
  activations and exactly zero in gradients, so sums over lanes of ``gradient * activation`` need no mask;
* a buffer belongs to one BlockedArray and goes back to its owner (``cnn.fast.machine.owner``) when that
  array dies: a training step that repeats the shapes of the step before allocates nothing.
"""

import sys
from dataclasses import dataclass

import numpy as np

from cnn.fast.machine.bf16 import BFLOAT16, widened
from cnn.fast.machine.owner import local, owner
from cnn.fast.machine.simd import LANES
from cnn.pixels import Pixels

_FLOATS = (np.float32, np.float64)


_pack = _pack_pixels = _unpack = _convert = None


class NotLowerable(Exception):
    """A layer asked for the values of an array, or brought an array of its own, while a program was lowered.

    Then there are no values yet: the layer is not ``pure``, whatever its class says.
    """


@dataclass(frozen=True)
class Strips:
    """How few images fill the lanes: cut into strips of ``rows`` rows; see ``cnn.fast.kernels.strips``.

    Parameters
    ----------
    images, height : int
        Of the array (N, C, H, W) that is cut.
    rows : int
        Of a strip; the last one may have fewer.
    """

    images: int
    height: int
    rows: int

    @property
    def count(self):
        """Strips of an image."""
        return -(-self.height // self.rows)

    @property
    def whole(self):
        """Rows that every strip has."""
        return self.height - (self.count - 1) * self.rows

    @property
    def or_none(self):
        """None for images in one piece."""
        return self if self.count > 1 else None

    @property
    def halved(self):
        """Of the maxima of 2x2 windows, or None where windows reach into the next strip."""
        half = Strips(self.images, self.height // 2, self.rows // 2)
        return half if self.rows % 2 == 0 and half.count == self.count else None

    def times(self, factor):
        """Of images with so many times the rows."""
        return Strips(self.images, factor * self.height, factor * self.rows)

    def shape(self, channels, width):
        """Of the array as it lies in memory."""
        return self.images * self.count, channels, self.rows, width


class BlockedArray:
    """An array of images (N, C, H, W) or features (N, F), kept as ``buffer`` [B][C][H][W][16].

    ``shape``, ``ndim``, ``size`` and ``dtype`` read as those of the plain array; features have H = W = 1.
    ``np.asarray(a)`` copies into a plain array. Treat it as immutable outside of kernels.

    A buffer of BFLOAT16 holds float32 numbers, rounded, in half the memory: its ``dtype`` is float32 as well.
    Only kernels that say ``as_stored`` get to see it; all others get it widened by ``as_blocked``.

    Parameters
    ----------
    buffer : float32, float64 or BFLOAT16 array as above, C-contiguous
    shape : (N, C, H, W) or (N, F)
    owner : BlockedArray whose memory ``buffer`` views, if any; it is kept alive
    address : of the first byte, where the caller knows it (kernels take addresses)

    ``moments``, if not None, are the BlockSums that the kernel which wrote it has taken on the way: mean and
    sum of squares about it of each block and channel. ``strips``, if not None, are the Strips of images that
    ``shape`` counts as images.
    """

    __slots__ = ("__weakref__", "_home", "_owner", "address", "buffer", "moments", "shape", "strips")

    def __init__(self, buffer, shape, owner=None, address=None, _home=None):
        self.buffer = buffer
        self.shape = shape
        self.address = buffer.ctypes.data if address is None else address
        self.moments = self.strips = None
        self._owner = owner
        self._home = _home

    def __del__(self):
        home = self._home
        if home is None:
            self.buffer = None  # before the owner goes, which counts who looks at its memory
        elif type(home) is not list:
            home.release(self.address)
        # A view of the buffer held elsewhere keeps `base` referenced: then the memory is left to Python.
        # 2 = the buffer's own reference and getrefcount's argument.
        elif sys is not None and sys.getrefcount(self.buffer.base) <= 2:
            home.append((self.buffer, self.address))

    @property
    def dtype(self):
        """float32 or float64."""
        dtype = self.buffer.dtype
        return np.dtype(np.float32) if dtype == BFLOAT16 else dtype

    @property
    def itemsize(self):
        """Bytes of a number in memory: 2 for bfloat16."""
        return self.buffer.dtype.itemsize

    @property
    def ndim(self):
        """4 or 2."""
        return len(self.shape)

    @property
    def size(self):
        """How many numbers the plain array has."""
        return int(np.prod(self.shape))

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("a BlockedArray has another memory layout; a plain array needs a copy")
        if local.lowering is not None:
            raise NotLowerable
        plain = np.empty(self.shape, self.dtype)
        if _unpack and self.buffer.dtype in _FLOATS:
            _unpack(self.buffer, self.address, plain)
        else:
            buffer = widened(self.buffer) if self.buffer.dtype == BFLOAT16 else self.buffer
            images = np.moveaxis(buffer, -1, 1).reshape(-1, *buffer.shape[1:-1])
            plain[...] = images[: self.shape[0]].reshape(self.shape)
        return plain if dtype is None else plain.astype(dtype, copy=False)

    def __repr__(self):
        return f"BlockedArray(shape={self.shape}, dtype={self.dtype})"


def empty(shape, dtype):
    """A BlockedArray to be written: it holds whatever was there before."""
    blocks = -(-shape[0] // LANES)
    extents = (blocks, *shape[1:], LANES) if len(shape) == 4 else (blocks, shape[1], 1, 1, LANES)
    buffer, address, home = owner().allocate(extents, dtype)
    return BlockedArray(buffer, tuple(shape), None, address, home)


def empty_like(x, shape=None):
    """A BlockedArray to be written, of x's number format and, unless one is given, its shape and strips."""
    y = empty(x.shape if shape is None else shape, x.buffer.dtype)
    y.strips = x.strips if shape is None else None
    return y


def activations(shape, dtype):
    """A BlockedArray for what a layer computes, to be written: float32 as the precision in use stores it."""
    narrow = owner().precision == "bf16" and dtype == np.float32
    return empty(shape, BFLOAT16 if narrow else dtype)


def as_blocked(x, dtype=None):
    """``x`` in the blocked layout; ``x`` itself where that holds already.

    Takes a BlockedArray, Pixels or a plain (N, C, H, W) or (N, F) array of any memory order; float64 stays,
    anything else, and so bfloat16, becomes float32 unless ``dtype`` says otherwise.
    """
    if isinstance(x, BlockedArray) and x.buffer.dtype == BFLOAT16:
        x = converted(x, np.float32)
    if isinstance(x, BlockedArray) and (dtype is None or x.dtype == dtype):
        return x
    if hasattr(x, "to_blocked"):  # Lanes, from here on in this layout
        return x.to_blocked(dtype)
    if local.lowering is not None and isinstance(x, (np.ndarray, BlockedArray, Pixels)):
        raise NotLowerable
    if isinstance(x, BlockedArray):
        result = empty(x.shape, dtype)
        result.buffer[...] = x.buffer
        return result
    if isinstance(x, Pixels) and _pack_pixels and dtype in (None, x.dtype):
        return pack_pixels(x)
    x = np.asarray(x)
    if x.ndim not in (2, 4):
        raise ValueError(f"expected (N, C, H, W) or (N, F), got an array of shape {x.shape}")
    if dtype is None:
        dtype = np.float64 if x.dtype == np.float64 else np.float32
    x = np.ascontiguousarray(x, dtype)
    if _pack and dtype in _FLOATS:
        return pack(x)
    result = empty(x.shape, dtype)
    images = x.reshape(len(x), *result.buffer.shape[1:-1])
    for block, target in enumerate(result.buffer):
        part = images[block * LANES : (block + 1) * LANES]
        target[..., : len(part)] = np.moveaxis(part, 0, -1)
        target[..., len(part) :] = 0
    return result


def as_stored(x, like=None):
    """``x`` in the blocked layout with bfloat16 left as it is; in the number format of ``like`` if given."""
    if not isinstance(x, BlockedArray):
        x = as_blocked(x, None if like is None else like.dtype)
    if like is None or x.buffer.dtype == like.buffer.dtype:
        return x
    if BFLOAT16 in (x.buffer.dtype, like.buffer.dtype):
        return converted(x, like.buffer.dtype)
    return as_blocked(x, like.dtype)


def converted(x, dtype):
    """A BlockedArray of float32 as BFLOAT16, or the other way."""
    result = empty(x.shape, dtype)
    result.strips = x.strips
    _convert(x, result)
    return result


def pack(x):
    """A contiguous plain array of floats in the blocked layout, by one launch whose source it is."""
    result = empty(x.shape, x.dtype)
    _pack(x, result.buffer, result.address)
    return result


def pack_pixels(x):
    """The numbers of Pixels in the blocked layout, by one launch whose source are the images."""
    result = empty(x.shape, x.dtype)
    _pack_pixels(x, result.buffer, result.address)
    return result


def transpose_with(pack, pack_pixels, unpack, convert):
    """Let compiled functions do the copying between layouts; see ``cnn.fast.kernels.layout``."""
    global _pack, _pack_pixels, _unpack, _convert
    _pack, _pack_pixels, _unpack, _convert = pack, pack_pixels, unpack, convert


def flat(x):
    """(N, C, H, W) read as (N, C*H*W): shares the buffer."""
    if x.ndim == 2:
        return x
    blocks, channels, height, width, lanes = x.buffer.shape
    features = channels * height * width
    buffer = x.buffer.reshape(blocks, features, 1, 1, lanes)
    return BlockedArray(buffer, (x.shape[0], features), x, x.address)


def unflat(x, shape):
    """(N, F) read as ``shape`` = (N, C, H, W) with C*H*W = F; shares the buffer."""
    buffer = x.buffer.reshape(len(x.buffer), *shape[1:], LANES)
    return BlockedArray(buffer, tuple(shape), x, x.address)
