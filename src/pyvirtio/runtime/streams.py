"""Requests of any length, answered by calls that the engine makes itself: no chain, reader or writer from Python.

It is an optional way beside chains, for ``stream`` methods on rings that offer `StreamQueue`. What is unusual in any
way is left to the service, which answers it as a chain.
"""

from __future__ import annotations

from pyvirtio.device.handlers import is_plainly_async
from pyvirtio.runtime.records import engine_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from pyvirtio.device import Device
    from pyvirtio.device.queue import Queue
    from pyvirtio.ring.queue import StreamQueue, Unusual
    from pyvirtio.runtime.tasks import Tasks, _Slot

HANDED_OVER = 7
"""The length of `pyvirtio.ring.queue.HandedOver`, by which it is told from `Ended`."""


class StreamDispatcher:
    """Has the engine call a device's ``stream`` method."""

    def __init__(self, queue: StreamQueue, method: Callable[..., object], clock: Callable[[], int]) -> None:
        self._call = queue.call_streams
        self._method = method
        self._clock = engine_clock(clock)

    @classmethod
    def suiting(
        cls, queue: StreamQueue | None, declared: Queue, device: Device, number: int, clock: Callable[[], int]
    ) -> Self | None:
        """Return the dispatcher for a queue, or None where the engine or the method is not made for it."""
        method = declared.stream_method(device, number)
        return None if queue is None or method is None or declared.is_async(device) else cls(queue, method, clock)

    def call(self, limit: int, deadline: int) -> int | Unusual:
        """Have up to ``limit`` requests answered until ``deadline``; return how many were begun, or what is unusual."""
        return self._call(limit, self._method, deadline, self._clock)


class CoroutineDispatcher:
    """Has the engine step the coroutines of a ``stream`` method that is ``async def``.

    The engine parks those that wait for operations of our own, and goes on with them. Others that wait are handed over.
    """

    def __init__(
        self, queue: StreamQueue, method: Callable[..., object], clock: Callable[[], int], tasks: Tasks
    ) -> None:
        self.queue = queue
        self.is_ready = queue.has_ready
        """Returns whether there are parked requests that can go on."""
        self._step = queue.step_streams
        self._method = method
        self._clock = engine_clock(clock)
        self._lend = tasks.lend
        self._go_on = tasks.go_on

    @classmethod
    def suiting(
        cls,
        queue: StreamQueue | None,
        declared: Queue,
        device: Device,
        number: int,
        clock: Callable[[], int],
        tasks: Tasks | None,
    ) -> Self | None:
        """Return the dispatcher for a queue, or None where the engine or the method is not made for it."""
        method = declared.stream_method(device, number)
        if queue is None or tasks is None or method is None or not is_plainly_async(method):
            return None
        return cls(queue, method, clock, tasks)

    def step(self, limit: int, deadline: int, most: int) -> tuple[Any, _Slot | None]:
        """Go on with what can, and begin up to ``limit`` requests until ``deadline``; ``most`` may be parked.

        Return for how many something was done, or what is unusual: `Ended`, or with the slot that goes on with it,
        `HandedOver`.
        """
        outcome, context = self._lend(self._step, limit, self._method, deadline, self._clock, most)
        if isinstance(outcome, tuple) and len(outcome) == HANDED_OVER:
            _chain, work, awaited, *_ = outcome
            return outcome, self._go_on(work, context, awaited)
        return outcome, None
