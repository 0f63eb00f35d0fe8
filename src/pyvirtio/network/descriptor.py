"""What the ends behind a file descriptor have in common: waiting for it, and keeping what it does not take yet."""

from __future__ import annotations

from collections import deque

from pyvirtio.network.end import End
from pyvirtio.network.inbox import MOST_BYTES
from pyvirtio.network.offload import finished
from pyvirtio.network.packet import Offload

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

    from pyvirtio.network.packet import Packet


class DescriptorEnd(End):
    """An end behind a descriptor that does not block; a subclass opens it, and says how a packet is written.

    What was sent before it is open waits as well, for `open` follows soon; what is sent while nobody is there is lost.
    """

    takes: Offload = Offload.NONE
    """What whoever reads the descriptor does himself."""

    def __init__(self) -> None:
        super().__init__()
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._backlog: deque[bytes] = deque()
        self._waiting = 0
        self._is_early = True

    def attach(self, fd: int) -> None:
        """Use a descriptor from now on; first for what waits."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._is_early = False
        self._flush()

    def detach(self) -> None:
        """Use the descriptor no more; what waits is lost."""
        if self._loop is not None and self._fd >= 0:
            self._loop.remove_writer(self._fd)
            self._loop.remove_reader(self._fd)
        self._fd = -1
        self.dropped += len(self._backlog)
        self._backlog.clear()
        self._waiting = 0

    def send(self, packet: Packet) -> None:
        """Write a packet, or keep it until the descriptor takes it."""
        for header, frame in finished(packet, self.takes):
            self._put(self.framed(header, frame))

    def _put(self, message: bytes) -> None:
        if not self._backlog and self._fd >= 0:
            message = self._written(message)
        if message:
            self._keep(message)

    def framed(self, header: bytes, frame: bytes) -> bytes:
        """Return what is written for a packet; overridden."""
        raise NotImplementedError

    def write(self, message: bytes) -> int:
        """Write to the descriptor, and return how many bytes it took; overridden.

        Raises:
            BlockingIOError: it takes none now.
            OSError: nobody is there, or he does not want it.
        """
        raise NotImplementedError

    def _written(self, message: bytes) -> bytes:
        """Return what the descriptor does not take yet."""
        try:
            return message[self.write(message) :]
        except BlockingIOError:
            return message
        except OSError:  # nobody is there
            self.dropped += 1
            return b""

    def _keep(self, message: bytes) -> None:
        if (self._fd < 0 and not self._is_early) or self._waiting > MOST_BYTES:
            self.dropped += 1
            return
        if self._loop is not None and not self._backlog and self._fd >= 0:
            self._loop.add_writer(self._fd, self._flush)
        self._backlog.append(message)
        self._waiting += len(message)

    def _flush(self) -> None:
        assert self._loop is not None
        while self._backlog:
            message = self._backlog.popleft()
            rest = self._written(message)
            self._waiting -= len(message) - len(rest)
            if rest:
                self._backlog.appendleft(rest)
                self._loop.add_writer(self._fd, self._flush)
                return
        self._loop.remove_writer(self._fd)

    async def readable(self) -> None:
        """Wait until there is something to read."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        fd = self._fd
        loop.add_reader(fd, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            loop.remove_reader(fd)
