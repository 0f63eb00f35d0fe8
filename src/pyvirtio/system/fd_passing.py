"""Sending and receiving on a Unix socket, descriptors included."""

from __future__ import annotations

import array
import os
import socket

from pyvirtio.errors import LocalError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FD = array.array("i").itemsize
_LONGEST_PATH = 107


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send all of ``data``, with ``fds`` on its first byte."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], ancillary)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive(sock: socket.socket, limit: int, most_fds: int) -> tuple[bytes, list[int]]:
    """Read at most ``limit`` bytes and ``most_fds`` descriptors; no bytes at all mean that the peer is gone.

    Where this process may not open as many descriptors as were sent, those that it may come: a message that needs the
    others can be refused.

    Raises:
        ProtocolError: more descriptors came than that; those that came are closed.
    """
    data, ancillary, flags, _ = sock.recvmsg(limit, socket.CMSG_SPACE(most_fds * _FD), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % _FD])
    if flags & socket.MSG_CTRUNC and len(fds) == most_fds:
        for fd in fds:
            os.close(fd)
        raise ProtocolError(f"more than {most_fds} file descriptors came with one message")
    return data, list(fds)


def check_path(path: str) -> None:
    """Refuse a path that cannot be a socket's.

    Raises:
        LocalError: it is longer than the 107 bytes that the kernel allows.
    """
    length = len(os.fsencode(path))
    if not 0 < length <= _LONGEST_PATH:
        raise LocalError(
            f"a socket's path has 1 to {_LONGEST_PATH} bytes, this one has {length}: "
            "choose a shorter one, such as /tmp/f.sock"
        )
