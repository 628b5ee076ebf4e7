"""Which register block (mr, nr) suits a geometry best: see ``microkernels`` for what it is."""

from cnn.fast.blocked import LANES
from cnn.fast.conv.routines import PAIR_ROWS
from cnn.fast.machine.simd import blocks, vector_registers, width


def register_block(count, choices):
    """The register block that covers ``count`` output channels with the least work."""

    def cost(block):
        mr, _ = block
        return -(-count // mr) * (mr + 1)

    return min((block for block in choices if block[0] <= count), key=cost)


def tile_block(count):
    """The register block for ``count`` output channels of a product in Winograd's form, float32.

    The multipliers are the limit, so rows of padding count in full, and a sliver more only for what it loads
    again: a quarter of a row, which decides from 256 channels on.
    """
    sums, parts = vector_registers()[1] * 3 // 4, LANES // width(4)
    choices = [*blocks(4)[0], (4, max(1, sums // (4 * parts)))]
    fit = (block for block in choices if block[0] <= count)
    return min(fit, key=lambda block: -(-count // block[0]) * (4 * block[0] + 1))


def pair_block(count):
    """The register block for ``count`` output channels and pairs of bfloat16, which are packed by eight."""
    mr = min(PAIR_ROWS, count)
    return mr, max(1, min(6, vector_registers()[1] * 3 // 4 * width(4) // LANES // mr))


def pixel_pair_block(count):
    """As ``pair_block`` for neighbouring pixels, each of which is 32 bytes of the result.

    Six by four channels write three whole cache lines of each, three by eight some of them by halves.
    """
    sums = vector_registers()[1] * 3 // 4 * width(4) // LANES
    return (4, 6) if count % 4 == 0 and sums >= 24 else pair_block(count)


def even_slivers(count, choices):
    """Share ``count`` output channels out evenly over as few slivers as ``register_block`` takes.

    Returns (mr, nr), and how many slivers have mr channels; the others have one less.
    """
    mr, nr = register_block(count, choices)
    number = -(-count // mr)
    mr = -(-count // number)
    return (mr, nr), count - number * (mr - 1)


def pixels_at_once(mr, most, runs, itemsize):
    """``nr``, at most ``most``, that fits ``runs`` (lengths) best.

    The last register block of a run is moved back to end with it, so a run of ten takes as long as one of
    twelve where three fit. Twelve sums at once keep the multipliers busy.
    """
    fewest = min(most, -(-12 * width(itemsize) // (mr * LANES)))

    def work(nr):
        return sum(-(-run // nr) * nr if run >= nr else run for run in runs)

    return min(range(most, fewest - 1, -1), key=work)


def dot_block(out_channels, in_channels, sums):
    """(mr, nr) of ``dot_product`` that covers all pairs of channels in the least time."""

    def cost(block):
        mr, nr = block
        turn = max(mr * nr / 2, (mr + nr) / 2, 4 if mr * nr >= 8 else 2)
        return -(-out_channels // mr) * -(-in_channels // nr) * turn

    choices = [(sums // 4, 4), (sums // 3, 3), (sums // 2, 2), (sums // 2, 1), (1, 4), (1, 1)]
    return min((block for block in choices if block[0] <= out_channels and block[1] <= in_channels), key=cost)


def panel_choices(itemsize):
    """What ``mr`` of ``panel_products`` may be: that many sums leave room for operands."""
    most = max(1, min(16, vector_registers()[1] * 3 // 4 * width(itemsize) // LANES))
    return [mr for mr in (16, 12, 8, 6) if mr <= most] or [most]


def panel_rows(itemsize, left, padded=True):
    """``mr`` of ``panel_products`` for ``left`` rows.

    As many as leave room for operands, or fewer where that pads ``left`` less; if what does not fill a sliver
    is not padded but done otherwise, where that leaves less.
    """
    choices = panel_choices(itemsize)
    if padded and left <= 200 and choices[-1] > 4 and width(itemsize) < LANES:
        choices.append(4)  # eight sums where a pixel fills two registers keep the multipliers busy
    return min(choices, key=lambda mr: (-left % mr if padded else left % mr, -mr))


def few_images_block(pixels, channel_blocks, itemsize):
    """(mr, nr) for lanes of channels: mr pixels by nr blocks of sixteen channels, in the fewest cycles."""
    parts, sums = LANES // width(itemsize), vector_registers()[1] * 3 // 4

    def most(mr):
        return max(1, min(6, channel_blocks, sums // (mr * parts)))

    def cycles(mr):
        products, loads = mr * most(mr) * parts, mr + most(mr) * parts
        # Two products or loads a cycle; a sum waits four cycles for the one before.
        return -(-pixels // mr) * max(products, loads, 8) / most(mr)

    mr = min(range(min(pixels, max(1, sums // parts), 12), 0, -1), key=cycles)
    return mr, most(mr)
