"""Medians, spreads and ratios."""

from __future__ import annotations

import pytest

from pyvirtio_bench.statistics import Quartiles, format3, ratio


def test_the_median_is_the_middle_one_and_the_spread_leaves_out_a_quarter_at_each_end():
    assert Quartiles.of([5, 1, 900, 2, 4]) == Quartiles(4, 2, 5)
    assert Quartiles.of([1, 2]) == Quartiles(1.5, 1.25, 1.75)
    assert Quartiles.of([7]) == Quartiles(7, 7, 7)


def test_a_ratio_is_made_inside_each_repetition():
    # The machine was ten times slower in the second repetition; the ratio of the medians would be 11.
    assert ratio([2, 22, 4], [1, 10, 2]) == Quartiles(2, 2, 2.1)


def test_repetitions_must_match():
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1234, "0.123"),
        (0.9996, "1.00"),
        (0.1, "0.100"),
        (9.999, "10.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (1234567, "1234567"),
    ],
)
def test_three_digits_are_enough(value: float, text: str):
    assert format3(value) == text
