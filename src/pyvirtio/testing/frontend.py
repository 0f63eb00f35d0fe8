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

import mmap
import os
import select
import socket
import time

from pyvirtio.errors import NoAnswer, ProtocolError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.ring import SplitDriverQueue, SplitLayout
from pyvirtio.spec import split
from pyvirtio.spec.features import Feature
from pyvirtio.system.fd_passing import receive, send
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer, close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Self

    from pyvirtio.spec.struct import Struct

PATIENCE = 30.0
"""The seconds after which a back-end that says nothing counts as wedged."""

MODERN = int(Feature.VERSION_1) | m.F_PROTOCOL_FEATURES
"""The fewest features of a modern driver, over vhost-user."""

LEGACY = 0x4000_0001
"""What QEMU sends for a guest on a legacy virtio-mmio device that took feature bit 0."""

ALL_PROTOCOL = m.Protocol(sum(m.Protocol))
"""Every protocol feature that pyvirtio knows."""


class SharedMemory:
    """Memory that a front-end shares: a file, mapped here too; by default one that may shrink under its users.

    ``guest`` and ``user`` are the region's two addresses, ``offset`` is where it starts in the file.
    """

    def __init__(
        self, size: int = 1 << 20, *, guest: int = 0x4000_0000, user: int = 0x7F00_0000_0000, offset: int = 0
    ) -> None:
        self.size = size
        self.guest = guest
        self.user = user
        self.offset = offset
        self.fd = os.memfd_create("pyvirtio-front-end", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, offset + size)
        slack = offset % mmap.PAGESIZE
        mapping = mmap.mmap(self.fd, size + slack, offset=offset - slack)
        self.table = MemoryTable([Region(guest, memoryview(mapping)[slack:])])
        self.arena = Arena(guest, size)

    def region(self, **changes: int) -> m.MemoryRegion:
        """Return the region as SET_MEM_TABLE wants it, with some fields changed."""
        return m.MemoryRegion(self.guest, self.size, self.user, self.offset).replace(**changes)

    def single(self, **changes: int) -> m.SingleRegion:
        """Return the region as ADD_MEM_REG and REM_MEM_REG want it, with some fields changed."""
        return m.SingleRegion(0, self.guest, self.size, self.user, self.offset).replace(**changes)

    def to_user(self, address: int) -> int:
        """Translate a guest address to the front-end's own."""
        return address - self.guest + self.user

    def close(self) -> None:
        """Close the file and let go of the mapping, which goes when no queue uses it either."""
        self.table = MemoryTable()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawFrontend:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawQueue:
    """A queue of a front-end: its rings in shared memory, its eventfds, and the messages that set it up.

    ``set_*`` send one message each and tell whether it was accepted; keywords replace what would be right.
    ``ring`` is the driver's side, for a script that wants more than `submit`.
    """

    def __init__(self, frontend: RawFrontend, memory: SharedMemory, index: int, size: int) -> None:
        self.frontend = frontend
        self.memory = memory
        self.index = index
        self.size = size
        parts = (split.table_size(size), split.available_size(size), split.used_size(size))
        self.descriptors, self.available, self.used = map(memory.arena.allocate, parts)
        self.rings = SplitLayout(memory.table, size, self.descriptors, self.available, self.used)
        self.ring = SplitDriverQueue(self.rings, memory.table, frontend.features)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.kick_fd, self.interrupt_fd, self.err_fd = (os.eventfd(0, flags) for _ in range(3))
        self._answers: dict[int, bytes] = {}
        self._submitted = 0
        self._given = 0

    # Setting up.

    def set_num(self, size: int | None = None) -> bool:
        """Send SET_VRING_NUM."""
        return self._state(m.Request.SET_VRING_NUM, self.size if size is None else size)

    def set_base(self, base: int = 0) -> bool:
        """Send SET_VRING_BASE."""
        return self._state(m.Request.SET_VRING_BASE, base)

    def set_addr(self, **changes: int) -> bool:
        """Send SET_VRING_ADDR."""
        user = self.memory.to_user
        address = m.VringAddr(self.index, 0, user(self.descriptors), user(self.used), user(self.available), 0)
        return self.frontend.tell(m.Request.SET_VRING_ADDR, address.replace(**changes))

    def set_kick(self, fd: int | None = None) -> bool:
        """Send SET_VRING_KICK; -1 is the payload's word for no descriptor."""
        return self._event(m.Request.SET_VRING_KICK, self.kick_fd if fd is None else fd)

    def set_call(self, fd: int | None = None) -> bool:
        """Send SET_VRING_CALL; see `set_kick`."""
        return self._event(m.Request.SET_VRING_CALL, self.interrupt_fd if fd is None else fd)

    def set_err(self, fd: int | None = None) -> bool:
        """Send SET_VRING_ERR; see `set_kick`."""
        return self._event(m.Request.SET_VRING_ERR, self.err_fd if fd is None else fd)

    def enable(self, value: int = 1) -> bool:
        """Send SET_VRING_ENABLE."""
        return self._state(m.Request.SET_VRING_ENABLE, value)

    def set_up(self, *, base: int = 0) -> None:
        """Send all but SET_VRING_ENABLE, in the order in which QEMU does."""
        self.set_num()
        self.set_base(base)
        self.set_addr()
        self.set_err()
        self.set_kick()
        self.set_call()

    def start(self, *, base: int = 0) -> None:
        """Set up and enable the queue, and say that the driver is ready."""
        self.set_up(base=base)
        if self.frontend.features & m.F_PROTOCOL_FEATURES:
            self.enable()
        self.frontend.driver_ok()

    def stop(self) -> int:
        """Stop the queue with GET_VRING_BASE; return the available index that comes back."""
        frame = self.frontend.ask(m.Request.GET_VRING_BASE, m.VringState(self.index, 0))
        return m.VringState.unpack(frame.payload).num

    def _state(self, request: m.Request, value: int) -> bool:
        return self.frontend.tell(request, m.VringState(self.index, value))

    def _event(self, request: m.Request, fd: int) -> bool:
        payload = self.index | (m.NO_FD if fd < 0 else 0)
        return self.frontend.tell(request, m.Number(payload), [fd] if fd >= 0 else [])

    # Driving.

    def submit(self, *requests: bytes, room: int = 4, indirect: bool = False) -> None:
        """Put requests on the ring and publish them; `kick` tells the device."""
        for data in requests:
            length = 32 + len(data) + room
            table = self.memory.arena.allocate(length)
            at = table + 32
            self.memory.table.write(at, data)
            token = (self._submitted, at + len(data), table, length)
            self.ring.add(
                [(at, len(data))] if data else [],
                [(at + len(data), room)] if room else [],
                token,
                indirect=table if indirect else None,
            )
            self._submitted += 1
        self.ring.publish()

    def kick(self) -> None:
        """Write the kick eventfd, wanted or not."""
        os.eventfd_write(self.kick_fd, 1)

    def answers(self, number: int, timeout: float = PATIENCE) -> list[bytes]:
        """Wait for the answers to the next ``number`` requests, and give them in the order of submission.

        Raises:
            NoAnswer: they are not all there in time.
            DeviceError: the device broke a rule of the ring.
        """
        wanted = range(self._given, self._given + number)
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.interrupt_fd, select.POLLIN)
        while True:
            self._reap()
            if all(place in self._answers for place in wanted):
                self._given += number
                return [self._answers.pop(place) for place in wanted]
            if self.ring.enable_interrupts():
                continue
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise NoAnswer(f"{number} answers were awaited. The ring:\n{self.ring.describe()}")
            drain(self.interrupt_fd)

    def _reap(self) -> None:
        done: Iterable[tuple[Any, int]] = self.ring.reap()
        for (place, at, base, length), written in done:
            self._answers[place] = self.memory.table.read(at, written)
            self.memory.arena.free(base, length)

    def ask(self, *requests: bytes, room: int = 4, indirect: bool = False) -> list[bytes]:
        """Submit requests, kick, and wait for the answers."""
        self.submit(*requests, room=room, indirect=indirect)
        self.kick()
        return self.answers(len(requests))

    def close(self) -> None:
        """Close the eventfds and let go of the rings."""
        if self.kick_fd >= 0:
            del self.rings, self.ring
        close_all(fd for fd in (self.kick_fd, self.interrupt_fd, self.err_fd) if fd >= 0)
        self.kick_fd = self.interrupt_fd = self.err_fd = -1


def message(request: int, payload: Struct | bytes = b"", *, flags: int = m.VERSION, size: int | None = None) -> bytes:
    """Return the bytes of a message, whatever its header says."""
    data = payload if isinstance(payload, bytes) else payload.pack()
    return m.Header(request, flags, len(data) if size is None else size).pack() + data


def drain(fd: int) -> int:
    """Read an eventfd without waiting; return what it had counted."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def wait_readable(fd: int, timeout: float = PATIENCE) -> bool:
    """Wait until a descriptor can be read; return False when ``timeout`` seconds are over."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
