"""Rates and percentiles, from what was counted at one time after another. Nothing here knows a clock."""

from __future__ import annotations

from collections import deque

from pyvirtio.trace.watch.figures import latency_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

WINDOW = 10
"""The samples that rates and percentiles look back."""

HISTORY = 60
"""The samples of which the answers a second are kept."""

RATES = ("asked", "answered", "read", "written", "kicks", "interrupts")
PERCENTILES = (50, 90, 99)


def percentile(counts: Sequence[int], percent: float) -> int | None:
    """Return the latency in nanoseconds below which so many of the requests were; None where there were none.

    >>> counts = [0] * 256
    >>> counts[40], counts[80] = 98, 2
    >>> [percentile(counts, p) for p in (50, 98, 99)]
    [17408, 17408, 557056]
    """
    left = sum(counts) * percent / 100
    if not left:
        return None
    for number, count in enumerate(counts):
        left -= count
        if left <= 0:
            return latency_of(number)
    raise AssertionError("a sum is the sum of its parts")


class Rates:
    """What one queue did lately.

    `sample` takes what was counted up to a time in seconds; `values` has the figures.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, int], list[int]]] = deque(maxlen=WINDOW + 1)
        self._history: deque[float] = deque(maxlen=HISTORY)

    def sample(self, at: float, counters: dict[str, int], latencies: list[int]) -> None:
        """Take what was counted so far."""
        if self._samples:
            before, earlier, _ = self._samples[-1]
            self._history.append(max(0, counters["answered"] - earlier["answered"]) / max(1e-3, at - before))
        self._samples.append((at, counters, latencies))

    def values(self) -> dict[str, Any]:
        """Return rates a second, percentiles of the latency in nanoseconds, and the history of the answers."""
        if not self._samples:
            return {"rates": dict.fromkeys(RATES, 0.0), "latency": {}, "history": []}
        (first, earlier, before), (last, counters, now) = self._samples[0], self._samples[-1]
        seconds = max(1e-3, last - first)
        counts = [later - sooner for later, sooner in zip(now, before, strict=True)]
        found = {f"p{percent}": percentile(counts, percent) for percent in PERCENTILES}
        longest = max((number for number, count in enumerate(counts) if count), default=None)
        found["max"] = None if longest is None else latency_of(longest)
        return {
            "rates": {name: round((counters[name] - earlier[name]) / seconds, 1) for name in RATES},
            "latency": found,
            "history": [round(rate, 1) for rate in self._history],
        }
