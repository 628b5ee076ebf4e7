"""exp, tanh, erf, log1p and log of a vector: polynomials in float32, the mathematical library in float64.

Largest errors of the float32 forms over all inputs (measured by tests/test_kernels_activation.py):

    exp     relative 2e-7, where the result is a normal number; 0 below -87.3, inf above 88.72
    tanh    relative 4e-7
    erf     absolute 3e-7
    log1p   relative 3e-7, for 0 <= x <= 1, where alone it is defined
    log     relative 3e-7 from 1 on, absolute 2e-7 below; for normal numbers above 0

Sources: Cephes Mathematical Library by S. Moshier (exp, tanh); the rational minimax form of erf as in Eigen.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from cnn.fast.machine import vector as v
from cnn.fast.machine.jit import FLAGS

_OPTIONS = {"jit_options": {"fastmath": FLAGS}}


def exp(x):
    """e**x of a vector."""
    return np.exp(x)


def tanh(x):
    """Hyperbolic tangent of a vector."""
    return np.tanh(x)


def erf(x):
    """Error function of a vector."""
    return np.array([math.erf(number) for number in x], x.dtype)


def log1p(x):
    """log(1 + x) of a vector of numbers from 0 to 1."""
    return np.log1p(x)


def log(x):
    """The natural logarithm of a vector of normal numbers above 0."""
    return np.log(x)


def _exp32(x):
    low, high = -87.33654, 89.0
    c = v.select(v.greater(x, high), high, v.select(v.greater(low, x), low, x))
    n = v.rounded(c * 1.4426950408889634)
    r = v.fma(n, -0.693359375, c)
    r = v.fma(n, 2.12194440e-4, r)
    p = v.fma(r, 1.9875691500e-4, 1.3981999507e-3)
    p = v.fma(p, r, 8.3334519073e-3)
    p = v.fma(p, r, 4.1665795894e-2)
    p = v.fma(p, r, 1.6666665459e-1)
    p = v.fma(p, r, 5.0000001201e-1)
    p = v.fma(p, r * r, r) + 1.0
    half = v.rounded(n * 0.5)  # 2**n in two factors: n = 128 is no exponent, but its products may be numbers
    return v.select(v.greater(low, x), 0.0, p * v.power_of_two(half) * v.power_of_two(n - half))


def _tanh32(x):
    a = v.magnitude(x)
    s = x * x
    p = v.fma(s, -5.70498872745e-3, 2.06390887954e-2)
    p = v.fma(p, s, -5.37397155531e-2)
    p = v.fma(p, s, 1.33314422036e-1)
    p = v.fma(p, s, -3.33332819422e-1)
    near = v.fma(p * s, x, x)
    far = 1.0 - 2.0 / (exp(2.0 * a) + 1.0)
    return v.select(v.greater(0.625, a), near, v.with_sign(far, x))


def _erf32(x):
    c = v.select(v.greater(x, 4.0), 4.0, v.select(v.greater(-4.0, x), -4.0, x))
    s = c * c
    p = v.fma(s, -2.72614225801306e-10, 2.77068142495902e-08)
    p = v.fma(p, s, -2.10102402082508e-06)
    p = v.fma(p, s, -5.69250639462346e-05)
    p = v.fma(p, s, -7.34990630326855e-04)
    p = v.fma(p, s, -2.95459980854025e-03)
    p = v.fma(p, s, -1.60960333262415e-02)
    q = v.fma(s, -1.45660718464996e-05, -2.13374055278905e-04)
    q = v.fma(q, s, -1.68282697438203e-03)
    q = v.fma(q, s, -7.37332916720468e-03)
    q = v.fma(q, s, -1.42647390514189e-02)
    return c * p / q


def _log1p32(x):
    s = x / (x + 2.0)  # log(1 + x) = 2 artanh(s), s <= 1/3
    q = s * s
    p = v.fma(q, 1.0 / 13.0, 1.0 / 11.0)
    p = v.fma(p, q, 1.0 / 9.0)
    p = v.fma(p, q, 1.0 / 7.0)
    p = v.fma(p, q, 1.0 / 5.0)
    p = v.fma(p, q, 1.0 / 3.0)
    return 2.0 * v.fma(p * q, s, s)


def _log32(x):
    n = v.exponent(x)
    half = v.rounded(n * 0.5)
    m = x * v.power_of_two(0.0 - half) * v.power_of_two(half - n)  # from 1 to 2
    return v.fma(n, 0.693145751953125, v.fma(n, 1.428606765330187e-6, log1p(m - 1.0)))


def _pair(function, single, double):
    """Give ``function`` its float32 and float64 forms inside kernels."""

    @overload(function, **_OPTIONS)
    def choose(x):
        if isinstance(x, v.VectorType):
            return single if x.dtype == types.float32 else double
        return None


def _library(name, symbol):
    """The function of the mathematical library, lane by lane (float64 only: exact, not fast)."""

    def typed(typingctx, a):
        number_of_lane = ir.IntType(32)

        def emit(context, builder, signature, arguments):
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.DoubleType(), [ir.DoubleType()]), symbol
            )
            result = ir.Constant(arguments[0].type, ir.Undefined)
            for lane in range(v.LANES):
                number = builder.extract_element(arguments[0], ir.Constant(number_of_lane, lane))
                result = builder.insert_element(
                    result, builder.call(function, [number]), ir.Constant(number_of_lane, lane)
                )
            return result

        return a(a), emit

    typed.__name__ = name
    return intrinsic(typed)


_library_exp = _library("library_exp", "exp")
_library_log = _library("library_log", "log")
_library_log1p = _library("library_log1p", "log1p")
_library_tanh = _library("library_tanh", "tanh")
_library_erf = _library("library_erf", "erf")

_pair(exp, _exp32, lambda x: _library_exp(x))
_pair(tanh, _tanh32, lambda x: _library_tanh(x))
_pair(erf, _erf32, lambda x: _library_erf(x))
_pair(log1p, _log1p32, lambda x: _library_log1p(x))
_pair(log, _log32, lambda x: _library_log(x))
