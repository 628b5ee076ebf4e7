"""The one place that sets Numba's options."""

import numba
import numpy as np

# Sums may be reordered and fused so that they vectorise. NaN and Inf keep their meaning: the flags
# "nnan" and "ninf" would let the compiler answer False to isnan and hide a diverging run.
_FASTMATH = {"reassoc", "contract", "nsz"}


def jit(parallel=False):
    """Return the decorator that compiles a kernel; ``prange`` loops use all threads with ``parallel``."""
    return numba.njit(parallel=parallel, cache=True, nogil=True, fastmath=_FASTMATH, error_model="numpy")


def contiguous(array):
    """Return ``array`` as a writable C-contiguous NumPy array, so that a kernel compiles once for each dtype.

    Read-only is part of Numba's array type: without the copy, a memory-mapped batch would compile anew.
    """
    array = np.ascontiguousarray(np.asarray(array))
    return array if array.flags.writeable else array.copy()
