"""One connection at a time between front-ends and a device, for any protocol that is a `Session`."""

from __future__ import annotations

import os
import select
import socket
import time

from pyvirtio.errors import ProtocolError
from pyvirtio.system import log
from pyvirtio.system.fd_passing import receive, send
from pyvirtio.system.poll_set import PollSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.transport import DeviceHost, Outgoing, Session

REPLY_TIME = 5.0
"""The seconds that a front-end has to take a reply before it counts as gone."""


ACCEPT_INTERVAL = 0.2
"""The seconds after which a front-end is accepted that could not be, for want of descriptors for example."""

MAX_FDS = 16
"""The most descriptors that are read with one piece of a message; a protocol may allow fewer."""


class Server:
    """Serves ``host`` to whoever connects, one front-end at a time; others wait until it is gone.

    Pass ``listener`` for a socket that many connect to in turn, or ``connection`` for one that is connected; then
    it has `ended` when that closes. ``new_session`` makes the protocol of a connection. The loop is the caller's: see
    `pyvirtio.runtime.loop`.
    """

    def __init__(
        self,
        host: DeviceHost,
        new_session: Callable[[DeviceHost], Session],
        *,
        listener: socket.socket | None = None,
        connection: socket.socket | None = None,
    ) -> None:
        self._host = host
        self._new_session = new_session
        self._listener = listener
        self._connection: socket.socket | None = None
        self._session: Session | None = None
        self._leaving = False
        self._accepts_from: float | None = None  # a time of the monotonic clock, where the last one failed
        self._epoll = select.epoll()
        self._polled = PollSet(self._epoll)
        if listener is not None:
            listener.setblocking(False)
        if connection is not None:
            self._open(connection)
        self._poll_what_is_wanted()

    @property
    def ended(self) -> bool:
        """Whether nobody is connected and nobody can connect any more."""
        return self._listener is None and self._connection is None and not self._leaving

    # The loop is the caller's.

    def fileno(self) -> int:
        """Return a descriptor that is readable when `step` has something to do."""
        return self._epoll.fileno()

    def timeout(self) -> float | None:
        """Return the seconds until it tries again to accept a front-end, None where none failed to be accepted."""
        if self._accepts_from is None or self._connection is not None:
            return None
        return max(0.0, self._accepts_from - time.monotonic())

    def step(self) -> bool:
        """Accept, read and answer what there is; return whether there is more to do at once, which there is not."""
        for fd, events in self._epoll.poll(0):
            if self._listener is not None and fd == self._listener.fileno():
                self._accept()
            elif self._connection is not None and fd == self._connection.fileno():
                self._read(events)
        self.flush()
        return False

    def flush(self) -> None:
        """Send what the session has to say; whoever completed something for the host calls this."""
        messages: list[Outgoing] = []
        try:
            messages += self._session.outgoing() if self._session else ()
            while messages:
                self._send(messages.pop(0))
        except (ProtocolError, OSError) as error:
            for unsent in messages:
                _close_all(unsent.fds)
            log.warning("connection-closed", f"the connection is closed: {error}")
            self._hang_up()
        self._poll_what_is_wanted()

    def _poll_what_is_wanted(self) -> None:
        wanted: dict[int, int] = {}
        if self._connection is not None and self._session is not None:
            wanted[self._connection.fileno()] = select.EPOLLRDHUP | (select.EPOLLIN if self._session.wanted else 0)
        elif self._listener is not None and not self._leaving and not self.timeout():
            wanted[self._listener.fileno()] = select.EPOLLIN
        self._polled.want(wanted)

    # The connection.

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            self._accepts_from = None
            return
        except OSError as error:  # no descriptors are left, or it went away
            if self._accepts_from is None:
                log.warning("connection-failed", f"a front-end could not connect, and is tried again: {error.strerror}")
            self._accepts_from = time.monotonic() + ACCEPT_INTERVAL
            return
        self._accepts_from = None
        self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        connection.settimeout(REPLY_TIME)
        self._connection = connection
        self._session = self._new_session(self._host)
        self._session.wake = self.flush
        log.info("connected", "a front-end is connected")

    def _read(self, events: int) -> None:
        assert self._connection is not None
        assert self._session is not None
        if not self._session.wanted:
            if events & (select.EPOLLHUP | select.EPOLLRDHUP):
                self._hang_up()  # it did not wait for the answer
            return
        try:
            data, fds = receive(self._connection, self._session.wanted, MAX_FDS)
            if data:
                self._session.receive(data, fds)
                return
        except (ProtocolError, OSError) as error:
            log.warning("connection-closed", f"the connection is closed: {error}")
        self._hang_up()

    def _send(self, message: Outgoing) -> None:
        assert self._connection is not None
        try:
            if message.socket is None:
                send(self._connection, message.data, message.fds)
            else:
                _send_aside(message)
        finally:
            _close_all(message.fds)

    def _hang_up(self) -> None:
        """Close the connection; the next front-end is accepted once the device has forgotten this one."""
        if self._connection is None or self._session is None:
            return
        self._polled.forget(self._connection.fileno())
        connection, session = self._connection, self._session
        self._connection = self._session = None
        session.close()
        connection.close()
        self._leaving = True
        self._host.reset().then(lambda _none: self._left())

    def _left(self) -> None:
        self._leaving = False
        log.info("disconnected", "the front-end is gone")
        if not self._epoll.closed:
            self._poll_what_is_wanted()

    def close(self) -> None:
        """Close the connection, if there is one, and stop polling."""
        self._listener = None
        self._hang_up()
        self._epoll.close()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _send_aside(message: Outgoing) -> None:
    """Send on the back-end's own channel, which the front-end may not be reading."""
    assert message.socket is not None
    channel = socket.socket(fileno=message.socket)
    try:
        channel.send(message.data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except BlockingIOError:
        if not message.lossy:
            log.warning("channel-full", "the front-end does not read what the device tells it")
    except OSError as error:
        log.warning("channel-full", f"the front-end cannot be told of a change: {error}")
    finally:
        channel.detach()
