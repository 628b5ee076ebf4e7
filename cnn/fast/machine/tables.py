"""What a task receives, and how it calls another: addresses, whole numbers, and numbers as their bits.

    @task
    def double(index, thread, params):
        p = integers(params)                       # the table of int64 that ``launch`` was given
        x, factor = pointer(p[0], 4), from_bits(p[1])   # an array of float32, and a float64
        x[index] *= factor

    launch(double, len(x), table([address(x), bits(2.0)]))

Nothing here checks a bound.
"""

import struct

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_INT64 = ir.IntType(64)
_DTYPES = {1: types.uint8, 2: types.uint16, 4: types.float32, 8: types.float64}


@intrinsic
def integers(typingctx, address):
    """The int64 numbers at an address, to be indexed."""
    result = types.CPointer(types.int64)

    def emit(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64), emit


def reader(kind):
    """The intrinsic that reads the int64 numbers at an address as a ``kind``, a NamedTuple.

        class Double(NamedTuple):
            x: int          # address of the numbers
            factor: int     # bits of a float64

        double_of = reader(Double)

        @task
        def double(index, thread, params):
            p = double_of(params)
            pointer(p.x, 4)[index] *= from_bits(p.factor)

        launch(double, len(x), table(Double(x=address(x), factor=bits(2.0))))
    """
    count = len(kind._fields)

    @intrinsic
    def read(typingctx, address):
        result = types.NamedUniTuple(types.int64, count, kind)

        def emit(context, builder, signature, arguments):
            base = builder.inttoptr(arguments[0], _INT64.as_pointer())
            numbers = [builder.load(cgutils.gep_inbounds(builder, base, i)) for i in range(count)]
            return context.make_tuple(builder, result, numbers)

        return result(types.int64), emit

    return read


@intrinsic(prefer_literal=True)
def pointer(typingctx, address, itemsize):
    """The numbers at an address, to be indexed: uint8, uint16, float32, float64 for 1, 2, 4, 8 bytes."""
    if not isinstance(itemsize, types.IntegerLiteral):
        return None
    result = types.CPointer(_DTYPES[itemsize.literal_value])

    def emit(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, itemsize), emit


@intrinsic
def from_bits(typingctx, bits):
    """The float64 number that an int64 holds the bits of; see ``bits``."""

    def emit(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), emit


def bits(number):
    """A float as an int64 for the table of a task."""
    return struct.unpack("q", struct.pack("d", number))[0]


@intrinsic
def call(typingctx, function, arguments):
    """Call the compiled function at an address with a tuple of int64."""
    count = len(arguments)

    def emit(context, builder, signature, values):
        function, packed = values
        kind = ir.FunctionType(ir.VoidType(), [_INT64] * count)
        builder.call(
            builder.inttoptr(function, kind.as_pointer()), cgutils.unpack_tuple(builder, packed, count)
        )
        return context.get_dummy_value()

    return types.void(types.int64, arguments), emit
