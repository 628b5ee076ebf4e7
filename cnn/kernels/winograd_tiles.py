"""The transforms of Winograd's F(4x4, 3x3), written on vectors, from memory to memory.

Each one-dimensional transform is a constant matrix, spelled out with few operations; applied to columns and
then to rows of a tile it becomes the two-dimensional one. ``conv_winograd`` says which is used for what.
Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnn.blocked import LANES
from cnn.kernels.simd import INT64, Vectors

SIZE = 4  # bytes of a float32
PIXEL = LANES * SIZE


# --- The five one-dimensional transforms, on lists of vectors -------------------------------------


def _input_6(v, x):
    """B^T x"""
    a, b = v.fma(v.const(-4), x[2], x[4]), v.fma(v.const(-4), x[1], x[3])
    c, d = v.sub(x[4], x[2]), v.sub(x[3], x[1])
    return [
        v.fma(v.const(4), x[0], v.fma(v.const(-5), x[2], x[4])),
        v.add(a, b),
        v.sub(a, b),
        v.fma(v.const(2), d, c),
        v.fma(v.const(-2), d, c),
        v.fma(v.const(4), x[1], v.fma(v.const(-5), x[3], x[5])),
    ]


def _output_4(v, m):
    """A^T m"""
    s1, d1, s2, d2 = v.add(m[1], m[2]), v.sub(m[1], m[2]), v.add(m[3], m[4]), v.sub(m[3], m[4])
    return [
        v.add(v.add(m[0], s1), s2),
        v.fma(v.const(2), d2, d1),
        v.fma(v.const(4), s2, s1),
        v.add(v.fma(v.const(8), d2, d1), m[5]),
    ]


def _gradient_6(v, g):
    """A g"""
    even, odd = v.add(g[0], g[2]), v.add(g[1], g[3])
    even2, odd2 = v.fma(v.const(4), g[2], g[0]), v.fma(v.const(8), g[3], v.add(g[1], g[1]))
    return [g[0], v.add(even, odd), v.sub(even, odd), v.add(even2, odd2), v.sub(even2, odd2), g[3]]


def _weight_6(v, w):
    """G w"""
    even, odd = v.mul(v.const(-1 / 6), v.add(w[0], w[2])), v.mul(v.const(-1 / 6), w[1])
    even2 = v.fma(v.const(1 / 6), w[2], v.mul(v.const(1 / 24), w[0]))
    odd2 = v.mul(v.const(1 / 12), w[1])
    return [
        v.mul(v.const(1 / 4), w[0]),
        v.add(even, odd),
        v.sub(even, odd),
        v.add(even2, odd2),
        v.sub(even2, odd2),
        w[2],
    ]


def _weight_3(v, s):
    """G^T s"""
    low, high = v.mul(v.const(1 / 6), v.add(s[1], s[2])), v.add(s[3], s[4])
    return [
        v.sub(v.fma(v.const(1 / 24), high, v.mul(v.const(1 / 4), s[0])), low),
        v.fma(v.const(1 / 6), v.sub(s[2], s[1]), v.mul(v.const(1 / 12), v.sub(s[3], s[4]))),
        v.add(v.sub(v.mul(v.const(1 / 6), high), low), s[5]),
    ]


def _both_ways(v, transform, load, count):
    """Transform a tile by columns, then by rows; load(i, j) gives its vectors; returns rows of the result."""
    columns = [transform(v, [load(i, j) for i in range(count)]) for j in range(count)]
    return [transform(v, [column[i] for column in columns]) for i in range(len(columns[0]))]


# --- The same in two dimensions, from memory to memory --------------------------------------------


def _pixel_addresses(v, image, top, left, height, width_, row_bytes, outside, count):
    """Addresses of a tile's pixels, those outside of the image replaced by ``outside``."""
    builder = v.builder

    def axis(start, size, step):
        places = [v.at(start, i) for i in range(count)]
        inside = [builder.icmp_unsigned("<", place, size) for place in places]
        return inside, [builder.mul(place, step) for place in places]

    rows_in, row_at = axis(top, height, row_bytes)
    columns_in, column_at = axis(left, width_, ir.Constant(INT64, PIXEL))
    return [
        [
            builder.select(
                builder.and_(rows_in[i], columns_in[j]), v.at(image, row_at[i], column_at[j]), outside
            )
            for j in range(count)
        ]
        for i in range(count)
    ]


def _image_to_tile(transform, count):
    @intrinsic
    def to_tile(typing_context, image, top, left, height, width, row_bytes, zeros, out, step):
        def generate(context, builder, signature, arguments):
            image, top, left, height, width_, row_bytes, zeros, out, step = arguments
            v = Vectors(builder, types.float32)
            pixels = _pixel_addresses(v, image, top, left, height, width_, row_bytes, zeros, count)
            steps = [builder.mul(step, ir.Constant(INT64, i)) for i in range(36)]
            parts = ir.Constant(INT64, LANES // v.lanes)
            with v.loop(parts, (ir.Constant(INT64, 0), v.bytes)) as (part,):
                result = _both_ways(v, transform, lambda i, j: v.load(v.at(pixels[i][j], part)), count)
                start = v.at(out, part)
                for i, value in enumerate(value for row in result for value in row):
                    v.store(value, v.at(start, steps[i]))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return to_tile


input_tile = _image_to_tile(_input_6, 6)
gradient_tile = _image_to_tile(_gradient_6, 4)


@intrinsic
def output_tile(typing_context, tile, step, bias, floor, image, top, left, height, width, row_bytes, nowhere):
    """image = max(floor, bias + A^T tile A), four by four pixels."""

    def generate(context, builder, signature, arguments):
        tile, step, bias, floor, image, top, left, height, width_, row_bytes, nowhere = arguments
        v = Vectors(builder, types.float32)
        pixels = _pixel_addresses(v, image, top, left, height, width_, row_bytes, nowhere, 4)
        steps = [builder.mul(step, ir.Constant(INT64, i)) for i in range(36)]
        shift, lowest = v.broadcast(bias), v.splat(floor)
        parts = ir.Constant(INT64, LANES // v.lanes)
        with v.loop(parts, (ir.Constant(INT64, 0), v.bytes)) as (part,):
            start = v.at(tile, part)
            result = _both_ways(v, _output_4, lambda i, j: v.load(v.at(start, steps[6 * i + j])), 6)
            for i in range(4):
                for j in range(4):
                    v.store(v.max(v.add(result[i][j], shift), lowest), v.at(pixels[i][j], part))
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, types.float32, *[i] * 7), generate


@intrinsic
def weights_forth(typing_context, source, source_step, target, target_step, count):
    """36 vectors G w G^T from 9 vectors w, ``count`` times along neighbouring numbers."""

    def generate(context, builder, signature, arguments):
        source, source_step, target, target_step, count = arguments
        v = Vectors(builder, types.float32)
        with v.loop(count, (source, v.bytes), (target, v.bytes)) as (s, t):
            result = _both_ways(
                v,
                _weight_6,
                lambda i, j: v.load(v.at(s, builder.mul(source_step, ir.Constant(INT64, 3 * i + j)))),
                3,
            )
            for i, value in enumerate(value for row in result for value in row):
                v.store(value, v.at(t, builder.mul(target_step, ir.Constant(INT64, i))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def weights_back(typing_context, source, source_step, parts, part_step, target, target_step, count):
    """9 vectors G^T s G from 36 vectors s, each the sum of ``parts``, ``count`` times along numbers."""

    def generate(context, builder, signature, arguments):
        source, source_step, parts, part_step, target, target_step, count = arguments
        v = Vectors(builder, types.float32)
        sums = v.variables(36)
        with v.loop(count, (source, v.bytes), (target, v.bytes)) as (s, t):
            for register in sums:
                builder.store(v.const(0), register)
            with v.loop(parts, (s, part_step)) as (here,):
                for i, register in enumerate(sums):
                    value = v.load(v.at(here, builder.mul(source_step, ir.Constant(INT64, i))))
                    builder.store(v.add(builder.load(register), value), register)
            result = _both_ways(v, _weight_3, lambda i, j: builder.load(sums[6 * i + j]), 6)
            for i, value in enumerate(value for row in result for value in row):
                v.store(value, v.at(t, builder.mul(target_step, ir.Constant(INT64, i))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate
