"""The one place that says how kernels are compiled."""

import numba

from cnn.kernels import cache

# Sums may be reordered and multiply-adds fused. NaN, Inf and signed zeros of inputs keep their meaning:
# "nnan" and "ninf" would let the compiler drop the very test that finds a diverging run.
FASTMATH = frozenset({"reassoc", "contract", "nsz"})

# Only prange matters here; the array-expression passes cost compile time and find nothing.
_PARALLEL = {
    "prange": True, "comprehension": False, "reduction": False, "inplace_binop": False,
    "setitem": False, "numpy": False, "stencil": False, "fusion": False,
}  # fmt: skip


def jit(function=None, *, parallel=False, inline="never"):
    """Compile ``function`` with the options that all kernels share; ``parallel`` makes prange use all threads."""
    if function is None:
        return lambda f: jit(f, parallel=parallel, inline=inline)
    options = {"fastmath": set(FASTMATH), "nogil": True, "inline": inline, "error_model": "numpy"}
    if parallel:
        options["parallel"] = dict(_PARALLEL)
    kernel = numba.njit(**options)(function)
    if not numba.config.DISABLE_JIT:
        kernel._cache = cache.KernelCache(function)
        cache.DISPATCHERS.append(kernel)
    return kernel
