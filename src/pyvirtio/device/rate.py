"""A limit to how much a device does in a second."""

from __future__ import annotations

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BURST = 0.1
"""The seconds' worth that may be done at once."""


class Rate:
    """Says how long something has to wait so that no more than ``limit`` is done in a second.

    What is asked for is bytes, requests or anything else that can be counted. ``clock`` returns seconds.

    >>> now = 0.0
    >>> rate = Rate(1000, lambda: now)
    >>> rate.claim(100), rate.claim(500), rate.claim(1)
    (0.0, 0.0, 0.5)

    Raises:
        LocalError: the limit is not above 0.
    """

    def __init__(self, limit: float, clock: Callable[[], float]) -> None:
        if limit <= 0:
            raise LocalError(f"a limit of {limit} in a second would let nothing happen; give a number above 0")
        self._limit = limit
        self._clock = clock
        self._paid_until = clock() - BURST

    def claim(self, amount: float) -> float:
        """Count ``amount`` and return the seconds to wait before doing it."""
        now = self._clock()
        begin = max(self._paid_until, now - BURST)
        self._paid_until = begin + amount / self._limit
        return max(0.0, begin - now)
