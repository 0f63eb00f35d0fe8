"""Hands packets from any thread to one coroutine, and holds a bounded number of them."""

from __future__ import annotations

from collections import deque
from threading import Lock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

    from pyvirtio.network.packet import Packet

MOST_BYTES = 8 << 20
"""The most bytes that wait in one place; what comes then is lost."""

MOST_AT_ONCE = 64
"""The most packets that are handed over at once."""


class Inbox:
    """Packets on their way to a coroutine.

    >>> import asyncio
    >>> inbox = Inbox()
    >>> inbox.put((b"header", b"frame"))
    True
    >>> asyncio.run(inbox.take())
    [(b'header', b'frame')]
    """

    def __init__(self) -> None:
        self._packets: deque[Packet] = deque()
        self._bytes_in = self._bytes_out = 0
        self._lock = Lock()  # for `_bytes_in`, which is changed in many threads
        self._waiting: tuple[asyncio.AbstractEventLoop, int, asyncio.Event] | None = None

    def __len__(self) -> int:
        return len(self._packets)

    def put(self, packet: Packet) -> bool:
        """Add a packet, from any thread; return False where there are too many."""
        with self._lock:
            if self._bytes_in - self._bytes_out > MOST_BYTES:
                return False
            self._bytes_in += len(packet[1])
            self._packets.append(packet)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, thread, event = waiting
            if thread == get_ident():
                event.set()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        return True

    async def take(self) -> list[Packet]:
        """Wait until there are packets, and return some of them, in order."""
        if not self._packets:
            import asyncio

            event = asyncio.Event()
            while not self._packets:
                event.clear()
                self._waiting = asyncio.get_running_loop(), get_ident(), event
                if not self._packets:
                    await event.wait()
        taken = [self._packets.popleft() for _ in range(min(len(self._packets), MOST_AT_ONCE))]
        self._bytes_out += sum(len(frame) for _header, frame in taken)
        return taken

    def clear(self) -> None:
        """Forget what waits."""
        with self._lock:
            self._packets.clear()
            self._bytes_out = self._bytes_in
