"""Micro-kernels: the arithmetic of all convolutions and matrix products, with its sums in registers.

Each is an intrinsic for a register block of ``mr`` by ``nr`` (the names of BLIS), which must fit the
processor: see ``simd.blocks``. ``routines.py`` has the compiled functions around them. Addresses and steps
are in bytes.

Van Zee, van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", TOMS 41(3), 2015.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnn.fast.blocked import LANES
from cnn.fast.machine import bf16
from cnn.fast.machine.simd import INT64, Vectors, literals

# what ``outer_product`` does with its sums
STORE, ADD, STORE_NONTEMPORAL, STORE_NARROW, STORE_NARROW_ROW, SUMS = range(6)


class Loop(NamedTuple):
    """One loop of a sum."""

    count: int  # turns
    vectors: int  # bytes from one turn to the next in the vector operand
    scalars: int  # the same in the scalar operand


class Loops(NamedTuple):
    """The loops of ``outer_product``, the outermost first."""

    a: Loop
    b: Loop
    c: Loop


class Ends(NamedTuple):
    """The addresses of ``outer_product``."""

    vectors: int
    scalars: int
    bias: int
    out: int


class Steps(NamedTuple):
    """Bytes from one row (k) and one column (j) of the register block to the next."""

    scalars_k: int
    vectors_j: int
    out_k: int
    out_j: int


class DotLoop(NamedTuple):
    """One loop of ``dot_product``."""

    count: int  # turns
    left: int  # bytes from one turn to the next in the left operand
    right: int  # the same in the right operand


class DotLoops(NamedTuple):
    """The loops of ``dot_product``, the outer one first."""

    a: DotLoop
    b: DotLoop


class DotEnds(NamedTuple):
    """The addresses of ``dot_product``."""

    left: int
    right: int
    out: int


class DotSteps(NamedTuple):
    """Bytes from one row (k) and one column (c) of the register block to the next."""

    left_k: int
    right_c: int
    out_k: int


ONCE = Loop(1, 0, 0)

_PAIRS = ir.VectorType(ir.IntType(32), 8)  # sixteen bfloat16


@intrinsic
def memory_fence(typing_context):
    """Wait for this thread's non-temporal stores, so that any other thread reads what they wrote.

    x86 has a locked instruction for the full fence, which no store passes, not even a non-temporal one.
    """

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _multiply_all(v, left, right, sums):
    """sums[i][j] += left[i] * right[j]; left and right are functions that write the load of an operand."""
    if len(left) > len(right):
        left, right, sums = right, left, list(zip(*sums, strict=True))
    held = [load() for load in left]
    for j, load in enumerate(right):
        passing = load()
        for value, row in zip(held, sums, strict=True):
            v.builder.store(v.fma(value, passing, v.builder.load(row[j])), row[j])


@intrinsic(prefer_literal=True)
def copy_lanes(typing_context, source, target, count, source_step, target_step, itemsize):
    """Copy ``count`` pixels of sixteen lanes: target[i * target_step] = source[i * source_step]."""
    sizes = literals(itemsize)
    if sizes is None:
        return None
    size = sizes[0]

    def generate(context, builder, signature, arguments):
        source, target, count, source_step, target_step = arguments[:5]
        # sixteen bfloat16 are moved as eight numbers
        v = Vectors(builder, types.float64 if size == 8 else types.float32, LANES // 2 if size == 2 else None)
        with v.loop(count, (source, source_step), (target, target_step)) as (s, t):
            for place in range(0, LANES * size, v.bytes):
                v.store(v.load(v.at(s, place)), v.at(t, place))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, itemsize), generate


@intrinsic
def widen_lanes(typing_context, source, target, count, source_step, target_step):
    """As ``copy_lanes``, from bfloat16 to float32."""

    def generate(context, builder, signature, arguments):
        source, target, count, source_step, target_step = arguments
        v = bf16.Narrow(builder)
        with v.loop(count, (source, source_step), (target, target_step)) as (s, t):
            v.store(v.load_wide(s), t)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def _prefetch(level):
    @intrinsic
    def prefetch(typing_context, address, count):
        """Ask for ``count`` cache lines that will be read soon, without waiting for them."""

        def generate(context, builder, signature, arguments):
            address, count = arguments
            v = Vectors(builder, types.float32)
            with v.loop(count, (address, 64)) as (line,):
                v.prefetch(line, level)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return prefetch


prefetch, prefetch_l2 = _prefetch(1), _prefetch(2)  # into the L1 cache, or no further than the L2 cache


def _unpacked(builder, record, kind):
    """The values of a record; of records within, a list."""
    values = cgutils.unpack_tuple(builder, record, len(kind))
    return [
        _unpacked(builder, value, inner) if isinstance(inner, types.BaseTuple) else value
        for value, inner in zip(values, kind.types, strict=True)
    ]


def _numbers(builder, value):
    """A number, or those of a tuple."""
    alone = not isinstance(value.type, (ir.LiteralStructType, ir.ArrayType))
    return [value] if alone else cgutils.unpack_tuple(builder, value)


@intrinsic(prefer_literal=True)
def outer_product(typing_context, ends, loops, steps, floor, how, mr, nr, itemsize):
    """A sum of outer products: of numbers, each broadcast to a vector, with vectors of sixteen lanes.

        out[k, j] = max(floor, bias[k] + sum over a, b, c of scalars[a, b, c, k] * vectors[a, b, c, j])

    for k < mr and j < nr. ``ends``, ``loops`` and ``steps`` are Ends, Loops and Steps. ``floor``: a number,
    or with (floor, ceiling) out is at most the ceiling. ``how``: STORE the result; STORE_NONTEMPORAL (to
    multiples of the bytes of a register), for results that are not read soon; STORE_NARROW, rounded to
    bfloat16, or if columns are neighbours STORE_NARROW_ROW, two at a time; store the SUMS, without bias and
    bounds; or ADD these to ``out``. ``itemsize``: bytes of a number, 2 for pairs of bfloat16
    (``bf16.Pairs``), whose sums, biases and results are float32. Each turn has mr broadcasts, nr loads and
    mr * nr multiply-adds.
    """
    sizes = literals(how, mr, nr, itemsize)
    if sizes is None:
        return None
    how_, mr_, nr_, size = sizes
    dtype = types.float64 if size == 8 else types.float32

    def generate(context, builder, signature, arguments):
        records = zip(arguments[:3], signature.args[:3], strict=True)
        (vectors, scalars, bias, out), loops, steps = (_unpacked(builder, *record) for record in records)
        scalars_k, vectors_j, out_k, out_j = steps
        v = bf16.Pairs(builder) if size == bf16.SIZE else Vectors(builder, dtype)
        if how_ in (STORE_NARROW, STORE_NARROW_ROW) and size != bf16.SIZE:
            v = bf16.Narrow(builder)
        parts = LANES // v.lanes
        sums = [v.variables(nr_ * parts) for _ in range(mr_)]
        for k in range(mr_):
            start = v.const(0) if how_ in (ADD, SUMS) else v.broadcast(v.at(bias, k * v.itemsize))
            for register in sums[k]:
                builder.store(start, register)
        if how_ == STORE_NARROW_ROW:
            # A line must be there before it is written to. Asked for by its store it would hold up those
            # behind it; asked for here it comes while there is something to multiply.
            end = nr_ * LANES * bf16.SIZE
            for k in range(mr_):
                for place in (*range(0, end, 64), end - 1):
                    v.prefetch(v.at(out, v.times(out_k, k), place), write=True)
        with v.loops(loops, vectors, scalars) as (x, w):
            # The smaller operand waits in registers while the other passes: sums, operands and one register
            # to load into must not exceed what there is, or every turn spills to memory.
            pixel = [v.at(x, v.times(vectors_j, j)) if j else x for j in range(nr_)]
            load = [
                lambda i=i: v.load(v.at(pixel[i // parts], i % parts * v.bytes)) for i in range(nr_ * parts)
            ]
            weigh = [lambda k=k: v.broadcast(v.at(w, v.times(scalars_k, k))) for k in range(mr_)]
            _multiply_all(v, weigh, load, sums)
        limits = [v.splat(number) for number in _numbers(builder, arguments[3])]
        for k in range(mr_):
            row = v.at(out, v.times(out_k, k)) if k else out
            for i, register in enumerate(sums[k]):
                place = v.at(row, v.times(out_j, i // parts), (i % parts) * v.bytes)
                total = builder.load(register)
                # One addition for each call: a gradient of two passes is to be exactly the sum of both.
                if how_ == ADD:
                    total = v.add(v.load(place), v.fence(total))
                elif how_ != SUMS:
                    total = v.max(total, limits[0])
                    total = v.min(total, limits[1]) if limits[1:] else total
                if how_ == STORE_NARROW_ROW and i + 1 < nr_ and i % 2 == 0:
                    left = total
                elif how_ == STORE_NARROW_ROW and i % 2:
                    v.store(v.side_by_side(left, total), v.at(place, -LANES * bf16.SIZE))
                elif how_ in (STORE_NARROW, STORE_NARROW_ROW):
                    v.store_narrow(total, place)
                else:
                    put = v.store_nontemporal if how_ == STORE_NONTEMPORAL else v.store
                    put(total, place)
        return context.get_dummy_value()

    bounds = types.UniTuple(dtype, 2) if isinstance(floor, types.BaseTuple) else dtype
    return types.void(ends, loops, steps, bounds, how, mr, nr, itemsize), generate


@intrinsic(prefer_literal=True)
def dot_product(typing_context, ends, loops, steps, mr, nr, itemsize):
    """Sums over pixels and lanes, added to ``out``, whose nr columns are neighbours.

        out[k, c] += sum over a, b and lanes of left[a, b, k] * right[a, b, c]

    for k < mr and c < nr. ``ends``, ``loops`` and ``steps`` are DotEnds, DotLoops and DotSteps. ``itemsize``:
    bytes of a number, 2 for bfloat16, of which two neighbouring pixels are multiplied at once (turns of b are
    neighbours then) and whose sums are float32.
    """
    sizes = literals(mr, nr, itemsize)
    if sizes is None:
        return None
    mr_, nr_, size = sizes
    dtype = types.float64 if size == 8 else types.float32

    def generate(context, builder, signature, arguments):
        records = zip(arguments[:3], signature.args[:3], strict=True)
        (left, right, out), loops, steps = (_unpacked(builder, *record) for record in records)
        left_k, right_c, out_k = steps
        v = bf16.Pairs(builder) if size == bf16.SIZE else Vectors(builder, dtype)
        parts = LANES // v.lanes
        # Few products leave the multipliers waiting for the sum before: then each part has its own sums.
        sets = 1 if mr_ * nr_ >= 8 else min(parts, 2)
        sums = [[v.variables(nr_) for _ in range(mr_)] for _ in range(sets)]
        for register in (register for rows in sums for row in rows for register in row):
            builder.store(v.const(0), register)

        def multiply(g, x, load):
            for part in range(parts):
                offset = part * v.bytes
                rows = [lambda k=k, o=offset: load(v.at(g, v.times(left_k, k), o)) for k in range(mr_)]
                columns = [lambda c=c, o=offset: load(v.at(x, v.times(right_c, c), o)) for c in range(nr_)]
                _multiply_all(v, rows, columns, sums[part % sets])

        if size == bf16.SIZE:
            outer, (count, *_) = loops
            two, one = builder.lshr(count, ir.Constant(INT64, 1)), builder.trunc(count, ir.IntType(1))
            with v.loops([outer], left, right) as (g, x):
                with v.loop(two, (g, v.bytes), (x, v.bytes)) as (pixels, others):
                    multiply(pixels, others, v.load)
                with builder.if_then(one):
                    behind = v.times(two, v.bytes)
                    multiply(v.at(g, behind), v.at(x, behind), v.load_half)
        else:
            with v.loops(loops, left, right) as (g, x):
                multiply(g, x, v.load)
        for k in range(mr_):
            for start in range(0, nr_, v.lanes):  # so many sums fit one vector
                columns = range(start, min(start + v.lanes, nr_))
                totals = _sums_over_lanes(v, [[rows[k][c] for rows in sums] for c in columns])
                place = v.at(out, v.times(out_k, k), start * v.itemsize)
                cells = builder.inttoptr(place, totals.type.as_pointer())
                # One addition for each call: a gradient of two passes is to be exactly the sum of both.
                total = v.add(builder.load(cells, align=v.itemsize), v.fence(totals))
                builder.store(total, cells, align=v.itemsize)
        return context.get_dummy_value()

    return types.void(ends, loops, steps, mr, nr, itemsize), generate


def _sums_over_lanes(v, columns):
    """The short vector of the sums over lanes of each column, which is a list of registers."""
    totals = []
    for first, *others in columns:
        total = v.builder.load(first)
        for register in others:
            total = v.add(total, v.builder.load(register))
        totals.append(total)
    padded = 1 << (len(totals) - 1).bit_length()
    vector = v.sum_lanes(totals + [v.const(0)] * (padded - len(totals)))
    return v.shuffle(vector, vector, range(len(totals))) if len(totals) != padded else vector


@intrinsic(prefer_literal=True)
def transpose(typing_context, source, channel_step, count, pixel_step, out, itemsize):
    """out[i][lane][channel] = source[channel][i][lane] for ``count`` pixels of sixteen channels."""
    sizes = literals(itemsize)
    if sizes is None:
        return None
    dtype = types.float32 if sizes[0] == 4 else types.float64

    def generate(context, builder, signature, arguments):
        source, channel_step, count, pixel_step, out = arguments[:5]
        v = Vectors(builder, dtype)
        pixel = LANES * v.itemsize
        parts = ir.Constant(INT64, LANES // v.lanes)
        with v.loop(count, (source, pixel_step), (out, LANES * pixel)) as (s, t):  # noqa: SIM117
            with v.loop(parts, (s, v.times(channel_step, v.lanes)), (t, v.bytes)) as (block, column):
                for part in range(LANES // v.lanes):
                    rows = [
                        v.load(v.at(block, v.times(channel_step, c), part * v.bytes)) for c in range(v.lanes)
                    ]
                    for lane, value in enumerate(v.transpose(rows)):
                        v.store(value, v.at(column, (part * v.lanes + lane) * pixel))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, itemsize), generate


@intrinsic
def transpose_image_pairs(typing_context, source, channel_step, count, pixel_step, out):
    """out[i][image / 2][channel][image % 2] = source[channel][i][image], bfloat16, of sixteen channels."""

    def generate(context, builder, signature, arguments):
        source, channel_step, count, pixel_step, out = arguments
        v = bf16.Narrow(builder)
        with v.loop(count, (source, pixel_step), (out, 8 * 64)) as (s, t):
            places = [v.at(s, v.times(channel_step, c)) for c in range(LANES)]
            channels = [builder.load(builder.inttoptr(at, _PAIRS.as_pointer()), align=4) for at in places]
            rows = [v.shuffle(channels[c], channels[c + 8], range(16)) for c in range(8)]
            for size in (4, 2, 1):  # unit i of vector j becomes unit j of vector i, in both halves
                for i in range(8):
                    if not i & size:
                        a, b = rows[i], rows[i + size]
                        low = [k if not k & size else k - size + 16 for k in range(16)]
                        rows[i] = v.shuffle(a, b, low)
                        rows[i + size] = v.shuffle(a, b, [k + size for k in low])
            for i, row in enumerate(rows):
                v.store(row, v.at(t, 64 * i))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate
