"""The keeper: one loop around a listening socket, one connection, and the workers."""

from __future__ import annotations

import os
import select
import signal
import socket

from pyvirtio.errors import ProtocolError
from pyvirtio.host import log
from pyvirtio.system.fd_passing import receive, send
from pyvirtio.vhost_user.backend import BackendSession
from pyvirtio.vhost_user.messages import MAXIMUM_FDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pyvirtio.host.supervisor import Supervisor
    from pyvirtio.transport import Outgoing

REPLY_TIME = 5.0
"""The seconds that a front-end has to take a reply before it counts as gone."""

RELOAD_INTERVAL = 0.2
"""The seconds between two looks at the device's source files."""


class Keeper:
    """Serves ``device`` to whoever connects, one front-end at a time.

    Give it ``listener`` for a socket that many connect to in turn, or ``connection`` for one that is connected; then
    it ends when that closes.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        listener: socket.socket | None = None,
        connection: socket.socket | None = None,
        reload: bool = False,
    ) -> None:
        self._supervisor = supervisor
        self._listener = listener
        self._connection: socket.socket | None = None
        self._session: BackendSession | None = None
        self._ending = False
        self._reload = reload
        self._seen = self._source_times()
        if connection is not None:
            self._open(connection)

    # The loop.

    def run(self, ready: Callable[[], object] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, or until the given connection closes.

        ``ready`` is called once these signals are heeded.
        """
        ours, theirs = socket.socketpair()
        # Who started us with SIGINT ignored ends us in another way.
        numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
        handlers = {number: signal.signal(number, self._end) for number in numbers}
        theirs.setblocking(False)
        old_fd = signal.set_wakeup_fd(theirs.fileno())
        try:
            ready()
            with ours, theirs:
                while not self._ending and (self._listener or self._connection):
                    self._step(ours)
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._hang_up()
            self._supervisor.close()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _step(self, wake_up: socket.socket) -> None:
        poll = select.poll()
        for fd in (wake_up.fileno(), *self._supervisor.descriptors()):
            poll.register(fd, select.POLLIN)
        socket_now = self._connection or self._listener
        if socket_now is not None:
            poll.register(socket_now, select.POLLIN)
        waits = [self._supervisor.patience_left(), RELOAD_INTERVAL if self._reload else None]
        times = [seconds for seconds in waits if seconds is not None]
        ready = {fd for fd, _ in poll.poll(1000 * min(times) if times else None)}
        if self._reload and (times_now := self._source_times()) != self._seen:
            self._seen = times_now
            self._supervisor.reload()
        self._supervisor.look()
        self._flush()
        if socket_now is not None and socket_now.fileno() in ready:
            if self._connection is None:
                self._accept()
            else:
                self._read()

    def _source_times(self) -> dict[str, int]:
        times = {}
        for path in self._supervisor.sources if self._reload else ():
            try:
                times[path] = os.stat(path).st_mtime_ns
            except OSError:
                times[path] = 0
        return times

    # The connection.

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        connection.settimeout(REPLY_TIME)
        self._connection = connection
        self._session = self._supervisor.events = BackendSession(self._supervisor, log.warning)
        log.info("a front-end is connected")

    def _read(self) -> None:
        assert self._connection is not None
        assert self._session is not None
        try:
            data, fds = receive(self._connection, self._session.wanted, MAXIMUM_FDS)
            if not data:
                self._hang_up()
                return
            self._session.receive(data, fds)
            self._flush()
        except (ProtocolError, OSError) as error:
            log.warning(f"the connection is closed: {error}")
            self._hang_up()

    def _flush(self) -> None:
        """Send what the session has to say."""
        for message in self._session.outgoing() if self._session else ():
            try:
                self._send(message)
            finally:
                for fd in message.fds:
                    os.close(fd)

    def _send(self, message: Outgoing) -> None:
        assert self._connection is not None
        if message.socket is None:
            send(self._connection, message.data, message.fds)
            return
        channel = socket.socket(fileno=message.socket)
        try:
            channel.send(message.data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # it has not read what it was told before, which says the same
        except OSError as error:
            log.warning(f"the front-end cannot be told of a change: {error}")
        finally:
            channel.detach()

    def _hang_up(self) -> None:
        if self._connection is None:
            return
        assert self._session is not None
        self._session.close()
        self._connection.close()
        self._session = self._connection = self._supervisor.events = None
        if self._listener and not self._ending:
            self._supervisor.set_memory([])
            self._supervisor.reset()
            log.info("the front-end is gone")
