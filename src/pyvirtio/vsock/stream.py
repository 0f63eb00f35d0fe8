"""A connection as a coroutine uses it: read, write, and wait while the peer has nothing, or takes nothing."""

from __future__ import annotations

from pyvirtio.vsock.connection import State
from pyvirtio.vsock.packets import BOTH, MOST_PAYLOAD, Shutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pyvirtio.vsock.connection import Connection


class Stream:
    """One end of a connection, for the coroutines of one event loop.

    Attributes:
        port: the port at this end; peer_port: the one at the other end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[asyncio.Future[None]] = []
        self.port = connection.local_port
        self.peer_port = connection.peer_port
        connection.changed = self._wake

    def accept(self) -> None:
        """Accept a connection that the other end asked for."""
        self._connection.accept()

    async def established(self) -> None:
        """Wait until the other end has accepted.

        Raises:
            ConnectionRefusedError: it did not.
        """
        await self._until(lambda: self._connection.state is not State.REQUESTED)
        if self._connection.state is State.CLOSED:
            raise ConnectionRefusedError(f"nobody accepts connections to port {self.peer_port}")

    async def read(self, limit: int = MOST_PAYLOAD) -> bytes:
        """Wait for bytes, and return up to ``limit`` of them; return none where no more will come.

        Raises:
            ConnectionResetError: the connection was cut off.
        """
        connection = self._connection
        await self._until(lambda: bool(connection.received) or not connection.may_receive)
        if connection.was_reset:
            raise ConnectionResetError(f"the connection from port {self.peer_port} was reset")
        return connection.read(limit)

    async def write(self, data: bytes) -> None:
        """Send ``data``; return when all of it is on its way, for which the other end may have to read.

        Raises:
            ConnectionResetError: the connection was cut off.
            BrokenPipeError: the other end reads no more, or this end said that it would send no more.
        """
        connection, rest = self._connection, memoryview(data)
        while rest and not connection.lost:
            await self._until(lambda: bool(connection.room) or not connection.may_send)
            if not connection.may_send:
                break
            rest = rest[connection.send(rest) :]
        await self._until(lambda: not connection.unsent)
        if connection.was_reset:
            raise ConnectionResetError(f"the connection from port {self.peer_port} was reset")
        if rest or connection.lost:
            raise BrokenPipeError(f"nothing can be sent to port {self.peer_port} any more")

    def write_eof(self) -> None:
        """Send no more; the other end reads the end of the stream behind what was sent."""
        self._connection.shutdown(Shutdown.SEND)

    def close(self) -> None:
        """Neither send nor receive any more, in good order; see `closed`. One that was not accepted is refused."""
        if self._connection.state in (State.ESTABLISHED, State.CLOSING):
            self._connection.shutdown(BOTH)
        else:
            self._connection.reset()

    def reset(self) -> None:
        """Cut the connection off."""
        self._connection.reset()

    @property
    def may_write(self) -> bool:
        """Whether the other end still takes what is written."""
        return self._connection.may_send

    async def closed(self) -> None:
        """Wait until the connection is over for both ends."""
        await self._until(lambda: self._connection.state is State.CLOSED)

    async def _until(self, condition: Callable[[], bool]) -> None:
        import asyncio

        while not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
