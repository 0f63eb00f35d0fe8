"""Eventfds: how a kick and an interrupt travel between processes."""

from __future__ import annotations

import os
import select


def is_eventfd(fd: int) -> bool:
    """Tell whether a descriptor is an eventfd: others may never become readable, or always be."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"


class Notifier:
    """An eventfd to be signalled, or -1 where nobody wants to know."""

    __slots__ = ("_fd", "_poll")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        if fd >= 0:
            self._poll.register(fd, select.POLLOUT)

    def notify(self) -> None:
        """Add one to it; one whose counter is full has been signalled already."""
        # Who sent it shares its flags and can let it block again, so ask first. (An empty poll says no.)
        if self._poll.poll(0):
            try:  # noqa: SIM105  # entering contextlib.suppress takes longer than the write
                os.eventfd_write(self._fd, 1)
            except BlockingIOError:
                pass


def signal(fd: int) -> None:
    """Signal an eventfd once."""
    Notifier(fd).notify()


def drain(fd: int) -> None:
    """Read what has arrived on a kick descriptor that is not an eventfd, and would run full."""
    try:
        while len(os.read(fd, 4096)) == 4096:
            pass
    except BlockingIOError:
        pass
