"""Event descriptors: how a kick and an interrupt travel between processes.

Mostly they are eventfds. But a peer may send whatever 8 bytes can be written to or read from (vhost-user, "Support for
platforms other than Linux"): User Mode Linux sends one end of a socket pair for its interrupts, for a signal-driven
kernel cannot wait for an eventfd. What travels has no meaning, that it travels does.
"""

from __future__ import annotations

import os
import select
import socket
import stat

_ONE = (1).to_bytes(8, "little")
_DRAIN_SIZE = 4096
_MAX_READS = 32


def is_eventfd(fd: int) -> bool:
    """Return whether a descriptor is an eventfd, which need not be read: edge-triggered polling sees each write."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"


def can_be_signalled(fd: int) -> bool:
    """Return whether an event can be sent through a descriptor: an eventfd, a socket, or a pipe's writing end."""
    return _is_event_fd(fd, wrong_mode=os.O_RDONLY)


def can_be_awaited(fd: int) -> bool:
    """Return whether an event can arrive through a descriptor: an eventfd, a socket, or a pipe's reading end."""
    return _is_event_fd(fd, wrong_mode=os.O_WRONLY)


def _is_event_fd(fd: int, *, wrong_mode: int) -> bool:
    import fcntl

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_PATH or flags & os.O_ACCMODE == wrong_mode:
        return False
    mode = os.fstat(fd).st_mode
    return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or is_eventfd(fd)


class Notifier:
    """Sends events through a descriptor that `can_be_signalled`; -1 where nobody wants to know. It never waits.

    >>> fd = os.eventfd(0)
    >>> Notifier(fd).notify()
    >>> os.eventfd_read(fd)
    1
    >>> os.close(fd)
    """

    __slots__ = ("_fd", "_poll")

    def __new__(cls, fd: int) -> Notifier:
        """Make one for the kind of descriptor that it is: this class is the one for eventfds, which has to be fast."""
        if fd < 0 or is_eventfd(fd):
            return object.__new__(Notifier)
        return object.__new__(_SocketNotifier if stat.S_ISSOCK(os.fstat(fd).st_mode) else _PipeNotifier)

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        if fd >= 0:
            self._poll.register(fd, select.POLLOUT)

    def notify(self) -> None:
        """Send an event; where there is no room for another, one has been sent that nobody has seen yet."""
        # The sender of the descriptor shares its flags and can let it block again: ask first. (An empty poll says no.)
        if self._poll.poll(0):
            try:  # noqa: SIM105  # entering contextlib.suppress takes longer than the write
                os.eventfd_write(self._fd, 1)
            except BlockingIOError:
                pass


class _PipeNotifier(Notifier):
    __slots__ = ()

    def notify(self) -> None:
        """Send an event, unless nobody is there to read it: writing would raise SIGPIPE."""
        ready = self._poll.poll(0)
        if not ready or ready[0][1] & select.POLLERR:
            return
        try:  # noqa: SIM105  # contextlib is not loaded otherwise
            os.write(self._fd, _ONE)
        except (BlockingIOError, BrokenPipeError):
            pass


class _SocketNotifier(Notifier):
    __slots__ = ()

    def notify(self) -> None:
        """Send an event; an error says that there is no room, or that nobody is at the other end any more."""
        borrowed = socket.socket(fileno=self._fd)
        try:
            borrowed.send(_ONE, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass
        finally:
            borrowed.detach()


def signal(fd: int) -> None:
    """Send one event through a descriptor; see `Notifier`."""
    Notifier(fd).notify()


def drain(fd: int) -> bool:
    """Take the events that arrived at a descriptor, without waiting; return whether more can arrive.

    After False the descriptor is at its end, and would count as readable for ever: do not poll it any more. A peer
    that writes faster than this reads leaves some bytes for the next call.

    >>> reading, writing = os.pipe()
    >>> signal(writing)
    >>> drain(reading)
    True
    >>> os.close(writing)
    >>> drain(reading)
    False
    >>> os.close(reading)
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    for _ in range(_MAX_READS):
        if not poll.poll(0):
            return True
        try:
            data = _read_socket(fd) if is_socket else os.read(fd, _DRAIN_SIZE)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
    return True


def _read_socket(fd: int) -> bytes:
    borrowed = socket.socket(fileno=fd)
    try:
        return borrowed.recv(_DRAIN_SIZE, socket.MSG_DONTWAIT)
    finally:
        borrowed.detach()
