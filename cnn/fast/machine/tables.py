"""Records: what a task receives, by name, and how it calls another task.

A record is a NamedTuple of int64: addresses, sizes, and floats as their bits. ``Table`` keeps one in memory
for ``launch``, ``reader`` reads it inside the task, ``call_with`` passes one on to another compiled function.

    class Double(NamedTuple):
        x: int          # address of float32 numbers
        factor: int     # bits of a float64

    double_of = reader(Double)

    @task
    def double(index, thread, params):
        p = double_of(params)
        pointer(p.x, 4)[index] *= from_bits(p.factor)

    table = Table(Double(x=0, factor=bits(2.0)))
    table.set(x=address(x))
    launch(double, len(x), table.array)

A field may be a record itself, or a task, which stands for its address. Nothing here checks a bound.
"""

import struct
from functools import cache

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.ccallback import CFunc
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


class Table:
    """A record in memory whose fields are written by name; ``array`` is what ``launch`` takes."""

    __slots__ = ("_places", "array")

    def __init__(self, record):
        self.array = np.array(_numbers(record), np.int64)
        self._places = _places(type(record))

    def set(self, **fields):
        """Write some fields; one that is a record itself is written as a whole."""
        for name, value in fields.items():
            self.array[self._places[name]] = value


def records(rows):
    """An int64 array (rows, fields) of records of one kind, for tasks that read one of many."""
    return np.array([_numbers(row) for row in rows], np.int64)


def _numbers(record):
    numbers = []
    for value in record:
        if isinstance(value, tuple):
            numbers += _numbers(value)
        else:
            numbers.append(value.address if isinstance(value, CFunc) else value)
    return numbers


def _kinds(kind):
    """The kind of record that each field is, or None for a number."""
    return [found if hasattr(found, "_fields") else None for found in kind.__annotations__.values()]


def size_of(kind):
    """How many int64 numbers a record takes."""
    return sum(size_of(inner) if inner else 1 for inner in _kinds(kind))


@cache
def _places(kind):
    """Where in a Table each field stands: a number, or a slice for a record."""
    places, at = {}, 0
    for name, inner in zip(kind._fields, _kinds(kind), strict=True):
        count = size_of(inner) if inner else 1
        places[name] = slice(at, at + count) if inner else at
        at += count
    return places


def _type_of(kind):
    """Numba's type of a record."""
    fields = [_type_of(inner) if inner else types.int64 for inner in _kinds(kind)]
    uniform = all(field == types.int64 for field in fields)
    return types.NamedUniTuple(types.int64, len(fields), kind) if uniform else types.NamedTuple(fields, kind)


def reader(kind):
    """The intrinsic that reads the record of a kind at an address: ``p = double_of(params)``."""
    result = _type_of(kind)

    def load(context, builder, base, kind, at):
        values = []
        for inner in _kinds(kind):
            if inner:
                values.append(load(context, builder, base, inner, at))
            else:
                values.append(builder.load(cgutils.gep_inbounds(builder, base, at)))
            at += size_of(inner) if inner else 1
        return context.make_tuple(builder, _type_of(kind), values)

    @intrinsic
    def read(typingctx, address):
        def emit(context, builder, signature, arguments):
            base = builder.inttoptr(arguments[0], _INT64.as_pointer())
            return load(context, builder, base, kind, 0)

        return result(types.int64), emit

    return read


@intrinsic
def call_with(typingctx, function, record):
    """Call the compiled function at an address with the address of a copy of ``record``."""

    def flat(builder, value, kind):
        for i, inner in enumerate(kind.types):
            part = builder.extract_value(value, i)
            if isinstance(inner, types.BaseTuple):
                yield from flat(builder, part, inner)
            else:
                yield part

    def emit(context, builder, signature, arguments):
        function, packed = arguments
        numbers = list(flat(builder, packed, signature.args[1]))
        memory = cgutils.alloca_once(builder, ir.ArrayType(_INT64, len(numbers)))
        for i, number in enumerate(numbers):
            builder.store(number, cgutils.gep_inbounds(builder, memory, 0, i))
        kind = ir.FunctionType(ir.VoidType(), [_INT64])
        builder.call(builder.inttoptr(function, kind.as_pointer()), [builder.ptrtoint(memory, _INT64)])
        return context.get_dummy_value()

    return types.void(types.int64, record), emit


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
