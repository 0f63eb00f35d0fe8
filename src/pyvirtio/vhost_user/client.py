"""A driver's way to a device that a vhost-user back-end serves: the one file here that does I/O."""

from __future__ import annotations

import os
import select
import socket

from pyvirtio.errors import DeviceError, LocalError, ProtocolError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.memory.files import map_file, shared_file
from pyvirtio.spec import split
from pyvirtio.system.fd_passing import check_path, receive, send
from pyvirtio.transport import DriverTransport
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import Frame, Framer
from pyvirtio.vhost_user.frontend import FrontendSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import QueueSetup

MEMORY = 64 << 20
"""The bytes of memory that driver and device share; untouched pages cost nothing."""

# The two addresses of a region differ, as they do behind QEMU, so that a mix-up shows.
_GUEST, _USER = 0x4000_0000, 0x7F00_0000_0000

_WANTED = (
    m.Protocol.MQ | m.Protocol.REPLY_ACK | m.Protocol.CONFIG | m.Protocol.BACKEND_REQ | m.Protocol.CONFIGURE_MEM_SLOTS
)

ANSWER_TIME = 30.0
"""The seconds that a back-end has to answer a message."""


class VhostUserTransport(DriverTransport):
    """Leads a driver through a connected socket to a back-end; owns the socket.

    Raises:
        ProtocolError: the peer does not speak vhost-user.
    """

    def __init__(self, sock: socket.socket, memory: int = MEMORY) -> None:
        self._sock = sock
        self._session = FrontendSession()
        self._interrupt_fds: dict[int, int] = {}
        self._kick_fds: dict[int, int] = {}
        self._polls: dict[int, select.poll] = {}
        self._generation = 0
        self._features = 0
        self._channel: socket.socket | None = None
        self._channel_framer = Framer(m.MAXIMUM_PAYLOAD)
        sock.settimeout(ANSWER_TIME)
        self._memory_fd = shared_file("pyvirtio-driver", memory)
        try:
            self.memory = MemoryTable([Region(_GUEST, map_file(self._memory_fd, 0, memory))])
            self.arena = Arena(_GUEST, memory)
            self._greet(memory)
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, path: str, memory: int = MEMORY) -> VhostUserTransport:
        """Connect to the back-end that serves the socket at ``path``.

        Raises:
            LocalError: nobody serves it.
        """
        check_path(path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            reason = error.strerror.lower() if error.strerror else str(error)
            raise LocalError(
                f"nobody serves the socket {path} ({reason}); "
                f"start a back-end with: pyvirtio serve factorial --socket {path}"
            ) from None
        return cls(sock, memory)

    def _greet(self, memory: int) -> None:
        self._ask(m.Request.SET_OWNER)
        self._offered = self._number(m.Request.GET_FEATURES)
        self._queues = 1
        if self._offered & m.F_PROTOCOL_FEATURES:
            offered = m.Protocol(self._number(m.Request.GET_PROTOCOL_FEATURES) & _WANTED)
            self._ask(m.Request.SET_PROTOCOL_FEATURES, m.Number(offered))
            self._session.protocol = offered
            if offered & m.Protocol.MQ:
                self._queues = self._number(m.Request.GET_QUEUE_NUM)
            if offered & m.Protocol.BACKEND_REQ:
                self._open_channel()
        if self._session.protocol & m.Protocol.CONFIGURE_MEM_SLOTS:
            region = m.SingleRegion(0, _GUEST, memory, _USER, 0)
            self._ask(m.Request.ADD_MEM_REG, region, [self._memory_fd])
        else:
            table = m.MemoryHeader(1).pack() + m.MemoryRegion(_GUEST, memory, _USER, 0).pack()
            self._ask(m.Request.SET_MEM_TABLE, table, [self._memory_fd])

    def _open_channel(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        with theirs:
            self._ask(m.Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])

    # Messages.

    def _ask(self, request: m.Request, payload: Struct | bytes = b"", fds: list[int] | None = None) -> bytes:
        """Send a message; give the payload of its reply, if there is one."""
        data, replies = self._session.request(request, payload)
        try:
            send(self._sock, data, fds or [])
            return self._session.check(request, self._reply()) if replies else b""
        except (OSError, ProtocolError) as error:
            raise DeviceError(f"the back-end did not understand {request.name}: {error}") from error

    def _reply(self) -> Frame:
        while True:
            data, fds = receive(self._sock, self._session.wanted, m.MAXIMUM_FDS)
            if not data:
                raise ProtocolError("it closed the connection; look at its log")
            for frame in self._session.receive(data, fds):
                frame.close_fds()
                return frame

    def _number(self, request: m.Request) -> int:
        return m.Number.unpack(self._ask(request)).value

    # What a driver asks.

    def offered_features(self) -> int:
        """Give what the back-end offers."""
        return self._offered

    def accept_features(self, features: int) -> bool:
        """Send the features; a back-end without REPLY_ACK cannot refuse."""
        self._features = features | (self._offered & m.F_PROTOCOL_FEATURES)
        try:
            self._ask(m.Request.SET_FEATURES, m.Number(self._features))
        except DeviceError:
            return False
        return True

    def queue_size(self, index: int) -> int:
        """Give the most that a split queue can have: in vhost-user the front-end chooses."""
        return split.MAXIMUM_SIZE if index < self._queues else 0

    def start_queue(self, setup: QueueSetup) -> None:
        """Tell the back-end of a queue."""
        index = setup.index
        setup.kick_fd = self._kick_fds[index] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        setup.interrupt_fd = self._interrupt_fds[index] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._polls[index] = poll = select.poll()
        poll.register(setup.interrupt_fd, select.POLLIN)
        poll.register(self._sock, select.POLLRDHUP)
        shift = _USER - _GUEST
        address = m.VringAddr(
            index, 0, setup.descriptor_area + shift, setup.device_area + shift, setup.driver_area + shift, 0
        )
        self._ask(m.Request.SET_VRING_NUM, m.VringState(index, setup.size))
        self._ask(m.Request.SET_VRING_BASE, m.VringState(index, setup.position))
        self._ask(m.Request.SET_VRING_ADDR, address)
        self._ask(m.Request.SET_VRING_CALL, m.Number(index), [setup.interrupt_fd])
        self._ask(m.Request.SET_VRING_KICK, m.Number(index), [setup.kick_fd])

    def run(self) -> None:
        """Enable the queues."""
        if self._features & m.F_PROTOCOL_FEATURES:
            for index in self._kick_fds:
                self._ask(m.Request.SET_VRING_ENABLE, m.VringState(index, 1))

    def kick(self, index: int) -> None:
        """Write the queue's kick eventfd."""
        os.eventfd_write(self._kick_fds[index], 1)

    def wait(self, index: int, timeout: float | None) -> bool:
        """Wait for the queue's call eventfd."""
        ready = self._polls[index].poll(None if timeout is None else max(0.0, timeout * 1000))
        if not ready:
            return False
        try:
            os.eventfd_read(self._interrupt_fds[index])
        except BlockingIOError:
            raise DeviceError("the back-end closed the connection; look at its log") from None
        return True

    def interrupt_fd(self, index: int) -> int:
        """Give the queue's call eventfd."""
        return self._interrupt_fds[index]

    def hangup_fd(self) -> int:
        """Return the connection's descriptor."""
        return self._sock.fileno()

    def process_events(self) -> None:
        """Look whether the back-end is gone."""
        if not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            raise DeviceError("the back-end closed the connection; look at its log")

    def config_generation(self) -> int:
        """Count the back-end's messages that its configuration space changed."""
        if self._channel is not None:
            try:
                while data := self._channel.recv(self._channel_framer.wanted):
                    self._generation += len(self._channel_framer.feed(data))
            except BlockingIOError:
                pass
        return self._generation

    def read_config(self, offset: int, length: int) -> bytes:
        """Ask the back-end for a part of its configuration space."""
        self._need_config()
        reply = self._ask(m.Request.GET_CONFIG, m.ConfigHeader(offset, length).pack() + bytes(length))
        return reply[m.ConfigHeader.nbytes :]

    def write_config(self, offset: int, data: bytes) -> None:
        """Send a part of the configuration space."""
        self._need_config()
        self._ask(m.Request.SET_CONFIG, m.ConfigHeader(offset, len(data)).pack() + data)

    def _need_config(self) -> None:
        if not self._session.protocol & m.Protocol.CONFIG:
            raise LocalError("this back-end gives no access to a configuration space (CONFIG was not negotiated)")

    def needs_reset(self) -> bool:
        """vhost-user has no such message; a broken queue shows as one that does not answer."""
        return False

    def close(self) -> None:
        """Close the connection, by which the back-end stops."""
        self._session.close()
        self._sock.close()
        if self._channel is not None:
            self._channel.close()
        for fds in (self._kick_fds, self._interrupt_fds):
            while fds:
                os.close(fds.popitem()[1])
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1
