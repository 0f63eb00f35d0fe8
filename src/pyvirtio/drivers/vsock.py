"""The driver of the socket device: connections to the host's services, and services for the host."""

from __future__ import annotations

import time
from collections import deque

from pyvirtio.devices.vsock import NO_IMPLIED_STREAM, STREAM, Config
from pyvirtio.driver import Driver, RequestQueue, wait_for_any
from pyvirtio.errors import LocalError, NoAnswer
from pyvirtio.system.closing import Closing
from pyvirtio.vsock import Connection, Endpoint, Header, State
from pyvirtio.vsock.packets import BOTH, HOST_CID, MOST_PAYLOAD, Event, EventId, Shutdown, check_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.driver import Ticket
    from pyvirtio.transport import DriverTransport

TIMEOUT = 30.0
"""The seconds that a call waits for the other end unless told otherwise."""

BUFFERS, ROOM = 32, 1 << 14
"""How many buffers the device has for packets, and the bytes of each."""


class VsockDriver(Driver):
    """A guest's sockets, without a guest.

    Calls that wait also take what comes for other connections, so one thread serves them all.

    >>> from pyvirtio import open_driver
    >>> from pyvirtio.devices.vsock import Vsock
    >>> async def shout(stream):
    ...     await stream.write((await stream.read()).upper())
    >>> device = Vsock(cid=7)
    >>> device.services[1234] = shout
    >>> with open_driver(VsockDriver, device) as driver, driver.connect(1234) as sock:
    ...     sock.send(b"hello")
    ...     driver.cid, sock.receive(), sock.receive()
    (7, b'HELLO', b'')
    """

    device_id = 19
    device_name = "vsock"
    features = STREAM | NO_IMPLIED_STREAM
    config = Config
    rx = RequestQueue()
    tx = RequestQueue()
    event = RequestQueue(size=16)

    def __init__(self, transport: DriverTransport, *, features: int | None = None) -> None:
        super().__init__(transport, features=features)
        self._listening: dict[int, deque[Connection]] = {}
        self._sent: deque[Ticket] = deque()
        self._endpoint = Endpoint(self._read_cid(), HOST_CID, self._offered, lambda: None)
        self._packets = self.rx.incoming(room=ROOM, buffers=BUFFERS)
        self._events = self.event.incoming(room=Event.nbytes, buffers=4)

    def _read_cid(self) -> int:
        cid: int = self.read_config().as_dict()["guest_cid"]
        return cid

    @property
    def cid(self) -> int:
        """The address of this end."""
        return self._endpoint.cid

    # Connections.

    def connect(self, port: int, *, timeout: float | None = TIMEOUT) -> VsockSocket:
        """Connect to a port of the host.

        Raises:
            ConnectionRefusedError: nobody is there, or there are too many connections.
            NoAnswer: the device has not answered in time.
            DeviceError: it broke a rule, or is gone.
        """
        if (connection := self._endpoint.connect(check_port(port))) is None:
            raise ConnectionRefusedError("there are as many connections as one device can have")
        try:
            self.wait(lambda: connection.state is not State.REQUESTED, timeout)
        except NoAnswer:
            connection.reset()
            raise
        if connection.state is State.CLOSED:
            raise ConnectionRefusedError(f"nobody accepts connections to port {port} of the host")
        return VsockSocket(self, connection)

    def listen(self, port: int) -> None:
        """Accept connections of the host to ``port`` from now on; see `accept`."""
        self._listening.setdefault(check_port(port), deque())

    def accept(self, port: int, *, timeout: float | None = TIMEOUT) -> VsockSocket:
        """Wait for the host's next connection to ``port``, and return it; raises as `connect` does."""
        if port not in self._listening:
            raise LocalError(f"nobody listens on port {port}; call listen({port}) first")
        waiting = self._listening[port]
        self.wait(lambda: bool(waiting), timeout)
        return VsockSocket(self, waiting.popleft())

    def _offered(self, connection: Connection) -> None:
        if (waiting := self._listening.get(connection.local_port)) is None:
            connection.reset()
        else:
            connection.accept()
            waiting.append(connection)

    # Packets.

    def wait(self, condition: Callable[[], bool], timeout: float | None) -> None:
        """Send what is to be sent and take what comes until ``condition`` holds.

        Raises:
            NoAnswer: it did not within ``timeout`` seconds.
            DeviceError: the device broke a rule, or is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.turn()
            if condition():
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise NoAnswer("the other end has not answered in time; wait longer, or look at the device's log")
            wait_for_any((self.rx, self.event), None if deadline is None else deadline - time.monotonic())

    def turn(self) -> None:
        """Send what is to be sent, and take what has come, without waiting for more."""
        self._send()
        while self._events.ready:
            self._take_event(next(self._events))
        while self._packets.ready:
            data = next(self._packets)
            if len(data) >= Header.nbytes:
                self._endpoint.receive(Header.unpack(data), data[Header.nbytes :])
            self._send()

    def _send(self) -> None:
        while packet := self._endpoint.next_packet(Header.nbytes + MOST_PAYLOAD):
            # The header has a buffer of its own: no device needs that (VIRTIO 1.4, 2.7.4.1), but some rely on it.
            self._sent.append(self.tx.submit(packet[: Header.nbytes], packet[Header.nbytes :], room=0))
            while self._sent and self._sent[0].done:
                self._sent.popleft()

    def _take_event(self, data: bytes) -> None:
        """Shut every connection down where the device says that it knows of none (5.10.6.7)."""
        if len(data) >= Event.nbytes and Event.unpack(data).id == EventId.TRANSPORT_RESET:
            self._endpoint.forget_all()
            self._endpoint.cid = self._read_cid()


class VsockSocket(Closing):
    """One connection, which may be used as a context; see `VsockDriver`."""

    def __init__(self, driver: VsockDriver, connection: Connection) -> None:
        self._driver = driver
        self.connection = connection

    def send(self, data: bytes, *, timeout: float | None = TIMEOUT) -> None:
        """Send all of ``data``, as fast as the other end takes it.

        Raises:
            ConnectionResetError: the connection was cut off.
            BrokenPipeError: the other end reads no more.
            NoAnswer: it has taken nothing for ``timeout`` seconds.
        """
        connection, rest = self.connection, memoryview(data)
        while (rest or connection.unsent) and (connection.may_send or connection.unsent):
            rest = rest[connection.send(rest) :]
            left = connection.unsent
            self._driver.wait(lambda left=left: connection.unsent < left, timeout)  # type: ignore[misc]  # a lambda's defaults
        self._check()
        if rest or connection.lost:
            raise BrokenPipeError("the other end reads no more")

    def receive(self, limit: int = MOST_PAYLOAD, *, timeout: float | None = TIMEOUT) -> bytes:
        """Return up to ``limit`` bytes, as soon as some are there; none where no more will come; raises as `send`."""
        connection = self.connection
        self._driver.wait(lambda: bool(connection.received) or not connection.may_receive, timeout)
        self._check()
        data = connection.read(limit)
        self._driver.turn()
        return data

    def _check(self) -> None:
        if self.connection.was_reset:
            raise ConnectionResetError(f"the connection to port {self.connection.peer_port} was reset")

    def shutdown(self, flags: Shutdown = Shutdown.SEND) -> None:
        """Send no more, or whatever ``flags`` say; the other end reads the end of the stream."""
        self.connection.shutdown(flags)
        self._driver.turn()

    def close(self, *, timeout: float | None = TIMEOUT) -> None:
        """Close the connection in good order; cut it off where the other end does not confirm that in time."""
        self.connection.shutdown(BOTH)
        try:
            self._driver.wait(lambda: self.connection.state is State.CLOSED, timeout)
        except NoAnswer:
            self.connection.reset()
            self._driver.turn()
