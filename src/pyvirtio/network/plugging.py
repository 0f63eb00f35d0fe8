"""Plugs ends into a switch: a TAP device, sockets, and whoever connects to a socket, so guests of other processes."""

from __future__ import annotations

import contextlib

from pyvirtio.errors import PeerError
from pyvirtio.network.packet import Offload
from pyvirtio.network.sockets import StreamEnd, listening

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from pathlib import Path

    from pyvirtio.network.end import End
    from pyvirtio.network.packet import Packet
    from pyvirtio.network.switch import Switch


async def plug(switch: Switch, end: End) -> None:
    """Join an end to a port of ``switch`` until this is cancelled, or the end is over.

    Raises:
        LocalError: the end cannot be opened.
        ConnectionError: it is over.
    """
    import asyncio

    port = switch.port()
    work: list[asyncio.Task[None]] = []
    try:
        await end.open(Offload.ALL)  # each end does what whoever is behind it does not
        await port.open(Offload.ALL)
        work = [
            asyncio.create_task(_carry(port.receive, end.send)),
            asyncio.create_task(_carry(end.receive, port.send)),
        ]
        await asyncio.gather(*work)
    finally:
        await _ended(work)
        end.close()
        switch.unplug(port)


async def serve(switch: Switch, path: Path | str, *, ready: Callable[[], object] = lambda: None) -> None:
    """Give everybody who connects to the Unix socket ``path`` a port of ``switch``, until this is cancelled.

    Frames are as in QEMU's ``-netdev stream``, and in ``pyvirtio serve net,stream=PATH``. ``ready`` is called when
    it listens.

    Raises:
        LocalError: it is not possible to listen there.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    ports: set[asyncio.Task[None]] = set()
    with listening(str(path)) as listener:
        ready()
        try:
            while True:
                connection, _ = await loop.sock_accept(listener)
                task = loop.create_task(_serve_one(switch, connection))
                ports.add(task)
                task.add_done_callback(ports.discard)
        finally:
            await _ended(ports)


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    import asyncio

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _serve_one(switch: Switch, connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        await plug(switch, _Accepted(connection))


async def _carry(receive: Callable[[], Awaitable[Sequence[Packet]]], send: Callable[[Packet], None]) -> None:
    while True:
        for packet in await receive():
            with contextlib.suppress(PeerError):  # it is not what it says it is: it is lost
                send(packet)


class _Accepted(StreamEnd):
    """A connection that is there already, and is not made again."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__("")
        self._given: socket.socket | None = connection

    async def _connected(self) -> socket.socket:
        given, self._given = self._given, None
        if given is None:
            raise ConnectionResetError("the other side has closed the connection")
        return given

    def close(self) -> None:
        """Close the connection, even if nobody has used it."""
        super().close()
        if self._given is not None:
            self._given.close()
