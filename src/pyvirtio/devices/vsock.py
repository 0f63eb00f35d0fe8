"""A socket device (VIRTIO 1.4, 5.10): the guest's AF_VSOCK against Unix sockets of the host, or functions in Python.

A guest that connects to port 1234 of the host (CID 2) reaches whoever listens on the Unix socket ``PATH_1234``. A
program of the host that connects to ``PATH`` and sends ``CONNECT 1234`` and a newline reaches whoever listens on port
1234 of the guest, and reads ``OK`` and a port first. These are the conventions of Firecracker, cloud-hypervisor and
vhost-device-vsock. Whatever is not read stays where it comes from, in both directions.

>>> async def shout(stream):
...     while data := await stream.read():
...         await stream.write(data.upper())
>>> device = Vsock(cid=7)
>>> device.services[1234] = shout  # instead of PATH_1234
>>> device.config.guest_cid
7
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path  # noqa: TC003  # the options of a device are what its annotations say
from typing import Any

from pyvirtio.device import Device, OutgoingQueue, Queue, Reader, Writer
from pyvirtio.errors import LocalError
from pyvirtio.spec.struct import Struct, le64
from pyvirtio.system.listener import listen
from pyvirtio.vsock import BUFFER, MOST_CONNECTIONS, Connection, Endpoint, Header, Ledger, Stream
from pyvirtio.vsock.packets import FIRST_PORT, HOST_CID, MOST_PAYLOAD, Event, EventId, Op, check_cid, check_port
from pyvirtio.vsock.relay import close, relay

STREAM, NO_IMPLIED_STREAM = 1 << 0, 1 << 2  # feature bits (5.10.3)
RX, TX, EVENT = range(3)  # indexes of the queues (5.10.2)

TAKEOVER_TIME = 5.0
"""The seconds that the socket at the path may still belong to a worker that this one replaces."""

PACKETS_AT_ONCE = 64
"""The most packets that are sent before anything else has its turn."""

EVENT_TIME = 0.5
"""The seconds that a driver has to provide a buffer for an event."""

Service = Callable[[Stream], Awaitable[object]]
"""Serves one connection of the guest's, which is closed when it returns, and cut off when it raises."""


class Config(Struct):
    guest_cid: int = le64()


class Vsock(Device):
    """Sockets between a guest and its host, against Unix sockets or functions.

    ``cid`` is the guest's address; without ``path`` there are services in Python alone.

    Attributes:
        services: what answers a port of the host's in place of a Unix socket; it runs in the event loop of the device.
    """

    device_id = 19
    kept_size = 1 << 16  # bytes, for the ledger
    features = STREAM | NO_IMPLIED_STREAM
    rx = OutgoingQueue(size=128)
    tx = Queue(size=128)
    event = OutgoingQueue(size=128)

    def __init__(self, cid: int = 3, path: Path | None = None) -> None:
        self.config = Config(check_cid(cid))
        self.services: dict[int, Service] = {}
        self._path = path
        self._speaks = asyncio.Event()
        # Not the ports of a process before this one, whose connections the guest may have still.
        first_port = FIRST_PORT + int.from_bytes(os.urandom(4), "little") % FIRST_PORT
        self._endpoint = Endpoint(HOST_CID, cid, self._offered, self._speaks.set, first_port=first_port)
        self._resumed: dict[int, bool] = {}
        self._is_new = True
        self._lost: list[tuple[int, int]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def queue_started(self, index: int, *, resumed: bool) -> None:
        """Find out whether the driver knows the connections that are here, and no others."""
        self._resumed[index] = resumed
        if self._resumed.keys() >= {RX, TX}:
            resumed = self._resumed.pop(RX) | self._resumed.pop(TX)
            if not resumed:
                self._endpoint.forget_all()
            if self._is_new:
                self._is_new = False
                self._endpoint.ledger = ledger = Ledger(self.kept_memory or memoryview(bytearray(self.kept_size)))
                lost = ledger.take()
                if resumed:  # the driver knows connections of the process before this one
                    self._lost = lost
                    self._speaks.set()

    @tx.stream
    def transmit(self, reader: Reader, _writer: Writer) -> None:
        """Take a packet of the guest's."""
        header = reader.take(Header)
        # What exceeds a connection's credit is not even read: a chain may have gigabytes.
        self._endpoint.receive(header, reader.read(min(header.len, BUFFER)) if header.op == Op.RW else b"")

    async def run(self) -> None:
        """Bring packets to the guest, and the host's connections to its ports."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            if self._path is not None:
                await self._listen(self._path, stack)
            while True:
                await self._speaks.wait()
                if self._lost is not None:
                    self._begin(self._reset(self._lost))
                    self._lost = None
                for _ in range(PACKETS_AT_ONCE):
                    if not await self.rx.send_fitting(self._endpoint.next_packet, least=Header.nbytes):
                        self._speaks.clear()
                        break
                await asyncio.sleep(0)

    async def _reset(self, lost: list[tuple[int, int]]) -> None:
        """Tell the driver that its connections are no more: all at once (5.10.6.7), or one by one.

        QEMU's vhost-user-vsock keeps the event queue to itself. And where the process before this one ran on another
        machine, nobody here knows what connections it had.
        """
        try:
            async with asyncio.timeout(EVENT_TIME):
                await self.event.send(Event(EventId.TRANSPORT_RESET).pack())
        except TimeoutError:
            self._endpoint.reset_unknown(lost)

    async def _end(self) -> None:
        self._endpoint.ledger = None  # what the guest is not told of here is left to whoever follows
        self._endpoint.forget_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Connections of the guest.

    def _offered(self, connection: Connection) -> None:
        if len(self._tasks) < MOST_CONNECTIONS:  # some may be busy with what closed connections have left
            self._begin(self._serve(Stream(connection)))
        else:
            connection.reset()

    async def _serve(self, stream: Stream) -> None:
        try:
            if service := self.services.get(stream.port):
                stream.accept()
                await service(stream)
            elif self._path is not None:
                reader, writer = await asyncio.open_unix_connection(f"{self._path}_{stream.port}", limit=MOST_PAYLOAD)
                stream.accept()
                await relay(stream, reader, writer)
            await close(stream)
        except OSError as error:  # nobody listens there, or one of the two ends is gone
            self.info("the guest's connection to port %d: %s", stream.port, str(error))
        finally:
            stream.reset()  # where it is not closed

    # Connections of the host.

    async def connect(self, port: int) -> Stream:
        """Return a connection to the guest's ``port``; call this in the event loop of the device.

        Raises:
            ConnectionRefusedError: nobody in the guest accepts it, or there are too many connections.
        """
        if (connection := self._endpoint.connect(check_port(port))) is None:
            raise ConnectionRefusedError("there are as many connections as this device can have")
        stream = Stream(connection)
        try:
            await stream.established()
        except asyncio.CancelledError:
            stream.reset()
            raise
        return stream

    async def _listen(self, path: Path, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TAKEOVER_TIME
        while True:
            try:
                listener = stack.enter_context(listen(str(path)))
                break
            except LocalError:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.05)
        server = await asyncio.start_unix_server(
            lambda reader, writer: self._begin(self._greet(reader, writer)), sock=listener, limit=MOST_PAYLOAD
        )
        stack.callback(server.close)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a program of the host to the guest's port that it asks for."""
        with contextlib.closing(writer):
            try:
                words = (await reader.readuntil(b"\n")).split()
                if len(words) != 2 or words[0] != b"CONNECT":
                    raise LocalError("a line is not understood; send CONNECT, a port and a newline")
                stream = await self.connect(int(words[1]))
                writer.write(b"OK %d\n" % stream.port)
                try:
                    await relay(stream, reader, writer)
                    await close(stream)
                finally:
                    stream.reset()  # where it is not closed
            except (OSError, ValueError, LocalError, EOFError, asyncio.LimitOverrunError) as error:
                self.info("a connection of the host's: %s", str(error))
