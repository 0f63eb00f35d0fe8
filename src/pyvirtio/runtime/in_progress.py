"""The requests of a queue that were begun and wait for something, and the device's patience with them.

Some go on in tasks; those that wait for operations of our own are parked in the engine. The patience here is for what
the event loop can cancel. The keeper has its own for what blocks the loop.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from pyvirtio.device.streams import Reader, Writer
    from pyvirtio.ring import Chain
    from pyvirtio.ring.queue import StreamQueue
    from pyvirtio.runtime.tasks import _Slot

CANCEL_TIME = 1.0
"""The seconds that an ``async def`` method has to end after it was cancelled."""

ANY_TIME = (1 << 63) - 1


class Running:
    """A request inside an ``async def`` method that waits: since when, and the task that runs it.

    ``streams`` are the reader and the writer that are to be closed when it ends, where nobody else does that.
    """

    __slots__ = ("chain", "is_cancelled", "since", "slot", "streams")

    def __init__(
        self,
        chain: Chain,
        since: int,
        slot: _Slot,
        streams: tuple[Reader, Writer] | None = None,
        *,
        is_cancelled: bool = False,
    ) -> None:
        self.chain = chain
        self.since = since
        self.slot = slot
        self.streams = streams
        self.is_cancelled = is_cancelled

    def is_closed(self) -> bool:
        """End the use of the request's memory; return whether nobody works on it any more."""
        return self.streams is None or self.streams[0].close() & self.streams[1].close()


class InProgress:
    """What is in progress on one queue.

    ``hold`` is called with a request that ignores that it was cancelled. ``parking`` is the queue where the engine
    parks requests, if it does. Without ``loop`` nothing is ever in progress.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        patience: float | None,
        clock: Callable[[], int],
        hold: Callable[[Chain], None],
    ) -> None:
        self._loop = loop
        self._patience = patience
        self._clock = clock
        self._hold = hold
        self._timer: asyncio.TimerHandle | None = None
        self._by_head: dict[int, Running] = {}
        self.parking: StreamQueue | None = None

    def __len__(self) -> int:
        return len(self._by_head) + (self.parking.parked_count() if self.parking else 0)

    def values(self) -> Collection[Running]:
        """Return those that go on in tasks, in the order in which they came to that."""
        return self._by_head.values()

    def add(self, request: Running) -> None:
        """Take note of a request that goes on in a task."""
        self._by_head[request.chain.head] = request
        self.watch()

    def remove(self, request: Running) -> None:
        """Take note that it has ended."""
        self._by_head.pop(request.chain.head, None)

    def cancel_tasks(self) -> None:
        """Cancel those that go on in tasks, each once; what is parked ends by itself."""
        for request in self._by_head.values():
            if not request.is_cancelled:
                request.is_cancelled = True
                request.slot.task.cancel()

    def cancel_all(self) -> None:
        """Cancel everything; each ends by itself, once its memory is free."""
        self.cancel_tasks()
        if self.parking:
            self.parking.cancel_parked(ANY_TIME)

    def release(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Patience.

    def _uncancelled(self) -> list[tuple[Chain, int]]:
        """Return what was not cancelled, and since when it runs."""
        found = [(one.chain, one.since) for one in self._by_head.values() if not one.is_cancelled]
        if self.parking:
            found += [(chain, since) for chain, since, is_cancelled in self.parking.parked() if not is_cancelled]
        return found

    def watch(self) -> None:
        """See to it that what takes too long is cancelled."""
        if self._timer is not None or self._patience is None or self._loop is None or not len(self):
            return
        oldest = min((since for _, since in self._uncancelled()), default=self._clock())
        seconds = self._patience - (self._clock() - oldest) / 1e9
        self._timer = self._loop.call_later(max(0.0, min(seconds, 86400.0)), self._expire)

    def _expire(self) -> None:
        """Cancel what took too long."""
        self._timer = None
        assert self._patience is not None
        assert self._loop is not None
        limit = self._clock() - int(self._patience * 1e9)
        overdue = [chain for chain, since in self._uncancelled() if since <= limit]
        for request in self._by_head.values():
            if request.since <= limit and not request.is_cancelled:
                request.is_cancelled = True
                request.slot.task.cancel()
        if self.parking:
            self.parking.cancel_parked(limit)
        if overdue:
            self._loop.call_later(CANCEL_TIME, self._check_cancelled, overdue)
        if self._uncancelled():
            self.watch()

    def _check_cancelled(self, overdue: list[Chain]) -> None:
        left = [request.chain for request in self._by_head.values()]
        if self.parking:
            left += [chain for chain, *_ in self.parking.parked()]
        for chain in overdue:
            if any(one is chain for one in left):
                self._hold(chain)
