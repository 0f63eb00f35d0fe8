"""What a device sends by itself: a port on a queue whose buffers the driver provides.

A port takes a buffer of the driver only when it has something to put into it, and gives it back at once. So no buffer
is held while nothing is said: stopping, migration and recovery find nothing that is neither the driver's nor done.
"""

from __future__ import annotations

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Protocol

    class Outlet(Protocol):
        """The running queue behind a port."""

        def deliver(self, data: bytes, *, whole: bool) -> int | None:
            """Write ``data`` into the driver's next buffer; return the bytes written, or None without a buffer."""
            ...


class OutgoingPort:
    """One outgoing queue of one device; see `OutgoingQueue`.

    Messages arrive in the order in which they were sent. One that was sent while its worker died may be lost, as a
    frame on a network is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._outlet: Outlet | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def send(self, data: bytes) -> None:
        """Send one message in one buffer of the driver; wait until there is one.

        Raises:
            LocalError: the driver's buffer is smaller than the message; it is kept for the next message.
        """
        while self._deliver(data, whole=True) is None:
            await self._buffer()

    async def write(self, data: bytes) -> None:
        """Send bytes of a stream, in as many buffers of the driver as they take; wait for each."""
        rest = memoryview(data)
        while rest:
            written = self._deliver(bytes(rest[: 1 << 16]), whole=False)
            if written is None:
                await self._buffer()
            else:
                rest = rest[written:]

    def try_send(self, data: bytes) -> bool:
        """Send one message if the driver has a buffer for it; return whether it had.

        Raises:
            LocalError: see `send`.
        """
        return self._deliver(data, whole=True) is not None

    def _deliver(self, data: bytes, *, whole: bool) -> int | None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise LocalError(f"{self.name} sends bytes, not {type(data).__name__}; pack a structure first")
        return self._outlet.deliver(bytes(data), whole=whole) if self._outlet else None

    async def _buffer(self) -> None:
        """Wait until the driver has provided buffers."""
        import asyncio

        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    # What the runtime calls.

    def connect(self, outlet: Outlet | None) -> None:
        """Take the queue that runs now, or None where it stopped; `send` waits meanwhile."""
        self._outlet = outlet
        if outlet is not None:
            self.refilled()

    def refilled(self) -> None:
        """Wake whoever waits: the driver made buffers available."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
