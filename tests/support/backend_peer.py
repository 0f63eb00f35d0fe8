"""A vhost-user back-end for tests of a front-end: it replies as it should, unless a test changes that."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.files import map_file
from pyvirtio.spec.features import RING_FEATURES, Feature
from pyvirtio.system.fd_passing import receive
from pyvirtio.testing import RawDevice, RingLayout
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

MODERN = Feature.VERSION_1 | RING_FEATURES & ~Feature.EVENT_IDX  # so every request is kicked
ALL = m.Protocol.MQ | m.Protocol.REPLY_ACK | m.Protocol.CONFIG | m.Protocol.BACKEND_REQ


class BackendPeer:
    """Speaks with one front-end, which uses the socket ``frontend``, in a thread.

    Attributes:
        frontend: the front-end's end of the connection.
        received: the messages that came: number and payload.
        on: what a test does before the reply to a message; it may return another reply than the usual one.
        fds: the descriptors that came with SET_VRING_KICK, CALL and ERR, by message and queue.
    """

    def __init__(
        self,
        *,
        features: int = MODERN | m.F_PROTOCOL_FEATURES,
        protocol: m.Protocol = ALL,
        queues: int = 2,
        config: bytes = b"",
    ) -> None:
        self.frontend, self._sock = socket.socketpair()
        self.received: list[tuple[int, bytes]] = []
        self.on: dict[m.Request, Callable[[], bytes | None]] = {}
        self.fds: dict[tuple[int, int], int] = {}
        self.channel: socket.socket | None = None
        self.config = config
        self._numbers = {
            m.Request.GET_FEATURES: features,
            m.Request.GET_PROTOCOL_FEATURES: protocol,
            m.Request.GET_QUEUE_NUM: queues,
        }
        self._sizes: dict[int, int] = {}
        self._addresses: dict[int, m.VringAddr] = {}
        self._guest = self._user = 0
        self._memory = MemoryTable()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._thread.join()
        self._sock.close()
        if self.channel is not None:
            self.channel.close()
        for fd in self.fds.values():
            os.close(fd)
        self._memory = MemoryTable()
        self.frontend.close()

    # What a test does.

    def hang_up(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send something on the connection that nobody asked for, or a reply with descriptors."""
        socket.send_fds(self._sock, [data], list(fds))

    def say(self, request: int, payload: bytes = b"", *, ack: bool = False, fds: Sequence[int] = ()) -> None:
        """Send a message of the back-end's own."""
        assert self.channel is not None
        socket.send_fds(self.channel, [encode(request, payload, m.F_NEED_REPLY if ack else 0)], list(fds))

    def acknowledgement(self) -> tuple[int, int]:
        """Wait for the reply to such a message; return its number and what it says."""
        assert self.channel is not None
        self.channel.settimeout(10)
        request, flags, size, value = struct.unpack("<IIIQ", self.channel.recv(20, socket.MSG_WAITALL))
        assert (flags, size) == (m.VERSION | m.F_REPLY, 8)
        return request, value

    def device(self, index: int = 0) -> RawDevice:
        """Return the device's end of a queue."""
        address, shift = self._addresses[index], self._guest - self._user
        areas = (address.descriptors + shift, address.available + shift, address.used + shift)
        return RawDevice(self._memory, RingLayout(self._sizes[index], *areas, 0))

    def interrupt(self, index: int = 0) -> None:
        """Interrupt the driver."""
        os.eventfd_write(self.fds[m.Request.SET_VRING_CALL, index], 1)

    def report_broken(self, index: int = 0) -> None:
        """Say that a queue is not served any more."""
        os.eventfd_write(self.fds[m.Request.SET_VRING_ERR, index], 1)

    def payloads(self, request: m.Request) -> list[bytes]:
        """Return what came with each message of this number."""
        return [payload for number, payload in self.received if number == request]

    # The thread.

    def _run(self) -> None:
        framer = Framer(m.MAXIMUM_PAYLOAD)
        with contextlib.suppress(OSError):
            while True:
                data, fds = receive(self._sock, framer.wanted, m.MAXIMUM_FDS)
                if not data:
                    break
                for frame in framer.feed(data, fds):
                    self._take(frame)
        framer.close()

    def _take(self, frame: Frame) -> None:
        request = m.Request(frame.request)
        self.received.append((request, frame.payload))
        self._note(request, frame)
        frame.close_fds()
        own = self.on[request]() if request in self.on else None
        reply = self._reply(request, frame) if own is None else own
        if reply is not None:
            self._sock.sendall(encode(request, reply, m.F_REPLY))

    def _reply(self, request: m.Request, frame: Frame) -> bytes | None:
        if request in self._numbers:
            return m.Number(self._numbers[request]).pack()
        if request == m.Request.GET_CONFIG:
            header = m.ConfigHeader.unpack(frame.payload)
            return header.pack() + self.config[header.offset : header.offset + header.size]
        return bytes(8) if frame.needs_reply else None

    def _note(self, request: m.Request, frame: Frame) -> None:
        if request == m.Request.SET_MEM_TABLE:
            region = m.MemoryRegion.unpack(frame.payload[m.MemoryHeader.nbytes :])
            self._guest, self._user = region.guest, region.user
            self._memory = MemoryTable([Region(region.guest, map_file(frame.fds[0], 0, region.size))])
        elif request == m.Request.SET_VRING_NUM:
            state = m.VringState.unpack(frame.payload)
            self._sizes[state.queue] = state.num
        elif request == m.Request.SET_VRING_ADDR:
            address = m.VringAddr.unpack(frame.payload)
            self._addresses[address.queue] = address
        elif request in (m.Request.SET_VRING_KICK, m.Request.SET_VRING_CALL, m.Request.SET_VRING_ERR):
            self.fds[request, m.Number.unpack(frame.payload).value] = frame.fds.pop()
        elif request == m.Request.SET_BACKEND_REQ_FD:
            self.channel = socket.socket(fileno=frame.fds.pop())
