"""Waiting in event loops: a future for each task that waits, and readers in the loop only while one does."""

from __future__ import annotations

import sys

from pyvirtio.errors import DeviceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pyvirtio.driver.bound_queue import BoundQueue
    from pyvirtio.errors import VirtioError
    from pyvirtio.transport import DriverTransport

    Loop = asyncio.AbstractEventLoop
    Reader = tuple[Loop, int]


def running_loop() -> Loop | None:
    """Return the event loop that runs in this thread, if one does, without importing ``asyncio`` for the question."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop: Loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop


class Waiters:
    """The tasks that wait for something of one queue, each with a future of its own.

    So a task that is cancelled (`asyncio.wait_for` does that when its time is over) takes nobody along.
    """

    def __init__(self) -> None:
        self._futures: dict[object, list[asyncio.Future[None]]] = {}

    async def wait(self, key: object) -> None:
        """Return after `wake` was called for ``key``."""
        import asyncio

        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, []).append(future)
        try:
            await future
        finally:
            self._forget(key, future)

    def _forget(self, key: object, future: asyncio.Future[None]) -> None:
        futures = self._futures.get(key, [])
        if future in futures:  # else `wake` took the whole list
            futures.remove(future)
        if not futures:
            self._futures.pop(key, None)

    def wake(self, key: object) -> None:
        """Have every task go on that waits for ``key``."""
        for future in self._futures.pop(key, ()):
            # A loop that was closed in the middle of a wait has left its futures behind.
            if not future.done() and not future.get_loop().is_closed():
                future.set_result(None)

    def wake_all(self) -> None:
        """Have every task go on."""
        for key in list(self._futures):
            self.wake(key)


class Watch:
    """The readers that a driver has in event loops: for its queues' interrupts, and for the end of the device.

    A reader is there only while something waits, so an event that concerns nobody wakes no loop again and again.
    """

    def __init__(self, transport: DriverTransport) -> None:
        self.queues: list[BoundQueue] = []
        self._transport = transport
        self._users: dict[Reader, int] = {}

    def enter(self, loop: Loop, queue: BoundQueue) -> list[Reader]:
        """Have ``loop`` watch a queue and the device; return what `leave` takes."""
        readers = [self._use((loop, self._transport.interrupt_fd(queue.index)), queue.on_interrupt)]
        if (fd := self._transport.hangup_fd()) >= 0:
            readers.append(self._use((loop, fd), self._process_events))
        return readers

    def _use(self, reader: Reader, callback: Callable[[], object]) -> Reader:
        if reader not in self._users:
            for other in [other for other in self._users if other[0].is_closed()]:
                del self._users[other]
            loop, fd = reader
            loop.add_reader(fd, callback)
        self._users[reader] = self._users.get(reader, 0) + 1
        return reader

    def leave(self, readers: list[Reader]) -> None:
        """Undo one `enter`."""
        for reader in readers:
            if reader not in self._users:  # the driver was closed meanwhile
                continue
            self._users[reader] -= 1
            if not self._users[reader]:
                self._remove(reader)

    def _remove(self, reader: Reader) -> None:
        del self._users[reader]
        loop, fd = reader
        if not loop.is_closed():
            loop.remove_reader(fd)

    def _process_events(self) -> None:
        try:
            self._transport.process_events()
        except DeviceError as error:
            self.end(error)

    def end(self, error: VirtioError) -> None:
        """End every wait on every queue with ``error``."""
        for queue in self.queues:
            queue.end(error)
        for reader in list(self._users):
            self._remove(reader)
