"""The register tiles as compiled functions that all convolutions and matrix products share."""

from functools import lru_cache

from cnn.kernels.jit import task
from cnn.kernels.simd import dot_tile, numbers, outer_tile


@lru_cache(maxsize=None)
def outer_run(rows, pixels, size):
    """Address of ``outer_tile`` along ``count`` pixels, ``pixels`` at a time; ``floor`` is an address here.

    The last tile of a run is moved back to end with it: a few pixels are computed twice, to the same bits.
    """

    @task
    def run(
        x, w, bias, out, count, x_step, out_row, out_step, floor, na, xa, wa, nb, xb, wb, nc, xc, wc
    ):  # fmt: skip
        lowest = numbers(floor, size)[0]
        loops = (na, xa, wa, nb, xb, wb, nc, xc, wc)
        if pixels > 1 and count >= pixels:
            done = 0
            while done < count:
                done = min(done, count - pixels)
                outer_tile(
                    x + done * x_step, w, bias, out + done * out_step, loops,
                    x_step, out_row, out_step, lowest, rows, pixels, size,
                )  # fmt: skip
                done += pixels
        else:
            for _ in range(count):
                outer_tile(x, w, bias, out, loops, x_step, out_row, out_step, lowest, rows, 1, size)
                x += x_step
                out += out_step

    return run.address


@lru_cache(maxsize=None)
def dot(rows, columns, size):
    """Address of ``dot_tile``."""

    @task
    def tile(g, g_row, x, x_column, out, out_row, na, ga, xa, nb, gb, xb):
        dot_tile(g, g_row, x, x_column, (na, ga, xa, nb, gb, xb), out, out_row, rows, columns, size)

    return tile.address
