"""Requests of any length, answered by calls that the engine makes itself: no chain, reader or writer from Python.

It is an optional way beside chains, for plain ``stream`` methods on rings that offer `StreamQueue`. What is unusual in
any way is left to the service, which answers it as a chain.
"""

from __future__ import annotations

from pyvirtio.runtime.records import engine_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from pyvirtio.device import Device
    from pyvirtio.device.queue import Queue
    from pyvirtio.ring.queue import StreamQueue, Unusual


class StreamDispatcher:
    """Has the engine call a device's ``stream`` method."""

    def __init__(self, queue: StreamQueue, method: Callable[..., object], clock: Callable[[], int]) -> None:
        self._call = queue.call_streams
        self._method = method
        self._clock = engine_clock(clock)

    @classmethod
    def suiting(
        cls, queue: StreamQueue | None, declared: Queue, device: Device, clock: Callable[[], int]
    ) -> Self | None:
        """Return the dispatcher for a queue, or None where the engine or the method is not made for it."""
        if queue is None or "stream" not in declared.methods or declared.is_async(device):
            return None
        return cls(queue, getattr(device, declared.methods["stream"]), clock)

    def call(self, limit: int, deadline: int) -> int | Unusual:
        """Have up to ``limit`` requests answered until ``deadline``; return how many were begun, or what is unusual."""
        return self._call(limit, self._method, deadline, self._clock)
