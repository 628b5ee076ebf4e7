"""Window arithmetic against tables worked out by hand."""

import numpy as np
import pytest

from cnn.errors import ConfigError, ShapeError
from cnn.geometry import count, output_shape, output_size, pair, same_padding


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "expected"),
    [
        (28, 5, 1, (2, 2), 1, 28),
        (28, 5, 1, (0, 0), 1, 24),
        (28, 2, 2, (0, 0), 1, 14),
        (7, 2, 2, (0, 0), 1, 3),  # the last row is left out
        (7, 3, 2, (1, 1), 1, 4),
        (224, 7, 2, (3, 3), 1, 112),
        (5, 5, 1, (0, 0), 1, 1),
        (5, 5, 3, (0, 0), 1, 1),
        (4, 5, 1, (0, 0), 1, 0),
        (9, 3, 1, (0, 0), 4, 1),
        (10, 3, 2, (2, 2), 3, 4),
        (8, 2, 1, (0, 1), 1, 8),  # padding on one side
        (1, 1, 1, (0, 0), 1, 1),
        (1, 1, 5, (0, 0), 7, 1),
    ],
)
def test_output_size(size, kernel, stride, padding, dilation, expected):
    assert output_size(size, kernel, stride, padding, dilation) == expected


def test_output_size_counts_the_windows_that_fit():
    """By walking: a window starts every ``stride`` pixels and must end inside of the padded axis."""
    for size in range(1, 9):
        for kernel in range(1, 5):
            for stride in range(1, 4):
                for dilation in range(1, 4):
                    for before, after in ((0, 0), (1, 0), (0, 2), (3, 3)):
                        padded, extent = size + before + after, dilation * (kernel - 1) + 1
                        starts = [s for s in range(0, padded, stride) if s + extent <= padded]
                        if starts:
                            found = output_size(size, kernel, stride, (before, after), dilation)
                            assert found == len(starts)


@pytest.mark.parametrize(
    ("kernel", "dilation", "expected"),
    [
        ((3, 5), (1, 1), ((1, 1), (2, 2))),
        ((2, 4), (1, 1), ((0, 1), (1, 2))),
        ((1, 1), (3, 3), ((0, 0), (0, 0))),
        ((3, 2), (2, 3), ((2, 2), (1, 2))),
    ],
)
def test_same_padding(kernel, dilation, expected):
    assert same_padding(kernel, dilation) == expected


def test_same_padding_keeps_the_size():
    for kernel in range(1, 8):
        for dilation in range(1, 4):
            (padding, _) = same_padding((kernel, 1), (dilation, 1))
            assert output_size(20, kernel, 1, padding, dilation) == 20


def test_output_shape_has_height_first():
    assert output_shape(9, 20, (3, 5), (2, 3), ((1, 1), (0, 0))) == (5, 6)


def test_a_window_larger_than_its_input_is_refused_with_both_sizes():
    with pytest.raises(
        ShapeError, match="the window of 5x7 pixels is larger than its padded input of 6x6 pixels"
    ):
        output_shape(4, 6, (3, 4), (1, 1), ((1, 1), (0, 0)), (2, 2))


@pytest.mark.parametrize("value", [3, (3, 3), [3, 3], np.int64(3), (np.int32(3), 3)])
def test_pair_takes_one_integer_or_two(value):
    found = pair(value, "size")
    assert found == (3, 3)
    assert all(type(v) is int for v in found)


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, "3", None, True, (3,), (1, 2, 3), (1, 0), (1, 2.0), (), {3, 4}]
)
def test_pair_refuses_anything_else_by_name(value):
    with pytest.raises(
        ConfigError, match=r"^Conv2d stride: expected an integer >= 1 or a pair of them, found"
    ):
        pair(value, "Conv2d stride")


def test_pair_may_allow_zero():
    assert pair(0, "padding", minimum=0) == (0, 0)
    with pytest.raises(ConfigError, match="padding: expected an integer >= 0"):
        pair((0, -1), "padding", minimum=0)


def test_count_takes_integers_only():
    assert count(np.int64(5), "groups") == 5
    assert type(count(np.int64(5), "groups")) is int
    for value in (0, 2.0, "2", None, True, (2,)):
        with pytest.raises(ConfigError, match=r"^groups: expected an integer >= 1, found"):
            count(value, "groups")
