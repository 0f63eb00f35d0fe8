"""Listening sockets: made at a path without taking anybody else's away, or inherited from whoever started us."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time

from pyvirtio.errors import LocalError
from pyvirtio.system.fd_passing import check_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_TIME = 1.0
"""The seconds to wait for others who make a socket in the same folder."""


@contextlib.contextmanager
def listen(path: str) -> Iterator[socket.socket]:
    """Make a listening socket that only this user can connect to, and remove it in the end.

    Raises:
        LocalError: it cannot be made, or something else is at that path.
    """
    check_path(path)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            with _one_at_a_time(os.path.dirname(path) or "."):
                _clear_way(path)
                own = _bind(listener, path)
        except OSError as error:
            raise LocalError(f"the socket {path} cannot be made: {error.strerror}; choose another path") from error
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == own:
                    os.unlink(path)


@contextlib.contextmanager
def _one_at_a_time(folder: str) -> Iterator[None]:
    """Let one process at a time make a socket in a folder: one that does not listen yet looks like a dead one's.

    Others may lock a folder for their own reasons, so nobody waits for long.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a socket may be made in a folder that cannot be read
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_TIME
        while not _is_locked(fd) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    """Return whether this process has the lock of a file, after trying to get it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bind(listener: socket.socket, path: str) -> int:
    """Make a socket listen at ``path``; return the number of its inode."""
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen()
    return os.stat(path).st_ino


def _clear_way(path: str) -> None:
    """Remove a socket that a dead process left; refuse anything else that is in the way."""
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(before.st_mode):
        raise LocalError(f"{path} is there already and is not a socket; choose another path or remove it")
    if not _is_dead(path):
        raise LocalError(f"somebody serves {path} already; choose another path or end that process")
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_ino == before.st_ino:  # somebody may have been faster
            os.unlink(path)


def _is_dead(path: str) -> bool:
    """Return whether nobody listens on a socket. A listener that is too busy to accept is alive."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def inherited(fd: int) -> tuple[socket.socket, bool]:
    """Return the socket that this process was started with as ``fd``, and whether it listens.

    A manager that starts back-ends opens the socket itself and passes it (vhost-user, "Backend program conventions").

    Raises:
        LocalError: it is not a Unix stream socket.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise LocalError(f"descriptor {fd} is not an open socket: {error.strerror}; pass one that listens") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise LocalError(f"descriptor {fd} is not a Unix stream socket; pass one, for vhost-user needs it")
    os.set_inheritable(fd, False)
    return sock, bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
