"""Medians, quartiles and ratios of repeated measurements.

The speed of a shared machine varies, and whatever runs within the same seconds is slowed down alike. Ratios are
therefore computed within each repetition, and only then is the median taken. Beside it stand the first and the third
quartile: a quarter of the repetitions was below, a quarter above. A single outlier does not show.

>>> ours, theirs = [300.0, 900.0, 330.0], [100.0, 310.0, 100.0]
>>> str(ratio(ours, theirs))
'3.00 (2.95-3.15)'
>>> str(Quartiles.of(ours))
'330 (315-615)'
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import quantiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Quartiles:
    """The median of some measurements, and their first and third quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Quartiles:
        """Return the quartiles of at least one value."""
        numbers = list(values)
        if len(numbers) == 1:
            numbers *= 2
        low, middle, high = quantiles(numbers, n=4, method="inclusive")
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{format3(self.median)} ({format3(self.low)}-{format3(self.high)})"


def ratio(values: Iterable[float], to: Iterable[float]) -> Quartiles:
    """Return the quartiles of the ratios of two measurements, each ratio within one repetition.

    Raises:
        ValueError: a repetition lacks one of the two.
    """
    return Quartiles.of(value / other for value, other in zip(values, to, strict=True))


def format3(value: float) -> str:
    """Return a number with three significant digits, or with all digits in front of the point.

    >>> format3(0.0123), format3(1.234), format3(12.34), format3(123.4), format3(12345.6)
    ('0.0123', '1.23', '12.3', '123', '12346')
    """
    return f"{value:#.3g}" if 0 < value < 99.95 else f"{value:.0f}"
