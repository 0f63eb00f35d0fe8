"""A queue on which the device speaks first: buffers are posted ahead, and what arrives is iterated over."""

from __future__ import annotations

from collections import deque

from pyvirtio.driver.ticket import Ticket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from pyvirtio.driver.bound_queue import BoundQueue


class Incoming:
    """What a device sends by itself, in the order of its arrival; see `BoundQueue.incoming`."""

    def __init__(self, queue: BoundQueue) -> None:
        self._queue = queue
        self._arrived: deque[Ticket] = deque()
        self._posted = 0
        self._buffers = 0
        self._room = 0
        self._timeout: float | None = None

    def post(self, buffers: int, room: int, timeout: float | None) -> Self:
        """Let the device have ``buffers`` buffers of ``room`` bytes from now on."""
        self._buffers, self._room, self._timeout = buffers, room, timeout
        self._refill()
        return self

    def __iter__(self) -> Self:
        return self

    @property
    def ready(self) -> bool:
        """Whether the next one can be taken without waiting."""
        self._queue.reap()
        return bool(self._arrived)

    def __next__(self) -> Any:
        self._queue.reap()
        while not self._arrived:
            self._queue.wait_for_used(self._timeout)
        return self._take()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        await self._queue.arrival(self, lambda: bool(self._arrived))
        return self._take()

    def _take(self) -> Any:
        buffer = self._arrived.popleft()
        self._refill()
        return buffer.result()

    def _refill(self) -> None:
        while self._posted + len(self._arrived) < self._buffers and self._queue.ring.free:
            _Buffer(self, self._queue, self._room).place()
            self._posted += 1
        self._queue.publish()

    def arrived(self, buffer: Ticket) -> None:
        """Take note of a buffer that the device has filled."""
        self._posted -= 1
        self._arrived.append(buffer)
        self._queue.waiters.wake(self)


class _Buffer(Ticket):
    """A buffer that the device has for something to come."""

    __slots__ = ("_incoming",)

    def __init__(self, incoming: Incoming, queue: BoundQueue, room: int) -> None:
        super().__init__(queue, (), room)
        self._incoming = incoming

    def complete(self, written: int) -> None:
        """Take what came out of shared memory."""
        super().complete(written)
        self._incoming.arrived(self)
