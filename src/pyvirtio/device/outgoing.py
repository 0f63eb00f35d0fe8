"""What a device sends by itself: a port on a queue whose buffers the driver provides.

A port takes a buffer of the driver only when it has something to put into it, and gives it back at once. So no buffer
is held while nothing is said: stopping, migration and recovery find nothing that is neither the driver's nor done. Only
a message that takes several buffers keeps those that are there until the others come.
"""

from __future__ import annotations

from pyvirtio.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Protocol

    Header = Callable[[int], bytes]
    """Returns what precedes a message that lies in so many buffers; its length is always the same."""

    Make = Callable[[int], bytes]
    """Makes a message for a buffer of so many bytes; one of no bytes is none."""

    class Outlet(Protocol):
        """The running queue behind a port."""

        def deliver(self, data: bytes | Make, *, whole: bool, least: int = 0) -> int | None:
            """Write ``data`` into the driver's next buffer; return the bytes written, or None without a buffer."""
            ...

        def deliver_spread(self, data: bytes, header: Header) -> int | None:
            """Write ``header`` and ``data`` into as many buffers as they take; None where there are not enough."""
            ...


MOST_AT_ONCE = 1 << 16
"""The most bytes of a stream that are offered to one buffer of the driver."""


class _Place:
    """Where somebody waits in the line of a port."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return after the next `wake`."""
        import asyncio

        self._future = asyncio.get_running_loop().create_future()
        await self._future

    def wake(self) -> None:
        """Have whoever waits here look again."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class OutgoingPort:
    """One outgoing queue of one device; see `OutgoingQueue`.

    Messages arrive in the order in which they were sent. One that was sent while its worker died may be lost, as a
    frame on a network is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._outlet: Outlet | None = None
        self._line: list[_Place] = []

    async def send(self, data: bytes, *, header: Header | None = None) -> None:
        """Send one message in one buffer of the driver; wait until there is one, and until earlier messages are sent.

        With ``header`` the message may lie in several buffers, each but the last of them full, which the driver gets
        at once, such as the mergeable ones of a network device (VIRTIO 1.4, 5.1.9.4). ``header(n)`` is called for the
        bytes that precede ``data`` where there are *n*. They always have the same length and lie in the first buffer.

        Raises:
            LocalError: the driver's buffer, or all that its queue can hold, is smaller than the message; it is kept
                for the next message.
        """
        message = self._checked(data)
        if self._line or self._deliver(message, header=header) is None:
            await self._send_in_line(message, header=header)

    async def send_fitting(self, make: Make, *, least: int = 1) -> bool:
        """Send one message that is made for its buffer: ``make(room)`` returns at most ``room`` bytes.

        It is called once there is a buffer, and so late that it can choose what is worth sending by then. Where it
        returns no bytes, nothing is sent and the buffer is kept. Buffers of fewer than ``least`` bytes are returned
        empty. Return whether something was sent.
        """
        if not self._line and (written := self._deliver(make, least=least)) is not None:
            return written > 0
        return await self._send_in_line(make, least=least) > 0

    async def write(self, data: bytes) -> None:
        """Send bytes of a stream, in as many buffers of the driver as they take; no message comes in between."""
        if stream := self._checked(data):
            await self._send_in_line(stream, whole=False)

    def try_send(self, data: bytes, *, header: Header | None = None) -> bool:
        """Send one message if the driver has buffers for it and nobody waits; return whether it was sent.

        ``header`` is as for `send`.

        Raises:
            LocalError: see `send`.
        """
        message = self._checked(data)
        return not self._line and self._deliver(message, header=header) is not None

    async def _send_in_line(
        self, data: bytes | Make, *, whole: bool = True, least: int = 0, header: Header | None = None
    ) -> int:
        """Send ``data``, piece by piece unless ``whole``, once those who came before are done; return its bytes."""
        place, sent = _Place(), 0
        self._line.append(place)
        try:
            while True:
                piece = data if whole or callable(data) else bytes(memoryview(data)[sent : sent + MOST_AT_ONCE])
                first = self._line[0] is place
                written = self._deliver(piece, whole=whole, least=least, header=header) if first else None
                if written is None:
                    await place.wait()
                    continue
                sent += written
                if whole or callable(data) or sent == len(data):
                    return sent
        finally:
            self._line.remove(place)
            self.refilled()  # for whoever is next

    def _deliver(
        self, data: bytes | Make, *, whole: bool = True, least: int = 0, header: Header | None = None
    ) -> int | None:
        if self._outlet is None:
            return None
        if header is None or callable(data):
            return self._outlet.deliver(data, whole=whole, least=least)
        return self._outlet.deliver_spread(data, header)

    def _checked(self, data: object) -> bytes:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise LocalError(f"{self.name} sends bytes, not {type(data).__name__}; pack a structure first")
        return bytes(data)

    # What the runtime calls.

    def connect(self, outlet: Outlet | None) -> None:
        """Take the queue that runs now, or None where it stopped; `send` waits meanwhile."""
        self._outlet = outlet
        if outlet is not None:
            self.refilled()

    def refilled(self) -> None:
        """Wake whoever is first in the line: the driver made buffers available."""
        if self._line:
            self._line[0].wake()
