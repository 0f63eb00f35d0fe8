"""The channel between keeper and worker: one message a packet, with descriptors."""

from __future__ import annotations

import os
import socket

from pyvirtio.errors import ProtocolError
from pyvirtio.host import messages
from pyvirtio.system.fd_passing import receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_FDS = 64
_MAX_BYTES = 1 << 17

_Table = dict[str, tuple[str, ...]]


class Channel:
    """One end; it sends messages of the table ``says`` and receives those of ``hears``.

    A peer that does not take a message within a second counts as gone.
    """

    def __init__(self, sock: socket.socket, says: _Table, hears: _Table) -> None:
        self._sock = sock
        self._says = says
        self._hears = hears
        sock.settimeout(1.0)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Make both ends, the keeper's first."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        commands, reports = messages.COMMANDS, messages.REPORTS
        return cls(ours, commands, reports), cls(theirs, reports, commands)

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._sock.fileno()

    def send(self, kind: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Send a message; raises OSError where the peer is gone."""
        send(self._sock, messages.encode(self._says, kind, fields), fds)

    def receive(self) -> tuple[str, dict[str, Any], list[int]] | None:
        """Read a message and its descriptors, or None where the peer is gone or makes no sense."""
        fds: list[int] = []
        try:
            data, fds = receive(self._sock, _MAX_BYTES, MAX_FDS)
            if data:
                return (*messages.decode(self._hears, data), fds)
        except (OSError, ProtocolError):
            pass
        for fd in fds:
            os.close(fd)
        return None

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
