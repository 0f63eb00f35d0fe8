"""The front-end's sockets: one question at a time to a back-end, whose own messages are answered meanwhile."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import suppress

from pyvirtio.errors import DeviceError, LocalError, NoAnswer, ProtocolError
from pyvirtio.system.fd_passing import check_path, receive, send
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import close_all
from pyvirtio.vhost_user.frontend import BackendChannel, FrontendSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.errors import VirtioError
    from pyvirtio.spec.struct import Struct
    from pyvirtio.vhost_user.framing import Frame

ANSWER_TIME = 30.0
"""The seconds that a back-end has to answer a message."""

BUSY_TIME = 5.0
"""The seconds that a back-end has to accept a connection, and to answer its first message."""

_BUSY = "a back-end serves one front-end at a time: it may be busy with another one, or hang; look at its log"

_AT_ONCE = 64
"""The most reads from the back-end's channel in one look, so that a talkative back-end holds nobody up."""


def connect(path: str, device: str) -> socket.socket:
    """Connect to the back-end that serves the socket at ``path``; ``device`` is what ``pyvirtio serve`` calls it.

    Raises:
        LocalError: nobody serves it.
        NoAnswer: as many front-ends wait for the back-end as its backlog holds.
    """
    check_path(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        # While the backlog is full, connect() waits for as long as the socket's time to send.
        seconds, fraction = divmod(BUSY_TIME, 1)
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(fraction * 1_000_000))
        )
        sock.connect(path)
    except BlockingIOError as error:
        sock.close()
        raise NoAnswer(f"nobody accepted the connection to {path} within {BUSY_TIME:g} seconds; {_BUSY}") from error
    except OSError as error:
        sock.close()
        reason = error.strerror.lower() if error.strerror else str(error)
        raise LocalError(
            f"nobody serves the socket {path} ({reason}); "
            f"start a back-end with: pyvirtio serve {device} --socket {path}"
        ) from error
    return sock


_BROKEN = "the device serves a queue no more; its log says why; open the driver again"


class FrontendConnection:
    """A connected socket to a back-end, and the channel for the back-end's own messages; owns both.

    The back-end has ``first_answer`` seconds for its first reply and `ANSWER_TIME` for each later one. Silence ends
    the connection, for a reply that comes later would be taken for another question's, and so does what is not
    vhost-user. From then on every call raises the error that ended it.
    """

    def __init__(self, sock: socket.socket, first_answer: float = ANSWER_TIME) -> None:
        self.session = FrontendSession()
        self._sock = sock
        self._sock.settimeout(ANSWER_TIME)
        self._first_answer: float | None = first_answer
        self._channel = BackendChannel()
        self._channel_sock: socket.socket | None = None
        self._error: VirtioError | None = None
        self._epoll = select.epoll()
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        self.broken_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """What the back-end signals when it serves a queue no more, once SET_VRING_ERR has told it."""
        self._epoll.register(self.broken_fd, select.EPOLLIN)

    # Questions.

    def ask(self, request: m.Request, payload: Struct | bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a message; return the payload of its reply, or nothing where none comes.

        Raises:
            DeviceError: the back-end refuses, or is gone.
            NoAnswer: the reply did not come in time.
        """
        reply, received = self.ask_for_fds(request, payload, fds)
        close_all(received)
        return reply

    def ask_for_fds(
        self, request: m.Request, payload: Struct | bytes = b"", fds: Sequence[int] = ()
    ) -> tuple[bytes, list[int]]:
        """Do as `ask` does; return also the descriptors that came with the reply, which are the caller's."""
        self._check()
        data, replies = self.session.request(request, payload)
        try:
            send(self._sock, data, fds)
            if not replies:
                return b"", []
            frame = self._reply()
            try:
                return self.session.check(request, frame), frame.fds
            except BaseException:
                frame.close_fds()
                raise
        except TimeoutError as error:
            raise self._end(self._silence(request)) from error
        except (OSError, ProtocolError) as error:
            raise self._end(_over(error, f" at {request.name}")) from error

    def _reply(self) -> Frame:
        seconds = ANSWER_TIME if self._first_answer is None else self._first_answer
        deadline = time.monotonic() + seconds
        while ready := self._ready(max(0.0, deadline - time.monotonic())):
            # A back-end may wait for its acknowledgement before it replies.
            self._read_channel(ready)
            if self._sock.fileno() not in ready:
                continue
            data, fds = receive(self._sock, self.session.wanted, m.MAXIMUM_FDS)
            if not data:
                raise ConnectionResetError
            for frame in self.session.receive(data, fds):
                self._first_answer = None
                return frame
        raise TimeoutError

    def _silence(self, request: m.Request) -> NoAnswer:
        if self._first_answer is None:
            return NoAnswer(f"the back-end has not answered {request.name} within {ANSWER_TIME:g} seconds")
        return NoAnswer(f"the back-end did not answer within {self._first_answer:g} seconds; {_BUSY}")

    # What the back-end says by itself.

    def open_channel(self) -> None:
        """Hand the back-end a socket for its own messages."""
        self._channel_sock, theirs = socket.socketpair()
        self._channel_sock.setblocking(False)
        self._epoll.register(self._channel_sock, select.EPOLLIN)
        with theirs:
            self.ask(m.Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])

    @property
    def config_changes(self) -> int:
        """How often the back-end said, up to now, that its configuration space changed."""
        self.process_events()
        return self._channel.config_changes

    def fileno(self) -> int:
        """Return a descriptor that is readable when `process_events` has something to do; -1 when closed."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def process_events(self) -> None:
        """Answer the back-end's own messages, and notice its end.

        Raises:
            DeviceError: it is gone, broke the protocol, or serves a queue no more.
        """
        self._check()
        try:
            ready = self._ready(0)
            self._read_channel(ready)
            if self._sock.fileno() in ready:
                self._expect_nothing()
        except (OSError, ProtocolError) as error:
            raise self._end(_over(error)) from error
        if self.broken_fd in ready:
            raise self._end(DeviceError(_BROKEN))

    def _ready(self, timeout: float) -> set[int]:
        return {fd for fd, _ in self._epoll.poll(timeout)}

    def _read_channel(self, ready: set[int]) -> None:
        sock = self._channel_sock
        if sock is None or sock.fileno() not in ready:
            return
        for _ in range(_AT_ONCE):
            try:
                data, fds = receive(sock, self._channel.wanted, m.MAXIMUM_FDS)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data, fds = b"", []
            if not data:
                self._close_channel()
                return
            if reply := self._channel.receive(data, fds):
                with suppress(BrokenPipeError):  # the next look finds it closed
                    send(sock, reply)

    def _expect_nothing(self) -> None:
        if self._sock.recv(1, socket.MSG_PEEK):
            raise ProtocolError("it answered what nobody asked")
        raise ConnectionResetError

    # The end.

    @property
    def hung_up(self) -> bool:
        """Whether the back-end closed the connection, as it does when it ends."""
        return self._error is not None and isinstance(self._error.__cause__, ConnectionError)

    def _check(self) -> None:
        if self._error:
            raise self._error.again()

    def _end(self, error: DeviceError) -> DeviceError:
        self._error = error
        with suppress(OSError):  # the back-end may have closed it
            # Whoever watches `fileno` sees the end, also where the back-end lives on.
            self._sock.shutdown(socket.SHUT_RDWR)
        return error

    def _close_channel(self) -> None:
        self._channel.close()
        if self._channel_sock is not None:
            self._channel_sock.close()  # which also takes it out of the epoll set
            self._channel_sock = None

    def close(self) -> None:
        """Close the connection, by which the back-end stops; may be called twice."""
        self._error = LocalError("the connection to the back-end is closed; open the driver again")
        self._close_channel()
        self.session.close()
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self.broken_fd)
        self._sock.close()


def _over(error: Exception, where: str = "") -> DeviceError:
    """Return the error that ends a connection."""
    if isinstance(error, ConnectionError):
        return DeviceError(f"the back-end closed the connection{where}; look at its log")
    return DeviceError(f"the back-end broke the protocol{where}: {error}")
