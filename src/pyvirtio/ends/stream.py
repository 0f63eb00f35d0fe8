"""A descriptor that never blocks: what it has and what it takes now, and the wait for more in an event loop."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MOST_READ = 1 << 16
"""The most bytes that are read at once."""


class Stream:
    """Bytes to and from ``fd``, which it owns. One task at a time may wait to read, and one to write."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._waits: dict[str, asyncio.Future[None]] = {}

    def read_now(self) -> bytes | None:
        """Return what is there; nothing at the end, None where more may come later."""
        try:
            return os.read(self.fd, MOST_READ)
        except BlockingIOError:
            return None
        except OSError:  # the other side has hung up
            return b""

    def put(self, data: bytes | memoryview) -> int:
        """Write what there is room for; return how much. Where the other side has hung up, all is taken, and lost."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    async def readable(self, timeout: float | None = None) -> None:
        """Return when there is something to read, the stream is closed, or ``timeout`` seconds are over."""
        await self._wait("reader", timeout)

    async def writable(self) -> None:
        """Return when there is room to write, or the stream is closed."""
        await self._wait("writer", None)

    async def _wait(self, kind: str, timeout: float | None) -> None:
        import asyncio

        if self.fd < 0:
            return
        loop = asyncio.get_running_loop()
        add: Callable[..., object] = getattr(loop, f"add_{kind}")
        remove: Callable[[int], object] = getattr(loop, f"remove_{kind}")
        ready = self._waits[kind] = loop.create_future()
        add(self.fd, _settle, ready)
        try:
            await asyncio.wait([ready], timeout=timeout)
        finally:
            if self._waits.pop(kind, None) is ready and self.fd >= 0:
                remove(self.fd)

    def close(self) -> None:
        """Close the descriptor; whoever waits for it goes on."""
        if self.fd < 0:
            return
        for kind, ready in self._waits.items():
            getattr(ready.get_loop(), f"remove_{kind}")(self.fd)
            _settle(ready)
        self._waits.clear()
        os.close(self.fd)
        self.fd = -1


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
