"""A console (VIRTIO 1.4, 5.3): what comes over a socket appears in the guest, and what the guest writes goes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pyvirtio import Device, OutgoingQueue, Queue, Struct, le16, le32

if TYPE_CHECKING:
    import socket

    from pyvirtio.device import Reader, Writer

SIZE = 1  # feature bit: the configuration space holds the size of the console (5.3.3)


class Config(Struct):
    """The configuration space (5.3.4)."""

    columns: int = le16()
    rows: int = le16()
    max_ports: int = le32()
    emergency_write: int = le32(writable=True)


class Console(Device):
    """A console with one port, whose other end is ``line``, a connected stream socket.

    Linux spins until a buffer that it sent is returned. So a peer that does not read costs it what it wrote, after the
    device's patience, rather than the guest its processor.
    """

    device_id = 3
    features = SIZE
    config = Config(columns=80, rows=25)
    patience = 2.0
    receiveq = OutgoingQueue(size=64)
    transmitq = Queue(size=64)

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._in_order = asyncio.Lock()

    async def run(self) -> None:
        """Bring what the peer sends to the guest, until the peer is gone."""
        while data := await asyncio.get_running_loop().sock_recv(self._line, 4096):
            await self.receiveq.write(data)

    @transmitq.stream
    async def transmit(self, reader: Reader, _writer: Writer) -> None:
        """Bring what the guest wrote to the peer."""
        async with self._in_order:
            await asyncio.get_running_loop().sock_sendall(self._line, reader.read())
