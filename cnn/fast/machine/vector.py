"""A vector of sixteen numbers as a value inside kernels: one per image of a block.

Between jitted functions a vector behaves like a number:

    v = load(x, i)                 # x[i : i + 16] of a flat array
    w = fma(v, a, b)               # v * a + b, rounded once
    store(y, i, select(greater(v, w), v, w))

The compiler keeps vectors in registers and splits them to what the machine has (two AVX2 registers or one
AVX-512 register of float32), so nothing depends on its loop vectoriser. Arithmetic with a plain number first
gives the number the vector's dtype. Comparisons give a mask of sixteen booleans; with a NaN they are false.

How it works: ``VectorType`` tells Numba that such a value is LLVM's ``<16 x float>`` (or double, or i1 for
masks); each ``@intrinsic`` below returns the type of its result and a function that emits the instruction.
Reference: LLVM Language Reference Manual, "Vector Operations".
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from cnn.fast.machine import bf16
from cnn.fast.machine.simd import LANES

_I32 = ir.IntType(32)


class VectorType(types.Type):
    """Numba's type of sixteen values of ``dtype`` (float32, float64, or boolean for a mask)."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Vector16({dtype})")


_ELEMENTS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: ir.IntType(1)}
MASK = VectorType(types.boolean)


def _llvm(dtype):
    return ir.VectorType(_ELEMENTS[dtype], LANES)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _llvm(fe_type.dtype))


def _address(context, builder, array_type, array, index, element):
    """Pointer to array[index] as a pointer to ``element`` (an LLVM type)."""
    data = (
        array
        if isinstance(array_type, types.CPointer)
        else context.make_array(array_type)(context, builder, value=array).data
    )
    pointer = builder.gep(data, [index], source_etype=context.get_data_type(array_type.dtype))
    return builder.bitcast(pointer, element.as_pointer())


def _splat(builder, number):
    vector_type = ir.VectorType(number.type, LANES)
    first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), number, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector_type, ir.Undefined), zeros)


def _call(builder, name, arguments):
    """Call LLVM's overloaded intrinsic ``name`` on vectors (or scalars) of one type."""
    kind = arguments[0].type
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    bits = 32 if isinstance(scalar, ir.FloatType) else 64
    suffix = f"v{LANES}f{bits}" if isinstance(kind, ir.VectorType) else f"f{bits}"
    signature = ir.FunctionType(kind, [kind] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"{name}.{suffix}")
    return builder.call(function, arguments)


# -- memory -----------------------------------------------------------------------------------------------


def _number(dtype):
    """The type that numbers of an array are computed with: uint16 stands for bfloat16."""
    return types.float32 if dtype == types.uint16 else dtype


@intrinsic
def load(typingctx, array, index):
    """array[index : index + 16] of a flat array of floats or bfloat16, as a vector."""
    result = VectorType(_number(array.dtype))

    def emit(context, builder, signature, arguments):
        place = _address(context, builder, array, *arguments, _llvm(result.dtype))
        if array.dtype == types.uint16:
            return bf16.load_wide(builder, place)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return result(array, types.intp), emit


@intrinsic
def store(typingctx, array, index, value):
    """array[index : index + 16] = value, rounded where the array is of bfloat16."""

    def emit(context, builder, signature, arguments):
        *place, stored = arguments
        if array.dtype == types.uint16:
            stored = bf16.narrow(builder, stored)
        target = _address(context, builder, array, *place, stored.type)
        builder.store(stored, target, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def load_equal(typingctx, array, index, number):
    """Mask of array[index + lane] == number, for an array of small unsigned integers."""

    def emit(context, builder, signature, arguments):
        kind = ir.VectorType(context.get_value_type(array.dtype), LANES)
        found = builder.load(
            _address(context, builder, array, *arguments[:2], kind), align=array.dtype.bitwidth // 8
        )
        return builder.icmp_unsigned("==", found, _splat(builder, arguments[2]))

    return MASK(array, types.intp, array.dtype), emit


@intrinsic
def store_integers(typingctx, array, index, value):
    """array[index : index + 16] = value, whole numbers into an array of small unsigned integers."""

    def emit(context, builder, signature, arguments):
        kind = ir.VectorType(context.get_value_type(array.dtype), LANES)
        whole = builder.fptoui(arguments[2], kind)
        builder.store(
            whole, _address(context, builder, array, *arguments[:2], kind), align=array.dtype.bitwidth // 8
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


# -- making and taking apart ------------------------------------------------------------------------------


@intrinsic
def splat(typingctx, number):
    """The vector whose sixteen entries are all ``number`` (float32 or float64)."""

    def emit(context, builder, signature, arguments):
        return _splat(builder, arguments[0])

    return VectorType(number)(number), emit


@intrinsic
def zeros(typingctx, array):
    """Sixteen zeros of the type that numbers of the array are computed with."""
    result = VectorType(_number(array.dtype))

    def emit(context, builder, signature, arguments):
        return ir.Constant(_llvm(result.dtype), [0.0] * LANES)

    return result(array), emit


@intrinsic
def first_lanes(typingctx, count):
    """Mask that is true for lanes 0 .. count - 1."""

    def emit(context, builder, signature, arguments):
        wide = ir.VectorType(ir.IntType(64), LANES)
        return builder.icmp_signed("<", ir.Constant(wide, list(range(LANES))), _splat(builder, arguments[0]))

    return MASK(types.int64), emit


@intrinsic
def total(typingctx, vector):
    """Sum of the sixteen entries, always as a balanced tree: the same bits everywhere."""

    def emit(context, builder, signature, arguments):
        value, width = arguments[0], LANES
        while width > 1:
            undefined, half = ir.Constant(value.type, ir.Undefined), width // 2
            low, high = (
                builder.shuffle_vector(
                    value, undefined, ir.Constant(ir.VectorType(_I32, half), list(range(start, start + half)))
                )
                for start in (0, half)
            )
            value, width = builder.fadd(low, high), half
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return vector.dtype(vector), emit


# -- arithmetic -------------------------------------------------------------------------------------------


def _as_vector(context, builder, value, given, dtype):
    if isinstance(given, VectorType):
        return value
    return _splat(builder, context.cast(builder, value, given, dtype))


def _result_type(a, b):
    vectors = [t for t in (a, b) if isinstance(t, VectorType) and t != MASK]
    others = [t for t in (a, b) if not isinstance(t, VectorType)]
    if len(vectors) == 2 and vectors[0] != vectors[1]:
        return None
    if vectors and len(vectors) + len(others) == 2 and all(isinstance(t, types.Number) for t in others):
        return vectors[0]
    return None


def _operator(function, instruction):
    @type_callable(function)
    def typing(context):
        return lambda a, b: _result_type(a, b)

    def emit(context, builder, signature, arguments):
        dtype = signature.return_type.dtype
        a, b = (
            _as_vector(context, builder, v, t, dtype) for v, t in zip(arguments, signature.args, strict=True)
        )
        return getattr(builder, instruction)(a, b, flags=("contract", "nsz"))

    for left, right in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(function, left, right)(emit)


for _function, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _operator(_function, _instruction)


def _numbers_to(*given):
    """The vector type among ``given``, and a function that brings all arguments to it."""
    vector = next(t for t in given if isinstance(t, VectorType) and t != MASK)

    def bring(context, builder, arguments):
        return [
            _as_vector(context, builder, a, t, vector.dtype) for a, t in zip(arguments, given, strict=True)
        ]

    return vector, bring


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once; each a vector or a number."""
    vector, bring = _numbers_to(a, b, c)

    def emit(context, builder, signature, arguments):
        return _call(builder, "llvm.fma", bring(context, builder, arguments))

    return vector(a, b, c), emit


@intrinsic
def rounded(typingctx, a):
    """The nearest whole number, ties to even."""

    def emit(context, builder, signature, arguments):
        return _call(builder, "llvm.rint", arguments)

    return a(a), emit


@intrinsic
def magnitude(typingctx, a):
    """|a|."""

    def emit(context, builder, signature, arguments):
        return _call(builder, "llvm.fabs", arguments)

    return a(a), emit


@intrinsic
def root(typingctx, a):
    """The square root."""

    def emit(context, builder, signature, arguments):
        return _call(builder, "llvm.sqrt", arguments)

    return a(a), emit


@intrinsic
def with_sign(typingctx, a, b):
    """|a| with the sign of b."""

    def emit(context, builder, signature, arguments):
        return _call(builder, "llvm.copysign", arguments)

    return a(a, b), emit


@intrinsic
def power_of_two(typingctx, a):
    """2**a for whole numbers -126 <= a <= 127 in float32: written into the exponent bits."""

    def emit(context, builder, signature, arguments):
        whole = ir.VectorType(_I32, LANES)
        exponent = builder.add(builder.fptosi(arguments[0], whole), ir.Constant(whole, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(whole, [23] * LANES)), _llvm(types.float32))

    return a(a), emit


@intrinsic
def exponent(typingctx, a):
    """floor(log2(a)) of normal positive numbers in float32: read from the exponent bits."""

    def emit(context, builder, signature, arguments):
        whole = ir.VectorType(_I32, LANES)
        bits = builder.lshr(builder.bitcast(arguments[0], whole), ir.Constant(whole, [23] * LANES))
        return builder.sitofp(builder.sub(bits, ir.Constant(whole, [127] * LANES)), _llvm(types.float32))

    return a(a), emit


def _compare(name, predicate, doc, unordered=False):
    def typed(typingctx, a, b):
        _, bring = _numbers_to(a, b)

        def emit(context, builder, signature, arguments):
            compare = builder.fcmp_unordered if unordered else builder.fcmp_ordered
            return compare(predicate, *bring(context, builder, arguments))

        return MASK(a, b), emit

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(typed)


greater = _compare("greater", ">", "Mask of a > b.")
at_least = _compare("at_least", ">=", "Mask of a >= b.")
unordered = _compare("unordered", "uno", "Mask of: a or b is NaN.", unordered=True)
not_at_most = _compare("not_at_most", ">", "Mask of a > b, or a or b is NaN.", unordered=True)


@intrinsic
def either(typingctx, a, b):
    """Mask of a or b."""

    def emit(context, builder, signature, arguments):
        return builder.or_(*arguments)

    return MASK(MASK, MASK), emit


@intrinsic
def both(typingctx, a, b):
    """Mask of a and b."""

    def emit(context, builder, signature, arguments):
        return builder.and_(*arguments)

    return MASK(MASK, MASK), emit


@intrinsic
def negated(typingctx, a):
    """Mask of not a."""

    def emit(context, builder, signature, arguments):
        return builder.not_(arguments[0])

    return MASK(MASK), emit


@intrinsic
def select(typingctx, mask, a, b):
    """Lane by lane a where the mask is true, else b; a or b may be a number."""
    vector, bring = _numbers_to(a, b)

    def emit(context, builder, signature, arguments):
        return builder.select(arguments[0], *bring(context, builder, arguments[1:]))

    return vector(MASK, a, b), emit
