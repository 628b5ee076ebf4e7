"""An input that is normalised while it is loaded: a convolution reads max(0, normalised x) from x.

    a = max(0, (x - mean) * scale + shift)   with scale = rstd * weight, shift = bias, all of the channel

rounded as in ``kernels.norm``: float32 has the same bits as if ``a`` had been stored. For products of
bfloat16 ``a`` is not rounded, only what the transforms give is.
"""

from typing import NamedTuple

from cnn.fast.machine import bf16
from cnn.fast.machine.jit import address

SIZE = 4  # bytes of a float32


class Normalisation(NamedTuple):
    """Addresses of float32, one for each channel."""

    mean: int
    rstd: int
    weight: int
    bias: int


#: The input is read as it is.
AS_IT_IS = Normalisation(0, 0, 0, 0)


def addresses_of(arrays):
    """The Normalisation of contiguous float32 arrays (mean, rstd, weight, bias), or of ()."""
    return Normalisation(*map(address, arrays)) if arrays else AS_IT_IS


class Reader:
    """Writes how a column of a tile is loaded as float32, normalised unless ``normalisation`` is None.

    Pixels of rows outside of the image, which are read from zeros, are zero then as well: padding is not
    normalised. ``size``: bytes of a number of the image; ``inside``: which rows are.
    """

    def __init__(self, v, size, inside, normalisation=None):
        self._v, self._load = v, v.load_wide if size == bf16.SIZE else v.load
        self._arrays = normalisation or ()
        self._masks = [v.mask(row) for row in inside] if normalisation else []

    def steps(self, channels=1):
        """The (address, bytes a turn) that a loop goes along, so many channels a turn."""
        return [(array, channels * SIZE) for array in self._arrays]

    def numbers(self, here, channel=0):
        """Write what is done once for a channel of a turn; return (mean, scale, shift), if any.

        ``here``: the turn's addresses of ``steps``.
        """
        v = self._v
        if not here:
            return ()
        mean, rstd, weight, shift = (v.scalar(v.at(place, channel * SIZE)) for place in here)
        return v.splat(mean), v.splat(v.builder.fmul(rstd, weight)), v.splat(shift)

    def rows(self, addresses, numbers):
        """Write the loads of a pixel of each row; ``numbers``: of the channel."""
        v, found = self._v, [self._load(place) for place in addresses]
        if not numbers:
            return found
        mean, scale, shift = numbers
        found = [v.max(v.fma(v.sub(x, mean), scale, shift), v.const(0)) for x in found]
        return [v.masked(x, mask) for x, mask in zip(found, self._masks, strict=True)]
