"""One direction of a connection: frames come from one socket and go to another, descriptors included."""

from __future__ import annotations

import array
import contextlib
import socket

from pyvirtio.system.fd_passing import receive
from pyvirtio.trace.messages import MOST_PAYLOAD
from pyvirtio.vhost_user.framing import Framer, close_all, encode
from pyvirtio.vhost_user.messages import MAXIMUM_FDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.vhost_user.framing import Frame


class Relay:
    """Passes frames from ``source`` to ``target``; ``seen`` is called with each before it is sent, and may change it.

    While something is to be sent nothing more is read, so a peer that does not read holds up its own partner alone,
    and a frame is all that is kept.
    """

    def __init__(
        self, source: socket.socket, target: socket.socket, seen: Callable[[Frame], object], *, replies: bool
    ) -> None:
        self.source = source
        self.target = target
        self._seen = seen
        self._framer = Framer(MOST_PAYLOAD, replies=replies)
        self._data = b""
        self._fds: list[int] = []
        source.setblocking(False)
        target.setblocking(False)

    @property
    def waits(self) -> bool:
        """Whether something is to be sent that the target has no room for."""
        return bool(self._data)

    def read(self) -> bool:
        """Read what there is and pass it on; return False where the source has ended.

        Raises:
            ProtocolError: it does not speak vhost-user.
            OSError: one of both ends is gone, or no descriptors are left.
        """
        try:
            data, fds = receive(self.source, self._framer.wanted, MAXIMUM_FDS)
        except BlockingIOError:
            return True
        if not data:
            return False
        for frame in self._framer.feed(data, fds):  # at most one: no more than that was read
            self._fds = frame.fds
            self._seen(frame)
            self._fds = frame.fds
            self._data = encode(frame.request, frame.payload, frame.flags)
            self.write()
        return True

    def write(self) -> None:
        """Send what the target has room for; raises OSError where it is gone."""
        if not self._data:
            return
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._fds))] if self._fds else []
        with contextlib.suppress(BlockingIOError):
            sent = self.target.sendmsg([self._data], ancillary, socket.MSG_NOSIGNAL)
            self._data = self._data[sent:]
            close_all(self._fds)  # they went with the first byte
            self._fds.clear()

    def close(self) -> None:
        """Close the descriptors that were not passed on; the sockets are others'."""
        self._framer.close()
        close_all(self._fds)
        self._fds.clear()
        self._data = b""
