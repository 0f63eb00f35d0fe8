"""Medians, spreads and ratios of repeated measurements.

A shared machine is now fast and now slow, and what runs within the same seconds is slowed alike. So ratios are made
inside each repetition, and only then is the median taken. The spread is between the first and the third quartile: a
quarter of the repetitions was below, a quarter above. What happened to a single one does not show.

>>> ours, theirs = [300.0, 900.0, 330.0], [100.0, 310.0, 100.0]
>>> str(ratio(ours, theirs))
'3.00 (2.95-3.15)'
>>> str(Spread.of(ours))
'330 (315-615)'
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import quantiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and their first and third quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum up at least one value."""
        numbers = list(values)
        if len(numbers) == 1:
            numbers *= 2
        low, middle, high = quantiles(numbers, n=4, method="inclusive")
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{brief(self.median)} ({brief(self.low)}-{brief(self.high)})"


def ratio(values: Iterable[float], to: Iterable[float]) -> Spread:
    """Divide measurement by measurement, of the same repetition each, and sum up.

    Raises:
        ValueError: there is not one of each in every repetition.
    """
    return Spread.of(value / other for value, other in zip(values, to, strict=True))


def brief(value: float) -> str:
    """Write a number with three significant digits, or all digits in front of the point.

    >>> brief(0.0123), brief(1.234), brief(12.34), brief(123.4), brief(12345.6)
    ('0.0123', '1.23', '12.3', '123', '12346')
    """
    if value == 0 or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"
