"""The register tiles as compiled functions that all convolutions and matrix products share."""

from functools import cache

from cnn.kernels.jit import task
from cnn.kernels.simd import copy_lanes, dot_tile, numbers, outer_tile


@cache
def outer_run(rows, pixels, size, spread=False):
    """Address of ``outer_tile`` along ``count`` pixels, ``pixels`` at a time; ``floor`` is an address here.

    The weights of a tile's rows are neighbours, or with ``spread`` ``w_row`` bytes apart. The last tile of a
    run is moved back to end with it: a few pixels are computed twice, to the same bits.
    """

    @task
    def run(
        x, w, bias, out, count, x_step, out_row, out_step, floor, na, xa, wa, nb, xb, wb, nc, xc, wc, w_row
    ):  # fmt: skip
        lowest = numbers(floor, size)[0]
        loops = (na, xa, wa, nb, xb, wb, nc, xc, wc)
        row = w_row if spread else size
        if pixels > 1 and count >= pixels:
            done = 0
            while done < count:
                done = min(done, count - pixels)
                outer_tile(
                    x + done * x_step, w, bias, out + done * out_step, loops,
                    row, x_step, out_row, out_step, lowest, rows, pixels, size,
                )  # fmt: skip
                done += pixels
        else:
            for _ in range(count):
                outer_tile(x, w, bias, out, loops, row, x_step, out_row, out_step, lowest, rows, 1, size)
                x += x_step
                out += out_step

    return run.address


@cache
def dot(rows, columns, size):
    """Address of ``dot_tile``."""

    @task
    def tile(g, g_row, x, x_column, out, out_row, na, ga, xa, nb, gb, xb):
        dot_tile(g, g_row, x, x_column, (na, ga, xa, nb, gb, xb), out, out_row, rows, columns, size)

    return tile.address


@cache
def copy_box(size):
    """Address of a copy of planes x rows x pixels from one spacing to another (each in bytes)."""

    @task
    def box(source, target, planes, from_plane, to_plane, rows, from_row, to_row, count, from_pixel):
        for plane in range(planes):
            for row in range(rows):
                copy_lanes(
                    source + plane * from_plane + row * from_row, target + plane * to_plane + row * to_row,
                    count, from_pixel, 16 * size, size,
                )  # fmt: skip

    return box.address
