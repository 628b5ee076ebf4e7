"""Sizes of windows: one place for the arithmetic that convolutions and pools share."""

import numbers
from typing import Any

from cnn.errors import ConfigError, ShapeError


def pair(value: Any, name: str, minimum: int = 1) -> tuple[int, int]:
    """Return ``value`` as (height, width); an int stands for both.

    Raises ConfigError unless both are integers of at least ``minimum``.
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(map(_is_integer, values)) or min(values) < minimum:
        raise ConfigError(f"{name}: expected an integer >= {minimum} or a pair of them, found {value!r}")
    return int(values[0]), int(values[1])


def padding(value: Any, name: str) -> Any:
    """Return ((top, bottom), (left, right)) for an int, a pair (rows, columns on each side), or all four.

    Raises ConfigError unless they are integers of at least 0.
    """
    if isinstance(value, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in value):
        if len(value) == 2 and all(isinstance(side, (tuple, list)) and len(side) == 2 for side in value):
            return tuple(pair(side, name, minimum=0) for side in value)
        raise ConfigError(f"{name}: expected ((top, bottom), (left, right)), found {value!r}")
    rows, columns = pair(value, name, minimum=0)
    return (rows, rows), (columns, columns)


def count(value: Any, name: str, minimum: int = 1) -> int:
    """Return ``value``; raises ConfigError unless it is an integer of at least ``minimum``."""
    if not _is_integer(value) or value < minimum:
        raise ConfigError(f"{name}: expected an integer >= {minimum}, found {value!r}")
    return int(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def same_padding(kernel_size: tuple[int, int], dilation: tuple[int, int]) -> Any:
    """Return ((top, bottom), (left, right)) that keeps the size at stride 1; the odd pixel goes last."""
    total = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def output_size(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Return how many windows fit along one axis.

        (size + before + after - dilation * (kernel - 1) - 1) // stride + 1

    ``padding`` is (before, after) in pixels. With ``ceil_mode`` the division rounds up: the last window may
    reach beyond the padding, but starts inside of the image or the padding before it, as in PyTorch.
    Source: Dumoulin, Visin, arXiv:1603.07285, relationship 14.
    """
    room = size + sum(padding) - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding[0] else count


def output_shape(
    height: int,
    width: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: Any,
    dilation: tuple[int, int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[int, int]:
    """Return (H', W') of a window sliding over a plane.

    Raises ShapeError when the window is larger than the padded plane.
    """
    high, wide = (
        output_size(size, k, s, p, d, ceil_mode)
        for size, k, s, p, d in zip((height, width), kernel_size, stride, padding, dilation, strict=True)
    )
    if min(high, wide) < 1:
        padded = tuple(size + sum(p) for size, p in zip((height, width), padding, strict=True))
        window = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))
        raise ShapeError(
            f"the window of {window[0]}x{window[1]} pixels is larger than its padded input "
            f"of {padded[0]}x{padded[1]} pixels"
        )
    return high, wide
