"""A driver's way to a device that a vhost-user back-end serves."""

from __future__ import annotations

import os
import select
import time

from pyvirtio.errors import DeviceError, LocalError
from pyvirtio.memory import MemoryTable, Region
from pyvirtio.memory.arena import Arena
from pyvirtio.memory.files import map_file, shared_file
from pyvirtio.spec import split
from pyvirtio.system.eventfd_set import EventfdSet
from pyvirtio.transport import DriverTransport
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.connection import ANSWER_TIME, BUSY_TIME, FrontendConnection, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pyvirtio.spec.struct import Struct
    from pyvirtio.transport import QueueSetup

MEMORY = 64 << 20
"""The bytes of memory that driver and device share; untouched pages cost nothing."""

# The two addresses of a region differ, as they do behind QEMU, so that a mix-up shows.
_GUEST, _USER = 0x4000_0000, 0x7F00_0000_0000

WANTED = (
    m.Protocol.MQ | m.Protocol.REPLY_ACK | m.Protocol.CONFIG | m.Protocol.BACKEND_REQ | m.Protocol.CONFIGURE_MEM_SLOTS
)


class VhostUserTransport(DriverTransport):
    """Leads a driver through a connected socket to a back-end; owns the socket. The back-end's end is its end.

    ``memory`` is how many bytes driver and device share, ``first_answer`` how many seconds the back-end has to answer
    for the first time.

    Raises:
        DeviceError: the peer does not speak vhost-user.
        NoAnswer: it says nothing.
    """

    _protocol_wanted = WANTED

    def __init__(self, sock: socket.socket, memory: int = MEMORY, *, first_answer: float = ANSWER_TIME) -> None:
        self._connection = FrontendConnection(sock, first_answer)
        self._interrupts = EventfdSet()
        self._kicks = EventfdSet()
        self._polls: dict[Sequence[int], select.poll] = {}
        self._features = 0
        self._queues: int | None = None
        self._memory_fd = -1
        self._memory_size = memory
        try:
            self._memory_fd = shared_file("pyvirtio-driver", memory)
            self.memory = MemoryTable([Region(_GUEST, map_file(self._memory_fd, 0, memory))])
            self.arena = Arena(_GUEST, memory)
            self._greet()
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, path: str, memory: int = MEMORY, *, device: str = "DEVICE") -> VhostUserTransport:
        """Connect to the back-end that serves the socket at ``path``.

        ``device`` is what ``pyvirtio serve`` calls the device, for the error that says how to start a back-end.

        Raises:
            LocalError: nobody serves it.
            NoAnswer: the back-end is busy with another front-end, or hangs.
        """
        return cls(connect(path, device), memory, first_answer=BUSY_TIME)

    def _greet(self) -> None:
        """Do what comes first on a connection: learn what the back-end is, and share the memory with it."""
        self._ask(m.Request.SET_OWNER)
        self._offered = self._number(m.Request.GET_FEATURES)
        if self._offered & m.F_PROTOCOL_FEATURES:
            self._choose_protocol()
        self._share(self._memory_size)

    def _choose_protocol(self) -> None:
        chosen = m.Protocol(self._number(m.Request.GET_PROTOCOL_FEATURES) & self._protocol_wanted)
        self._ask(m.Request.SET_PROTOCOL_FEATURES, m.Number(chosen))
        self._connection.session.protocol = chosen
        if chosen & m.Protocol.MQ:
            self._queues = self._number(m.Request.GET_QUEUE_NUM)
        if chosen & m.Protocol.BACKEND_REQ:
            self._connection.open_channel()

    def _share(self, memory: int) -> None:
        if self._connection.session.protocol & m.Protocol.CONFIGURE_MEM_SLOTS:
            region = m.SingleRegion(0, _GUEST, memory, _USER, 0)
            self._ask(m.Request.ADD_MEM_REG, region, [self._memory_fd])
        else:
            table = m.MemoryHeader(1).pack() + m.MemoryRegion(_GUEST, memory, _USER, 0).pack()
            self._ask(m.Request.SET_MEM_TABLE, table, [self._memory_fd])

    def _ask(self, request: m.Request, payload: Struct | bytes = b"", fds: Sequence[int] = ()) -> bytes:
        return self._connection.ask(request, payload, fds)

    def _number(self, request: m.Request) -> int:
        return m.Number.unpack(self._ask(request)).value

    # What a driver asks.

    def offered_features(self) -> int:
        """Return what the back-end offers."""
        return self._offered

    def accept_features(self, features: int) -> bool:
        """Send the features; a back-end without REPLY_ACK cannot refuse."""
        self._features = features | (self._offered & m.F_PROTOCOL_FEATURES)
        try:
            self._ask(m.Request.SET_FEATURES, m.Number(self._features))
        except DeviceError:
            self._connection.process_events()  # raises where the back-end is gone rather than unwilling
            return False
        return True

    def queue_size(self, index: int) -> int:
        """Return the most that a split queue can have: in vhost-user the front-end chooses.

        Only a back-end with the feature MQ says how many queues it has. Without it the front-end knows the number
        from the kind of device ("Multiple queue support").
        """
        return split.MAXIMUM_SIZE if self._queues is None or index < self._queues else 0

    def start_queue(self, setup: QueueSetup) -> None:
        """Announce a queue to the back-end."""
        self._wire(setup)
        self._announce(setup)

    def _wire(self, setup: QueueSetup) -> None:
        """Make the descriptors of a queue."""
        index = setup.index
        setup.kick_fd = self._kicks.add(index)
        setup.interrupt_fd = self._interrupts.add(index)

    def _announce(self, setup: QueueSetup) -> None:
        index = setup.index
        shift = _USER - _GUEST
        address = m.VringAddr(
            index, 0, setup.descriptor_area + shift, setup.device_area + shift, setup.driver_area + shift, 0
        )
        self._ask(m.Request.SET_VRING_NUM, m.VringState(index, setup.size))
        self._ask(m.Request.SET_VRING_BASE, m.VringState(index, setup.position))
        self._ask(m.Request.SET_VRING_ADDR, address)
        self._ask(m.Request.SET_VRING_CALL, m.Number(index), [setup.interrupt_fd])
        self._ask(m.Request.SET_VRING_ERR, m.Number(index), [self._connection.broken_fd])
        self._ask(m.Request.SET_VRING_KICK, m.Number(index), [setup.kick_fd])

    def run(self) -> None:
        """Enable the queues; without protocol features they are enabled from the start ("Ring states")."""
        if self._features & m.F_PROTOCOL_FEATURES:
            for index in self._kicks:
                self._ask(m.Request.SET_VRING_ENABLE, m.VringState(index, 1))

    def kick(self, index: int) -> None:
        """Write the queue's kick eventfd."""
        self._kicks.signal(index)

    def wait(self, indexes: Sequence[int], timeout: float | None) -> bool:
        """Wait for an interrupt eventfd of the queues; the back-end's own messages are answered meanwhile."""
        poll = self._polls.get(indexes) or self._new_poll(indexes)
        deadline = None if timeout is None else time.monotonic() + timeout
        while poll.poll(None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)):
            if self._interrupts.take(*indexes):
                return True
            self.process_events()
        return False

    def _new_poll(self, indexes: Sequence[int]) -> select.poll:
        self._polls[indexes] = poll = select.poll()
        for index in indexes:
            poll.register(self._interrupts[index], select.POLLIN)
        poll.register(self.hangup_fd(), select.POLLIN)
        return poll

    def interrupt_fd(self, index: int) -> int:
        """Return the queue's interrupt eventfd."""
        return self._interrupts[index]

    def hangup_fd(self) -> int:
        """Return what is readable when the back-end is gone or says something."""
        return self._connection.fileno()

    def process_events(self) -> None:
        """Answer the back-end's own messages, and notice its end."""
        self._connection.process_events()

    def config_generation(self) -> int:
        """Count the back-end's messages that its configuration space changed."""
        return self._connection.config_changes

    def read_config(self, offset: int, length: int) -> bytes:
        """Ask the back-end for a part of its configuration space."""
        self._need_config()
        reply = self._query(m.Request.GET_CONFIG, m.ConfigHeader(offset, length).pack() + bytes(length))
        return reply[m.ConfigHeader.nbytes :]

    def write_config(self, offset: int, data: bytes) -> None:
        """Send a part of the configuration space."""
        self._need_config()
        self._query(m.Request.SET_CONFIG, m.ConfigHeader(offset, len(data)).pack() + data)

    def _query(self, request: m.Request, payload: bytes) -> bytes:
        """Ask something while the device runs."""
        return self._ask(request, payload)

    def _need_config(self) -> None:
        if not self._connection.session.protocol & m.Protocol.CONFIG:
            raise LocalError(
                "this back-end gives no access to a configuration space (CONFIG was not negotiated); "
                "do without, or use one that does"
            )

    def needs_reset(self) -> bool:
        """Return False: what SET_VRING_ERR is for ends the connection."""
        return False

    def close(self) -> None:
        """Close the connection, by which the back-end stops."""
        self._connection.close()
        self._kicks.close()
        self._interrupts.close()
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1
