"""The channel between keeper and worker: one JSON object a packet, with descriptors."""

from __future__ import annotations

import json
import socket

from pyvirtio.system.fd_passing import receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MOST_FDS = 64
_LARGEST = 1 << 17


class Channel:
    """One end. A peer that does not take a message within a second counts as gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(1.0)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Make both ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Give the descriptor, for polling."""
        return self._sock.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message; raises OSError where the peer is gone."""
        send(self._sock, json.dumps(message).encode(), fds)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Read a message and its descriptors, or None where the peer is gone."""
        try:
            data, fds = receive(self._sock, _LARGEST, MOST_FDS)
        except OSError:
            return None
        return (json.loads(data), fds) if data else None

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
