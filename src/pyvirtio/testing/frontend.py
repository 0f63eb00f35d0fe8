"""A vhost-user front-end that does what a script says, right or wrong, one message at a time.

`RawFrontend` sends any bytes, descriptors and messages, and reads replies. `SharedMemory` and `RawQueue` know the
ordinary sequence step by step, and each step takes another value in place of the right one::

    with RawFrontend(path) as frontend, SharedMemory() as memory:
        frontend.negotiate()
        frontend.share(memory)
        queue = frontend.queue(memory)
        queue.start()
        queue.submit(b"...", room=4)
        queue.kick()
        print(queue.answers(1))

Nothing here checks what it sends.
"""

from __future__ import annotations

import socket

from pyvirtio.errors import ProtocolError
from pyvirtio.spec.features import Feature
from pyvirtio.system.closing import Closing
from pyvirtio.system.fd_passing import receive, send
from pyvirtio.testing.frontend_queue import PATIENCE, RawQueue, drain, wait_readable
from pyvirtio.testing.shared_memory import SharedMemory
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.spec.struct import Struct

__all__ = [
    "ALL_PROTOCOL",
    "LEGACY",
    "MODERN",
    "PATIENCE",
    "RawFrontend",
    "RawQueue",
    "SharedMemory",
    "drain",
    "message",
    "wait_readable",
]

MODERN = int(Feature.VERSION_1) | m.F_PROTOCOL_FEATURES
"""The fewest features of a modern driver, over vhost-user."""

LEGACY = 0x4000_0001
"""What QEMU sends for a guest on a legacy virtio-mmio device that took feature bit 0."""

ALL_PROTOCOL = m.Protocol(sum(m.Protocol))
"""Every protocol feature that pyvirtio knows."""


class RawFrontend(Closing):
    """A connection to a back-end; ``place`` is the path of its socket, or a connected socket.

    Attributes:
        protocol: the protocol features that `negotiate` settled on.
        features: the features that `negotiate` sent last.
    """

    def __init__(self, place: str | socket.socket) -> None:
        if isinstance(place, str):
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(place)
            except OSError:
                self.sock.close()
                raise
        else:
            self.sock = place
        self.sock.settimeout(PATIENCE)
        self.protocol = m.Protocol(0)
        self.features = 0
        self._framer = Framer(m.MAXIMUM_PAYLOAD, replies=True)
        self._queues: list[RawQueue] = []

    # Bytes and messages.

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, with ``fds`` on the first of them."""
        send(self.sock, data, fds)

    def send(
        self,
        request: int,
        payload: Struct | bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = m.VERSION,
        size: int | None = None,
    ) -> None:
        """Send a message; ``size`` is what the header says of the payload, by default the truth."""
        self.send_bytes(message(request, payload, flags=flags, size=size), fds)

    def receive(self) -> Frame | None:
        """Read one whole message; return None where the back-end closed the connection.

        Raises:
            ProtocolError: what came is not a reply of vhost-user.
            TimeoutError: nothing came.
        """
        while True:
            try:
                data, fds = receive(self.sock, self._framer.wanted, m.MAXIMUM_FDS)
            except ConnectionResetError:  # it closed while bytes of ours were unread
                return None
            if not data:
                return None
            for frame in self._framer.feed(data, fds):
                return frame

    def is_closed(self) -> bool:
        """Wait for the back-end's next move; return whether it was to close the connection."""
        frame = self.receive()
        if frame is not None:
            frame.close_fds()
        return frame is None

    def ask(self, request: int, payload: Struct | bytes = b"", fds: Sequence[int] = (), *, flags: int = 0) -> Frame:
        """Send a message and read the reply.

        Raises:
            ProtocolError: the back-end closed the connection, or answered something else.
        """
        self.send(request, payload, fds, flags=m.VERSION | flags)
        frame = self.receive()
        if frame is None:
            raise ProtocolError(f"the back-end closed the connection when it was asked {request}")
        if frame.request != request:
            frame.close_fds()
            raise ProtocolError(f"the back-end answered {request} with message {frame.request}")
        return frame

    def number(self, request: int, payload: Struct | bytes = b"") -> int:
        """Ask something whose answer is one number."""
        return m.Number.unpack(self.ask(request, payload).payload).value

    def tell(self, request: int, payload: Struct | bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send a message and wait until it is dealt with; return whether it was accepted.

        Without REPLY_ACK that cannot be known, and the result is True.
        """
        if self.protocol & m.Protocol.REPLY_ACK:
            frame = self.ask(request, payload, fds, flags=m.F_NEED_REPLY)
            return not m.Number.unpack(frame.payload).value
        self.send(request, payload, fds)
        self.number(m.Request.GET_FEATURES)  # messages are dealt with in order
        return True

    # The ordinary sequence.

    def negotiate(self, features: int = MODERN, protocol: int = ALL_PROTOCOL) -> int:
        """Settle on ``features`` and on those protocol features of ``protocol`` that are offered.

        Return the features that are offered.
        """
        self.tell(m.Request.SET_OWNER)
        offered = self.number(m.Request.GET_FEATURES)
        if offered & m.F_PROTOCOL_FEATURES and protocol:
            chosen = m.Protocol(self.number(m.Request.GET_PROTOCOL_FEATURES) & protocol)
            self.tell(m.Request.SET_PROTOCOL_FEATURES, m.Number(chosen))
            self.protocol = chosen
        self.accept(features)
        return offered

    def accept(self, features: int) -> bool:
        """Send SET_FEATURES."""
        self.features = features
        return self.tell(m.Request.SET_FEATURES, m.Number(features))

    def share(self, *memories: SharedMemory, **changes: int) -> bool:
        """Send SET_MEM_TABLE with the region of each memory; ``changes`` apply to each."""
        table = b"".join(memory.region(**changes).pack() for memory in memories)
        payload = m.MemoryHeader(len(memories)).pack() + table
        return self.tell(m.Request.SET_MEM_TABLE, payload, [memory.fd for memory in memories])

    def add(self, memory: SharedMemory, **changes: int) -> bool:
        """Send ADD_MEM_REG."""
        return self.tell(m.Request.ADD_MEM_REG, memory.single(**changes), [memory.fd])

    def remove(self, memory: SharedMemory, fds: Sequence[int] = (), **changes: int) -> bool:
        """Send REM_MEM_REG."""
        return self.tell(m.Request.REM_MEM_REG, memory.single(**changes), fds)

    def driver_ok(self) -> None:
        """Send the status of a driver that is ready, where STATUS was negotiated."""
        if self.protocol & m.Protocol.STATUS:
            self.tell(m.Request.SET_STATUS, m.Number(15))

    def queue(self, memory: SharedMemory, index: int = 0, size: int = 16) -> RawQueue:
        """Make a queue in ``memory``; nothing is sent yet."""
        queue = RawQueue(self, memory, index, size)
        self._queues.append(queue)
        return queue

    def config(self, offset: int, length: int) -> bytes:
        """Read the configuration space with GET_CONFIG; no bytes mean that the back-end refuses."""
        frame = self.ask(m.Request.GET_CONFIG, m.ConfigHeader(offset, length).pack() + bytes(length))
        return frame.payload[m.ConfigHeader.nbytes :]

    def write_config(self, offset: int, data: bytes, flags: int = 0) -> bool:
        """Write the configuration space with SET_CONFIG."""
        return self.tell(m.Request.SET_CONFIG, m.ConfigHeader(offset, len(data), flags).pack() + data)

    def open_channel(self) -> socket.socket:
        """Open a channel for the back-end's own messages with SET_BACKEND_REQ_FD; return our end of it."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.tell(m.Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        ours.settimeout(PATIENCE)
        return ours

    def close(self) -> None:
        """Close the connection and the queues' eventfds."""
        self.sock.close()
        self._framer.close()
        while self._queues:
            self._queues.pop().close()


def message(request: int, payload: Struct | bytes = b"", *, flags: int = m.VERSION, size: int | None = None) -> bytes:
    """Return the bytes of a message, whatever its header says."""
    data = payload if isinstance(payload, bytes) else payload.pack()
    return m.Header(request, flags, len(data) if size is None else size).pack() + data
